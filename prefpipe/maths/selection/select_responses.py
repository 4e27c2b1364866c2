"""The public interface for arrays: positives and negatives of one prompt, or of a batch."""

from typing import Any, Unpack

import numpy as np

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.distances import measure_embeddings
from prefpipe.maths.selection.registry import find_strategy
from prefpipe.maths.selection.samplers import Samplers, mask_inversions
from prefpipe.maths.selection.screening import (
    count_positives,
    mask_low_margins,
    mask_near_duplicates,
)
from prefpipe.maths.selection.select_pools import Selection, select_pools
from prefpipe.maths.selection.validation import (
    SelectOptions,
    are_plain_norms,
    check_geometry,
    check_options,
    check_rewards,
    checked_evidence,
    checked_geometry,
    with_defaults,
)

PROMPTS_AT_ONCE = 256
"""A batch is processed in slices, so that memory does not grow with it."""


def select_responses(
    rewards: Any,
    embeddings: Any = None,
    k: int = 7,
    strategy: str = "opt-select",
    *,
    distances: Any = None,
    mask: Any = None,
    seed: int = 0,
    **options: Unpack[SelectOptions],
) -> Selection:
    """Choose the positives and the negatives of one prompt, or of a batch of prompts.

    The positives are the highest rewards, ties to the lower index. A positive is never a negative,
    even if its reward is tied. The strategies differ in the ``k`` negatives:

    - ``opt-select``: the set S of k candidate negatives with the least
      ``Cost(S) = sum_i w_i min_{j in S} ||e_i - e_j||`` (AMPO, arXiv 2502.18293), w as in
      `prefpipe.maths.selection.weights.pool_weights`, proven optimal;
    - ``coreset``: k-means with k clusters over the embeddings of the candidate negatives, and of
      each cluster the lowest-reward member (AMPO); missing clusters are replaced by the lowest
      remaining rewards;
    - ``bottom-k``: the k lowest rewards (AMPO); ``top-bottom`` is the same rule, named for use with
      several positives;
    - ``random``: k candidate negatives without replacement, by ``seed``;
    - ``best-worst`` (SimPO, arXiv 2405.14734) and ``best-random``: one pair, argmax with argmin or
      with a random other candidate; ``k`` does not apply;
    - ``all``: every candidate negative; ``k`` does not apply;
    - ``reward-position``: the k candidate negatives with the least ``|r - (mu + c sigma)|``, mu and
      sigma the mean and the standard deviation (ddof 0) of the prompt's rewards and c
      ``position``, -2 unless given (arXiv 2502.16825, with k = 1: the lowest of many rewards is a
      worse negative than that).

    And some decide the positives too, or have no negatives:

    - ``delta``: the first response of the sampler ``chosen_from``, and the first k of
      ``rejected_from`` that are not rated above it (arXiv 2507.06187); ``positives`` for more;
    - ``delta-ucb``, ``drts`` and ``delta-quantile``: one pair, by rewards with ``uncertainty``
      (arXiv 2603.09692; formulas in `prefpipe.maths.selection.uncertainty.choose_pairs`);
    - ``best-of-n``: the highest rewards alone, for supervised training.

    Args:
        rewards: (R,), or (P, R) for a batch; finite, higher is better, any scale. Adding a constant
            changes no choice.
        embeddings: (R, D) or (P, R, D), finite; Euclidean distances between the rows as they are.
        k: number of negatives, at least 1. With fewer candidate negatives all of them are chosen;
            at most R - 1.
        strategy: a key of `prefpipe.maths.selection.registry.STRATEGIES`.
        distances: (R, R) or (P, R, R), finite, at least 0, instead of embeddings.
        mask: shape of ``rewards``, True where there is a candidate; values elsewhere are ignored. A
            prompt of a batch with fewer than two candidates, or without a candidate for a negative,
            gets no selection: -1 and NaN throughout.
        seed: at least 0, below 2**64, for ``random``, ``best-random``, ``drts`` and the k-means
            starts; the same for every prompt of a batch, so that a row of a batch is chosen as if
            alone. Rows with equally many candidates then share draws: ``random`` takes the same
            ranks in each. For independent draws call it once per prompt, with different seeds.
        **options: see `SelectOptions`.

    Raises:
        InputError: fewer than two candidates, or no negative left; a value that is not finite;
            shapes that do not agree.
        UsageError: an unknown strategy or option, a value out of range, or missing embeddings,
            uncertainty or samplers that the strategy needs.
    """
    rule = find_strategy(strategy)
    check_options(strategy, k, seed, options)
    options = with_defaults(options)
    rewards_PR, mask_PR, is_single = check_rewards(rewards, mask, n_spared=rule.n_spared)
    evidence = checked_evidence(strategy, rewards_PR, mask_PR, options, is_single=is_single)
    geometry, is_distance = check_geometry(
        strategy, rewards_PR.shape, is_single, embeddings, distances
    )
    needs_cosines = options["near_duplicates"] is not None
    if needs_cosines and (geometry is None or is_distance):
        raise UsageError(
            "near_duplicates is a cosine similarity and needs embeddings",
            hint="pass embeddings, or leave near_duplicates out",
        )

    slices = []
    # An empty batch has one slice, too, with arrays of no rows.
    for start in range(0, max(1, len(rewards_PR)), PROMPTS_AT_ONCE):
        rows = slice(start, start + PROMPTS_AT_ONCE)
        embeddings_PRD, distances_PRR = None, None
        first_prompt = None if is_single else start
        if geometry is not None and is_distance:
            distances_PRR = checked_geometry(
                geometry[rows], mask_PR[rows], is_distance=True, first_prompt=first_prompt
            )
        elif geometry is not None:
            distances_PRR = _checked_distances(geometry[rows], mask_PR[rows], first_prompt)
            if needs_cosines:
                embeddings_PRD = np.where(mask_PR[rows][:, :, None], geometry[rows], 0)

        evidence_of_rows = evidence.of_prompts(rows)
        kept_PR = _screened(
            rewards_PR[rows],
            embeddings_PRD,
            distances_PRR,
            mask_PR[rows],
            evidence_of_rows.samplers,
            options,
        )
        seeds_P = np.full(len(kept_PR), seed, dtype=np.uint64)
        slices.append(
            select_pools(
                rewards_PR[rows],
                distances_PRR,
                kept_PR,
                k=k,
                strategy=strategy,
                seeds_P=seeds_P,
                options=options,
                evidence=evidence_of_rows,
            )
        )

    selection = _joined(slices)
    if is_single and rule.n_negatives != 0 and not (selection.negatives >= 0).any():
        causes = "near_duplicates and min_margin"
        if evidence.samplers is not None:
            causes = "inversions, near_duplicates and min_margin"
        raise InputError(
            f"{causes} leave no candidate for a negative",
            hint="lower them, or drop the prompt",
        )
    return _only_prompt(selection) if is_single else selection


