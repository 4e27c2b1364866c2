"""What is measured of each kind of artifact, on tables small enough to count by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest

from prefpipe.artifacts.schemas import CANDIDATES, GROUPS, SCORES, embeddings_schema
from prefpipe.stages.inspect.measures import (
    MEASURES,
    CandidateMeasure,
    EmbeddingMeasure,
    EvaluationMeasure,
    GroupMeasure,
    Numbers,
    ScoreMeasure,
    mean_pairwise_cosine,
)
from prefpipe.stages.inspect.overview import SCHEMAS


def table(schema, rows):
    defaults = {
        "messages": [{"role": "user", "content": "q"}],
        "response": "r",
        "model": "m",
        "temperature": 1.0,
        "seed": 0,
        "status": "ok",
        "n_policy": 1,
        "n_baseline": 1,
    }
    return pa.Table.from_pylist(
        [{name: row.get(name, defaults.get(name)) for name in schema.column_names} for row in rows],
        schema=schema.arrow(),
    )


def by_name(measure) -> dict:
    return {item.name: item for item in measure.distributions()}


def test_candidates_count_prompts_once_and_rows_by_model() -> None:
    """Two prompts of 3 and 5 tokens; log-probability -6 over 4 tokens is -1.5 a token."""
    measure = CandidateMeasure()
    rows = [
        {
            "prompt_id": "a",
            "sample_idx": 0,
            "n_prompt_tokens": 3,
            "n_response_tokens": 4,
            "logp": -6.0,
            "finish_reason": "stop",
        },
        {
            "prompt_id": "a",
            "sample_idx": 1,
            "n_prompt_tokens": 3,
            "n_response_tokens": 4,
            "logp": -6.0,
            "duplicate_of": 0,
        },
        {"prompt_id": "b", "sample_idx": 0, "n_prompt_tokens": 5, "response": None, "model": "n"},
    ]
    measure.add(table(CANDIDATES, rows))
    assert measure.facts() == {
        "n_prompts": 2,
        "n_duplicates": 1,
        "models": {"m": 2, "n": 1},
        "temperatures": {"1": 3},
        "finish_reasons": {"stop": 1, "not known": 2},
    }
    found = by_name(measure)
    assert (found["prompt length"].n, found["prompt length"].mean) == (2, 4.0)
    assert (found["mean log-probability"].mean, found["mean log-probability"].n_missing) == (
        -1.5,
        1,
    )
    assert (found["response text"].max, found["response text"].n_missing) == (1.0, 1)


def test_scores_are_measured_scorer_by_scorer() -> None:
    """Within prompt a, x is 0 and 2 (standard deviation 1); within b it is 5 and 5: flat. y rated nothing."""
    measure = ScoreMeasure()
    rewards = {("a", 0): 0.0, ("a", 1): 2.0, ("b", 0): 5.0, ("b", 1): 5.0}
    rows = [
        {"prompt_id": p, "sample_idx": i, "scorer": "x", "reward": reward}
        for (p, i), reward in rewards.items()
    ]
    rows += [{"prompt_id": "a", "sample_idx": 0, "scorer": "y", "status": "error", "reason": "no"}]
    measure.add(table(SCORES, rows))
    scorers = measure.facts()["scorers"]
    assert scorers["x"] == {
        "statuses": {"ok": 4},
        "n_prompts": 2,
        "n_prompts_all_equal": 1,
        "mean_std_within_prompt": 0.5,
    }
    assert scorers["y"] == {
        "statuses": {"error": 1},
        "n_prompts": 0,
        "n_prompts_all_equal": 0,
        "mean_std_within_prompt": None,
    }
    assert by_name(measure)["reward of x"].mean == 3.0
    assert by_name(measure)["reward of y"].n == 0


def test_embeddings_are_compared_within_prompts_and_failed_rows_are_left_out() -> None:
    """Prompt a: (1, 0) and (0, 1), cosine 0; prompt b has one usable vector, no pair."""
    schema = embeddings_schema(2, half=False)
    rows = [
        {
            "prompt_id": "a",
            "sample_idx": 0,
            "embedding": [1.0, 0.0],
            "n_tokens": 3,
            "truncated": True,
        },
        {
            "prompt_id": "a",
            "sample_idx": 1,
            "embedding": [0.0, 1.0],
            "n_tokens": 5,
            "truncated": False,
        },
        {
            "prompt_id": "b",
            "sample_idx": 0,
            "embedding": [1.0, 0.0],
            "n_tokens": 4,
            "truncated": False,
        },
        {
            "prompt_id": "b",
            "sample_idx": 1,
            "embedding": [0.0, 0.0],
            "n_tokens": 0,
            "truncated": False,
            "status": "empty",
        },
    ]
    measure = EmbeddingMeasure()
    measure.add(table(schema, rows))
    assert measure.facts() == {"dim": 2, "n_texts": 3, "n_truncated": 1, "truncated_share": 1 / 3}
    found = by_name(measure)
    assert (found["norm"].min, found["norm"].max, found["norm"].n) == (1.0, 1.0, 3)
    assert (found["cosine within prompts"].mean, found["cosine within prompts"].n) == (0.0, 1)
    assert found["text length"].mean == 4.0


def test_half_precision_embeddings_are_measured_as_well() -> None:
    schema = embeddings_schema(2, half=True)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.array([1, 0, 1, 0], np.float16)), 2)
    columns = [
        ["a", "a"],
        pa.array([0, 1], pa.int32()),
        vectors,
        pa.array([1, 1], pa.int32()),
        [False, False],
        ["ok", "ok"],
        [None, None],
    ]
    measure = EmbeddingMeasure()
    measure.add(
        pa.Table.from_arrays([pa.array(column) for column in columns], names=schema.column_names)
    )
    assert by_name(measure)["cosine within prompts"].mean == 1.0


def test_groups_have_sizes_margins_and_costs_and_rejected_prompts_are_counted() -> None:
    """a: positive 3, negatives 1 and 0: margin 3 - 1, mean margin 3 - 0.5, cost 0.5 over a bound of 0.25."""
    cost = {"cost": 0.5, "lower_bound": 0.25, "is_optimal": False, "n_response_tokens": 7}
    rows = [
        {"prompt_id": "a", "sample_idx": 2, "role": "positive", "reward": 3.0, **cost},
        {"prompt_id": "a", "sample_idx": 0, "role": "negative", "reward": 1.0, **cost},
        {"prompt_id": "a", "sample_idx": 1, "role": "negative", "reward": 0.0, **cost},
        {"prompt_id": "b", "status": "tie", "reason": "all equal"},
    ]
    measure = GroupMeasure()
    measure.add(table(GROUPS, rows))
    assert measure.facts() == {
        "n_groups": 1,
        "n_prompts_rejected": 1,
        "roles": {"positive": 1, "negative": 2},
        "sizes": {"1+2": 1},
        "n_groups_optimal": 0,
        "largest_gap_to_lower_bound": 0.25,
    }
    found = by_name(measure)
    assert (found["margin"].mean, found["mean margin"].mean, found["coverage cost"].n) == (
        2.0,
        2.5,
        1,
    )
    assert (found["reward of positives"].mean, found["reward of negatives"].mean) == (3.0, 0.5)


def test_the_targets_of_pairs_are_those_that_select_named_or_all_of_the_roles() -> None:
    """a: margins 2 and 3; b: the named pair alone, 1; c: pairs were named, and none is left."""
    two_roles = [("positive", 3.0), ("negative", 1.0), ("negative", 0.0)]
    rows = [
        {"prompt_id": "a", "sample_idx": i, "role": role, "reward": reward}
        for i, (role, reward) in enumerate(two_roles)
    ]
    named = [[{"sample_idx": 1, "margin": 1.0}], [], []]
    for prompt_id, beats in (("b", named), ("c", [[], [], []])):
        rows += [
            row | {"prompt_id": prompt_id, "beats": each}
            for row, each in zip(rows[:3], beats, strict=True)
        ]
    rows.append({"prompt_id": "d", "status": "tie", "reason": "all equal"})

    measure = GroupMeasure(gamma=math.log(3), n_bins=20)
    measure.add(table(GROUPS, rows))
    targets = by_name(measure)["MMPO target"]
    assert (targets.n, len(targets.counts)) == (3, 20)
    assert (targets.min, targets.median, targets.max) == pytest.approx((3 / 4, 9 / 10, 27 / 28))
    assert targets.unit == "sigma(1.09861 x margin) of each pair"
    facts = measure.facts()
    assert (facts["target_near_half_share"], facts["target_near_one_share"]) == (0, 1 / 3)
    assert facts["n_different_targets"] == 3
    assert "MMPO target" not in by_name(GroupMeasure())


def test_groups_without_a_bound_have_no_gap() -> None:
    """coreset measures a cost and proves nothing."""
    measure = GroupMeasure()
    row = {"prompt_id": "a", "sample_idx": 0, "role": "positive", "reward": 3.0, "cost": 0.5}
    measure.add(table(GROUPS, [row]))
    assert measure.facts()["largest_gap_to_lower_bound"] is None


def test_an_evaluation_is_measured_by_paired_differences() -> None:
    measure = EvaluationMeasure()
    row = {
        "prompt_id": "a",
        "preference": 1.0,
        "policy_reward": 2.0,
        "baseline_reward": 0.5,
        "policy_n_tokens": 3.0,
    }
    measure.add(table(SCHEMAS["evaluation"], [row]))
    found = by_name(measure)
    assert found["preference for the policy"].mean == 1.0
    assert found["reward difference"].mean == 1.5
    assert found["length difference"].n_missing == 1


@pytest.mark.parametrize("name", list(MEASURES))
def test_a_part_without_rows_is_measured_without_an_error(name: str) -> None:
    measure = MEASURES[name]()
    measure.add(SCHEMAS[name].arrow().empty_table())
    assert all(item.n == 0 for item in measure.distributions())
    measure.facts()


def test_mean_pairwise_cosine_is_the_mean_over_pairs() -> None:
    """The short formula against the N x N matrix without its diagonal."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(7, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (vectors @ vectors.T)[~np.eye(7, dtype=bool)]
    assert mean_pairwise_cosine(vectors) == pytest.approx(cosines.mean())
    assert np.isnan(mean_pairwise_cosine(vectors[:1]))


def test_pieces_of_a_column_are_joined() -> None:
    numbers = Numbers()
    numbers.add("x", np.array([1]))
    numbers.add("x", np.array([2.5]))
    assert numbers["x"].tolist() == [1.0, 2.5]
    assert numbers["y"].shape == (0,)
