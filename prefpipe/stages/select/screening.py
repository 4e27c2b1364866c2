"""The candidates of one part, screened: which can be selected from, and why the others cannot."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.artifacts.store import Artifact
from prefpipe.configs.select import AMONG_ALL, SelectConfig
from prefpipe.errors import InputError
from prefpipe.maths.selection.distances import pairwise_distances
from prefpipe.maths.selection.pools import Evidence
from prefpipe.maths.selection.rewards import RewardExpression
from prefpipe.maths.selection.samplers import Samplers, mask_inversions
from prefpipe.maths.selection.screening import (
    is_none,
    mask_low_margins,
    mask_near_duplicates,
    prompt_rejections,
    screen_candidates,
)
from prefpipe.maths.selection.uncertainty import scorer_spread
from prefpipe.stages.shared.earlier_rounds import EARLIER
from prefpipe.stages.shared.pool_index import (
    SCORE_COLUMNS,
    PoolIndex,
    find_rows,
    flat,
    index_pools,
    pool_rewards,
    pool_scores,
)

NOT_WHITE_SPACE = r"[^\x09-\x0d\x1c-\x20\x{85}\p{Z}]"
"""A character that ``str.strip`` would leave."""


class ScreeningFlags(NamedTuple):
    """The flags of ``select`` that decide which candidates can be selected from, with defaults."""

    keep_truncated: bool = SelectConfig.keep_truncated
    keep_duplicates: bool = SelectConfig.keep_duplicates
    near_duplicates: float | None = SelectConfig.near_duplicates
    min_margin: float = SelectConfig.min_margin
    positives: int = SelectConfig.positives
    pairs: str | None = SelectConfig.pairs


class ChosenSampler(NamedTuple):
    """Whose responses a strategy uses: a model's, from all rounds or from a numbered one."""

    model: str
    earlier: int | None = None


class StrategyInputs(NamedTuple):
    """What a strategy needs of candidates besides a reward and an embedding.

    - ``n_spared``: candidates that must remain as negatives;
    - ``accepts_ties``: equal rewards leave it a choice;
    - ``spread_of``: scorers whose disagreement is the uncertainty, none if it needs none;
    - ``chosen_from``, ``rejected_from``: samplers, None if they do not matter.
    """

    n_spared: int = 1
    accepts_ties: bool = False
    spread_of: tuple[str, ...] = ()
    chosen_from: ChosenSampler | None = None
    rejected_from: ChosenSampler | None = None


REWARDS_ALONE = StrategyInputs()
"""What most strategies ask."""


class ScreenedPart(NamedTuple):
    """A part's pools, of P prompts with up to R candidates, and the results of screening.

    - ``table``: the N candidates, in the order of ``pools``;
    - ``rewards`` (P, R): NaN if there is none;
    - ``distances`` (P, R, R): None without embeddings;
    - ``reasons`` (N,): objects, None for a usable candidate;
    - ``unflawed`` (P, R): without a flaw; ``usable`` (P, R): of those, the ones that the margin
    keeps; - ``rejections`` (P,): objects, None for a prompt that gets a group; - ``particulars``
    (P,): objects, details from a prompt filter, None elsewhere; - ``evidence``: the
    scorers' spread, or whose each candidate is.
    """

    table: pa.Table
    pools: PoolIndex
    rewards: np.ndarray
    distances: np.ndarray | None
    reasons: np.ndarray
    unflawed: np.ndarray
    usable: np.ndarray
    rejections: np.ndarray
    particulars: np.ndarray
    evidence: Evidence


