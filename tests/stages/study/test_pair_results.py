"""Runs judged by held-out pairs: figures by hand from the tables, and refusals of what is of other responses."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.written_pools import candidate, write_pools

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import LOGPROBS
from prefpipe.artifacts.store import Shard, open_input, open_output
from prefpipe.errors import InputError, UsageError
from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.registry import OBJECTIVES, resolve_knobs
from prefpipe.maths.objectives.scores import score_responses
from prefpipe.stages.study.pair_results import (
    judge_policy,
    judge_reward_model,
    policy_score,
    read_heldout_pairs,
)

QUALITIES = {"b": [0.2, 0.8, 0.5], "a": [1.0, 0.0], "c": [0.4, 0.4, 0.9]}
SCORES = {"b": [-0.3, 1.4, 2.0], "a": [0.7, 0.7], "c": [5.0, -1.0, 0.25]}
GAMMA = 6.0


def sigma(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def pools_of(values: dict[str, list[float]], scorer: str):
    """Responses ``b0``, ``b1``, ... of each prompt with a scorer's values."""
    return {
        prompt: [candidate(f"{prompt}{place}", {scorer: value}) for place, value in enumerate(row)]
        for prompt, row in values.items()
    }


def written(folder: Path, values: dict[str, list[float]], scorer: str) -> Path:
    """Candidates and scores in a folder; those of two folders are of the same candidates' bytes."""
    write_pools(folder, pools_of(values, scorer))
    return folder


@pytest.fixture
def heldout_folder(tmp_path: Path) -> Path:
    return written(tmp_path / "heldout", QUALITIES, "checks")


def read_pairs(folder: Path, reward: str = "checks"):
    return read_heldout_pairs(folder / "candidates", folder / "scores", reward=reward, gamma=GAMMA)


def log_losses(scores: dict[str, list[float]], prompt: str) -> list[float]:
    """Of each pair of a prompt in turn."""
    q, s = QUALITIES[prompt], scores[prompt]
    losses = []
    for i in range(len(q)):
        for j in range(i + 1, len(q)):
            p, predicted = sigma(GAMMA * (q[i] - q[j])), sigma(s[i] - s[j])
            losses.append(-p * math.log(predicted) - (1 - p) * math.log(1 - predicted))
    return losses


def test_a_reward_model_is_judged_by_all_pairs_of_each_prompt(heldout_folder, tmp_path) -> None:
    scores = written(tmp_path / "run", SCORES, "reward_model") / "scores"
    found = judge_reward_model(read_pairs(heldout_folder), scores)
    assert found.by_prompt["prompt_id"].to_list() == ["a", "b", "c"]
    expected = [np.mean(log_losses(SCORES, prompt)) for prompt in "abc"]
    assert found.by_prompt["log_loss"].to_list() == pytest.approx(expected)
    # a: a tie; b: right, right, wrong; c: its pair of one quality does not count: wrong, right
    assert found.by_prompt["agreement"].to_list() == pytest.approx([0.5, 2 / 3, 0.5])
    assert found.n_missing == 0

    assert found.by_prompt["n_pairs"].to_list() == [1, 3, 3]


def test_the_truth_can_be_an_expression(heldout_folder) -> None:
    pairs = read_pairs(heldout_folder, "checks / 2").pairs
    assert sorted(np.abs(np.log(1 / pairs.probabilities - 1))) == pytest.approx(
        sorted(GAMMA / 2 * np.abs([1.0, 0.6, 0.3, 0.3, 0.0, 0.5, 0.5]))
    )


def test_repeated_and_failed_responses_are_in_no_pair(tmp_path) -> None:
    pools = pools_of({"a": [1.0, 0.0, 0.5]}, "checks")
    pools["a"][2]["rewards"] = {"checks": None}
    write_pools(tmp_path, pools)
    assert read_pairs(tmp_path).keys == [("a", 0), ("a", 1)]


def test_a_response_without_a_score_is_counted(heldout_folder, tmp_path) -> None:
    scores = {**SCORES, "b": [-0.3, None, 2.0]}
    folder = written(tmp_path / "run", scores, "reward_model")
    found = judge_reward_model(read_pairs(heldout_folder), folder / "scores")
    assert found.n_missing == 1
    values = found.by_prompt["log_loss"].to_list()
    assert math.isnan(values[1])
    assert not math.isnan(values[0] + values[2])


def test_scores_of_other_responses_are_refused(heldout_folder, tmp_path) -> None:
    """The keys are the same, and nothing but the bytes says that the responses are others."""
    pools = pools_of(SCORES, "reward_model")
    pools["b"][1]["text"] = "another response"
    write_pools(tmp_path / "run", pools)
    with pytest.raises(InputError, match="made from another version of"):
        judge_reward_model(read_pairs(heldout_folder), tmp_path / "run" / "scores")
    with pytest.raises(InputError, match="made from another version of"):
        read_heldout_pairs(
            heldout_folder / "candidates",
            tmp_path / "run" / "scores",
            reward="reward_model",
            gamma=1,
        )


