"""``select --earlier``: pools of several rounds as one, by key, and who reads the groups afterwards."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.finished_run import command
from support.pipelines import (
    Rows,
    assert_same_artifact,
    identities_of,
    open_artifact,
    rows_of,
    table_of,
    write_json_lines,
)
from support.tiny_models import make_tiny_causal_lm

from prefpipe.artifacts import parts
from prefpipe.artifacts.parts import PartFooter
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.store import Artifact
from prefpipe.cli.main import run
from prefpipe.errors import UsageError
from prefpipe.report.maps import maps_of
from prefpipe.report.sources import pools_of
from prefpipe.report.story import tell
from prefpipe.stages.select.strategy_inputs import _sampler
from prefpipe.stages.shared.earlier_rounds import STRIDE
from prefpipe.stages.shared.training_groups import ids_fit
from prefpipe.status.checker import StatusChecker
from prefpipe.wiring.report import calculator_model, open_folder

N_PROMPTS, N = 7, 4
PROMPTS = [
    {"prompt_id": f"p{i}", "prompt": f"question {i}", "topic": f"t{i % 2}"}
    for i in range(N_PROMPTS)
]
LAYOUTS = {
    "aligned": (PROMPTS, "2"),
    "other parts": (PROMPTS, "3"),
    "another order": (PROMPTS[::-1], "2"),
    "fewer prompts": (PROMPTS[1:5], "2"),
    "other prompts beside": ([{"prompt_id": "x", "prompt": "elsewhere"}, *PROMPTS], "5"),
}
"""The prompts of the earlier round, and its part size; the later one has all, in parts of 2."""


def make_round(
    folder: Path,
    number: int,
    *,
    prompts: list[dict[str, Any]] = PROMPTS,
    part_size: str = "2",
    scorer: str = "fake",
    model: str | None = None,
) -> Path:
    """Sample, rate and embed a round with its own model and seed."""
    target = folder / f"round-{number:02d}"
    target.mkdir()
    source = write_json_lines(target / "prompts.jsonl", prompts)
    candidates = str(target / "candidates")
    words = ["generate", str(source), "-o", candidates, "--backend", "fake"]
    words += ["--model", model or f"fake{number}", "--n", str(N), "--seed", str(number)]
    command([*words, "--part-size", part_size, "--max-tokens", "12"])
    command(["score", candidates, "-o", str(target / "scores"), "--scorer", scorer])
    command(["embed", candidates, "-o", str(target / "embeddings"), "--model", "fake"])
    return target


@cache
def original(layout: str) -> Path:
    """Return two rounds of a layout, made once; nobody changes them."""
    folder = Path(mkdtemp(prefix="prefpipe-earlier-rounds-"))
    prompts, part_size = LAYOUTS[layout]
    make_round(folder, 1, prompts=prompts, part_size=part_size)
    make_round(folder, 2)
    return folder


def copy_to(folder: Path, layout: str = "aligned") -> Path:
    """Copy two rounds, so that they look as if they had been made in ``folder``."""
    source = original(layout)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    for record in folder.rglob("run.json"):
        record.write_text(record.read_text().replace(str(source), str(folder)))
    return folder


def select(folder: Path, *flags: str, output: str = "groups", earlier: bool = True) -> int:
    """Select from round 2, with round 1."""
    later = folder / "round-02"
    words = ["select", str(later / "candidates"), "--scores", str(later / "scores")]
    words += ["--embeddings", str(later / "embeddings"), "-o", str(later / output), "--k", "2"]
    if earlier:
        words += ["--earlier", str(folder / "round-01")]
    return run([*words, *flags])


def groups_of(folder: Path, output: str = "groups") -> Rows:
    return rows_of(folder / "round-02" / output)


def pool_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the joined pool of each prompt of round 2, in plain Python: round 2 first."""
    pool: dict[str, list[dict[str, Any]]] = {}
    for earlier, name in ((0, "round-02"), (1, "round-01")):
        rewards = {
            (row["prompt_id"], row["sample_idx"]): row["reward"]
            for row in rows_of(folder / name / "scores")
        }
        for row in rows_of(folder / name / "candidates"):
            if earlier and row["prompt_id"] not in pool:
                continue
            key = row["prompt_id"], row["sample_idx"]
            entry = {"earlier": earlier, **row, "reward": rewards[key]}
            pool.setdefault(row["prompt_id"], []).append(entry)
    return pool