def screen_part(
    inputs: Mapping[str, Artifact],
    expression: RewardExpression,
    flags: SelectConfig | ScreeningFlags,
    index: int,
    *,
    asks: StrategyInputs = REWARDS_ALONE,
    needs_distances: bool = True,
) -> ScreenedPart:
    """Read a part and screen its candidates.

    Args:
        inputs: ``candidates``, ``scores`` and, if any, ``embeddings``.
        expression: the reward.
        flags: what decides which candidates can be selected from.
        index: of the part.
        asks: what the strategy asks of candidates.
        needs_distances: whether they are wanted; screening itself needs them for near-duplicates.
    """
    table, pools = _read_candidates(inputs["candidates"], index)
    scores, _ = inputs["scores"].read(index, SCORE_COLUMNS)
    rewards = pool_rewards(scores, expression, pools)
    flaws_N: dict[str, np.ndarray] = {}
    embeddings, distances = None, None
    if "embeddings" in inputs and (needs_distances or flags.near_duplicates is not None):
        embeddings, has_embedding_N = _read_embeddings(inputs["embeddings"], index, pools)
        distances = pairwise_distances(embeddings)
        flaws_N["no_embedding"] = ~has_embedding_N
    elif "embeddings" in inputs:
        # Vectors are most of what a part takes to decode: here only who has one is asked.
        flaws_N["no_embedding"] = ~_has_embedding(inputs["embeddings"], index, pools)
    evidence = _evidence_of(table, scores, rewards, pools, asks)
    if evidence.spreads is not None:
        flaws_N["no_spread"] = np.isnan(pools.unpad(evidence.spreads))
    if evidence.samplers is not None:
        is_of_either = evidence.samplers.chosen | evidence.samplers.rejected
        flaws_N["other_sampler"] = ~pools.unpad(is_of_either)

    # First the flaws of single candidates, and copies of another one's text.
    texts_N, is_blank_N = _texts(table)
    reasons_N = screen_candidates(
        prompts_N=pools.prompts,
        texts_N=texts_N,
        is_blank_N=is_blank_N,
        rewards_N=pools.unpad(rewards),
        statuses_N=flat(table, "status").to_numpy(zero_copy_only=False),
        flaws_N=flaws_N,
        drop_truncated=not flags.keep_truncated,
        keep_duplicates=flags.keep_duplicates,
    )
    unflawed = pools.pad(is_none(reasons_N), fill=False)

    # Then what says nearly the same as a better candidate.
    if flags.near_duplicates is not None and embeddings is not None and distances is not None:
        is_copy = mask_near_duplicates(
            embeddings, distances, rewards, unflawed, flags.near_duplicates
        )
        reasons_N[pools.unpad(is_copy)] = "near_duplicate"
        unflawed = unflawed & ~is_copy

    # Last what is too close to the positives, or rated above them. Pairs between any two responses
    # have their own margins: a candidate close to the positive can still beat another.
    pairs_have_margins = flags.pairs in AMONG_ALL
    min_margin = 0.0 if pairs_have_margins else flags.min_margin
    is_close, is_inverted = _too_high(rewards, unflawed, min_margin, flags.positives, evidence)
    reasons_N[pools.unpad(is_close)] = "low_margin"
    reasons_N[pools.unpad(is_inverted)] = "inversion"
    usable = unflawed & ~(is_close | is_inverted)

    is_there = np.arange(pools.shape[1])[None] < pools.sizes[:, None]
    rejections = prompt_rejections(
        rewards,
        is_there,
        unflawed,
        usable,
        positives=flags.positives,
        n_spared=asks.n_spared,
        accepts_ties=asks.accepts_ties,
    )
    if pairs_have_margins and flags.min_margin > 0.0:
        highest_P = np.where(unflawed, rewards, -np.inf).max(axis=1, initial=-np.inf)
        lowest_P = np.where(unflawed, rewards, np.inf).min(axis=1, initial=np.inf)
        has_no_pair_P = highest_P - lowest_P < flags.min_margin
        rejections[is_none(rejections) & has_no_pair_P] = "low_margin"
    if evidence.samplers is not None:
        _reject_without_sampler(rejections, evidence.samplers, unflawed, usable, is_inverted)

    return ScreenedPart(
        table=table,
        pools=pools,
        rewards=rewards,
        distances=distances,
        reasons=reasons_N,
        unflawed=unflawed,
        usable=usable,
        rejections=rejections,
        particulars=np.full(len(rejections), None, dtype=object),
        evidence=evidence,
    )


def _evidence_of(
    table: pa.Table,
    scores: pa.Table,
    rewards: np.ndarray,
    pools: PoolIndex,
    asks: StrategyInputs,
) -> Evidence:
    """Return a strategy's inputs besides rewards and distances; a missing spread is NaN."""
    spreads, samplers = None, None
    if asks.spread_of:
        spreads = spreads_of(asks.spread_of, scores, rewards, pools)
    if asks.chosen_from is not None and asks.rejected_from is not None:

        def gave(sampler: ChosenSampler) -> np.ndarray:
            is_of_it = pc.equal(flat(table, "model"), sampler.model).fill_null(False)
            if sampler.earlier is not None:
                is_of_it = pc.and_(is_of_it, pc.equal(flat(table, EARLIER), sampler.earlier))
            return pools.pad(is_of_it.to_numpy(zero_copy_only=False), fill=False)

        samplers = Samplers(gave(asks.chosen_from), gave(asks.rejected_from))
    return Evidence(spreads, samplers)


def spreads_of(
    scorers: Sequence[str], scores: pa.Table, rewards: np.ndarray, pools: PoolIndex
) -> np.ndarray:
    """Return the spread of some scorers (P, R), on the scale of the rewards; NaN if missing."""
    columns = pool_scores(scores, scorers, pools)
    return scorer_spread(np.stack([columns[name] for name in scorers]), rewards)


