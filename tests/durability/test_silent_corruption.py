"""Wrong results without an error, as users of other tools have met them: none of these may happen here."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.pipelines import (
    assert_same_artifact,
    identities_of,
    open_artifact,
    rows_of,
    table_of,
    write_json_lines,
    write_prompts,
)
from support.stage_server import StageServer

from prefpipe.artifacts import parts
from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.store import Shard
from prefpipe.backends.fake import FakeGenerator, FakeScorer
from prefpipe.backends.protocol import (
    Generation,
    GenerationRequest,
    SamplingParams,
    Score,
    ScoreRequest,
)
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.score import ScoreConfig
from prefpipe.errors import ErrorRateError
from prefpipe.execution.runtime import Runtime
from prefpipe.stages import generate as generate_stage
from prefpipe.stages import score as score_stage

pytestmark = pytest.mark.slow


def generate(prompts: Path, output: Path, *more: object) -> list[str]:
    words = (
        "generate",
        prompts,
        "--backend",
        "fake",
        "--model",
        "fake",
        "--n",
        5,
        "--part-size",
        3,
        "-o",
        output,
        *more,
    )
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def chain(stages: StageServer, fast_root: Path) -> Path:
    folder = fast_root / "honest"
    folder.mkdir()
    write_prompts(folder / "prompts.jsonl", 8)
    for words in (
        generate(folder / "prompts.jsonl", folder / "candidates"),
        ["score", folder / "candidates", "--scorer", "fake", "-o", folder / "scores"],
        ["embed", folder / "candidates", "--model", "fake", "-o", folder / "embeddings"],
        select(folder, folder / "groups"),
    ):
        assert stages.run(*words).code == 0
    return folder


def select(folder: Path, output: Path, *more: object) -> list[object]:
    return [
        "select",
        folder / "candidates",
        "--scores",
        folder / "scores",
        "--embeddings",
        folder / "embeddings",
        "--k",
        2,
        "-o",
        output,
        *more,
    ]


def shuffle_rows(folder: Path) -> None:
    """Write every part again with its rows in another order."""
    artifact = open_artifact(folder)
    for index in range(artifact.n_parts):
        table, footer = artifact.read(index)
        order = list(range(table.num_rows))
        random.Random(index).shuffle(order)
        parts.write_part(
            artifact.part_path(index),
            table.take(order),
            fingerprint=footer.fingerprint,
            schema=footer.schema,
            counts=footer.counts,
            parents=footer.parents,
        )
        assert artifact.read(index)[0].to_pylist() != table.to_pylist()


@pytest.mark.parametrize("strategy", ["opt-select", "coreset", "bottom-k"])
def test_scores_and_embeddings_in_another_order_give_the_same_groups(
    stages: StageServer, chain: Path, folder: Path, strategy: str
) -> None:
    """Rows join by (prompt_id, sample_idx), never by position (SimPO #62, DeepSpec #35)."""
    work = folder / "work"
    for name in ("candidates", "scores", "embeddings"):
        (work / name).mkdir(parents=True)
        for path in (chain / name).iterdir():
            (work / name / path.name).write_bytes(path.read_bytes())
    assert stages.run(*select(work, folder / "before", "--strategy", strategy)).code == 0
    shuffle_rows(work / "scores")
    shuffle_rows(work / "embeddings")
    assert stages.run(*select(work, folder / "after", "--strategy", strategy)).code == 0
    assert rows_of(folder / "after") == rows_of(folder / "before")


def test_ratings_in_any_order_give_the_same_scores(
    stages: StageServer, chain: Path, folder: Path
) -> None:
    rows = [
        {"prompt_id": row["prompt_id"], "sample_idx": row["sample_idx"], "rating": i / 7}
        for i, row in enumerate(rows_of(chain / "candidates"))
    ]
    for name in ("straight", "shuffled"):
        write_json_lines(folder / f"{name}.jsonl", rows)
        words = [
            "score",
            chain / "candidates",
            "--scorer",
            f"ratings:{folder / f'{name}.jsonl'}",
            "-o",
            folder / name,
        ]
        assert stages.run(*words).code == 0
        random.Random(1).shuffle(rows)
    assert rows_of(folder / "shuffled") == rows_of(folder / "straight")
    rating = {(row["prompt_id"], row["sample_idx"]): row["rating"] for row in rows}
    assert all(
        row["reward"] == rating[row["prompt_id"], row["sample_idx"]]
        for row in rows_of(folder / "shuffled")
    )


@pytest.mark.parametrize("n_prompts", [1, 2, 3, 7])
@pytest.mark.parametrize(("part_size", "n_shards"), [(1, 1), (2, 3), (3, 2), (100, 4)])
def test_no_remainder_is_lost(
    stages: StageServer, folder: Path, n_prompts: int, part_size: int, n_shards: int
) -> None:
    """Whatever divides or does not: every prompt has every sample once (Online-RLHF, ms-swift, open-instruct lose some)."""
    write_prompts(folder / "prompts.jsonl", n_prompts)
    for index in range(n_shards):
        more = ("--part-size", part_size, "--shard-index", index, "--num-shards", n_shards)
        assert stages.run(*generate(folder / "prompts.jsonl", folder / "out", *more)).code == 0
    keys = [(row["prompt_id"], row["sample_idx"]) for row in rows_of(folder / "out")]
    assert keys == [(f"p{i:03d}", j) for i in range(n_prompts) for j in range(5)]


def test_models_and_temperatures_share_the_samples_without_gap_or_repeat(
    stages: StageServer, folder: Path
) -> None:
    """n = 7 over two models and two temperatures: models in turn, and each model goes through the temperatures in turn."""
    write_prompts(folder / "prompts.jsonl", 3)
    words = generate(
        folder / "prompts.jsonl",
        folder / "out",
        "--n",
        7,
        "--model",
        "other",
        "--temperature",
        "0.7,1.0",
    )
    assert stages.run(*words).code == 0
    dealt = [
        (row["model"], row["temperature"])
        for row in rows_of(folder / "out")
        if row["prompt_id"] == "p001"
    ]
    assert dealt == [
        ("fake", 0.7),
        ("other", 0.7),
        ("fake", 1.0),
        ("other", 1.0),
        ("fake", 0.7),
        ("other", 0.7),
        ("fake", 1.0),
    ]


def test_repeated_responses_are_counted_and_never_paired(stages: StageServer, folder: Path) -> None:
    """At temperature 0 all five responses are one: four duplicates a prompt, and nothing to select from."""
    write_prompts(folder / "prompts.jsonl", 4)
    outcome = stages.run(
        *generate(folder / "prompts.jsonl", folder / "candidates", "--temperature", 0)
    )
    assert "16 responses repeat another response of their prompt" in outcome.stderr
    assert [row["duplicate_of"] for row in rows_of(folder / "candidates")] == [None, 0, 0, 0, 0] * 4
    assert (
        stages.run("score", folder / "candidates", "--scorer", "fake", "-o", folder / "scores").code
        == 0
    )
    words = [
        "select",
        folder / "candidates",
        "--scores",
        folder / "scores",
        "--strategy",
        "best-worst",
        "-o",
        folder / "groups",
    ]
    outcome = stages.run(*words)
    assert "16 candidates left out: duplicate" in outcome.stderr
    assert "4 prompts rejected: too_few_candidates" in outcome.stderr
    assert "5 candidates, 1 usable, 4 duplicate" in rows_of(folder / "groups")[0]["reason"]


def test_every_part_has_the_same_schema_whatever_its_rows_hold(
    stages: StageServer, folder: Path
) -> None:
    """A column that is null, empty or of another kind in one part keeps its type there (datasets #7449, #8046)."""
    rows: list[dict[str, Any]] = [{"prompt": f"q{i}"} for i in range(9)]
    rows[4] |= {"tags": ["a"], "number": 3, "text": "t", "mixed": 1}
    rows[7] |= {"tags": [], "number": 2.5, "mixed": {"a": [None]}}
    write_json_lines(folder / "prompts.jsonl", rows)
    assert stages.run(*generate(folder / "prompts.jsonl", folder / "candidates")).code == 0
    artifact = open_artifact(folder / "candidates")
    schemas = [artifact.read(index)[0].schema for index in range(artifact.n_parts)]
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
    assert schemas[0].field("number").type == pa.float64()
    table = table_of(folder / "candidates").to_pylist()
    assert [json.loads(table[5 * i]["tags"]) for i in (4, 7)] == [["a"], []]
    assert [json.loads(table[5 * i]["mixed"]) for i in (4, 7)] == [1, {"a": [None]}]
    assert [table[5 * i]["number"] for i in (3, 4, 7)] == [None, 3.0, 2.5]


class FlakyGenerator(FakeGenerator):
    """An engine whose server drops every third request the first time it sees it, and answers out of turn otherwise."""

    def __init__(self, seen: set[int]) -> None:
        super().__init__()
        self.seen = seen
        self.n_requests = 0

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        self.n_requests += len(requests)
        answers = super().generate(requests, params)
        for position, request in enumerate(requests):
            if request.seed % 3 == 0 and request.seed not in self.seen:
                answers[position] = Generation(
                    "half an ans", [], "error", None, "the connection was lost"
                )
            self.seen.add(request.seed)
        return answers


def test_failed_responses_are_rows_and_a_retry_samples_only_those(
    chain: Path, folder: Path
) -> None:
    """The kept error is no answer; after --retry-errors the artifact is what an engine without failures gives."""
    config = {
        "prompts": str(chain / "prompts.jsonl"),
        "output": folder / "out",
        "backend": "fake",
        "model": ("fake",),
        "n": 5,
        "part_size": 3,
    }
    engine = FlakyGenerator(set())
    samplers = [generate_stage.Sampler("fake", {"fake": "fake"}, lambda: engine)]
    with pytest.raises(ErrorRateError, match=r"of 40 rows failed .* the rows that succeeded"):
        generate_stage.run(GenerateConfig(**config), samplers, Runtime())
    first = rows_of(folder / "out")
    failed = [row for row in first if row["status"] == "error"]
    assert 5 < len(failed) < 25
    assert {
        (row["response"], row["response_token_ids"], row["logp"], row["reason"]) for row in failed
    } == {(None, None, None, "the connection was lost")}
    wanted = {(row["prompt_id"], row["sample_idx"]): row for row in rows_of(chain / "candidates")}
    assert all(
        row == wanted[row["prompt_id"], row["sample_idx"]]
        for row in first
        if row["status"] != "error"
    )
    before, n_before = identities_of(folder / "out"), engine.n_requests
    with pytest.raises(ErrorRateError):
        generate_stage.run(GenerateConfig(**config), samplers, Runtime())
    assert identities_of(folder / "out") == before
    generate_stage.run(GenerateConfig(**config, retry_errors=True), samplers, Runtime())
    assert engine.n_requests - n_before == len(failed)
    assert_same_artifact(folder / "out", chain / "candidates")
    [step] = read_run_record(folder / "out").history
    assert (step["operation"], step["n_rows"], step["parts"]) == (
        "retry_errors",
        len(failed),
        [0, 1, 2],
    )


def test_an_extension_after_a_retry_and_a_retry_after_an_extension_keep_what_is_good(
    chain: Path, folder: Path
) -> None:
    config = {
        "prompts": str(chain / "prompts.jsonl"),
        "output": folder / "out",
        "backend": "fake",
        "model": ("fake",),
        "part_size": 3,
        "max_error_rate": 1.0,
    }
    engine = FlakyGenerator(set())
    samplers = [generate_stage.Sampler("fake", {"fake": "fake"}, lambda: engine)]
    generate_stage.run(GenerateConfig(**config, n=2), samplers, Runtime())
    generate_stage.run(GenerateConfig(**config, n=2, retry_errors=True), samplers, Runtime())
    generate_stage.run(GenerateConfig(**config, n=5, extend=True), samplers, Runtime())
    n_failed = Counter(row["status"] for row in rows_of(folder / "out"))["error"]
    n_before = engine.n_requests
    for index in range(2):
        generate_stage.run(
            GenerateConfig(**config, n=5, retry_errors=True),
            samplers,
            Runtime(shard=Shard(index, 2)),
        )
    assert engine.n_requests - n_before == n_failed > 0
    assert_same_artifact(folder / "out", chain / "candidates")
    operations = [step["operation"] for step in read_run_record(folder / "out").history]
    assert operations == ["retry_errors", "extend", "retry_errors", "retry_errors"]


class OddScorer(FakeScorer):
    """A scorer that fails in every way once, and is well the second time."""

    def __init__(self) -> None:
        super().__init__()
        self.is_ill = True

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        scores = super().score(requests)
        if self.is_ill:
            for position, odd in enumerate(
                [
                    Score(nan),
                    Score(inf),
                    Score(-inf),
                    Score(None, "parse_error", "no number", '"eight"'),
                ]
            ):
                scores[position] = odd
        return scores


def test_scores_that_are_not_finite_are_statuses_and_a_retry_replaces_them(
    chain: Path, folder: Path
) -> None:
    """NaN, infinity and an unreadable rating: null with a reason, never a number, never averaged, retried when asked."""
    config = {"candidates": chain / "candidates", "output": folder / "out", "scorer": ("fake",)}
    scorer = OddScorer()
    raters = [score_stage.Rater("fake", {"kind": "fake", "target": ""}, lambda: scorer)]
    with pytest.raises(ErrorRateError, match=r"12 of 40 rows failed \(30.0%"):
        score_stage.run(ScoreConfig(**config), raters, Runtime())
    rows = rows_of(folder / "out")
    assert Counter(row["status"] for row in rows) == {"ok": 28, "not_finite": 9, "parse_error": 3}
    assert all((row["reward"] is None) == (row["status"] != "ok") for row in rows)
    assert [row["reason"] for row in rows[:4]] == [
        "the scorer gave nan",
        "the scorer gave inf",
        "the scorer gave -inf",
        "no number",
    ]
    assert rows[3]["detail"] == '"eight"'
    scorer.is_ill = False
    with pytest.raises(ErrorRateError):
        score_stage.run(ScoreConfig(**config), raters, Runtime())
    summary = score_stage.run(ScoreConfig(**config, retry_errors=True), raters, Runtime())
    rewards = [row["reward"] for row in rows_of(folder / "out")]
    assert all(isfinite(reward) for reward in rewards)
    assert summary.notes[-1] == f"fake: mean reward {sum(rewards) / 40:.4f} over 40 ratings"
    assert_same_artifact(folder / "out", chain / "scores")


def test_candidates_without_a_reward_take_no_part_in_a_group(
    stages: StageServer, chain: Path, folder: Path
) -> None:
    """A null reward is not 0, not the mean and not the worst: the candidate is left out and counted."""
    scorer = OddScorer()
    raters = [score_stage.Rater("fake", {"kind": "fake", "target": ""}, lambda: scorer)]
    config = ScoreConfig(
        candidates=chain / "candidates",
        output=folder / "scores",
        scorer=("fake",),
        max_error_rate=1.0,
    )
    score_stage.run(config, raters, Runtime())
    words = [
        "select",
        chain / "candidates",
        "--scores",
        folder / "scores",
        "--strategy",
        "all",
        "-o",
        folder / "groups",
    ]
    outcome = stages.run(*words)
    assert outcome.code == 0
    assert "12 candidates left out: no_reward" in outcome.stderr
    unrated = {
        (row["prompt_id"], row["sample_idx"])
        for row in rows_of(folder / "scores")
        if row["reward"] is None
    }
    selected = {(row["prompt_id"], row["sample_idx"]) for row in rows_of(folder / "groups")}
    assert not unrated & selected
    first = [row for row in rows_of(folder / "groups") if row["prompt_id"] == "p000"]
    assert [row["status"] for row in first] == ["too_few_candidates"]
    assert "5 candidates, 1 usable, 4 no_reward" in first[0]["reason"]


def test_user_columns_stay_with_their_prompt_in_every_stage(chain: Path) -> None:
    """The topic of prompt i is t(i mod 3): in candidates and in groups, where rows are chosen and reordered."""
    for name in ("candidates", "groups"):
        assert all(
            row["topic"] == f"t{int(row['prompt_id'][1:]) % 3}" for row in rows_of(chain / name)
        )
        assert all(
            row["messages"][-1]["content"] == f"question {int(row['prompt_id'][1:])}"
            for row in rows_of(chain / name)
        )


def test_a_group_tells_the_reward_and_the_text_of_its_own_candidates(chain: Path) -> None:
    """Nothing is thrown away: reward, token ids and log-probability of a group's row are those of its key."""
    candidates = {
        (row["prompt_id"], row["sample_idx"]): row for row in rows_of(chain / "candidates")
    }
    rewards = {
        (row["prompt_id"], row["sample_idx"]): row["reward"] for row in rows_of(chain / "scores")
    }
    for row in rows_of(chain / "groups"):
        key = row["prompt_id"], row["sample_idx"]
        assert row["reward"] == rewards[key]
        assert all(
            row[name] == candidates[key][name]
            for name in ("response", "response_token_ids", "prompt_token_ids", "logp")
        )
    for prompt_id in {row["prompt_id"] for row in rows_of(chain / "groups")}:
        group = [row for row in rows_of(chain / "groups") if row["prompt_id"] == prompt_id]
        assert group[0]["role"] == "positive"
        assert group[0]["reward"] == max(
            reward for key, reward in rewards.items() if key[0] == prompt_id
        )
        assert len({row["response"] for row in group}) == len(group) == 3


def test_columns_of_any_arrow_type_go_through_generate_score_and_select(
    stages: StageServer, folder: Path
) -> None:
    """Also those that Python has no value for: nanoseconds, the year 40,000, views, dictionaries, nulls only."""
    columns = {
        "ns": pa.array([1, None, 3], pa.timestamp("ns", "Europe/Berlin")),
        "far": pa.array([2**55, None, 0], pa.timestamp("ms")),
        "wait": pa.array([7, None, 9], pa.duration("ns")),
        "nested": pa.array(
            [[{"t": 3, "s": "\0"}], [], None],
            pa.list_(pa.struct([("t", pa.timestamp("ns")), ("s", pa.string())])),
        ),
        "kind": pa.array(["b", None, "a"]).dictionary_encode(),
        "view": pa.array(["x", None, "\U0001f600"], pa.string_view()),
        "blob": pa.array([b"\0\xff", None, b""]),
        "nothing": pa.nulls(3),
        "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32())),
        "big": pa.array([2**64 - 1, None, 0], pa.uint64()),
        "half": pa.array([1.5, None, float("nan")], pa.float32()).cast(pa.float16()),
    }
    prompts = pa.table({"prompt_id": ["a", "b", "c"], "prompt": ["q", "r", "s"], **columns})
    pq.write_table(prompts, folder / "prompts.parquet")
    for words in (
        generate(folder / "prompts.parquet", folder / "candidates", "--n", 2, "--part-size", 2),
        ["score", folder / "candidates", "--scorer", "fake", "-o", folder / "scores"],
        [
            "select",
            folder / "candidates",
            "--scores",
            folder / "scores",
            "--strategy",
            "best-worst",
            "-o",
            folder / "groups",
        ],
    ):
        for _ in range(2):  # the second time the hash of these columns must be the same
            outcome = stages.run(*words)
            assert outcome.code == 0, outcome.stderr
        assert "are finished and kept" in outcome.stderr
    for name in ("candidates", "groups"):
        table = table_of(folder / name)
        row_of = {"a": 0, "b": 1, "c": 2}
        for column, values in columns.items():
            expected = values.cast(pa.large_string()) if column == "view" else values
            wanted = pa.concat_arrays(
                [
                    expected.slice(row_of[prompt_id], 1)
                    for prompt_id in table["prompt_id"].to_pylist()
                ]
            )
            assert str(table[column].combine_chunks()) == str(
                pa.chunked_array([wanted]).combine_chunks()
            ), column