def without_copies(pool: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first: dict[str, dict[str, Any]] = {}
    for row in pool:
        first.setdefault(row["response"], row)
    return list(first.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_prompt_is_selected_from_the_responses_of_both_rounds(
    tmp_path: Path, layout: str
) -> None:
    """By hand: the highest reward of the union is the positive, the two lowest the negatives."""
    folder = copy_to(tmp_path, layout)
    assert select(folder, "--strategy", "bottom-k") == 0
    rows = groups_of(folder)
    n_earlier = 0
    for prompt_id, pool in pool_of(folder).items():
        ranked = sorted(without_copies(pool), key=lambda row: row["reward"])
        kept = [row for row in rows if row["prompt_id"] == prompt_id]
        assert len(kept) == 3
        chosen = {
            (row["role"], row["earlier"], row["earlier_sample_idx"], row["response"], row["reward"])
            for row in kept
        }
        assert chosen == {
            (role, row["earlier"], row["sample_idx"], row["response"], row["reward"])
            for role, row in zip(
                ("positive", "negative", "negative"), [ranked[-1], *ranked[:2]], strict=True
            )
        }
        for row in kept:
            assert row["sample_idx"] == row["earlier"] * STRIDE + row["earlier_sample_idx"]
            assert row["model"] == ("fake2", "fake1")[row["earlier"]]
            assert row["topic"] == next(p["topic"] for p in PROMPTS if p["prompt_id"] == prompt_id)
            n_earlier += row["earlier"]
    assert n_earlier, "a test in which no earlier response is kept shows nothing"
    assert [row["prompt_id"] for row in rows[::3]] == [p["prompt_id"] for p in PROMPTS]


@pytest.mark.parametrize("layout", ["other parts", "another order"])
def test_how_the_earlier_round_is_divided_changes_nothing(tmp_path: Path, layout: str) -> None:
    """Opt-Select with z() per prompt, pairs and coverage, whose columns name samples too."""
    flags = ["--reward", "z(fake)", "--pairs", "all-ordered"]
    tables = []
    for name in ("aligned", layout):
        folder = copy_to(tmp_path / name, name)
        assert select(folder, *flags) == 0
        tables.append(groups_of(folder))
    assert tables[0] == tables[1]

    for row in tables[0]:
        of_prompt = [r["sample_idx"] for r in tables[0] if r["prompt_id"] == row["prompt_id"]]
        assert {pair["sample_idx"] for pair in row["beats"]} <= set(of_prompt)
        if row["role"] == "negative":
            assert row["sample_idx"] in row["represents"]


def test_z_is_over_the_joined_pool(tmp_path: Path) -> None:
    folder = copy_to(tmp_path)
    assert select(folder, "--strategy", "bottom-k", "--reward", "z(fake)") == 0
    pools = pool_of(folder)
    for row in groups_of(folder):
        rewards = np.array([each["reward"] for each in pools[row["prompt_id"]]])
        raw = next(
            each["reward"]
            for each in pools[row["prompt_id"]]
            if (each["earlier"], each["sample_idx"]) == (row["earlier"], row["earlier_sample_idx"])
        )
        assert row["reward"] == pytest.approx((raw - rewards.mean()) / rewards.std())


def test_quantiles_of_filters_are_over_the_joined_pools(tmp_path: Path) -> None:
    folder = copy_to(tmp_path)
    assert select(folder, "--strategy", "bottom-k", "--max-gap", "0.5") == 0
    gaps = []
    for pool in pool_of(folder).values():
        rewards = [row["reward"] for row in without_copies(pool)]
        gaps.append(max(rewards) - min(rewards))
    identity = open_artifact(folder / "round-02" / "groups").record.identity
    assert identity["thresholds"]["gap"] == pytest.approx(np.quantile(gaps, 0.5))
    n_dropped = sum(row["status"] == "large_gap" for row in groups_of(folder))
    assert n_dropped == sum(gap > np.quantile(gaps, 0.5) for gap in gaps) > 0
    dropped = [row for row in groups_of(folder) if row["status"] == "large_gap"]
    assert {row["earlier"] for row in dropped} == {None}


def test_the_same_text_in_two_rounds_is_a_duplicate(tmp_path: Path) -> None:
    """Both rounds sample with one seed: every response is there twice, and this round's stays."""
    make_round(tmp_path, 1)
    make_round(tmp_path, 2, model="fake1")
    later = tmp_path / "round-02"
    for name in ("candidates", "scores", "embeddings"):
        shutil.rmtree(later / name)
    words = ["generate", str(later / "prompts.jsonl"), "-o", str(later / "candidates")]
    words += ["--backend", "fake", "--model", "other", "--n", str(N), "--seed", "1"]
    command([*words, "--part-size", "2", "--max-tokens", "12"])
    command(["score", str(later / "candidates"), "-o", str(later / "scores"), "--scorer", "fake"])
    words = ["embed", str(later / "candidates"), "-o", str(later / "embeddings")]
    command([*words, "--model", "fake"])

    assert select(tmp_path, "--strategy", "bottom-k") == 0
    assert {row["earlier"] for row in groups_of(tmp_path)} == {0}
    tally = open_artifact(later / "groups").tally()
    n_texts = sum(len(without_copies(pool)) for pool in pool_of(tmp_path).values())
    assert tally["n_candidates"] == 2 * N * N_PROMPTS
    assert tally["left_out.duplicate"] == 2 * N * N_PROMPTS - n_texts >= N * N_PROMPTS

    flags = ("--strategy", "bottom-k", "--keep-duplicates")
    assert select(tmp_path, *flags, output="with-copies") == 0
    assert {row["earlier"] for row in groups_of(tmp_path, "with-copies")} == {0, 1}


def test_nothing_of_it_is_there_where_it_is_not_used(tmp_path: Path) -> None:
    """Columns, identity, parents and digests are those of a selection before there was the flag."""
    folder = copy_to(tmp_path)
    assert select(folder, earlier=False) == 0
    groups = open_artifact(folder / "round-02" / "groups")
    assert not [name for name in table_of(groups.path).column_names if "earlier" in name]
    assert not [name for name in groups.record.identity if "earlier" in name]
    assert set(groups.record.parents) == {"candidates", "scores", "embeddings"}
    assert set(groups.footer(0).parents) == {"candidates", "scores", "embeddings"}
    assert not [name for name in groups.tally() if "earlier" in name]


def test_three_rounds_keep_the_order_in_which_they_were_named(tmp_path: Path) -> None:
    folder = copy_to(tmp_path)
    make_round(folder, 3)
    later = folder / "round-03"
    words = ["select", str(later / "candidates"), "--scores", str(later / "scores")]
    words += ["--strategy", "bottom-k", "--k", "11", "--min-margin", "0"]
    for number in (2, 1):
        words += ["--earlier", str(folder / f"round-0{number}")]
    assert run([*words, "-o", str(later / "groups")]) == 0
    models = {row["earlier"]: row["model"] for row in rows_of(later / "groups")}
    assert models == {0: "fake3", 1: "fake2", 2: "fake1"}
    record = open_artifact(later / "groups").record
    assert record.parents["earlier_2_scores"] == str(folder / "round-01" / "scores")
    assert "earlier_1_embeddings" not in record.parents, "no strategy asked for them"


# ---- what is made again, and what status says


def state_of(folder: Path) -> tuple[str, list[int], str]:
    status = StatusChecker().check(folder / "round-02" / "groups", quick=True)
    return status.state, list(status.outdated), " ".join(status.reasons)


@pytest.mark.parametrize(("layout", "outdated"), [("aligned", [1]), ("other parts", [1, 2])])
def test_a_part_of_an_earlier_round_that_changed_makes_its_parts_again(
    tmp_path: Path, layout: str, outdated: list[int]
) -> None:
    """Part 1 of the earlier scores is made again: p2 and p3 of pairs, p3 to p5 of threes."""
    folder = copy_to(tmp_path, layout)
    assert select(folder, "--strategy", "bottom-k") == 0
    assert state_of(folder)[:2] == ("done", [])
    before = identities_of(folder / "round-02" / "groups")

    scores = open_artifact(folder / "round-01" / "scores")
    change_rewards(scores, 1)
    state, parts, reasons = state_of(folder)
    assert (state, parts) == ("stale", outdated)
    assert "was made from another version of its earlier_1_scores" in reasons

    assert select(folder, "--strategy", "bottom-k") == 0
    assert state_of(folder)[:2] == ("done", [])
    after = identities_of(folder / "round-02" / "groups")
    made_again = [int(name[5:10]) for name in sorted(after) if after[name] != before[name]]
    assert made_again == outdated


def change_rewards(scores: Artifact, index: int) -> None:
    """Write a part of scores again, with the rewards turned around."""
    table, footer = scores.read(index)
    place = table.schema.get_field_index("reward")
    turned = pa.array(-np.array(table["reward"]))
    write_again(scores, index, table.set_column(place, table.schema.field(place), turned), footer)


def write_again(artifact: Artifact, index: int, table: pa.Table, footer: PartFooter) -> None:
    """Write a part with other rows, as a later run of its stage would."""
    parts.write_part(
        artifact.part_path(index),
        table,
        fingerprint=footer.fingerprint,
        schema=footer.schema,
        counts=footer.counts,
        parents=footer.parents,
        tally=footer.tally,
    )


def test_an_earlier_round_of_another_configuration_makes_the_groups_stale(tmp_path: Path) -> None:
    folder = copy_to(tmp_path)
    assert select(folder) == 0
    candidates = folder / "round-01" / "candidates"
    words = ["generate", str(folder / "round-01" / "prompts.jsonl"), "-o", str(candidates)]
    words += ["--backend", "fake", "--model", "fake1", "--n", "5", "--seed", "1"]
    command([*words, "--part-size", "2", "--max-tokens", "12", "--extend"])
    state, _, reasons = state_of(folder)
    assert state == "stale"
    assert "its earlier_1_candidates" in reasons
    assert "have another configuration now" in reasons


def test_an_earlier_round_that_is_gone_is_a_note(tmp_path: Path) -> None:
    """And this round's own candidates, of the same name, are not taken for it."""
    folder = copy_to(tmp_path)
    assert select(folder) == 0
    shutil.rmtree(folder / "round-01")
    status = StatusChecker().check(folder / "round-02" / "groups", quick=True)
    assert status.state == "done"
    assert sum("earlier_1_" in note for note in status.notes) == 3


def test_a_run_that_was_moved_is_selected_and_looked_at_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "then").mkdir()
    folder = copy_to(tmp_path / "then")
    assert select(folder) == 0
    shutil.move(folder, tmp_path / "now")
    status = StatusChecker().check(tmp_path / "now" / "round-02" / "groups", quick=True)
    assert (status.state, status.notes) == ("done", [])


def test_shards_and_a_run_in_one_go_make_the_same_parts(tmp_path: Path) -> None:
    folder = copy_to(tmp_path, "other parts")
    assert select(folder, output="whole") == 0
    for index in (1, 0):
        shard = ["--shard-index", str(index), "--num-shards", "2"]
        assert select(folder, *shard, output="shards") == 0
    assert_same_artifact(folder / "round-02" / "shards", folder / "round-02" / "whole")


# ---- what is refused


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / "round-01" / name)


