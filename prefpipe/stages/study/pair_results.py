"""Held-out pairs of a study with a known truth, as a run scores them.

Reads: the held-out ``candidates`` and ``scores``, of which the truth is made, and a run's own
``scores`` of the candidates (a reward model), or its ``logprobs`` and the reference's (a policy).

Promises: the scores that judge a run were made from these candidates, or they are refused; a
prompt's values are means over the same pairs in every run; nothing is joined by position.
"""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.store import Artifact, open_input
from prefpipe.errors import InputError, UsageError
from prefpipe.maths.objectives.registry import find_objective
from prefpipe.maths.selection.rewards import parse_reward
from prefpipe.maths.statistics.known_pairs import KnownPairs, measure_pairs, pairs_of_responses
from prefpipe.stages.shared.candidate_rows import Key
from prefpipe.stages.shared.pool_index import flat, index_pools, pool_rewards

USABLE = ("ok", "truncated")
"""Statuses of candidates that have a response."""


class HeldoutPairs(NamedTuple):
    """The held-out responses, and their pairs with true probabilities.

    ``candidates``: the artifact. ``prompt_ids`` (P,): sorted. ``keys`` (N,): of the responses, by
    prompt and sample. ``pairs``: of these rows.
    """

    candidates: Artifact
    prompt_ids: list[str]
    keys: list[Key]
    pairs: KnownPairs


class PairFigures(NamedTuple):
    """What a run says of the held-out pairs.

    ``by_prompt``: a row a prompt, sorted by ``prompt_id``, with ``n_pairs`` and a column for each
    of `MEASURES`. ``n_missing``: responses in a pair that the run gives no score.
    """

    by_prompt: pl.DataFrame
    n_missing: int


def read_heldout_pairs(
    candidates: Path, scores: Path, *, reward: str, gamma: float
) -> HeldoutPairs:
    """Return the pairs of held-out responses and the probabilities that are true by definition.

    Responses that repeat another one of their prompt, and those without a rating, are in no pair.

    Args:
        candidates: the held-out responses.
        scores: their ratings.
        reward: the quality q, an expression over scorers.
        gamma: ``sigma(gamma (q_i - q_j))`` is the truth.

    Raises:
        InputError: ratings of other candidates, or no prompt with two rated responses.
        UsageError: an expression that these scores do not allow.
    """
    responses = open_input(candidates, schema="candidates", name="held-out candidates")
    ratings = open_input(scores, schema="scores", name="held-out scores")
    scorers = [scorer["name"] for scorer in ratings.record.identity["scorers"]]
    expression = parse_reward(reward)
    unknown = [name for name in expression.names if name not in scorers]
    if unknown:
        raise UsageError(
            f"truth: the reward {reward!r} names `{unknown[0]}`, and {scores} holds: "
            f"{', '.join(scorers)}"
        )

    qualities: dict[Key, float] = {}
    for index in responses.present(range(responses.n_parts), allow_partial=False):
        _require_made_from(ratings, responses, index)
        table, _ = responses.read(index, ["prompt_id", "sample_idx", "status", "duplicate_of"])
        pools = index_pools(
            flat(table, "prompt_id"), flat(table, "sample_idx"), str(responses.part_path(index))
        )
        rated, _ = ratings.read(index)
        rewards_N = pools.unpad(pool_rewards(rated, expression, pools))
        for row, quality in zip(pools.order.tolist(), rewards_N.tolist(), strict=True):
            key = (table["prompt_id"][row].as_py(), table["sample_idx"][row].as_py())
            is_first = table["duplicate_of"][row].as_py() is None
            if table["status"][row].as_py() in USABLE and is_first and np.isfinite(quality):
                qualities[key] = quality

    keys = sorted(qualities)
    prompt_ids = sorted({prompt_id for prompt_id, _ in keys})
    numbers = {prompt_id: number for number, prompt_id in enumerate(prompt_ids)}
    try:
        pairs = pairs_of_responses(
            np.array([qualities[key] for key in keys]),
            np.array([numbers[prompt_id] for prompt_id, _ in keys], dtype=np.int64),
            len(prompt_ids),
            gamma=gamma,
        )
    except InputError as error:
        raise InputError(
            f"{candidates}: {error.message}",
            hint="the held-out set needs two different rated responses per prompt: sample more",
        ) from error
    return HeldoutPairs(responses, prompt_ids, keys, pairs)


def judge_reward_model(heldout: HeldoutPairs, scores: Path) -> PairFigures:
    """Return the figures of a reward model by its scores of the held-out responses.

    Args:
        heldout: the pairs.
        scores: what ``score --scorer reward-model:DIR`` wrote of the candidates, and nothing else.

    Raises:
        InputError: scores of other candidates, of several scorers, or of none of the responses.
    """
    artifact = open_input(scores, schema="scores", name="scores")
    scorers = [scorer["name"] for scorer in artifact.record.identity["scorers"]]
    if len(scorers) != 1:
        raise InputError(
            f"{scores} holds scores of {', '.join(scorers)}",
            hint="a reward model is judged only by its own scores",
        )
    return _figures(heldout, _column_by_key(artifact, heldout, "reward"), scores)


