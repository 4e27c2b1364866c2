"""What an evaluation measures of each prompt: its responses one by one, and the set of them, on both sides.

Nulls stay null: a response that was never written is not a short, clean, unrefused one.
"""

from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import NamedTuple

import numpy as np

from prefpipe.artifacts.store import Artifact
from prefpipe.errors import InputError
from prefpipe.maths.selection.rewards import parse_reward
from prefpipe.maths.statistics.embedding_diversity import mean_pairwise_distance
from prefpipe.maths.statistics.winrate import preference
from prefpipe.stages.evaluate.embeddings import vectors_by_prompt
from prefpipe.stages.evaluate.kl import log_ratios
from prefpipe.stages.shared.candidate_rows import Row, key_of
from prefpipe.stages.shared.logprob_rows import read_logprobs
from prefpipe.stages.shared.pool_index import rewards_by_key
from prefpipe.stages.shared.recipe import SIDES, RatedCandidates
from prefpipe.text.diversity import (
    copied_share,
    distinct_share,
    expected_distinct_share,
    pooled_ngrams,
    repeated_share,
)
from prefpipe.text.refusals import is_refusal
from prefpipe.text.self_bleu import self_bleu
from prefpipe.text.words import words_and_signs

COLUMNS = ("prompt_id", "sample_idx", "response", "n_response_tokens", "finish_reason", "logp")
OF_A_RESPONSE = (
    "reward",
    "n_tokens",
    "length_chars",
    "repetition",
    "truncated",
    "refused",
    "empty",
)
OF_A_SET = (
    "copied",
    "distinct_1",
    "distinct_2",
    "distinct_2_equal",
    "self_bleu",
    "embedding_diversity",
)


class MeasuredResponses(NamedTuple):
    """A side's responses to one prompt.

    ``values``: each measure of `OF_A_RESPONSE` by response (n,), NaN where there is none. ``texts``: of the responses that
    were written. ``vectors``: (N, D) embeddings of those that have one, or None. ``log_ratio``: see `log_ratios`.
    """

    values: Mapping[str, np.ndarray]
    texts: Sequence[str]
    vectors: np.ndarray | None = None
    log_ratio: tuple[float, float] = (nan, nan)


def pools_of(
    side: RatedCandidates, reward: str, reference: Artifact | None = None
) -> dict[str, MeasuredResponses]:
    """Return what is measured of each prompt of a side.

    Args:
        side: its embeddings checked by `check_embeddings`.
        reward: the reward expression.
        reference: log-probabilities of its responses under a reference.
    """
    expression = parse_reward(reward)
    result: dict[str, MeasuredResponses] = {}
    for index in side.candidates.present(range(side.candidates.n_parts), allow_partial=False):
        rows = side.candidates.read(index, list(COLUMNS))[0].to_pylist()
        rewards = rewards_by_key(
            side.scores.read(index)[0], expression, [key_of(row) for row in rows]
        )
        found = read_logprobs(reference, [index]) if reference is not None else {}
        vectors = (
            vectors_by_prompt(side.embeddings, index, rows) if side.embeddings is not None else {}
        )
        by_prompt: dict[str, list[Row]] = {}
        for row in sorted(rows, key=lambda row: row["sample_idx"]):
            by_prompt.setdefault(row["prompt_id"], []).append(row)
        for prompt_id in dict.fromkeys(row["prompt_id"] for row in rows):
            own = by_prompt[prompt_id]
            result[prompt_id] = MeasuredResponses(
                _values(own, [rewards[key_of(row)] for row in own]),
                [row["response"] for row in own if row["response"] is not None],
                vectors.get(prompt_id),
                log_ratios(own, found),
            )
    return result


def _values(rows: Sequence[Row], rewards: Sequence[float]) -> dict[str, np.ndarray]:
    measured = [
        _of_a_response(row) | {"reward": reward} for row, reward in zip(rows, rewards, strict=True)
    ]
    return {
        name: np.array([each[name] for each in measured], dtype=np.float64)
        for name in OF_A_RESPONSE
    }


