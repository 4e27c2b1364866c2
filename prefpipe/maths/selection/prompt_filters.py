"""Which prompts are worth training on, judged by their pools.

With y+ and y- the usable responses of the highest and the lowest reward, a prompt is kept where

- ``min_rejected_reward`` q: ``r(y-)`` is at least its q-quantile over prompts;
- ``min_rejected_tokens`` q: ``|y-|`` is at least its q-quantile over prompts;
- ``max_gap`` q: ``r(y+) - r(y-)`` is at most its q-quantile over prompts;
- ``min_spread`` m: ``r(y+) - r(y-) >= m``;
- ``min_pass_rate`` and ``max_pass_rate``: the share of responses with ``r >= pass_reward`` is
  within the two.

The first three are RIP (arXiv 2501.18578), the others are common for verifiable rewards **(ours)**.
A filter reads the pool, not a strategy's choice, so that compared strategies keep the same prompts
(**ours**; RIP pairs best with worst, where the two are the same). Prompts without a group do not
count in quantiles. The idea of RIP: a prompt whose worst answer is bad or short, or far from the
best, is a bad prompt.
"""

from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.registry import PromptFilters
from prefpipe.maths.selection.screening import LARGEST_REWARD
from prefpipe.maths.selection.validation import as_numbers

SAME = 1e-9
"""Relative tolerance at a limit for rounding: in thirds, 1 - 2/3 is more than 1/3 - 0."""


class PoolFacts(NamedTuple):
    """The figures that the filters read, (P,) each.

    ``rejected_reward`` and ``rejected_tokens`` of the lowest reward, equal ones by index; ``gap``
    from the highest to the lowest; ``pass_rate``, NaN if nothing was rated.
    """

    rejected_reward: np.ndarray
    rejected_tokens: np.ndarray
    gap: np.ndarray
    pass_rate: np.ndarray

    def where(self, chosen: np.ndarray) -> "PoolFacts":
        """Return the facts of some prompts."""
        return PoolFacts(*(values[chosen] for values in self))


class Thresholds(NamedTuple):
    """The quantiles as numbers; None for a filter that is off."""

    rejected_reward: float | None = None
    rejected_tokens: float | None = None
    gap: float | None = None


def pool_facts(
    rewards_PR: np.ndarray, n_tokens_PR: np.ndarray, usable_PR: np.ndarray, pass_reward: float
) -> PoolFacts:
    """Return the figures that the filters read; 0 and NaN for a prompt without usable candidates.

    Args:
        rewards_PR: float, NaN if missing.
        n_tokens_PR: the tokens of each response.
        usable_PR: bool. Only the pass rate covers all candidates with a reward, including copies:
            ten equal right answers of twenty are a rate of a half.
        pass_reward: the reward from which a response passes.
    """
    is_empty_P = ~usable_PR.any(axis=1)
    highest_P = np.where(usable_PR, rewards_PR, -np.inf).max(axis=1, initial=-np.inf)
    lowest_P = np.where(usable_PR, rewards_PR, np.inf).min(axis=1, initial=np.inf)
    highest_P, lowest_P = np.where(is_empty_P, 0.0, highest_P), np.where(is_empty_P, 0.0, lowest_P)

    n_tokens_P = np.zeros(len(rewards_PR))
    if rewards_PR.shape[1]:
        is_lowest_PR = usable_PR & (rewards_PR == lowest_P[:, None])
        lowest_places_P1 = is_lowest_PR.argmax(axis=1)[:, None]
        n_tokens_P = np.take_along_axis(n_tokens_PR, lowest_places_P1, axis=1)[:, 0]

    is_rated_PR = np.abs(rewards_PR) <= LARGEST_REWARD
    n_rated_P = is_rated_PR.sum(axis=1)
    is_passed_PR = rewards_PR >= pass_reward - SAME * abs(pass_reward)
    n_passed_P = (is_rated_PR & is_passed_PR).sum(axis=1)
    pass_rates_P = np.full(len(rewards_PR), np.nan)
    np.divide(n_passed_P, n_rated_P, out=pass_rates_P, where=n_rated_P > 0)

    return PoolFacts(
        rejected_reward=lowest_P,
        rejected_tokens=np.asarray(n_tokens_P, dtype=np.float64),
        gap=highest_P - lowest_P,
        pass_rate=pass_rates_P,
    )


