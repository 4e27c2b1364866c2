"""The candidates of a part as pools, and other artifacts' rows found by key.

A pool is the candidates of one prompt. Nothing is joined by position: every row of another artifact
is looked up by ``(prompt_id, sample_idx)``.

The join is numpy's sort and search, not polars': a part has a few thousand rows, of which polars
makes no faster work (2.3 ms against 0.3 ms), and several parts are made at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.errors import InputError
from prefpipe.maths.selection.rewards import RewardExpression

SCORE_COLUMNS = ("prompt_id", "sample_idx", "scorer", "reward")
"""What is read of ``scores`` for `pool_scores`."""


class PoolIndex(NamedTuple):
    """N candidates of P prompts: the prompt and response of each row.

    They are grouped by prompt in the order of the file, by ``sample_idx`` within a prompt.

    - ``prompt_ids`` (P,);
    - ``order`` (N,): each candidate's row in the table;
    - ``prompts`` (N,): the number of its prompt;
    - ``samples`` (N,): its ``sample_idx``;
    - ``places`` (N,): its place within the prompt;
    - ``sizes`` (P,): candidates a prompt.
    """

    prompt_ids: pa.Array
    order: np.ndarray
    prompts: np.ndarray
    samples: np.ndarray
    places: np.ndarray
    sizes: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Prompts, and candidates of the largest pool: (P, R)."""
        return len(self.sizes), int(self.sizes.max(initial=0))

    @property
    def starts(self) -> np.ndarray:
        """(P,) where each prompt's candidates start."""
        return np.asarray(np.cumsum(self.sizes) - self.sizes)

    def pad(self, values_N: np.ndarray, fill: float | bool) -> np.ndarray:
        """Return values by candidate as (P, R), padded with ``fill`` after each prompt's last."""
        padded = np.full(self.shape, fill, dtype=values_N.dtype)
        padded[self.prompts, self.places] = values_N
        return padded

    def unpad(self, values_PR: np.ndarray) -> np.ndarray:
        """Return (N,) the values of the candidates, without the padding of `pad`."""
        return np.asarray(values_PR[self.prompts, self.places])


def index_pools(prompt_ids: pa.Array, sample_idx: pa.Array, name: str) -> PoolIndex:
    """Return the pools of a part's candidates.

    Args:
        prompt_ids: (N,), in the order of the table.
        sample_idx: (N,), likewise.
        name: the file, for messages.

    Raises:
        InputError: two candidates with the same key.
    """
    # Prompts are numbered as they first appear, so they keep the order of the file.
    encoded = prompt_ids.dictionary_encode()
    prompts = encoded.indices.to_numpy().astype(np.int64)
    samples = sample_idx.to_numpy().astype(np.int64)
    order = np.lexsort((samples, prompts))
    prompts, samples = prompts[order], samples[order]

    # Equal keys are neighbours now.
    is_twice = (prompts[1:] == prompts[:-1]) & (samples[1:] == samples[:-1])
    if is_twice.any():
        row = int(np.flatnonzero(is_twice)[0])
        prompt_id = encoded.dictionary[int(prompts[row])]
        raise InputError(
            f"{name} has two candidates of prompt {prompt_id}, sample {samples[row]}",
            hint="run the command that made the candidates again, with --overwrite",
        )

    sizes = np.bincount(prompts, minlength=len(encoded.dictionary))
    starts = np.cumsum(sizes) - sizes
    places = np.arange(len(prompts)) - np.repeat(starts, sizes)
    return PoolIndex(encoded.dictionary, order, prompts, samples, places, sizes)


