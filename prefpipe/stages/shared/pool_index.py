"""The candidates of a part as pools: which row is which prompt's which response, and other artifacts' rows found by key.

Nothing is joined by position: every row of another artifact is looked up by ``(prompt_id, sample_idx)``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.errors import InputError
from prefpipe.maths.selection.rewards import RewardExpression


class PoolIndex(NamedTuple):
    """N candidates, prompt by prompt in the order of the file, by ``sample_idx`` within a prompt.

    ``order`` (N,): each candidate's row in the table. ``prompts`` (N,): number of its prompt; ``samples`` (N,): its
    ``sample_idx``; ``places`` (N,): its place within the prompt. ``sizes`` (P,): candidates a prompt. ``prompt_ids`` (P,).
    """

    prompt_ids: pa.Array
    order: np.ndarray
    prompts: np.ndarray
    samples: np.ndarray
    places: np.ndarray
    sizes: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Prompts, and candidates of the largest pool."""
        return len(self.sizes), int(self.sizes.max(initial=0))

    @property
    def starts(self) -> np.ndarray:
        """(P,) where each prompt's candidates start."""
        return np.asarray(np.cumsum(self.sizes) - self.sizes)

    def pad(self, values_N: np.ndarray, fill: float | bool) -> np.ndarray:
        """Return values by candidate as (P, R), ``fill`` behind each prompt's last."""
        padded = np.full(self.shape, fill, dtype=values_N.dtype)
        padded[self.prompts, self.places] = values_N
        return padded


class Screened(NamedTuple):
    """A part's pools, judged.

    ``rewards`` (P, R), NaN where there is none; ``reasons`` (N,) objects, None for a usable candidate; ``usable`` and
    ``kept`` (P, R), without and with the margin; ``verdicts`` (P,) objects, None for a prompt that gets a group.
    """

    table: pa.Table
    pools: PoolIndex
    rewards: np.ndarray
    distances: np.ndarray | None
    reasons: np.ndarray
    usable: np.ndarray
    kept: np.ndarray
    verdicts: np.ndarray


def index_pools(prompt_ids: pa.Array, sample_idx: pa.Array, name: str) -> PoolIndex:
    """Return the pools of a part's candidates.

    Raises:
        InputError: two candidates with the same key; ``name`` is the file in the message.
    """
    encoded = prompt_ids.dictionary_encode()
    prompts, samples = (
        encoded.indices.to_numpy().astype(np.int64),
        sample_idx.to_numpy().astype(np.int64),
    )
    order = np.lexsort((samples, prompts))
    prompts, samples = prompts[order], samples[order]
    is_twice = (prompts[1:] == prompts[:-1]) & (samples[1:] == samples[:-1])
    if is_twice.any():
        row = int(np.flatnonzero(is_twice)[0])
        raise InputError(
            f"{name} has two candidates of prompt {encoded.dictionary[int(prompts[row])]}, sample {samples[row]}",
            hint="make the candidates again",
        )
    sizes = np.bincount(prompts, minlength=len(encoded.dictionary))
    places = np.arange(len(prompts)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return PoolIndex(encoded.dictionary, order, prompts, samples, places, sizes)


def find_rows(
    pools: PoolIndex, prompt_ids: pa.Array, sample_idx: pa.Array, what: str
) -> np.ndarray:
    """Return (N,) the row of another table that speaks of each candidate, -1 where none does.

    Raises:
        InputError: two rows for one candidate; ``what`` says of which kind.
    """
    numbers = (
        pc.index_in(prompt_ids, value_set=pools.prompt_ids)
        .fill_null(-1)
        .to_numpy()
        .astype(np.int64)
    )
    keys = _keys(numbers, sample_idx.to_numpy().astype(np.int64))
    keys[numbers < 0] = -1
    rows = np.argsort(keys, kind="stable")
    ascending = keys[rows]
    is_twice = (ascending[1:] == ascending[:-1]) & (ascending[1:] >= 0)
    if is_twice.any():
        row = int(rows[int(np.flatnonzero(is_twice)[0])])
        raise InputError(f"{what} for prompt {prompt_ids[row]}, sample {sample_idx[row]}")
    wanted = _keys(pools.prompts, pools.samples)
    if not len(rows):
        return np.full(len(wanted), -1, dtype=np.int64)
    places = np.minimum(np.searchsorted(ascending, wanted), len(rows) - 1)
    return np.where(ascending[places] == wanted, rows[places], -1)


def _keys(prompts: np.ndarray, samples: np.ndarray) -> np.ndarray:
    return np.asarray(prompts * 2**32 + samples)  # sample_idx is an int32


def pool_rewards(scores: pa.Table, expression: RewardExpression, pools: PoolIndex) -> np.ndarray:
    """Evaluate the reward expression prompt by prompt: (P, R), NaN where a scorer gave nothing.

    Args:
        scores: rows of a ``scores`` part.
        expression: the parsed ``--reward``; ``z()`` is over the candidates of each prompt.
        pools: the candidates whose reward is wanted.

    Raises:
        InputError: two scores of one scorer for the same candidate.
        UsageError: an expression that these scores do not allow, ``logit`` of 0.
    """
    columns: dict[str, np.ndarray] = {}
    for name in expression.names:
        own = scores.filter(pc.equal(scores["scorer"], name)).combine_chunks()
        rows = find_rows(
            pools, flat(own, "prompt_id"), flat(own, "sample_idx"), f"scorer {name} has two scores"
        )
        values = np.append(
            flat(own, "reward").to_numpy(zero_copy_only=False).astype(np.float64), np.nan
        )
        columns[name] = pools.pad(values[rows], np.nan)  # -1 is the NaN at the end
    return expression.evaluate(columns)


def rewards_by_key(
    scores: pa.Table, expression: RewardExpression, keys: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], float]:
    """Return `pool_rewards` as a mapping, for candidates named by key."""
    ids, samples = [prompt_id for prompt_id, _ in keys], [sample_idx for _, sample_idx in keys]
    pools = index_pools(pa.array(ids, pa.string()), pa.array(samples, pa.int32()), "the table")
    rewards = pool_rewards(scores, expression, pools)[pools.prompts, pools.places].tolist()
    return {keys[row]: reward for row, reward in zip(pools.order.tolist(), rewards, strict=True)}


def flat(table: pa.Table, name: str) -> pa.Array:
    """Return a column as one array."""
    column = table[name]
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