def copied(name: str) -> Callable[[Path], None]:
    first = "round-01"
    return lambda folder: shutil.copytree(folder / first / name, folder / first / f"{name}-again")


def rated_by_another(folder: Path) -> None:
    shutil.rmtree(folder / "round-01" / "scores")
    words = ["score", str(folder / "round-01" / "candidates"), "--scorer", "fake=checks"]
    command([*words, "--max-error-rate", "1", "-o", str(folder / "round-01" / "scores")])


def embedded_by_another(folder: Path) -> None:
    shutil.rmtree(folder / "round-01" / "embeddings")
    words = ["embed", str(folder / "round-01" / "candidates"), "--model", "fake"]
    command([*words, "--text", "prompt+response", "-o", str(folder / "round-01" / "embeddings")])


def other_text(folder: Path) -> None:
    shutil.rmtree(folder / "round-01")
    changed = [*PROMPTS[:3], {**PROMPTS[3], "prompt": "another question"}, *PROMPTS[4:]]
    make_round(folder, 1, prompts=changed)


def no_prompt_in_common(folder: Path) -> None:
    shutil.rmtree(folder / "round-01")
    make_round(folder, 1, prompts=[{"prompt": f"elsewhere {i}"} for i in range(4)])


def one_part_less(folder: Path) -> None:
    open_artifact(folder / "round-01" / "scores").part_path(2).unlink()