def _of_a_response(row: Row) -> dict[str, float]:
    n_tokens, text, ended_by = row["n_response_tokens"], row["response"], row["finish_reason"]
    found = dict.fromkeys(OF_A_RESPONSE, nan)
    if n_tokens is not None:
        found["n_tokens"] = float(n_tokens)
    if text is not None:
        found |= {
            "length_chars": float(len(text)),
            "repetition": repeated_share(words_and_signs(text)),
            "refused": float(is_refusal(text)),
            "empty": float(not text.strip()),
        }
    if text is not None and ended_by is not None:
        found["truncated"] = float(ended_by == "length")
    return found


def compare(
    policy: Mapping[str, MeasuredResponses],
    baseline: Mapping[str, MeasuredResponses],
    tie_tolerance: float,
) -> list[Row]:
    """Return one row for each prompt of either side, in the order of the policy's prompts."""
    rows = []
    for prompt_id in [*policy, *(key for key in baseline if key not in policy)]:
        row: Row = {"prompt_id": prompt_id, "preference": None, "status": "ok", "reason": None}
        pools = {"policy": policy.get(prompt_id), "baseline": baseline.get(prompt_id)}
        rated = {}
        for name, pool in pools.items():
            rewards = pool.values["reward"] if pool is not None else np.array([])
            rated[name] = rewards[~np.isnan(rewards)]
            row[f"n_{name}"] = len(rated[name])
            for measure in OF_A_RESPONSE:
                row[f"{name}_{measure}"] = _mean(pool.values[measure]) if pool is not None else None
        row |= compare_sets({name: pool for name, pool in pools.items() if pool is not None})
        if pools["policy"] is not None:
            ratio, tokens = pools["policy"].log_ratio
            row |= {"policy_log_ratio": _known(ratio), "policy_log_ratio_tokens": _known(tokens)}
        missing = [name for name in SIDES if not len(rated[name])]
        if missing:
            row["status"] = f"no_{missing[0]}_reward"
            row["reason"] = f"no rated response of the {' and the '.join(missing)}"
        else:
            row["preference"] = preference(
                rated["policy"], rated["baseline"], tie_tolerance=tie_tolerance
            )
        rows.append(row)
    if not any(row["status"] == "ok" for row in rows):
        raise InputError(
            "no prompt has a rated response on both sides",
            hint="look at both sides with `prefpipe inspect`",
        )
    return rows


def compare_sets(pools: Mapping[str, MeasuredResponses]) -> dict[str, float | None]:
    """Return the measures of a prompt's set of responses for each side that has any, as columns; None where there is none.

    These depend on how many responses there are. Of a side that has more than the other, the first of them count, so that
    both have as many; and ``distinct_2_equal`` is over as many word pairs as the side with fewer has.
    """
    sizes = [len(pool.texts) for pool in pools.values() if pool.texts]
    texts = {name: pool.texts[: min(sizes, default=0)] for name, pool in pools.items()}
    words = {name: [words_and_signs(text) for text in own] for name, own in texts.items()}
    pairs = {name: pooled_ngrams(own, 2) for name, own in words.items()}
    n_pairs = min(counts.total() for counts in pairs.values()) if len(pairs) == len(SIDES) else 0
    vectors = {name: pool.vectors for name, pool in pools.items() if pool.vectors is not None}
    n_vectors = min((len(own) for own in vectors.values() if len(own)), default=0)
    row: dict[str, float | None] = {}
    for name in pools:
        found = {
            "copied": copied_share(texts[name]),
            "distinct_1": distinct_share(pooled_ngrams(words[name], 1)),
            "distinct_2": distinct_share(pairs[name]),
            "distinct_2_equal": expected_distinct_share(pairs[name], n_pairs),
            "self_bleu": self_bleu(words[name]),
            "embedding_diversity": mean_pairwise_distance(vectors[name][:n_vectors])
            if name in vectors
            else nan,
        }
        row |= {f"{name}_{measure}": _known(found[measure]) for measure in OF_A_SET}
    return row


def _known(value: float) -> float | None:
    return None if isnan(value) else value


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