def find_rows(
    pools: PoolIndex, prompt_ids: pa.Array, sample_idx: pa.Array, problem: str
) -> np.ndarray:
    """Return (N,) the row of each candidate in another table, -1 if there is none.

    Args:
        pools: the candidates.
        prompt_ids: of the other table, whose rows may be of other prompts too.
        sample_idx: likewise.
        problem: begins the message about two rows: "two embeddings".

    Raises:
        InputError: two rows for one candidate.
    """
    numbers = pc.index_in(prompt_ids, value_set=pools.prompt_ids).fill_null(-1)
    numbers = numbers.to_numpy().astype(np.int64)
    keys = _keys(numbers, sample_idx.to_numpy().astype(np.int64))
    # Rows of other prompts get a key that no candidate has.
    keys[numbers < 0] = -1
    wanted = _keys(pools.prompts, pools.samples)
    # As stages write it: no key of the candidates is there twice, so none is here.
    if np.array_equal(keys, wanted):
        return np.arange(len(wanted))

    rows = np.argsort(keys, kind="stable")
    ascending = keys[rows]

    is_twice = (ascending[1:] == ascending[:-1]) & (ascending[1:] >= 0)
    if is_twice.any():
        row = int(rows[int(np.flatnonzero(is_twice)[0])])
        raise InputError(f"{problem} for prompt {prompt_ids[row]}, sample {sample_idx[row]}")

    if not len(rows):
        return np.full(len(wanted), -1, dtype=np.int64)
    # A key behind the last one is compared with the last, and differs.
    places = np.minimum(np.searchsorted(ascending, wanted), len(rows) - 1)
    return np.where(ascending[places] == wanted, rows[places], -1)


def _keys(prompts: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Return one number a key; ``sample_idx`` is an int32."""
    return np.asarray(prompts * 2**32 + samples)


def pool_rewards(scores: pa.Table, expression: RewardExpression, pools: PoolIndex) -> np.ndarray:
    """Evaluate the reward expression prompt by prompt: (P, R), NaN for missing scores.

    Args:
        scores: rows of a ``scores`` part, with `SCORE_COLUMNS`.
        expression: the parsed ``--reward``; ``z()`` is over the candidates of each prompt.
        pools: the candidates whose reward is wanted.

    Raises:
        InputError: two scores of one scorer for the same candidate.
        UsageError: an expression that these scores do not allow, ``logit`` of 0.
    """
    return expression.evaluate(pool_scores(scores, expression.names, pools))


def pool_scores(
    scores: pa.Table, scorers: Sequence[str], pools: PoolIndex
) -> dict[str, np.ndarray]:
    """Return each scorer's scores, (P, R) by name, NaN for missing ones.

    Raises:
        InputError: two scores of one scorer for the same candidate.
    """
    rewards_by_scorer: dict[str, np.ndarray] = {}
    for scorer in scorers:
        of_scorer = scores.filter(pc.equal(scores["scorer"], scorer)).combine_chunks()
        rows = find_rows(
            pools,
            flat(of_scorer, "prompt_id"),
            flat(of_scorer, "sample_idx"),
            f"scorer {scorer} has two scores",
        )
        rewards = flat(of_scorer, "reward").to_numpy(zero_copy_only=False).astype(np.float64)
        # A candidate without a row has row -1, which is the NaN at the end.
        rewards_N = np.append(rewards, np.nan)[rows]
        rewards_by_scorer[scorer] = pools.pad(rewards_N, np.nan)
    return rewards_by_scorer


def rewards_by_key(
    scores: pa.Table, expression: RewardExpression, keys: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], float]:
    """Return `pool_rewards` as a mapping, for candidates named by key."""
    prompt_ids = pa.array([prompt_id for prompt_id, _ in keys], pa.string())
    sample_idx = pa.array([sample_idx for _, sample_idx in keys], pa.int32())
    pools = index_pools(prompt_ids, sample_idx, "the table")
    rewards = pools.unpad(pool_rewards(scores, expression, pools)).tolist()
    return {keys[row]: reward for row, reward in zip(pools.order.tolist(), rewards, strict=True)}


def flat(table: pa.Table, name: str) -> pa.Array:
    """Return a column as one array."""
    column = table[name]
    if column.num_chunks == 1:
        return column.chunk(0)
    if column.num_chunks == 0:
        return pa.array([], column.type)
    return pa.concat_arrays(column.chunks)