def the_same_round(folder: Path) -> None:
    shutil.rmtree(folder / "round-01")
    (folder / "round-01").symlink_to(folder / "round-02")


def stale_scores(folder: Path) -> None:
    """A part of the candidates was made again since it was rated."""
    candidates = open_artifact(folder / "round-01" / "candidates")
    table, footer = candidates.read(1)
    write_again(candidates, 1, table.slice(0, len(table) - 1), footer)


@pytest.mark.parametrize(
    ("damage", "code", "sentences"),
    [
        (remove("candidates"), 1, ["holds no candidates", "prefpipe generate"]),
        (remove("scores"), 1, ["holds no scores of", "prefpipe score"]),
        (remove("embeddings"), 1, ["holds no embeddings of", "prefpipe embed"]),
        (remove(""), 1, ["round-01 does not exist"]),
        (copied("candidates"), 1, ["holds several candidates", "candidates-again"]),
        (copied("scores"), 1, ["holds several scores", "scores-again"]),
        (rated_by_another, 1, ["was not made by the same rater as", "not comparable", "fake.kind"]),
        (embedded_by_another, 1, ["was not made by the same embedder as", "text:"]),
        (other_text, 1, ["prompt p3 has a different text there", "--system-prompt"]),
        (no_prompt_in_common, 1, ["none of its prompts is in", "--prompt-share"]),
        (one_part_less, 4, ["scores is incomplete", "part 2"]),
        (the_same_round, 1, ["every response would occur twice"]),
        (stale_scores, 1, ["was made from another version of", "prefpipe score"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_joined_is_refused_before_anything_is_made(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    code: int,
    sentences: list[str],
) -> None:
    folder = copy_to(tmp_path)
    assert select(folder) == 0
    before = identities_of(folder / "round-02" / "groups")
    damage(folder)
    capsys.readouterr()
    assert select(folder, "--overwrite") == code
    said = " ".join(capsys.readouterr().err.split())
    for sentence in sentences:
        assert sentence in said
    assert identities_of(folder / "round-02" / "groups") == before


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--earlier", "{round}"), "--earlier names the same folder twice"),
        (
            ("--earlier", "{round}/candidates"),
            "is one artifact, and --earlier takes the folder of a round, which holds several",
        ),
        (("--earlier", "{round}/prompts.jsonl"), "prompts.jsonl is a file"),
    ],
)
def test_folders_that_are_no_round_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, str], sentence: str
) -> None:
    folder = copy_to(tmp_path)
    words = [text.format(round=folder / "round-01") for text in flags]
    assert select(folder, *words) in (1, 2)
    assert sentence in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"sample_idx": STRIDE},
            "a pool of several rounds allows only sample numbers below 100,000",
        ),
        ({"earlier": 3}, "has a column `earlier`, a name reserved for pools of several rounds"),
    ],
)
def test_what_would_make_a_key_or_a_column_ambiguous_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, int], sentence: str
) -> None:
    for number in (1, 2):
        rows = [
            {"prompt_id": "p", "prompt": "q", "response": f"r{i}{number}", "rm": i, "sample_idx": i}
            for i in range(3)
        ]
        rows[-1] |= row
        for each in rows:
            each |= {name: row[name] for name in row if name == "earlier"}
        source = write_json_lines(tmp_path / f"{number}.jsonl", rows)
        words = ["import", str(source), "-o", str(tmp_path / f"round-0{number}")]
        command(
            [
                *words,
                "--format",
                "rows",
                "--reward-column",
                "rm",
                "--columns",
                ",".join(name for name in row if name == "earlier") or "none",
            ]
        )
    later = tmp_path / "round-02"
    words = ["select", str(later / "candidates"), "--scores", str(later / "scores"), "--k", "1"]
    words += ["-o", str(later / "groups"), "--strategy", "bottom-k"]
    capsys.readouterr()
    assert run([*words, "--earlier", str(tmp_path / "round-01")]) == 1
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert run(words) == 0, "without --earlier both are as good as any"


