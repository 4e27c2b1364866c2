"""The filters of prompts over a whole run: their thresholds, and which prompts of a part they keep.

A quantile covers all prompts, whichever worker makes which part, so every worker reads all pools
before its first part. Filters that would leave no prompt are refused there, before an older result
is touched.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from prefpipe.maths.selection.prompt_filters import (
    PoolFacts,
    Thresholds,
    filter_reasons,
    find_thresholds,
    pool_facts,
    require_prompts,
)
from prefpipe.maths.selection.registry import PromptFilters
from prefpipe.maths.selection.screening import is_none
from prefpipe.stages.select.screening import ScreenedPart
from prefpipe.stages.select.tally import token_counts


def survey_prompts(
    screen: Callable[[int], ScreenedPart],
    indices: Sequence[int],
    filters: PromptFilters,
    n_threads: int = 1,
) -> Thresholds:
    """Return the filters' thresholds over all prompts that would have a group.

    Without quantiles it stops reading parts as soon as one prompt is left.

    Args:
        screen: reads and screens a part.
        indices: all parts that there are.
        filters: what is asked of prompts.
        n_threads: how many parts are looked at side by side, for quantiles.

    Raises:
        UsageError: no prompt is left, and without the filters some would be.
    """
    if not filters.are_quantiles:
        seen = _until_one_is_left(screen, indices, filters)
    else:
        seen = _facts_of_all(screen, indices, filters, n_threads)
    if not seen:
        return Thresholds()
    everything = PoolFacts(*(np.concatenate(column) for column in zip(*seen, strict=True)))
    thresholds = find_thresholds(everything, filters)
    require_prompts(everything, filters, thresholds)
    return thresholds


def _until_one_is_left(
    screen: Callable[[int], ScreenedPart], indices: Sequence[int], filters: PromptFilters
) -> list[PoolFacts]:
    """Return the facts of each part, or none once a part has a prompt that the filters leave."""
    seen = []
    for index in indices:
        facts = _facts_of_groups(screen, index, filters)
        reasons, _ = filter_reasons(facts, filters, Thresholds())
        if is_none(reasons).any():
            return []
        seen.append(facts)
    return seen


def _facts_of_all(
    screen: Callable[[int], ScreenedPart],
    indices: Sequence[int],
    filters: PromptFilters,
    n_threads: int,
) -> list[PoolFacts]:
    """Return the facts of each part, in the order of the parts, whichever thread was first."""
    if not indices:
        return []
    # Not in a thread: an interrupt there, where loops are compiled, would leave their lock shut.
    seen = [_facts_of_groups(screen, indices[0], filters)]

    threads = ThreadPoolExecutor(n_threads)
    try:
        seen += threads.map(partial(_facts_of_groups, screen, filters=filters), indices[1:])
    finally:
        # After an error, or an interrupt, no further part is begun.
        threads.shutdown(cancel_futures=True)
    return seen


def _facts_of_groups(
    screen: Callable[[int], ScreenedPart], index: int, filters: PromptFilters
) -> PoolFacts:
    """Return the values that the filters use, for the prompts of a part that would have a group."""
    screened = screen(index)
    return facts_of(screened, filters).where(is_none(screened.rejections))


def facts_of(screened: ScreenedPart, filters: PromptFilters) -> PoolFacts:
    """Return the values that the filters use, for all prompts of a part."""
    n_tokens = np.zeros(screened.rewards.shape)
    if filters.min_rejected_tokens is not None:
        _, response_tokens, _ = token_counts(screened.table)
        n_tokens = screened.pools.pad(response_tokens, fill=0)
    # Copies and the like count for the pass rate, so rewards are not masked.
    return pool_facts(screened.rewards, n_tokens, screened.usable, filters.pass_reward)


def filter_part(
    screened: ScreenedPart, filters: PromptFilters, thresholds: Thresholds
) -> ScreenedPart:
    """Return a part in which the prompts that a filter rejects have its reason."""
    if not filters.are_any:
        return screened
    reasons, particulars = filter_reasons(facts_of(screened, filters), filters, thresholds)
    # Of a prompt without a group anyway its own reason stands.
    is_closed = ~is_none(screened.rejections)
    reasons[is_closed] = screened.rejections[is_closed]
    particulars[is_closed] = None
    return screened._replace(rejections=reasons, particulars=particulars)
