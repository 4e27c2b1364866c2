"""``--prompt-share I/N``: shares partition the prompts, and depend on their ids alone."""

import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from support.finished_run import command
from support.pipelines import open_artifact, write_json_lines

from prefpipe.artifacts.prompt_changes import changes_of_prompts
from prefpipe.artifacts.prompt_shares import PromptShare, parse_prompt_share
from prefpipe.artifacts.prompts import Prompt, Prompts
from prefpipe.cli.main import run
from prefpipe.errors import InputError, UsageError

FAKE = ("--backend", "fake", "--model", "fake", "--n", "2")


def prompts_of(ids: list[str]) -> Prompts:
    rows = [Prompt(name, [{"role": "user", "content": f"question {name}"}]) for name in ids]
    return Prompts(rows, pa.table({"note": [f"note {name}" for name in ids]}))


def share_of(ids: list[str], number: int, n_shares: int) -> list[str]:
    places = PromptShare(number, n_shares).places(ids, "file")
    assert places == sorted(places)
    return [ids[place] for place in places]


def ids_of(prompts: Prompts) -> list[str]:
    return [prompt.prompt_id for prompt in prompts.rows]


@pytest.mark.parametrize(("n_prompts", "count"), [(1, 1), (7, 3), (100, 7), (64, 64), (1000, 2)])
def test_shares_partition_the_prompts_into_equal_sizes_in_the_order_of_the_file(
    n_prompts: int, count: int
) -> None:
    prompts = prompts_of([f"p{i}" for i in range(n_prompts)])
    shares = [
        prompts.of_share(PromptShare(number, count), "file") for number in range(1, count + 1)
    ]

    assert Counter(name for share in shares for name in ids_of(share)) == Counter(ids_of(prompts))
    sizes = {len(share) for share in shares}
    assert sizes <= {n_prompts // count, -(-n_prompts // count)}
    place = {name: i for i, name in enumerate(ids_of(prompts))}
    for share in shares:
        assert ids_of(share) == sorted(ids_of(share), key=place.__getitem__)
        assert share.columns["note"].to_pylist() == [f"note {name}" for name in ids_of(share)]


def test_the_order_of_the_file_decides_nothing() -> None:
    ids = [f"p{i}" for i in range(50)]
    shuffled = random.Random(3).sample(ids, len(ids))
    for number in (1, 2, 3):
        assert set(share_of(ids, number, 3)) == set(share_of(shuffled, number, 3))


def test_a_family_is_in_each_share_in_about_its_proportion() -> None:
    """Whether the file is sorted by family or deals them in turn, which i modulo N would tear apart."""
    families = {"sorted": lambda i: i // 200, "in turn": lambda i: i % 3}
    for family in families.values():
        ids = [f"{family(i)}-{i}" for i in range(600)]
        for number in (1, 2, 3):
            counts = Counter(name[0] for name in share_of(ids, number, 3))
            # 66.7 expected, with a standard deviation of 5.4; the ids are fixed, so the counts are
            assert all(50 <= count <= 84 for count in counts.values()), counts


def test_one_prompt_more_moves_one_prompt_at_most_over_each_cut() -> None:
    ids = [f"p{i}" for i in range(60)]
    for new in range(20):
        for count in (2, 5):
            for number in range(1, count + 1):
                before = set(share_of(ids, number, count))
                after = set(share_of([*ids, f"new{new}"], number, count))
                assert len((before ^ after) - {f"new{new}"}) <= 2


def test_fewer_prompts_than_shares_are_refused_for_every_share() -> None:
    for number in (1, 3, 4):
        with pytest.raises(InputError, match=r"few\.jsonl holds 3 prompts, too few for 4 shares"):
            PromptShare(number, 4).places(["a", "b", "c"], "few.jsonl")


@pytest.mark.parametrize(
    "text", ["", "1", "0/3", "4/3", "02/3", "1/0", "1/03", "-1/3", "1/3/5", "1 / 3", "a/b", "1/3\n"]
)
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--prompt-share must be I/N with I within 1 and N"):
        parse_prompt_share(text)


def generate(folder: Path, name: str, *flags: str) -> list[tuple[str, int, int, str]]:
    """Generate; return prompt, sample, seed and response of each row that is on disk."""
    words = ["generate", str(folder / "prompts.jsonl"), "-o", str(folder / name), *FAKE, *flags]
    command(words)
    artifact = open_artifact(folder / name)
    rows = []
    for index in artifact.present(range(artifact.n_parts), allow_partial=True):
        table, _ = artifact.read(index)
        names = ("prompt_id", "sample_idx", "seed", "response")
        rows += list(zip(*(table[each].to_pylist() for each in names), strict=True))
    return rows


def test_shares_together_are_the_run_without_them_and_grow_as_it_does(tmp_path: Path) -> None:
    """Each row has the seed and the response of the whole run, by shards, claims and --extend."""
    write_json_lines(tmp_path / "prompts.jsonl", [{"prompt": f"question {i}"} for i in range(11)])
    whole = generate(tmp_path, "whole")
    shares = []
    for number in (1, 2):
        flags = ("--prompt-share", f"{number}/2", "--part-size", "2")
        generate(tmp_path, f"share{number}", *flags, "--shard-index", "1", "--num-shards", "2")
        shares += generate(tmp_path, f"share{number}", *flags, "--claim")
    assert sorted(shares) == sorted(whole)

    grown = generate(tmp_path, "share1", "--prompt-share", "1/2", "--n", "3", "--extend")
    ids = {row[0] for row in grown}
    assert sorted(row for row in grown if row[1] < 2) == sorted(r for r in whole if r[0] in ids)
    assert len(grown) == 3 * len(ids)


def test_a_share_is_in_the_identity_only_where_it_was_asked_for(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "prompts.jsonl", [{"prompt": f"question {i}"} for i in range(4)])
    generate(tmp_path, "whole")
    generate(tmp_path, "share", "--prompt-share", "2/2")
    assert "prompt_share" not in open_artifact(tmp_path / "whole").record.identity
    assert open_artifact(tmp_path / "share").record.identity["prompt_share"] == "2/2"

    words = ["generate", str(tmp_path / "prompts.jsonl"), "-o", str(tmp_path / "share"), *FAKE]
    assert run([*words, "--prompt-share", "1/2"]) == 2


def test_a_share_goes_stale_with_its_own_prompts_alone(tmp_path: Path) -> None:
    rows = [{"prompt_id": f"p{i}", "prompt": f"question {i}"} for i in range(8)]
    prompts = write_json_lines(tmp_path / "prompts.jsonl", rows)
    for number in (1, 2):
        generate(tmp_path, f"share{number}", "--prompt-share", f"{number}/2")
    shares = [open_artifact(tmp_path / f"share{number}") for number in (1, 2)]
    assert [changes_of_prompts(share, prompts) for share in shares] == [[], []]

    of_first = set(shares[0].read(0, ["prompt_id"])[0]["prompt_id"].to_pylist())
    changed = [{**row, "prompt": "other"} if row["prompt_id"] in of_first else row for row in rows]
    write_json_lines(prompts, changed)
    assert [changes_of_prompts(share, prompts) for share in shares] == [
        ["prompts with a different text under the same id: 4"],
        [],
    ]

    write_json_lines(prompts, rows[:1])
    for share in shares:
        [line] = changes_of_prompts(share, prompts)
        assert "it cannot be read as it was: --prompt-share" in line