# ---- delta: positives of one round's policy, negatives of another's


def test_delta_takes_positives_from_one_round_and_negatives_from_another(tmp_path: Path) -> None:
    folder = copy_to(tmp_path)
    flags = ["--strategy", "delta", "--chosen-from", "fake2", "--rejected-from", "fake1"]
    assert select(folder, *flags) == 0
    groups = groups_of(folder)
    roles = {(row["role"], row["earlier"], row["model"]) for row in groups if row["role"]}
    assert roles == {("positive", 0, "fake2"), ("negative", 1, "fake1")}

    numbered = ["--strategy", "delta", "--chosen-from", "0:fake2", "--rejected-from", "1:fake1"]
    assert select(folder, *numbered, output="numbered") == 0
    assert groups_of(folder, "numbered") == groups


def test_policies_of_one_name_are_told_apart_by_round(tmp_path: Path) -> None:
    """Every round's policy may be called `policy`: a name alone would mix them in silence."""
    start, trained = {"content_hash": "a"}, {"content_hash": "b"}
    different = [{"policy": start, "base": start}, {"policy": trained}]
    with pytest.raises(
        UsageError, match="different rounds have different models with that name"
    ) as caught:
        _sampler("policy", "--chosen-from", different)
    assert caught.value.hint == "name the round: 0:policy or 1:policy"
    assert _sampler("1:policy", "--chosen-from", different) == ("policy", 1)
    assert _sampler("base", "--chosen-from", different) == ("base", None)
    assert _sampler("policy", "--chosen-from", [{"policy": start}] * 2) == ("policy", None)
    for unknown in ("2:policy", "1:base", "polisy", ":policy"):
        with pytest.raises(UsageError, match="no candidate comes from that model") as caught:
            _sampler(unknown, "--chosen-from", different)
        assert "0:policy, 0:base, 1:policy" in str(caught.value.hint)


