"""The select command on small pools that are written by hand: columns, roles, reasons, pairs, summary, workers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.pipelines import digests_of, open_artifact, rows_of

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import CANDIDATES, SCORES, embeddings_schema
from prefpipe.artifacts.store import Artifact, Shard, open_output
from prefpipe.cli.main import run
from prefpipe.configs.select import SelectConfig
from prefpipe.maths.selection.select_responses import select_responses
from prefpipe.stages.select.tally import token_counts

CORNERS = {
    "a": (1.0, 0.0),
    "b": (0.0, 1.0),
    "c": (-1.0, 0.0),
    "d": (0.0, -1.0),
    "e": (0.6, 0.8),
    "f": (0.61, 0.79),
}
Pool = list[tuple]
"""Candidates of one prompt: text, reward, and optionally status and sample_idx. The vector is the text's."""


def write_pools(
    folder: Path, pools: dict[str, Pool], *, part_size: int = 2, shuffle: bool = False
) -> None:
    """Write candidates, scores and embeddings; ``shuffle`` gives every artifact another order of rows within its parts."""
    names = list(pools)
    n_parts = -(-len(names) // part_size)
    identity = {"stage": "generate", "version": 1, "pools": json.dumps(pools)}
    records = {
        "candidates": RunRecord("generate", CANDIDATES.tag, n_parts, identity),
        "scores": RunRecord(
            "score", SCORES.tag, n_parts, {"scorers": [{"name": "rm"}], "candidates": identity}
        ),
        "embeddings": RunRecord(
            "embed", embeddings_schema(2, half=False).tag, n_parts, {"candidates": identity}
        ),
    }
    outputs = {
        name: open_output(folder / name, record, shard=Shard(), overwrite=False)
        for name, record in records.items()
    }
    for index in range(n_parts):
        rows = [
            row_of(name, place, *candidate)
            for name in names[index * part_size : (index + 1) * part_size]
            for place, candidate in enumerate(pools[name])
        ]
        made_from = {}
        for number, (name, schema) in enumerate(
            (
                ("candidates", CANDIDATES.arrow()),
                ("scores", SCORES.arrow()),
                ("embeddings", embeddings_schema(2, half=False).arrow()),
            )
        ):
            order = (
                np.random.default_rng(number).permutation(len(rows))
                if shuffle
                else range(len(rows))
            )
            table = pa.Table.from_pylist([rows[i][name] for i in order], schema=schema)
            if name == "candidates":
                table = table.append_column(
                    "topic", pa.array([f"topic of {rows[i][name]['prompt_id']}" for i in order])
                )
            footer = outputs[name].write(index, table, counts={"ok": len(rows)}, parents=made_from)
            made_from = made_from or {"candidates": footer.data_sha256}


def row_of(prompt_id, place, text, reward, status="ok", sample_idx=None):
    key = {"prompt_id": prompt_id, "sample_idx": place if sample_idx is None else sample_idx}
    candidate = {
        "messages": [{"role": "user", "content": f"about {prompt_id}"}],
        "response": text,
        "model": "m",
        "prompt_token_ids": [1, 2, 3],
        "response_token_ids": [5] * len(text or ""),
        "n_prompt_tokens": 3,
        "n_response_tokens": len(text or ""),
        "finish_reason": "stop",
        "logp": -1.0,
        "temperature": 1.0,
        "seed": 1,
        "status": status,
    }
    vector = CORNERS.get((text or "")[:1])
    return {
        "candidates": key | candidate,
        "scores": key
        | {"scorer": "rm", "reward": reward, "status": "ok" if reward is not None else "unrated"},
        "embeddings": key
        | {
            "embedding": vector or (0.0, 0.0),
            "n_tokens": 1,
            "truncated": False,
            "status": "ok" if vector else "empty",
        },
    }


def select(folder: Path, *flags: str, output: str = "groups") -> int:
    words = [
        "select",
        folder / "candidates",
        "--scores",
        folder / "scores",
        "--embeddings",
        folder / "embeddings",
    ]
    return run([*map(str, words), "-o", str(folder / output), *flags])


POOL: Pool = [("a", 5.0), ("b", 1.0), ("c", 2.0), ("d", 0.0), ("ee", 3.0)]


def test_the_look_at_all_pools_decodes_no_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which candidates have one counts all the same: `x`, the best, has none, and would be the gap."""
    without = [("a", 5.0), ("x", 99.0), ("b", 1.0)]
    pools = {"p": POOL, "q": without, "r": [("a", 0.5), ("b", 0.0), ("c", 0.25)]}
    write_pools(tmp_path, pools, part_size=1, shuffle=True)
    n_decoded = []
    read = Artifact.read

    def noted(self: Artifact, index: int, columns: Sequence[str] | None = None) -> Any:
        n_decoded.append("embedding" in (columns or ()))
        return read(self, index, columns)

    monkeypatch.setattr(Artifact, "read", noted)
    assert select(tmp_path, "--k", "1", "--max-gap", "0.5") == 0
    assert sum(n_decoded) == len(pools)
    identity = open_artifact(tmp_path / "groups").record.identity
    assert identity["thresholds"] == {"gap": 4.0}


def test_select_writes_rank_role_and_represented_samples(tmp_path: Path) -> None:
    """k = 2 of b, c, d, e with rewards 1, 2, 0, 3: the columns are those of select_responses on the same arrays."""
    write_pools(tmp_path, {"p": POOL})
    assert select(tmp_path, "--k", "2") == 0
    found = rows_of(tmp_path / "groups")
    expected = select_responses([row[1] for row in POOL], [CORNERS[row[0][0]] for row in POOL], 2)
    assert [row["role"] for row in found] == ["positive", "negative", "negative"]
    assert [row["sample_idx"] for row in found] == [0, *expected.negatives]
    assert [row["rank"] for row in found] == [
        0,
        *[{1: 3, 2: 2, 3: 4, 4: 1}[int(i)] for i in expected.negatives],
    ]
    assert [row["reward"] for row in found] == [POOL[row["sample_idx"]][1] for row in found]
    assert found[0]["represents"] is None
    assert found[0]["marginal_gain"] is None
    for place, row in enumerate(found[1:]):
        assert (
            row["represents"] == np.flatnonzero(expected.represents == row["sample_idx"]).tolist()
        )
        assert row["marginal_gain"] == pytest.approx(expected.gains[place], rel=1e-6)
    assert sorted(idx for row in found[1:] for idx in row["represents"]) == [1, 2, 3, 4]
    assert [row["cost"] for row in found] == pytest.approx([expected.cost] * 3, rel=1e-6)
    assert {row["is_optimal"] for row in found} == {True}
    assert {row["beats"] for row in found} == {None}
    assert {row["topic"] for row in found} == {"topic of p"}
    assert [row["response"] for row in found] == [POOL[row["sample_idx"]][0] for row in found]


def test_coreset_rows_carry_their_cluster(tmp_path: Path) -> None:
    write_pools(tmp_path, {"p": [("a", 9.0), ("b", 1.0), ("ee", 2.0), ("ff", 3.0), ("c", 4.0)]})
    assert select(tmp_path, "--strategy", "coreset", "--k", "2") == 0
    found = rows_of(tmp_path / "groups")
    assert [(row["sample_idx"], row["cluster"], row["represents"]) for row in found] == [
        (0, None, None),
        (1, 0, [1, 2, 3]),
        (4, 1, [4]),
    ]
    assert {row["lower_bound"] for row in found} == {row["is_optimal"] for row in found} == {None}


@pytest.mark.slow
def test_rows_are_found_by_key_whatever_their_order(tmp_path: Path) -> None:
    """The three artifacts hold the rows of a part in three different orders: the groups are the same."""
    pools = {
        f"p{n}": [
            (letter * (n + 1), float((7 * n + 3 * place) % 11))
            for place, letter in enumerate("abcde")
        ]
        for n in range(5)
    }
    write_pools(tmp_path / "straight", pools)
    write_pools(tmp_path / "shuffled", pools, shuffle=True)
    for name in ("straight", "shuffled"):
        assert select(tmp_path / name, "--k", "2") == 0
    straight, shuffled = (
        {row["prompt_id"]: [] for row in rows_of(tmp_path / name / "groups")}
        for name in ("straight", "shuffled")
    )
    for rows, name in ((straight, "straight"), (shuffled, "shuffled")):
        for row in rows_of(tmp_path / name / "groups"):
            rows[row["prompt_id"]].append(row)
    assert straight == shuffled


def test_select_writes_one_row_for_each_rejected_prompt(tmp_path: Path) -> None:
    pools = {
        "tied": [("a", 1.0), ("b", 1.0), ("c", 1.0)],
        "good": POOL,
        "thin": [("a", 1.0), ("a", 2.0), ("", 3.0), ("b", None), (None, 1.0, "error")],
        "blind": [("a", None), ("b", None)],
    }
    write_pools(tmp_path, pools)
    assert select(tmp_path, "--k", "1") == 0
    found = [(row["prompt_id"], row["role"], row["status"]) for row in rows_of(tmp_path / "groups")]
    assert found == [
        ("tied", None, "tie"),
        ("good", "positive", "ok"),
        ("good", "negative", "ok"),
        ("thin", None, "too_few_candidates"),
        ("blind", None, "no_rewards"),
    ]
    thin = next(row for row in rows_of(tmp_path / "groups") if row["prompt_id"] == "thin")
    assert thin["reason"].startswith("5 candidates, 1 usable")
    for word in ("1 duplicate", "1 empty", "1 no_reward", "1 generation_error", "rewards 1 to 3"):
        assert word in thin["reason"]
    assert (thin["sample_idx"], thin["response"], thin["n_response_tokens"], thin["topic"]) == (
        None,
        None,
        None,
        "topic of thin",
    )


def test_select_drops_and_counts_near_copies_and_small_margins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """e and f have a cosine of 0.9998: the higher reward, f, stays. c is within 0.5 of the best."""
    write_pools(tmp_path, {"p": [("a", 5.0), ("ee", 1.0), ("ff", 2.0), ("c", 4.8), ("d", 0.0)]})
    assert (
        select(tmp_path, "--k", "4", "--near-duplicates", "0.999", "--min-margin", "0.5", "--json")
        == 0
    )
    assert [row["sample_idx"] for row in rows_of(tmp_path / "groups")] == [0, 2, 4]
    told = json.loads(capsys.readouterr().out)
    assert told["candidates_left_out"] == {"low_margin": 1, "near_duplicate": 1}
    assert (told["n_candidates"], told["n_usable"], told["n_kept"]) == (5, 3, 3)


def test_pairs_are_kept_with_their_margins(tmp_path: Path) -> None:
    write_pools(tmp_path, {"p": POOL, "q": [("a", 1.0), ("b", 1.0)]})
    assert select(tmp_path, "--k", "4", "--pairs", "adjacent") == 0
    found = {row["sample_idx"]: row["beats"] for row in rows_of(tmp_path / "groups")}
    assert found == {
        0: [{"sample_idx": 4, "margin": 2.0}],
        4: [{"sample_idx": 2, "margin": 1.0}],
        2: [{"sample_idx": 1, "margin": 1.0}],
        1: [{"sample_idx": 3, "margin": 1.0}],
        3: [],
        None: None,
    }
    assert select(tmp_path, "--k", "4", "--max-pairs", "2", output="two") == 0
    assert next(row["beats"] for row in rows_of(tmp_path / "two")) == [
        {"sample_idx": 3, "margin": 5.0},
        {"sample_idx": 4, "margin": 2.0},
    ]


def random_pools(n_prompts: int) -> dict[str, Pool]:
    rng = np.random.default_rng(5)
    return {
        f"p{n:02d}": [
            (letter + "x" * int(rng.integers(9)), round(float(rng.normal()), 3))
            for letter in "abcdef"
        ]
        for n in range(n_prompts)
    }


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["opt-select", "coreset", "random", "best-random"])
def test_select_bytes_do_not_depend_on_workers(tmp_path: Path, strategy: str) -> None:
    write_pools(tmp_path, random_pools(24))
    for workers in ("1", "2", "5"):
        assert (
            select(tmp_path, "--strategy", strategy, "--workers", workers, output=f"with{workers}")
            == 0
        )
    assert (
        digests_of(tmp_path / "with1")
        == digests_of(tmp_path / "with2")
        == digests_of(tmp_path / "with5")
    )


@pytest.mark.slow
def test_the_summary_covers_parts_that_were_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After one of twelve parts is lost, the second run makes one and tells the same of all."""
    write_pools(tmp_path, random_pools(24))
    assert select(tmp_path, "--k", "3", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    next((tmp_path / "groups").glob("part-00004-*")).unlink()
    assert select(tmp_path, "--k", "3", "--json") == 0
    second = json.loads(capsys.readouterr().out)
    assert (second["n_parts_made"], second["n_parts_kept"]) == (1, 11)
    own = {"n_parts_made", "n_parts_kept"}
    assert {k: v for k, v in first.items() if k not in own} == {
        k: v for k, v in second.items() if k not in own
    }
    assert first["n_optimal"] == first["n_groups"] == 24
    assert 0 < first["coverage_cost"] <= first["coverage_cost_bottom_k"] < 1.5


def test_reward_strategies_need_no_embeddings_and_are_explained_with_them(tmp_path: Path) -> None:
    write_pools(tmp_path, {"p": POOL})
    words = [
        "select",
        str(tmp_path / "candidates"),
        "--scores",
        str(tmp_path / "scores"),
        "--strategy",
        "bottom-k",
        "--k",
        "2",
    ]
    assert run([*words, "-o", str(tmp_path / "plain")]) == 0
    assert (
        run([*words, "-o", str(tmp_path / "told"), "--embeddings", str(tmp_path / "embeddings")])
        == 0
    )
    plain, told = rows_of(tmp_path / "plain"), rows_of(tmp_path / "told")
    assert [row["sample_idx"] for row in plain] == [row["sample_idx"] for row in told] == [0, 1, 3]
    assert {row["cost"] for row in plain} == {None}
    assert told[1]["represents"] == [1, 4]
    assert told[0]["cost"] > 0


def test_two_scores_and_two_embeddings_of_one_candidate_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pools(tmp_path, {"p": [("a", 1.0), ("b", 2.0, "ok", 0)]})
    assert select(tmp_path) == 1
    assert "has two candidates of prompt p, sample 0" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--strategy", "bottom-k", "--n-init", "3"],
            "--n-init belongs to --strategy coreset, not to bottom-k",
        ),
        (
            ["--strategy", "coreset", "--time-limit", "3"],
            "--time-limit belongs to --strategy opt-select, not to coreset",
        ),
        (["--near-duplicates", "1.5"], "--near-duplicates must be above 0 and at most 1, not 1.5"),
        (["--strategy", "best-worst", "--k", "3"], "--k does not apply to --strategy best-worst"),
        (["--max-pairs", "0"], "--max-pairs must be 1 or more, not 0"),
        (["--workers", "0"], "--workers must be 1 or more, not 0"),
        (["--pairs", "adjacant"], "did you mean `adjacent`?"),
    ],
)
def test_select_refuses_flags_without_a_meaning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags, sentence
) -> None:
    assert select(tmp_path, *flags) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_sums_of_tokens_are_those_of_the_rows_and_estimates_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompts are 3 tokens, computed once a group; responses as many as characters. Without counts: about p is 7 characters, 2 tokens of 4."""
    write_pools(tmp_path, {"p": POOL})
    assert select(tmp_path, "--k", "2", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    kept = rows_of(tmp_path / "groups")
    assert told["usable_tokens"] == 3 + sum(len(text) for text, _ in POOL)
    assert told["kept_tokens"] == 3 + sum(len(row["response"]) for row in kept)
    tally = open_artifact(tmp_path / "groups").tally()
    assert tally["usable_squared_tokens"] == sum((3 + len(text)) ** 2 for text, _ in POOL)
    assert (tally["group_prompt_tokens"], tally["usable_estimated"]) == (3, 0)

    table = open_artifact(tmp_path / "candidates").read(0)[0]
    place = table.column_names.index("n_response_tokens")
    blank = table.set_column(place, "n_response_tokens", pa.nulls(len(table), pa.int32()))
    prompt, response, is_estimated = token_counts(blank)
    assert is_estimated.all()
    assert prompt.tolist() == [2] * 5
    assert response.tolist() == [-(-len(text) // 4) for text, _ in POOL]


def test_a_part_without_rows_and_a_prompt_without_choice_are_no_trouble(tmp_path: Path) -> None:
    """Two prompts with one candidate each, in parts of their own."""
    write_pools(
        tmp_path, {"p": [("a", 1.0)], "q": [("b", 1e200), ("c", -1e308), ("d", 2.0)]}, part_size=1
    )
    assert select(tmp_path, "--k", "9") == 0
    assert [(row["prompt_id"], row["status"]) for row in rows_of(tmp_path / "groups")] == [
        ("p", "too_few_candidates"),
        ("q", "too_few_candidates"),
    ]
    empty = open_artifact(tmp_path / "candidates")
    for name in ("candidates", "scores", "embeddings"):
        artifact = open_artifact(tmp_path / name)
        table = artifact.read(0)[0].slice(0, 0)
        made_from = {} if name == "candidates" else {"candidates": empty.footer(0).data_sha256}
        open_output(tmp_path / name, artifact.record, shard=Shard(), overwrite=False).write(
            0, table, counts={}, parents=made_from
        )
    assert select(tmp_path, "--k", "9") == 0
    assert [row["prompt_id"] for row in rows_of(tmp_path / "groups")] == ["q"]


def test_a_margin_holds_with_several_positives(tmp_path: Path) -> None:
    write_pools(tmp_path, {"p": [("a", 3.0), ("b", 2.9), ("c", 2.8), ("d", 2.7)], "q": POOL})
    assert (
        select(tmp_path, "--strategy", "top-bottom", "--positives", "3", "--min-margin", "0.5") == 0
    )
    found = [
        (row["prompt_id"], row["role"], row["sample_idx"], row["status"])
        for row in rows_of(tmp_path / "groups")
    ]
    assert found[0] == ("p", None, None, "low_margin")
    assert [row[1:3] for row in found[1:]] == [
        ("positive", 0),
        ("positive", 4),
        ("positive", 2),
        ("negative", 1),
        ("negative", 3),
    ]


MARGINS: Pool = [("a", 5.0), ("b", 4.8), ("c", 2.0), ("d", 1.9)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("all-ordered", {0: [2, 3], 1: [2, 3], 2: [], 3: []}),
        ("adjacent", {0: [2], 1: [2], 2: [], 3: []}),
        (None, {0: None, 2: None, 3: None}),
    ],
)
def test_a_least_margin_between_any_two_leaves_no_candidate_out(
    tmp_path: Path, rule, expected
) -> None:
    """b is within 1 of a, and beats c and d all the same; with positives against negatives alone it has no use."""
    write_pools(tmp_path, {"p": MARGINS})
    words = [] if rule is None else ["--pairs", rule]
    assert select(tmp_path, "--k", "3", "--strategy", "bottom-k", "--min-margin", "1", *words) == 0
    found = {row["sample_idx"]: row["beats"] for row in rows_of(tmp_path / "groups")}
    beaten = {
        idx: None if beats is None else [pair["sample_idx"] for pair in beats]
        for idx, beats in found.items()
    }
    assert {idx: None if b is None else sorted(b) for idx, b in beaten.items()} == expected


def test_a_prompt_without_two_responses_far_enough_apart_is_rejected(tmp_path: Path) -> None:
    write_pools(tmp_path, {"p": [("a", 1.0), ("b", 0.9), ("c", 0.8)], "q": MARGINS})
    assert select(tmp_path, "--k", "3", "--min-margin", "1", "--pairs", "all-ordered") == 0
    assert [row["status"] for row in rows_of(tmp_path / "groups") if row["prompt_id"] == "p"] == [
        "low_margin"
    ]


def test_the_fingerprint_moves_where_the_least_margin_is_of_pairs_and_nowhere_else() -> None:
    def identity(**knobs):
        return SelectConfig(
            candidates=Path("c"), scores=Path("s"), output=Path("o"), strategy="all", **knobs
        ).identity()

    assert identity(min_margin=1.0, pairs="all-ordered")["min_margin_of"] == "pairs"
    for knobs in (
        {},
        {"min_margin": 1.0},
        {"pairs": "all-ordered"},
        {"min_margin": 1.0, "pairs": "best-worst"},
    ):
        assert "min_margin_of" not in identity(**knobs)


def test_select_notes_one_response_that_owns_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rewards 0, 100, 200 weigh 1, e^-100, e^-200; with T = std(r) the others count."""
    write_pools(tmp_path, {"p": [("a", 900.0), ("b", 0.0), ("c", 100.0), ("d", 200.0)]})
    assert select(tmp_path, "--k", "2") == 0
    assert "in 1 of 1 group one response has 99% or more of the weights" in " ".join(
        capsys.readouterr().err.split()
    )
    assert (
        select(tmp_path, "--k", "2", "--weight-temperature", "auto", "--json", output="auto") == 0
    )
    assert json.loads(capsys.readouterr().out)["n_owned"] == 0


def test_tokens_kept_are_one_figure_of_select_and_savings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pools(tmp_path, {"p": POOL})
    assert select(tmp_path, "--k", "2", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        run(
            [
                "savings",
                str(tmp_path / "groups"),
                "--model",
                "1M",
                "--tflops",
                "1",
                "--mfu",
                "1",
                "--json",
            ]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (told["usable_tokens"], told["kept_tokens"]) == (
        found["pool"]["n_tokens"],
        found["kept"]["n_tokens"],
    )
