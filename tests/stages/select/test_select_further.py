"""The select command: strategies by several scorers and by sampler, best-of-n, filters of prompts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.pipelines import digests_of, open_artifact, rows_of
from support.written_pools import Candidate, candidate, rated, write_pools

from prefpipe.artifacts.store import Shard, open_output
from prefpipe.cli.main import run
from prefpipe.configs.select import SelectConfig
from prefpipe.errors import UsageError
from prefpipe.maths.selection.select_responses import select_responses
from prefpipe.maths.selection.uncertainty import scorer_spread
from prefpipe.maths.selection.validation import DEFAULT_OPTIONS


def select(folder: Path, *flags: str, output: str = "groups") -> int:
    words = ["select", folder / "candidates", "--scores", folder / "scores", "-o", folder / output]
    return run([*map(str, words), *flags])


def kept(folder: Path, output: str = "groups") -> dict[str, dict[str, list[int]]]:
    """Return the samples of each prompt by role, positives in their order."""
    found: dict[str, dict[str, list[int]]] = {}
    for row in rows_of(folder / output):
        if row["role"] is not None:
            roles = found.setdefault(row["prompt_id"], {"positive": [], "negative": []})
            roles[row["role"]].append(row["sample_idx"])
    return found


def rejected(folder: Path, output: str = "groups") -> dict[str, str]:
    return {
        row["prompt_id"]: row["status"] for row in rows_of(folder / output) if row["role"] is None
    }


def words(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_reward_position_writes_what_the_function_chooses(tmp_path: Path) -> None:
    rewards = [0.5, 3.0, 1.0, 2.5, 2.0, -4.0]
    write_pools(tmp_path, {"p": rated(*rewards)})
    flags = ["--strategy", "reward-position", "--k", "2", "--position", "-0.5"]
    assert select(tmp_path, *flags) == 0
    expected = select_responses(rewards, k=2, strategy="reward-position", position=-0.5)
    assert kept(tmp_path)["p"] == {"positive": [1], "negative": expected.negatives.tolist()}


TWO_SCORERS = [
    candidate("a", {"one": 0.0, "two": 5.0}),
    candidate("b", {"one": 1.0, "two": 0.0}),
    candidate("c", {"one": 3.0, "two": 1.0}),
    candidate("d", {"one": 2.0, "two": 2.0}),
    candidate("e", {"one": 9.0, "two": None}),
]


@pytest.mark.parametrize("strategy", ["delta-ucb", "delta-quantile"])
def test_pairs_by_uncertainty_are_those_of_the_function(tmp_path: Path, strategy: str) -> None:
    """e was not rated by both: it is left out under its reason, and the spread is of what is there."""
    write_pools(tmp_path, {"p": TWO_SCORERS})
    flags = ["--strategy", strategy, "--reward", "one", "--spread-of", "one", "--spread-of", "two"]
    assert select(tmp_path, *flags) == 0
    nan = float("nan")
    one, two = [0.0, 1.0, 3.0, 2.0, 9.0], [5.0, 0.0, 1.0, 2.0, nan]
    expected = select_responses(
        one,
        strategy=strategy,
        uncertainty=scorer_spread([one, two], one),
        mask=[True] * 4 + [False],
    )
    assert kept(tmp_path)["p"] == {
        "positive": expected.positives.tolist(),
        "negative": expected.negatives.tolist(),
    }
    tally = open_artifact(tmp_path / "groups").tally()
    assert tally["left_out.no_spread"] == 1


@pytest.mark.slow
def test_drts_depends_on_seed_and_prompt_and_not_on_workers(tmp_path: Path) -> None:
    pools = {
        f"p{n}": [
            candidate(
                letter, {"one": float((n * 5 + place * 3) % 7), "two": float((n + place * 4) % 6)}
            )
            for place, letter in enumerate("abcdef")
        ]
        for n in range(8)
    }
    write_pools(tmp_path, pools)
    flags = ["--strategy", "drts", "--reward", "z(one) + z(two)", "--spread-weight", "3"]
    for output, more in (
        ("one", ["--workers", "1"]),
        ("many", ["--workers", "4"]),
        ("other", ["--seed", "1"]),
    ):
        assert select(tmp_path, *flags, *more, output=output) == 0
    assert digests_of(tmp_path / "one") == digests_of(tmp_path / "many")
    assert kept(tmp_path, "one") != kept(tmp_path, "other")
    for row in rows_of(tmp_path / "one"):
        assert (row["role"], row["status"]) in (("positive", "ok"), ("negative", "ok"))


def test_one_scorer_has_no_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pools(tmp_path, {"p": rated(1.0, 2.0)})
    assert select(tmp_path, "--strategy", "drts") == 2
    said = words(capsys)
    assert "--strategy drts needs the spread of at least two scorers, and has one: rm" in said
    assert "rate the candidates with another scorer too" in said
    assert not (tmp_path / "groups").exists()


def test_scorers_of_a_spread_are_named_where_the_reward_names_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pools(tmp_path, {"p": TWO_SCORERS})
    assert select(tmp_path, "--strategy", "drts", "--reward", "one") == 2
    assert "name them: --spread-of one --spread-of two" in words(capsys)
    spread_of = ["--spread-of", "one", "--spread-of", "tow"]
    assert select(tmp_path, "--strategy", "drts", "--reward", "one", *spread_of) == 2
    assert "--spread-of tow" in (said := words(capsys))
    assert "did you mean `two`?" in said


def test_scorers_that_agree_on_everything_are_said_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = [candidate(letter, {"one": n, "two": 10.0 * n}) for n, letter in enumerate("abc")]
    write_pools(tmp_path, {"p": pool})
    assert select(tmp_path, "--strategy", "drts", "--reward", "one + two") == 0
    assert "one and two agree on every response of the first part" in words(capsys)
    assert kept(tmp_path)["p"] == {"positive": [2], "negative": [0]}


def of_models(*pairs: tuple[str, float]) -> list[Candidate]:
    return [
        candidate("abcdefgh"[place], {"rm": reward}, model=model)
        for place, (model, reward) in enumerate(pairs)
    ]


DELTA = ["--strategy", "delta", "--chosen-from", "big", "--rejected-from", "small"]


def test_delta_pairs_two_models_and_gives_each_prompt_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pools = {
        "good": of_models(("small", 1.0), ("big", 2.0), ("small", 3.0), ("other", 0.0)),
        "tied": of_models(("big", 1.0), ("small", 1.0)),
        "turned": of_models(("big", 1.0), ("small", 2.0)),
        "alone": of_models(("big", 1.0), ("big", 2.0), ("other", 0.0)),
    }
    write_pools(tmp_path, pools)
    assert select(tmp_path, *DELTA) == 0
    said = words(capsys)
    assert kept(tmp_path) == {
        "good": {"positive": [1], "negative": [0]},
        "tied": {"positive": [0], "negative": [1]},
    }
    assert rejected(tmp_path) == {"turned": "inversion", "alone": "one_sampler"}
    assert "2 candidates left out: other_sampler" in said
    assert "2 candidates left out: inversion" in said

    assert select(tmp_path, *DELTA, "--min-margin", "0.5", output="far") == 0
    assert rejected(tmp_path, "far")["tied"] == "low_margin"


def test_delta_names_a_model_that_gave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pools(tmp_path, {"p": of_models(("big", 1.0), ("small", 0.0))})
    flags = ["--strategy", "delta", "--chosen-from", "big", "--rejected-from", "smal"]
    assert select(tmp_path, *flags) == 2
    said = words(capsys)
    assert (
        "--rejected-from smal: no candidate comes from that model (did you mean `small`?)" in said
    )
    assert "big, small" in said


def test_best_of_n_keeps_positives_ties_and_single_answers_and_exports_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pools = {"p": rated(1.0, 3.0, 2.0), "tied": rated(1.0, 1.0), "one": rated(0.5)}
    write_pools(tmp_path, pools)
    assert select(tmp_path, "--strategy", "best-of-n", "--positives", "2") == 0
    assert kept(tmp_path) == {
        "p": {"positive": [1, 2], "negative": []},
        "tied": {"positive": [0, 1], "negative": []},
        "one": {"positive": [0], "negative": []},
    }
    out = tmp_path / "sft.jsonl"
    assert run(["export", str(tmp_path / "groups"), "-o", str(out), "--format", "trl-sft"]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["prompt_id"], line["completion"][0]["content"]) for line in lines] == [
        ("p", "b"),
        ("p", "c"),
        ("tied", "a"),
        ("tied", "b"),
        ("one", "a"),
    ]
    assert lines[0]["prompt"] == [{"role": "user", "content": "about p"}]
    capsys.readouterr()


FILTERED = {
    "a": rated(0.0, 4.0, tokens=(2, 1)),
    "b": rated(1.0, 3.0, tokens=(9, 1)),
    "c": rated(2.0, 2.5, tokens=(5, 1)),
    "d": rated(3.0, 9.0, tokens=(7, 1)),
    "tied": rated(5.0, 5.0),
}
"""Lowest rewards 0, 1, 2, 3, of 2, 9, 5 and 7 tokens; gaps 4, 2, 0.5, 6."""


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--min-rejected-reward", "0.5"],
            {"a": "low_rejected_reward", "b": "low_rejected_reward"},
        ),
        (["--min-rejected-tokens", "0.5"], {"a": "short_rejected", "c": "short_rejected"}),
        (["--max-gap", "0.5"], {"a": "large_gap", "d": "large_gap"}),
        (["--min-spread", "2"], {"c": "small_spread"}),
        (
            ["--min-pass-rate", "0.5", "--pass-reward", "3"],
            {"c": "low_pass_rate"},
        ),
        (
            ["--max-pass-rate", "0.5", "--pass-reward", "3"],
            {"d": "high_pass_rate"},
        ),
    ],
)
@pytest.mark.parametrize("part_size", [1, 3])
def test_filters_drop_prompts_with_their_reason_whatever_the_parts(
    tmp_path: Path, flags: list[str], expected: dict[str, str], part_size: int
) -> None:
    """A tied prompt has no group in any case: its reason stands, and it counts for no quantile."""
    write_pools(tmp_path, FILTERED, part_size=part_size)
    assert select(tmp_path, "--strategy", "best-worst", *flags) == 0
    assert rejected(tmp_path) == expected | {"tied": "tie"}
    assert set(kept(tmp_path)) == set(FILTERED) - set(expected) - {"tied"}


def test_a_reason_says_what_was_compared(tmp_path: Path) -> None:
    write_pools(tmp_path, FILTERED)
    assert select(tmp_path, "--strategy", "best-worst", "--max-gap", "0.5") == 0
    [reason] = [row["reason"] for row in rows_of(tmp_path / "groups") if row["prompt_id"] == "d"]
    assert reason == "gap 6 above 3; 2 candidates, 2 usable; rewards 3 to 9"


def test_filters_keep_the_same_prompts_under_all_strategies_that_rank(tmp_path: Path) -> None:
    write_pools(tmp_path, FILTERED)
    for strategy in ("best-worst", "reward-position", "random", "top-bottom"):
        flags = ["--strategy", strategy, "--max-gap", "0.5", "--min-rejected-reward", "0.3"]
        assert select(tmp_path, *flags, output=strategy) == 0
        assert set(kept(tmp_path, strategy)) == {"b", "c"}


def test_copies_count_for_the_pass_rate(tmp_path: Path) -> None:
    """Three equal right answers of four are a rate of 3/4, though two of them are usable."""
    pool = [candidate("yes", {"rm": 1.0})] * 3 + [candidate("no", {"rm": 0.0})]
    write_pools(tmp_path, {"p": pool, "q": rated(1.0, 0.0)})
    assert select(tmp_path, "--strategy", "best-worst", "--max-pass-rate", "0.6") == 0
    assert rejected(tmp_path) == {"p": "high_pass_rate"}


@pytest.mark.parametrize(
    "flags", [["--min-spread", "50"], ["--min-rejected-reward", "0.9", "--max-gap", "0.1"]]
)
def test_filters_that_leave_nothing_are_refused_before_anything_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    write_pools(tmp_path, FILTERED)
    assert select(tmp_path, "--strategy", "best-worst") == 0
    before = digests_of(tmp_path / "groups")
    capsys.readouterr()
    assert select(tmp_path, "--strategy", "best-worst", *flags, "--overwrite") == 2
    said = words(capsys)
    assert "the filters drop all 4 prompts: " in said
    assert "lowest rewards 0 to 3; gaps 0.5 to 6" in said
    assert digests_of(tmp_path / "groups") == before


def test_without_any_group_the_filters_are_not_to_blame(tmp_path: Path) -> None:
    write_pools(tmp_path, {"p": rated(1.0, 1.0)})
    assert select(tmp_path, "--strategy", "best-worst", "--min-spread", "2") == 0
    assert rejected(tmp_path) == {"p": "tie"}


def test_thresholds_are_over_all_parts_for_every_shard(tmp_path: Path) -> None:
    write_pools(tmp_path, FILTERED, part_size=1)
    flags = ["--strategy", "best-worst", "--max-gap", "0.5"]
    assert select(tmp_path, *flags, output="whole") == 0
    for index in range(3):
        more = ["--shard-index", str(index), "--num-shards", "3"]
        assert select(tmp_path, *flags, *more, output="shards") == 0
    assert digests_of(tmp_path / "whole") == digests_of(tmp_path / "shards")
    identity = open_artifact(tmp_path / "whole").record.identity
    assert identity["thresholds"] == {"gap": 3.0}


@pytest.mark.parametrize("workers", ["1", "3"])
def test_thresholds_are_those_of_one_thread_whatever_the_threads(
    tmp_path: Path, workers: str
) -> None:
    pools = {f"p{n}": rated(0.0, 1.0 + n % 7, 0.25 * n) for n in range(24)}
    write_pools(tmp_path, pools, part_size=2)
    flags = ["--strategy", "best-worst", "--max-gap", "0.6", "--workers", workers]
    assert select(tmp_path, *flags) == 0
    thresholds = open_artifact(tmp_path / "groups").record.identity["thresholds"]
    gaps = [max(1.0 + n % 7, 0.25 * n) for n in range(24)]
    assert thresholds == {"gap": np.quantile(gaps, 0.6)}
    assert len(rejected(tmp_path)) == sum(gap > thresholds["gap"] for gap in gaps)


def test_a_broken_part_ends_the_look_at_all_pools(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pools(tmp_path, {f"p{n}": rated(0.0, n + 1.0) for n in range(12)}, part_size=1)
    part = next((tmp_path / "candidates").glob("part-00007-*"))
    part.write_bytes(part.read_bytes()[:-9])
    flags = ["--strategy", "best-worst", "--max-gap", "0.5", "--workers", "3"]
    assert select(tmp_path, *flags) != 0
    assert part.name in words(capsys)
    assert not (tmp_path / "groups").exists()


def test_quantiles_want_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pools(tmp_path, FILTERED)
    next((tmp_path / "scores").glob("part-00001-*")).unlink()
    assert select(tmp_path, "--strategy", "best-worst", "--max-gap", "0.5") == 4
    assert not (tmp_path / "groups").exists()
    partial = ["--allow-partial", "--max-gap", "0.5"]
    assert select(tmp_path, "--strategy", "best-worst", *partial) == 2
    assert "--allow-partial does not go with --min-rejected-reward" in words(capsys)
    assert select(tmp_path, "--strategy", "best-worst", "--allow-partial", "--min-spread", "3") == 0
    groups = open_artifact(tmp_path / "groups").read_all(allow_partial=True).to_pylist()
    assert [(row["prompt_id"], row["status"]) for row in groups if row["role"] is None] == [
        ("b", "small_spread"),
        ("tied", "tie"),
    ]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--strategy", "bottom-k", "--position", "-1"], "--position belongs to --strategy reward-position"),
        (["--strategy", "best-worst", "--quantile", "0.1"], "--quantile belongs to --strategy delta-quantile"),
        (["--strategy", "best-worst", "--spread-weight", "2"],
         "--spread-weight belongs to --strategy delta-ucb and drts and delta-quantile"),
        (["--strategy", "best-worst", "--chosen-from", "m"], "--chosen-from belongs to --strategy delta"),
        (["--strategy", "delta", "--chosen-from", "m"], "--strategy delta needs --rejected-from"),
        (["--strategy", "delta", "--chosen-from", "m", "--rejected-from", "m"],
         "--chosen-from and --rejected-from are both m"),
        (["--strategy", "drts", "--spread-of", "rm"], "--spread-of names one scorer, rm"),
        (["--strategy", "drts", "--min-margin", "1"], "--min-margin does not apply to --strategy drts"),
        (["--strategy", "drts", "--k", "3"], "--k does not apply to --strategy drts"),
        (["--strategy", "best-of-n", "--pairs", "adjacent"], "--pairs does not apply to --strategy best-of-n"),
        (["--strategy", "best-of-n", "--k", "3"], "--k does not apply to --strategy best-of-n, which has no negatives; --positives says how many"),
        (["--strategy", "best-worst", "--pass-reward", "0.5"],
         "--pass-reward belongs to --min-pass-rate and --max-pass-rate"),
        (["--strategy", "best-worst", "--min-pass-rate", "0.9", "--max-pass-rate", "0.1"],
         "--min-pass-rate 0.9 is above --max-pass-rate 0.1"),
        (["--strategy", "best-worst", "--max-gap", "1.5"], "--max-gap must be above 0 and below 1"),
        (["--strategy", "best-worst", "--min-spread", "0"], "--min-spread must be above 0"),
    ],
)  # fmt: skip
def test_flags_without_a_meaning_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], sentence: str
) -> None:
    write_pools(tmp_path, {"p": rated(1.0, 2.0)})
    assert select(tmp_path, *flags) == 2
    assert sentence in words(capsys)


def identity_of(**knobs: Any) -> dict[str, Any]:
    given = {"strategy": "best-worst"} | knobs
    return SelectConfig(
        candidates=Path("c"), scores=Path("s"), output=Path("o"), **given
    ).identity()


def test_new_knobs_are_in_the_identity_where_they_apply_and_nowhere_else() -> None:
    """So the fingerprint of what was selected before there were such knobs does not move."""
    assert set(identity_of()) == {
        "strategy",
        "positives",
        "reward",
        "min_margin",
        "near_duplicates",
        "pairs",
        "max_pairs",
        "keep_truncated",
        "keep_duplicates",
        "seed",
    }
    assert identity_of(strategy="reward-position")["position"] == -2.0
    assert set(identity_of(strategy="drts")) - set(identity_of()) == {"spread_of", "spread_weight"}
    quantile = set(identity_of(strategy="delta-quantile")) - set(identity_of(strategy="drts"))
    assert quantile == {"quantile"}
    filtered = identity_of(max_gap=0.5, min_pass_rate=0.1)
    assert {name: filtered[name] for name in set(filtered) - set(identity_of())} == {
        "max_gap": 0.5,
        "min_pass_rate": 0.1,
        "pass_reward": 1.0,
    }
    with pytest.raises(UsageError, match="--strategy delta needs --chosen-from"):
        identity_of(strategy="delta")


def test_naming_scorers_in_another_order_is_no_other_run(tmp_path: Path) -> None:
    write_pools(tmp_path, {"p": TWO_SCORERS})
    flags = ["--strategy", "delta-ucb", "--reward", "one + two"]
    assert select(tmp_path, *flags) == 0
    assert select(tmp_path, *flags, "--spread-of", "two", "--spread-of", "one") == 0


def test_thresholds_that_moved_are_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part of the scores is made again with other rewards: a quantile moves for all parts."""
    write_pools(tmp_path, FILTERED, part_size=1)
    flags = ["--strategy", "best-worst", "--max-gap", "0.5"]
    assert select(tmp_path, *flags) == 0
    before = digests_of(tmp_path / "groups")

    scores = open_artifact(tmp_path / "scores")
    table, footer = scores.read(3)
    place = table.column_names.index("reward")
    other = table.set_column(place, "reward", pa.array([3.0, 3.25]))
    output = open_output(tmp_path / "scores", scores.record, shard=Shard(), overwrite=False)
    output.write(3, other, counts={"ok": 2}, parents=footer.parents)
    capsys.readouterr()
    assert select(tmp_path, *flags) == 2
    assert "thresholds" in words(capsys)
    assert digests_of(tmp_path / "groups") == before
    assert select(tmp_path, *flags, "--overwrite") == 0
    assert set(rejected(tmp_path)) == {"a", "b", "tied"}


def test_flags_have_the_defaults_of_the_function() -> None:
    names = {name: "time_limit" if name == "time_limit_s" else name for name in DEFAULT_OPTIONS}
    of_flags = {name: getattr(SelectConfig, flag) for name, flag in names.items()}
    assert of_flags == DEFAULT_OPTIONS