def test_one_policy_of_two_rounds_is_on_both_sides_by_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_round(tmp_path, 1)
    make_round(tmp_path, 2, model="fake1")
    flags = ["--strategy", "delta", "--chosen-from", "0:fake1", "--rejected-from"]
    assert select(tmp_path, *flags, "1:fake1") == 0
    roles = {(row["role"], row["earlier"]) for row in groups_of(tmp_path) if row["role"]}
    assert roles == {("positive", 0), ("negative", 1)}
    capsys.readouterr()
    for same in ("fake1", "00:fake1"):
        assert select(tmp_path, *flags, same, output="same") == 2
        assert "select the same responses" in capsys.readouterr().err


# ---- who reads the groups


def test_stored_ids_are_taken_where_every_round_had_this_tokenizer() -> None:
    def groups(*hashes: str) -> Artifact:
        identity: dict[str, Any] = {}
        for number, each in enumerate(hashes):
            name = f"earlier_{number}_candidates" if number else "candidates"
            identity[name] = {"models": [{"tokenizer_hash": each, "chat_template_hash": "t"}]}
        return Artifact(Path("groups"), RunRecord("select", "groups/2", 1, identity))

    assert ids_fit(groups("a", "a"), "a", "t")
    assert not ids_fit(groups("a", "b"), "a", "t")
    assert not ids_fit(groups("b", "a"), "a", "t")
    assert not ids_fit(groups("a", "a", "b"), "a", "t")


