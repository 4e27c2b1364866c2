"""What an evaluation measures of each prompt, on both sides.

Some measures cover single responses, others the set of a prompt's responses.

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

    ``values``: each measure of `OF_A_RESPONSE` by response (n,), NaN if there is none.
    ``texts``: of the responses that were written. ``vectors``: (N, D) embeddings of those that have
    one, or None. ``log_ratio``: see `log_ratios`.
    """

    values: Mapping[str, np.ndarray]
    texts: Sequence[str]
    vectors: np.ndarray | None = None
    log_ratio: tuple[float, float] = (nan, nan)


def measures_by_prompt(
    side: RatedCandidates, reward: str, reference: Artifact | None = None
) -> dict[str, MeasuredResponses]:
    """Return the measures of each prompt of a side.

    Args:
        side: its embeddings checked by `check_embeddings`.
        reward: the reward expression.
        reference: log-probabilities of its responses under a reference.
    """
    expression = parse_reward(reward)
    measured: dict[str, MeasuredResponses] = {}
    present = side.candidates.present(range(side.candidates.n_parts), allow_partial=False)
    for index in side.candidates.in_turn(present):
        rows = side.candidates.read(index, list(COLUMNS))[0].to_pylist()
        scores, _ = side.scores.read(index)
        rewards = rewards_by_key(scores, expression, [key_of(row) for row in rows])
        logprobs = {} if reference is None else read_logprobs(reference, [index])
        vectors: dict[str, np.ndarray] = {}
        if side.embeddings is not None:
            vectors = vectors_by_prompt(side.embeddings, index, rows)

        # prompts in the order of the file, their responses by sample index
        rows_of_prompt: dict[str, list[Row]] = {row["prompt_id"]: [] for row in rows}
        for row in sorted(rows, key=lambda row: row["sample_idx"]):
            rows_of_prompt[row["prompt_id"]].append(row)
        for prompt_id, responses in rows_of_prompt.items():
            measured[prompt_id] = MeasuredResponses(
                _values(responses, [rewards[key_of(row)] for row in responses]),
                [row["response"] for row in responses if row["response"] is not None],
                vectors.get(prompt_id),
                log_ratios(responses, logprobs),
            )
    return measured


def _values(rows: Sequence[Row], rewards: Sequence[float]) -> dict[str, np.ndarray]:
    """Return the measures of `OF_A_RESPONSE` of a prompt's responses, (n,) each."""
    values = {name: np.full(len(rows), nan) for name in OF_A_RESPONSE}
    values["reward"][:] = rewards
    for place, row in enumerate(rows):
        n_tokens, text, ended_by = row["n_response_tokens"], row["response"], row["finish_reason"]
        if n_tokens is not None:
            values["n_tokens"][place] = n_tokens
        # A response that was never written is not a short, clean, unrefused one.
        if text is None:
            continue
        values["length_chars"][place] = len(text)
        values["repetition"][place] = repeated_share(words_and_signs(text))
        values["refused"][place] = is_refusal(text)
        values["empty"][place] = not text.strip()
        if ended_by is not None:
            values["truncated"][place] = ended_by == "length"
    return values


def compare(
    policy: Mapping[str, MeasuredResponses],
    baseline: Mapping[str, MeasuredResponses],
    tie_tolerance: float,
) -> list[Row]:
    """Return one row for each prompt of either side, in the order of the policy's prompts.

    Raises:
        InputError: no prompt has a rated response on both sides.
    """
    rows = []
    for prompt_id in [*policy, *(key for key in baseline if key not in policy)]:
        sides = {"policy": policy.get(prompt_id), "baseline": baseline.get(prompt_id)}
        row = {"prompt_id": prompt_id} | _compare_prompt(sides, tie_tolerance)
        rows.append(row)
    if not any(row["status"] == "ok" for row in rows):
        raise InputError(
            "no prompt has a rated response on both sides",
            hint="inspect both sides with `prefpipe inspect`",
        )
    return rows


def _compare_prompt(sides: Mapping[str, MeasuredResponses | None], tie_tolerance: float) -> Row:
    """Return a prompt's row without its key; a side is None if it does not hold the prompt."""
    row: Row = {"preference": None, "status": "ok", "reason": None}
    rewards: dict[str, np.ndarray] = {}
    held: dict[str, MeasuredResponses] = {}
    for name, responses in sides.items():
        rewards[name] = np.array([])
        for measure in OF_A_RESPONSE:
            row[f"{name}_{measure}"] = None
        if responses is not None:
            held[name] = responses
            known = responses.values["reward"]
            rewards[name] = known[~np.isnan(known)]
            for measure in OF_A_RESPONSE:
                row[f"{name}_{measure}"] = _mean(responses.values[measure])
        row[f"n_{name}"] = len(rewards[name])

    row |= compare_sets(held)
    if "policy" in held:
        ratio, n_tokens = held["policy"].log_ratio
        row["policy_log_ratio"] = _known(ratio)
        row["policy_log_ratio_tokens"] = _known(n_tokens)

    missing = [name for name in SIDES if not len(rewards[name])]
    if missing:
        row["status"] = f"no_{missing[0]}_reward"
        row["reason"] = f"no rated response of the {' and the '.join(missing)}"
    else:
        row["preference"] = preference(
            rewards["policy"], rewards["baseline"], tie_tolerance=tie_tolerance
        )
    return row


def compare_sets(sides: Mapping[str, MeasuredResponses]) -> dict[str, float | None]:
    """Return the measures of a prompt's set of responses as columns, None if there is no value.

    These depend on how many responses there are. Only the first responses of the larger side count,
    so that both sides have equally many; and ``distinct_2_equal`` uses as many word pairs as the
    smaller side has.
    """
    n_texts = min((len(side.texts) for side in sides.values() if side.texts), default=0)
    n_vectors = _smallest_number_of_vectors(sides)
    texts, words, word_pairs = {}, {}, {}
    for name, side in sides.items():
        texts[name] = side.texts[:n_texts]
        words[name] = [words_and_signs(text) for text in texts[name]]
        word_pairs[name] = pooled_ngrams(words[name], 2)

    n_word_pairs = 0
    if len(sides) == len(SIDES):
        n_word_pairs = min(pairs.total() for pairs in word_pairs.values())

    row: dict[str, float | None] = {}
    for name, side in sides.items():
        distance = nan
        if side.vectors is not None:
            distance = mean_pairwise_distance(side.vectors[:n_vectors])
        values = {
            "copied": copied_share(texts[name]),
            "distinct_1": distinct_share(pooled_ngrams(words[name], 1)),
            "distinct_2": distinct_share(word_pairs[name]),
            "distinct_2_equal": expected_distinct_share(word_pairs[name], n_word_pairs),
            "self_bleu": self_bleu(words[name]),
            "embedding_diversity": distance,
        }
        for measure in OF_A_SET:
            row[f"{name}_{measure}"] = _known(values[measure])
    return row


def _smallest_number_of_vectors(sides: Mapping[str, MeasuredResponses]) -> int:
    """Return the smaller number of embeddings among the sides that have any."""
    numbers = [len(side.vectors) for side in sides.values() if side.vectors is not None]
    return min((number for number in numbers if number), default=0)


def _known(value: float) -> float | None:
    return None if isnan(value) else value


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