def judge_policy(
    heldout: HeldoutPairs, logprobs: Path, reference: Path | None, policy: Path
) -> PairFigures:
    """Return the figures of a policy by the scores that its objective compares.

    Of DPO and its kin ``beta (log pi(y|x) - log pi_ref(y|x))``, of SimPO and its kin
    ``beta log pi(y|x) / |y|``: `prefpipe.maths.objectives.scores`.

    Args:
        heldout: the pairs.
        logprobs: what ``logprobs`` wrote of the candidates under the policy.
        reference: likewise under the reference; None if the objective has none.
        policy: the folder of the training, whose record says objective and knobs.

    Raises:
        InputError: log-probabilities of other candidates or of none, or no reference where the
            objective has one.
    """
    identity = read_run_record(policy).identity
    name, knobs = identity["objective"], identity["knobs"]
    of_policy = open_input(logprobs, schema="logprobs", name="log-probabilities")
    logps = _column_by_key(of_policy, heldout, "logp")
    n_tokens = _column_by_key(of_policy, heldout, "n_tokens")
    of_reference: dict[Key, float] = {}
    if find_objective(name).needs_reference:
        if reference is None:
            raise InputError(
                f"objective {name} compares the policy with a reference, and the held-out "
                "responses have no reference log-probabilities"
            )
        artifact = open_input(reference, schema="logprobs", name="the reference's")
        of_reference = _column_by_key(artifact, heldout, "logp")

    scores = {}
    for key, logp in logps.items():
        if find_objective(name).needs_reference and key not in of_reference:
            continue
        scores[key] = policy_score(name, knobs, logp, n_tokens[key], of_reference.get(key, 0.0))
    return _figures(heldout, scores, logprobs)


def policy_score(
    name: str, knobs: Mapping[str, Any], logp: float, n_tokens: float, reference_logp: float
) -> float:
    """Return the score of one response, as `prefpipe.maths.objectives.scores.score_responses` does.

    Without PyTorch, whose loading would cost more than a study's figures.

    Args:
        name: the objective.
        knobs: as resolved.
        logp: summed, under the policy.
        n_tokens: that were summed.
        reference_logp: under the reference; not read where the objective has none.
    """
    objective = find_objective(name)
    score = logp - reference_logp if objective.needs_reference else logp
    if knobs.get("length_normalise", objective.score == "mean_logp"):
        score /= max(n_tokens, 1.0)
    return float(knobs.get("beta", 1.0)) * score


def _figures(heldout: HeldoutPairs, scores: Mapping[Key, float], origin: Path) -> PairFigures:
    """Return the figures of scores.

    Raises:
        InputError: no prompt has all of its scores.
    """
    pairs = heldout.pairs
    scores_N = np.array([scores.get(key, np.nan) for key in heldout.keys])
    measures = measure_pairs(scores_N, pairs)
    if np.isnan(measures["log_loss"]).all():
        raise InputError(
            f"{origin} has no held-out prompt whose responses all have a finite score",
            hint=f"run `prefpipe inspect {quote(str(origin))}` to see the reasons",
        )

    n_pairs_P = pairs.prompts.sums(np.ones(len(pairs.first))).astype(np.int32)
    columns = {"prompt_id": heldout.prompt_ids, "n_pairs": n_pairs_P, **measures}
    in_pairs = np.union1d(pairs.first, pairs.second)
    return PairFigures(pl.DataFrame(columns), int(np.isnan(scores_N[in_pairs]).sum()))


def _column_by_key(artifact: Artifact, heldout: HeldoutPairs, column: str) -> dict[Key, float]:
    """Return a column of numbers by key, without those that are null or not finite."""
    values: dict[Key, float] = {}
    for index in artifact.present(range(artifact.n_parts), allow_partial=False):
        _require_made_from(artifact, heldout.candidates, index)
        table, _ = artifact.read(index, ["prompt_id", "sample_idx", column])
        for prompt_id, sample_idx, value in _rows(table, column):
            if value is not None and np.isfinite(value):
                values[prompt_id, sample_idx] = float(value)
    return values


def _rows(table: pa.Table, column: str) -> Any:
    names = ("prompt_id", "sample_idx", column)
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _require_made_from(artifact: Artifact, candidates: Artifact, index: int) -> None:
    """Refuse a part that speaks of other responses: their keys may be the same.

    Raises:
        InputError: it was made from other candidates, or from another version of them.
    """
    artifact.footer_made_from(index, candidates, candidates.footer(index).data_sha256)