@pytest.mark.parametrize(
    ("name", "values"),
    [("template_date", ["2026-11-30", "2026-12-01"]), ("template_args", [{}, {"a": 1}])],
)
def test_stored_ids_are_not_taken_where_the_template_wrote_other_prompts_in_another_round(
    name: str, values: list[Any]
) -> None:
    """A run over midnight, or with other arguments: one prompt has two token sequences."""
    model = {"tokenizer_hash": "a", "chat_template_hash": "t"}

    def groups(then: Any, now: Any) -> Artifact:
        identity = {
            "candidates": {"models": [model | {name: now}]},
            "earlier_1_candidates": {"models": [model | {name: then}]},
        }
        return Artifact(Path("groups"), RunRecord("select", "groups/2", 1, identity))

    assert ids_fit(groups(values[0], values[0]), "a", "t")
    assert not ids_fit(groups(*values), "a", "t")
    assert not ids_fit(groups(*values[::-1]), "a", "t")


@pytest.mark.parametrize("layout", ["aligned", "other parts"])
def test_inspect_shows_the_pool_that_was_selected_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    folder = copy_to(tmp_path, layout)
    assert select(folder, "--reward", "z(fake)") == 0
    groups = str(folder / "round-02" / "groups")
    rewards = {
        (row["prompt_id"], row["sample_idx"]): (row["reward"], row["role"])
        for row in groups_of(folder)
    }
    n_shown = 0
    for prompt_id, pool in pool_of(folder).items():
        capsys.readouterr()
        assert run(["inspect", groups, "--prompt-id", prompt_id, "--map", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)["candidates"]
        assert {(each["earlier"], each["earlier_sample_idx"]) for each in shown} == {
            (row["earlier"], row["sample_idx"]) for row in pool
        }
        assert all(each["x"] is not None for each in shown)
        for each in shown:
            if each["role"] is not None:
                reward, role = rewards[prompt_id, each["sample_idx"]]
                assert (each["reward"], each["role"]) == (pytest.approx(reward), role)
                n_shown += 1
    assert n_shown == len(rewards)

    assert run(["inspect", groups, "--prompt-id", "p1"]) == 0
    assert "of earlier round 1" in capsys.readouterr().out
    shutil.rmtree(folder / "round-01")
    assert run(["inspect", groups, "--prompt-id", "p1"]) == 1
    assert "was also selected from an earlier round" in capsys.readouterr().err


def story_of(folder: Path, n_maps: int = 2) -> dict[str, Any]:
    reported = open_folder(folder, strict=False)
    return tell("run", reported.artifacts, calculator_model("1B", []), n_maps=n_maps)


@pytest.mark.slow
def test_a_report_counts_and_draws_the_joined_pool(tmp_path: Path) -> None:
    folder = copy_to(tmp_path, "other parts")
    assert select(folder) == 0
    assert select(folder, output="alone", earlier=False) == 0
    story = story_of(folder)
    pools = {pool["name"]: pool for pool in story["pools"]}
    joint, alone = pools["round-02/groups"], pools["round-02/alone"]

    assert joint["rewards"]["n"] == 2 * N * N_PROMPTS
    assert alone["rewards"]["n"] == N * N_PROMPTS
    kept = {
        role: joint["rewards"]["lengths"]["points"][role]["n"] for role in ("positive", "negative")
    }
    assert kept == {"positive": N_PROMPTS, "negative": 2 * N_PROMPTS}
    assert joint["coverage"] != alone["coverage"]
    assert "round-01/embeddings" in joint["made_of"]
    step = joint["funnel"]["responses"][-1]
    assert step["step"] == "select, 28 of earlier rounds"
    assert step["n_in"] == step["n_out"] + sum(step["reasons"].values()) == 2 * N * N_PROMPTS


def test_maps_of_a_report_have_the_candidates_of_both_rounds(tmp_path: Path) -> None:
    folder = copy_to(tmp_path)
    assert select(folder) == 0
    maps, errors = maps_of(pools_of(open_folder(folder, strict=False).artifacts), 3)
    assert errors == []
    assert [each["n_candidates"] for each in maps] == [2 * N] * 3
    for drawn in maps:
        samples = {each["sample_idx"] for each in drawn["candidates"]}
        [selection] = drawn["selections"]
        kept = {each["sample_idx"] for each in selection["kept"]}
        assert len(kept) == 3
        assert kept <= samples


def test_a_report_of_one_round_draws_no_part_of_a_joined_pool(tmp_path: Path) -> None:
    folder = copy_to(tmp_path)
    assert select(folder) == 0
    [pool] = [
        pool for pool in story_of(folder / "round-02", 1)["pools"] if pool["name"] == "groups"
    ]
    assert pool["elsewhere"] == [
        "earlier_1_candidates",
        "earlier_1_scores",
        "earlier_1_embeddings",
    ]
    assert pool["rewards"] is pool["coverage"] is None
    assert pool["funnel"]["responses"][-1]["n_in"] == 2 * N * N_PROMPTS


@pytest.mark.slow
def test_logprobs_training_check_and_export_take_each_response_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a real tokenizer: the ids that are trained on are those that either round sampled."""
    model = str(make_tiny_causal_lm(tmp_path / "model"))
    prompts = str(write_json_lines(tmp_path / "prompts.jsonl", PROMPTS))
    for number in (1, 2):
        candidates = str(tmp_path / f"round-0{number}" / "candidates")
        words = ["generate", prompts, "-o", candidates, "--model", model, "--n", str(N)]
        words += ["--seed", str(number), "--max-tokens", "8", "--device", "cpu"]
        command([*words, "--dtype", "float32", "--part-size", "4"])
        scores = str(tmp_path / f"round-0{number}" / "scores")
        command(["score", candidates, "-o", scores, "--scorer", "fake"])

    later = tmp_path / "round-02"
    groups = str(later / "groups")
    words = ["select", str(later / "candidates"), "--scores", str(later / "scores"), "--k", "4"]
    words += ["--strategy", "bottom-k", "-o", groups]
    command([*words, "--earlier", str(tmp_path / "round-01")])
    kept = {(row["prompt_id"], row["sample_idx"]): row for row in rows_of(later / "groups")}
    assert {row["earlier"] for row in kept.values()} == {0, 1}

    command(
        ["logprobs", groups, "-o", str(later / "logprobs"), "--model", model, "--device", "cpu"]
    )
    measured = rows_of(later / "logprobs")
    assert {(row["prompt_id"], row["sample_idx"]) for row in measured} == set(kept)
    sampled = {}
    for number in (0, 1):
        for row in rows_of(tmp_path / f"round-0{2 - number}" / "candidates"):
            key = row["prompt_id"], number * STRIDE + row["sample_idx"]
            sampled[key] = row["response_token_ids"]
    for row in measured:
        key = row["prompt_id"], row["sample_idx"]
        assert kept[key]["response_token_ids"] == sampled[key]
        assert row["n_tokens"] == len(sampled[key])

    words = ["train", groups, "-o", str(later / "policy"), "--model", model, "--max-steps", "1"]
    words += ["--objective", "dpo", "--reference", str(later / "logprobs"), "--report-to", "none"]
    command(words)
    trained = rows_of(later / "policy")
    assert {(row["prompt_id"], row["sample_idx"]) for row in trained} == set(kept)
    assert "tokenised again" not in capsys.readouterr().err

    command(["export", groups, "-o", str(tmp_path / "out.jsonl"), "--format", "jsonl"])
    exported = (tmp_path / "out.jsonl").read_text()
    assert str(STRIDE)[:3] in exported
    assert run(["check", groups, "--model", model]) == 0