def _joined(slices: list[Selection]) -> Selection:
    """Return the slices of a batch as one; positives have the columns of the widest slice."""
    most = max(each.positives.shape[1] for each in slices)
    columns_of = {
        name: list(values)
        for name, values in zip(Selection._fields, zip(*slices, strict=True), strict=True)
    }
    columns_of["positives"] = [
        np.pad(each, ((0, 0), (0, most - each.shape[1])), constant_values=-1)
        for each in columns_of["positives"]
    ]
    return Selection(**{name: np.concatenate(values) for name, values in columns_of.items()})


def _checked_distances(
    embeddings_PRD: np.ndarray, mask_PR: np.ndarray, first_prompt: int | None
) -> np.ndarray:
    """Return the distances (P, R, R) between checked embeddings.

    Raises:
        InputError: see `checked_geometry`, which looks at every number and takes longer than the
            rest of a selection, so it is called only if the norms leave a doubt.
    """
    geometry = measure_embeddings(embeddings_PRD, mask_PR)
    if not are_plain_norms(geometry.squared_norms):
        checked_geometry(embeddings_PRD, mask_PR, is_distance=False, first_prompt=first_prompt)
    return geometry.distances


def _screened(
    rewards_PR: np.ndarray,
    embeddings_PRD: np.ndarray | None,
    distances_PRR: np.ndarray | None,
    mask_PR: np.ndarray,
    samplers: Samplers | None,
    options: SelectOptions,
) -> np.ndarray:
    """Return the mask (P, R) after near-duplicates, inversions and margins."""
    threshold = options["near_duplicates"]
    if threshold is not None and embeddings_PRD is not None and distances_PRR is not None:
        is_copy_PR = mask_near_duplicates(
            embeddings_PRD, distances_PRR, rewards_PR, mask_PR, threshold
        )
        mask_PR = mask_PR & ~is_copy_PR

    margin, positives = options["min_margin"], options["positives"]
    if samplers is not None:
        is_too_high_PR = mask_inversions(
            rewards_PR, mask_PR, samplers, positives=positives, min_margin=margin
        )
        mask_PR = mask_PR & ~is_too_high_PR
    elif margin > 0.0:
        n_positives_P = count_positives(mask_PR, positives)
        is_close_PR = mask_low_margins(rewards_PR, mask_PR, min_margin=margin, positives=positives)
        mask_PR = mask_PR & ~is_close_PR

        # Positives alone are not a selection.
        has_negative_P = mask_PR.sum(axis=1) > n_positives_P
        mask_PR = mask_PR & has_negative_P[:, None]

    return mask_PR


def _only_prompt(selection: Selection) -> Selection:
    """Return the one prompt of a batch without its padding."""
    one = Selection(*(column[0] for column in selection))
    is_negative = one.negatives >= 0
    return one._replace(
        positives=one.positives[one.positives >= 0],
        negatives=one.negatives[is_negative],
        gains=one.gains[is_negative],
        cost=float(one.cost),
        lower_bound=float(one.lower_bound),
        is_optimal=bool(one.is_optimal),
        cost_bottom_k=float(one.cost_bottom_k),
        cost_random=float(one.cost_random),
        log_unit=float(one.log_unit),
        largest_share=float(one.largest_share),
    )