def find_thresholds(facts: PoolFacts, filters: PromptFilters) -> Thresholds:
    """Return the quantiles over prompts, interpolated linearly between neighbours."""

    def at(values_P: np.ndarray, quantile: float | None) -> float | None:
        if quantile is None or not len(values_P):
            return None
        return float(np.quantile(values_P, quantile))

    return Thresholds(
        rejected_reward=at(facts.rejected_reward, filters.min_rejected_reward),
        rejected_tokens=at(facts.rejected_tokens, filters.min_rejected_tokens),
        gap=at(facts.gap, filters.max_gap),
    )


def filter_reasons(
    facts: PoolFacts, filters: PromptFilters, thresholds: Thresholds
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each prompt the reason for its exclusion and its wording, (P,); None if kept.

    The reason is the first of ``low_pass_rate``, ``high_pass_rate``, ``small_spread``,
    ``low_rejected_reward``, ``short_rejected`` and ``large_gap`` that holds. A value within `SAME`
    of the limit counts as at the limit.
    """
    # Figure, direction and limit; a limit of None is off.
    checks = (
        ("low_pass_rate", "pass rate", facts.pass_rate, "below", filters.min_pass_rate),
        ("high_pass_rate", "pass rate", facts.pass_rate, "above", filters.max_pass_rate),
        ("small_spread", "spread", facts.gap, "below", filters.min_spread),
        (
            "low_rejected_reward",
            "lowest reward",
            facts.rejected_reward,
            "below",
            thresholds.rejected_reward,
        ),
        (
            "short_rejected",
            "tokens of the lowest reward",
            facts.rejected_tokens,
            "below",
            thresholds.rejected_tokens,
        ),
        ("large_gap", "gap", facts.gap, "above", thresholds.gap),
    )
    reasons_P = np.full(len(facts.gap), None, dtype=object)
    particulars_P = np.full(len(facts.gap), None, dtype=object)
    # The last reason first: each takes precedence over those behind it.
    for reason, what, values_P, side, limit in reversed(checks):
        if limit is None:
            continue
        slack = SAME * abs(limit)
        is_out_P = values_P < limit - slack if side == "below" else values_P > limit + slack
        reasons_P[is_out_P] = reason
        for p in np.flatnonzero(is_out_P):
            particulars_P[p] = f"{what} {values_P[p]:g} {side} {limit:g}"
    return reasons_P, particulars_P


def require_prompts(facts: PoolFacts, filters: PromptFilters, thresholds: Thresholds) -> None:
    """Refuse filters that drop all of these prompts.

    Raises:
        UsageError: states how many each filter drops, and the ranges of the prompts.
    """
    reasons_P, _ = filter_reasons(facts, filters, thresholds)
    is_left_P = np.fromiter((reason is None for reason in reasons_P), bool, len(reasons_P))
    if not len(reasons_P) or is_left_P.any():
        return

    names, counts = np.unique(reasons_P.astype(str), return_counts=True)
    taken = ", ".join(f"{count} {name}" for name, count in zip(names, counts, strict=True))
    figures = (
        ("lowest rewards", facts.rejected_reward),
        ("gaps", facts.gap),
        ("pass rates", facts.pass_rate[~np.isnan(facts.pass_rate)]),
    )
    ranges = [
        f"{name} {values.min():g} to {values.max():g}" for name, values in figures if len(values)
    ]
    raise UsageError(
        f"the filters drop all {len(reasons_P)} prompts: {taken}",
        hint=f"loosen the filters; these prompts have {'; '.join(ranges)}",
    )


def filter_prompts(
    rewards: Any, n_tokens: Any = None, mask: Any = None, **filters: float | None
) -> np.ndarray:
    """Return for each prompt of a batch the reason for its exclusion, None if kept: objects (P,).

    The filters are named as in `PromptFilters` and explained at the top of this module. Use the
    result as ``mask & (reasons == None)[:, None]`` for `prefpipe.select_responses`.

    Args:
        rewards: (P, R), finite, higher is better.
        n_tokens: (P, R), for ``min_rejected_tokens``.
        mask: (P, R) bool, True where there is a candidate; all of them unless given.
        **filters: see `PromptFilters`.

    Raises:
        UsageError: an unknown filter, a value out of range, or filters that leave no prompt.
        InputError: shapes that do not agree, or a reward that is not finite.
    """
    unknown = sorted(set(filters) - set(PromptFilters._fields))
    if unknown:
        raise UsageError(
            f"unknown prompt filter {unknown[0]!r}",
            hint=f"filters: {', '.join(PromptFilters._fields)}",
        )
    for name, value in filters.items():
        may_be_none = value is None and name != "pass_reward"
        if not may_be_none and (isinstance(value, bool) or not isinstance(value, Real)):
            raise UsageError(f"{name} is {value!r}; it must be a number")
        try:
            float(value or 0.0)
        except OverflowError as error:
            raise UsageError(f"{name} is larger than any floating-point number") from error
    wanted = PromptFilters(**filters)  # type: ignore[arg-type]
    problems = filter_problems(wanted)
    if problems:
        raise UsageError("; ".join(problems))

    rewards_PR = as_numbers(rewards, "rewards").astype(np.float64)
    mask_PR = np.ones(rewards_PR.shape, dtype=bool) if mask is None else np.asarray(mask)
    if rewards_PR.ndim != 2 or mask_PR.shape != rewards_PR.shape or mask_PR.dtype != bool:
        raise InputError(
            f"rewards have shape {rewards_PR.shape} and mask is {mask_PR.dtype} of shape "
            f"{mask_PR.shape}; expected (P, R) and bool of the same shape"
        )
    if (mask_PR & ~(np.abs(rewards_PR) <= LARGEST_REWARD)).any():
        raise InputError("rewards are not finite", hint="mask candidates without a finite reward")
    tokens_PR = np.zeros(rewards_PR.shape)
    if n_tokens is not None:
        tokens_PR = as_numbers(n_tokens, "n_tokens")
    if tokens_PR.shape != rewards_PR.shape:
        raise InputError(
            f"n_tokens have shape {tokens_PR.shape} for rewards of shape {rewards_PR.shape}; "
            "expected the same shape"
        )
    if n_tokens is None and wanted.min_rejected_tokens is not None:
        raise UsageError("min_rejected_tokens needs n_tokens")

    rewards_PR = np.where(mask_PR, rewards_PR, np.nan)
    facts = pool_facts(rewards_PR, tokens_PR, mask_PR, wanted.pass_reward)
    has_candidates_P = np.asarray(mask_PR.any(axis=1))
    thresholds = find_thresholds(facts.where(has_candidates_P), wanted)
    require_prompts(facts.where(has_candidates_P), wanted, thresholds)
    reasons_P, _ = filter_reasons(facts, wanted, thresholds)
    reasons_P[~has_candidates_P] = "too_few_candidates"
    return reasons_P


def filter_problems(filters: PromptFilters) -> list[str]:
    """Return the problems of values, alone and in combination."""
    problems = []
    for name in ("min_rejected_reward", "min_rejected_tokens", "max_gap"):
        value = getattr(filters, name)
        if value is not None and not 0.0 < value < 1.0:
            problems.append(f"{name} is {value}; it must be a quantile, above 0 and below 1")
    if filters.min_spread is not None and not 0.0 < filters.min_spread < np.inf:
        problems.append(f"min_spread is {filters.min_spread}; it must be above 0")
    for name in ("min_pass_rate", "max_pass_rate"):
        value = getattr(filters, name)
        if value is not None and not 0.0 <= value <= 1.0:
            problems.append(f"{name} is {value}; it must be in [0, 1]")

    if not np.isfinite(filters.pass_reward):
        problems.append(f"pass_reward is {filters.pass_reward}; it must be a finite number")

    least, most = filters.min_pass_rate, filters.max_pass_rate
    if least is not None and most is not None and least > most:
        problems.append(f"min_pass_rate {least} is above max_pass_rate {most}")
    return problems