def _too_high(
    rewards: np.ndarray,
    unflawed: np.ndarray,
    min_margin: float,
    positives: int,
    evidence: Evidence,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (P, R) which candidates are too close to the positives, and which above them.

    Only if samplers decide the roles can a candidate outside the positives be above one.
    """
    finite = np.where(unflawed, rewards, 0.0)
    if evidence.samplers is None:
        is_close = mask_low_margins(finite, unflawed, min_margin=min_margin, positives=positives)
        return is_close, np.zeros_like(is_close)

    is_close = mask_inversions(
        finite, unflawed, evidence.samplers, positives=positives, min_margin=min_margin
    )
    is_inverted = mask_inversions(finite, unflawed, evidence.samplers, positives=positives)
    return is_close & ~is_inverted, is_inverted


def _reject_without_sampler(
    rejections: np.ndarray,
    samplers: Samplers,
    unflawed: np.ndarray,
    usable: np.ndarray,
    is_inverted: np.ndarray,
) -> None:
    """Write why a prompt has no positive of the one sampler, or no negative of the other."""
    is_open_P = is_none(rejections) | (rejections == "low_margin")
    has_both_P = (unflawed & samplers.chosen).any(axis=1)
    has_both_P &= (unflawed & samplers.rejected).any(axis=1)
    has_negative_P = (usable & samplers.rejected).any(axis=1)

    rejections[is_open_P] = None
    rejections[is_open_P & ~has_negative_P] = "low_margin"
    rejections[is_open_P & ~has_negative_P & is_inverted.any(axis=1)] = "inversion"
    rejections[is_open_P & ~has_both_P] = "one_sampler"


def _read_candidates(candidates: Artifact, index: int) -> tuple[pa.Table, PoolIndex]:
    """Return a part's candidates, in the order of their pools."""
    table, _ = candidates.read(index)
    pools = index_pools(
        flat(table, "prompt_id"), flat(table, "sample_idx"), str(candidates.part_path(index))
    )
    # A table that is in order is not copied.
    is_in_order = (pools.order[1:] >= pools.order[:-1]).all()
    return table if is_in_order else table.take(pools.order), pools


def _has_embedding(embeddings: Artifact, index: int, pools: PoolIndex) -> np.ndarray:
    """Return (N,) which candidates have an embedding."""
    table, _ = embeddings.read(index, ["prompt_id", "sample_idx", "status"])
    return _embedding_rows(table, pools)[1]


def _embedding_rows(table: pa.Table, pools: PoolIndex) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) each candidate's row among embeddings, -1 for none, and (N,) which have one."""
    rows = find_rows(pools, flat(table, "prompt_id"), flat(table, "sample_idx"), "two embeddings")
    # A candidate without a row has row -1, which is the False at the end.
    is_ok = pc.equal(flat(table, "status"), "ok").to_numpy(zero_copy_only=False)
    return rows, np.append(is_ok, False)[rows]


def _read_embeddings(
    embeddings: Artifact, index: int, pools: PoolIndex
) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings (P, R, D), 0 if there is none, and (N,) which candidates have one."""
    table, _ = embeddings.read(index, ["prompt_id", "sample_idx", "embedding", "status"])
    rows, has_one_N = _embedding_rows(table, pools)
    column = flat(table, "embedding")
    if not pa.types.is_fixed_size_list(column.type) or column.null_count:
        raise InputError(
            f"the vectors in {embeddings.part_path(index)} are null or differ in length",
            hint="run `prefpipe embed` again",
        )
    n_dimensions = column.type.list_size
    vectors = column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), n_dimensions)

    # Where every pool is full and in order nothing needs to be copied.
    n_prompts, n_candidates = pools.shape
    is_full = len(vectors) == n_prompts * n_candidates
    if is_full and (rows == np.arange(len(vectors))).all():
        return vectors.reshape(n_prompts, n_candidates, n_dimensions), has_one_N

    padded = np.zeros((n_prompts, n_candidates, n_dimensions), vectors.dtype)
    padded[pools.prompts[has_one_N], pools.places[has_one_N]] = vectors[rows[has_one_N]]
    return padded, has_one_N


def _texts(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) numbers, equal for equal responses, and (N,) which are blank or missing."""
    encoded = flat(table, "response").dictionary_encode()
    has_text = pc.match_substring_regex(encoded.dictionary, NOT_WHITE_SPACE)
    # No text at all is looked up behind the last one, where it has none.
    has_text = np.append(has_text.to_numpy(zero_copy_only=False).astype(bool), False)
    is_blank_N = ~has_text[encoded.indices.fill_null(len(encoded.dictionary)).to_numpy()]
    return encoded.indices.fill_null(0).to_numpy(), is_blank_N