def test_what_cannot_be_judged_is_refused(heldout_folder, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"names `quality`, and .* holds: checks"):
        read_pairs(heldout_folder, "quality")
    with pytest.raises(InputError, match="there is no pair"):
        read_pairs(written(tmp_path / "one", {"a": [1.0], "b": [0.5]}, "checks"))

    both = pools_of(SCORES, "reward_model")
    for pool in both.values():
        for each in pool:
            each["rewards"]["checks"] = 1.0
    write_pools(tmp_path / "both", both)
    with pytest.raises(InputError, match="holds scores of checks, reward_model"):
        judge_reward_model(read_pairs(heldout_folder), tmp_path / "both" / "scores")

    none = {prompt: [None] * len(row) for prompt, row in SCORES.items()}
    folder = written(tmp_path / "none", none, "reward_model")
    with pytest.raises(InputError, match="no held-out prompt whose responses all"):
        judge_reward_model(read_pairs(heldout_folder), folder / "scores")


def write_logprobs(folder: Path, candidates: Path, logps: dict[str, list[float]]) -> Path:
    """Log-probabilities of written candidates, whose responses have a token a character."""
    artifact = open_input(candidates, schema="candidates", name="candidates")
    record = RunRecord("logprobs", LOGPROBS.tag, artifact.n_parts, {"model": folder.name})
    output = open_output(folder, record, shard=Shard(), overwrite=False)
    for index in range(artifact.n_parts):
        table, footer = artifact.read(index, ["prompt_id", "sample_idx", "response"])
        rows = [
            {
                "prompt_id": row["prompt_id"],
                "sample_idx": row["sample_idx"],
                "logp": logps[row["prompt_id"]][row["sample_idx"]],
                "n_tokens": len(row["response"]),
                "status": "ok",
            }
            for row in table.to_pylist()
        ]
        made_from = {"candidates": footer.data_sha256}
        part = pa.Table.from_pylist(rows, schema=LOGPROBS.arrow())
        output.write(index, part, counts={"ok": len(rows)}, parents=made_from)
    return folder


def write_policy(folder: Path, objective: str, **knobs: float) -> Path:
    identity = {"objective": objective, "knobs": resolve_knobs(objective, knobs)}
    RunRecord("train", "policy/1", 1, identity).replace_in(folder)
    return folder


def test_a_policy_is_judged_by_what_its_objective_compares(heldout_folder, tmp_path) -> None:
    """DPO by beta times log-ratios; SimPO by beta times mean log-probabilities, without a reference."""
    reference = {prompt: [-1.0 - place for place in range(len(q))] for prompt, q in SCORES.items()}
    logps = {
        prompt: [each + before for each, before in zip(row, reference[prompt], strict=True)]
        for prompt, row in SCORES.items()
    }
    candidates = heldout_folder / "candidates"
    of_policy = write_logprobs(tmp_path / "logprobs", candidates, logps)
    of_reference = write_logprobs(tmp_path / "reference", candidates, reference)
    pairs = read_pairs(heldout_folder)

    for folder in ("dpo", "simpo"):
        (tmp_path / folder).mkdir()
    policy = write_policy(tmp_path / "dpo", "dpo", beta=0.5)
    found = judge_policy(pairs, of_policy, of_reference, policy)
    halved = {prompt: [0.5 * score for score in row] for prompt, row in SCORES.items()}
    expected = [np.mean(log_losses(halved, prompt)) for prompt in "abc"]
    assert found.by_prompt["log_loss"].to_list() == pytest.approx(expected)
    with pytest.raises(InputError, match="objective dpo compares the policy with a reference"):
        judge_policy(pairs, of_policy, None, policy)

    # responses are of two characters each
    policy = write_policy(tmp_path / "simpo", "simpo", beta=2.0)
    found = judge_policy(pairs, of_policy, None, policy)
    expected = [np.mean(log_losses(logps, prompt)) for prompt in "abc"]
    assert found.by_prompt["log_loss"].to_list() == pytest.approx(expected)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_a_policy_score_is_that_of_training(name: str) -> None:
    random = np.random.default_rng(0)
    logps, references = -random.gamma(4.0, 4.0, (2, 5))
    n_tokens = random.integers(1, 30, 5)
    knobs = resolve_knobs(name, {})
    mask = torch.ones(1, 5, dtype=torch.bool)
    policy = ResponseLogps(torch.tensor(logps)[None], torch.tensor(n_tokens)[None])
    reference = torch.tensor(references)[None] if OBJECTIVES[name].needs_reference else None
    expected = score_responses(name, policy, reference, mask, knobs)[0].tolist()
    found = [
        policy_score(name, knobs, *each)
        for each in zip(logps.tolist(), n_tokens.tolist(), references.tolist(), strict=True)
    ]
    assert found == pytest.approx(expected, rel=1e-12)
