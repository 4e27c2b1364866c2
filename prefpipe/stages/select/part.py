"""One part of ``select``: columns in, groups out, no row touched by itself."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.artifacts.ids import seed_for
from prefpipe.artifacts.store import Artifact, Output
from prefpipe.configs.select import AMONG_ALL, SelectConfig
from prefpipe.errors import InputError
from prefpipe.maths.selection.distances import pairwise_distances
from prefpipe.maths.selection.rewards import RewardExpression
from prefpipe.maths.selection.screening import (
    is_none,
    mask_low_margins,
    mask_near_duplicates,
    pool_verdicts,
    screen_candidates,
)
from prefpipe.maths.selection.select_pools import Selection, select_pools
from prefpipe.maths.selection.validation import SelectOptions
from prefpipe.stages.select.group_table import group_table
from prefpipe.stages.select.tally import tally_of
from prefpipe.stages.shared.pool_index import (
    PoolIndex,
    Screened,
    find_rows,
    flat,
    index_pools,
    pool_rewards,
)

NOT_WHITE_SPACE = r"[^\x09-\x0d\x1c-\x20\x{85}\p{Z}]"
"""A character that ``str.strip`` would leave."""


class Screening(NamedTuple):
    """The flags of ``select`` that decide which candidates can be selected from, with its defaults."""

    keep_truncated: bool = SelectConfig.keep_truncated
    keep_duplicates: bool = SelectConfig.keep_duplicates
    near_duplicates: float | None = SelectConfig.near_duplicates
    min_margin: float = SelectConfig.min_margin
    positives: int = SelectConfig.positives
    pairs: str | None = SelectConfig.pairs


class PartSelector:
    """Makes parts, each from its own inputs alone, so that several threads can."""

    def __init__(
        self,
        config: SelectConfig,
        expression: RewardExpression,
        inputs: Mapping[str, Artifact],
        output: Output,
    ) -> None:
        self.config, self.expression, self.inputs, self.output = config, expression, inputs, output

    def rehearse(self) -> None:
        """Select from one made-up prompt, so that all loops are loaded, or compiled.

        Not in the threads that make the parts: an interrupt leaves a thread that compiles in its
        lock, and the process waiting for it.
        """
        rewards_PR = np.array([[3.0, 1.0, 0.0, 2.0]])
        distances_PRR = None
        if "embeddings" in self.inputs:
            distances_PRR = pairwise_distances(np.eye(4, dtype=np.float32)[None])
        self._select_pools(
            rewards_PR, distances_PRR, np.full(rewards_PR.shape, True), np.zeros(1, dtype=np.uint64)
        )

    def make(self, index: int, parents: Mapping[str, str]) -> None:
        """Select and write one part."""
        screened = screen_part(self.inputs, self.expression, self.config, index)
        selection = self._select(screened)
        written, counts = group_table(screened.table, screened, selection, self.config)
        tally = tally_of(screened, selection, written)
        self.output.write(index, written, counts=counts, parents=parents, tally=tally)

    def _select(self, screened: Screened) -> Selection:
        has_group_P1 = is_none(screened.verdicts)[:, None]
        mask = screened.kept & has_group_P1
        ids = screened.pools.prompt_ids.to_pylist()
        seeds_P = np.array([seed_for(self.config.seed, each, 0) for each in ids], dtype=np.uint64)
        rewards_PR = np.where(mask, screened.rewards, 0.0)
        return self._select_pools(rewards_PR, screened.distances, mask, seeds_P)

    def _select_pools(
        self,
        rewards_PR: np.ndarray,
        distances_PRR: np.ndarray | None,
        mask_PR: np.ndarray,
        seeds_P: np.ndarray,
    ) -> Selection:
        config = self.config
        temperature: Any = config.weight_temperature
        if temperature not in ("paper", "auto"):
            temperature = float(temperature)
        cover: Any = config.cover
        options = SelectOptions(
            positives=config.positives,
            weight_temperature=temperature,
            cover=cover,
            n_init=config.n_init,
            time_limit_s=config.time_limit,
        )
        return select_pools(
            rewards_PR,
            distances_PRR,
            mask_PR,
            k=config.k,
            strategy=config.strategy,
            seeds_P=seeds_P,
            options=options,
        )


def screen_part(
    inputs: Mapping[str, Artifact],
    expression: RewardExpression,
    knobs: "SelectConfig | Screening",
    index: int,
) -> Screened:
    """Return a part's candidates, judged: which can be selected from, and why the others cannot.

    Args:
        inputs: ``candidates``, ``scores`` and, where there are any, ``embeddings``.
        expression: the reward.
        knobs: the flags of ``select`` that decide it.
        index: of the part.
    """
    table = inputs["candidates"].read(index)[0]
    pools = index_pools(
        flat(table, "prompt_id"),
        flat(table, "sample_idx"),
        str(inputs["candidates"].part_path(index)),
    )
    if (pools.order[1:] < pools.order[:-1]).any():
        table = table.take(pools.order)
    rewards = pool_rewards(inputs["scores"].read(index)[0], expression, pools)
    embeddings, has_embedding_N = _embeddings(inputs, index, pools)
    texts = flat(table, "response").dictionary_encode()
    reasons_N = screen_candidates(
        prompts_N=pools.prompts,
        texts_N=texts.indices.fill_null(0).to_numpy(),
        is_blank_N=~_has_text(texts.dictionary)[
            texts.indices.fill_null(len(texts.dictionary)).to_numpy()
        ],
        rewards_N=rewards[pools.prompts, pools.places],
        statuses_N=flat(table, "status").to_numpy(zero_copy_only=False),
        has_embedding_N=has_embedding_N,
        drop_truncated=not knobs.keep_truncated,
        keep_duplicates=knobs.keep_duplicates,
    )
    usable = pools.pad(is_none(reasons_N), fill=False)
    distances = None if embeddings is None else pairwise_distances(embeddings)
    if knobs.near_duplicates is not None and embeddings is not None and distances is not None:
        is_copy = mask_near_duplicates(
            embeddings, distances, rewards, usable, knobs.near_duplicates
        )
        reasons_N[is_copy[pools.prompts, pools.places]] = "near_duplicate"
        usable = usable & ~is_copy
    # Pairs between any two responses have margins of their own: a candidate close to the positive can still beat another.
    is_of_pairs = knobs.pairs in AMONG_ALL
    candidate_margin = 0.0 if is_of_pairs else knobs.min_margin
    is_close = mask_low_margins(
        np.where(usable, rewards, 0.0),
        usable,
        min_margin=candidate_margin,
        positives=knobs.positives,
    )
    reasons_N[is_close[pools.prompts, pools.places]] = "low_margin"
    kept = usable & ~is_close
    is_there = np.arange(pools.shape[1])[None] < pools.sizes[:, None]
    verdicts = pool_verdicts(rewards, is_there, usable, kept, positives=knobs.positives)
    if is_of_pairs and knobs.min_margin > 0.0:
        highest_P = np.where(usable, rewards, -np.inf).max(axis=1, initial=-np.inf)
        lowest_P = np.where(usable, rewards, np.inf).min(axis=1, initial=np.inf)
        verdicts[is_none(verdicts) & (highest_P - lowest_P < knobs.min_margin)] = "low_margin"
    return Screened(table, pools, rewards, distances, reasons_N, usable, kept, verdicts)


def _embeddings(
    inputs: Mapping[str, Artifact], index: int, pools: PoolIndex
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return embeddings (P, R, D), 0 where there is none, and (N,) which candidates have one."""
    if "embeddings" not in inputs:
        return None, None
    table, _ = inputs["embeddings"].read(index, ["prompt_id", "sample_idx", "embedding", "status"])
    rows = find_rows(pools, flat(table, "prompt_id"), flat(table, "sample_idx"), "two embeddings")
    column = flat(table, "embedding")
    if not pa.types.is_fixed_size_list(column.type) or column.null_count:
        raise InputError(
            f"the vectors in {inputs['embeddings'].part_path(index)} are null, or not all of one length",
            hint="run `prefpipe embed` again",
        )
    n_dimensions = column.type.list_size
    vectors = column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), n_dimensions)
    is_ok = np.append(pc.equal(flat(table, "status"), "ok").to_numpy(zero_copy_only=False), False)
    has_one_N = is_ok[rows]
    if len(vectors) == pools.shape[0] * pools.shape[1] and (rows == np.arange(len(vectors))).all():
        return vectors.reshape(
            *pools.shape, n_dimensions
        ), has_one_N  # every pool is full and in order: no copy
    embeddings = np.zeros((*pools.shape, n_dimensions), vectors.dtype)
    embeddings[pools.prompts[has_one_N], pools.places[has_one_N]] = vectors[rows[has_one_N]]
    return embeddings, has_one_N


def _has_text(texts: pa.Array) -> np.ndarray:
    """Return for each text whether it has more than white space, and False behind the last, for no text at all."""
    found = pc.match_substring_regex(texts, NOT_WHITE_SPACE).to_numpy(zero_copy_only=False)
    return np.append(found.astype(bool), False)
