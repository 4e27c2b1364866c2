"""What the strategies would cover with k negatives, for every k: from the embeddings of a sample of prompts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from prefpipe.maths.selection.rewards import parse_reward
from prefpipe.maths.selection.select_responses import select_responses
from prefpipe.report.sources import ReportedPool, parts_on_disk, require_same_version
from prefpipe.stages.select.screening import ScreeningFlags, screen_part

N_PROMPTS, N_PARTS, MAX_K = 48, 8, 16
COMPARED = ("bottom-k", "coreset", "opt-select")
PROOF_S = 0.05
"""Opt-select's seconds a prompt for its proof; what it has found by then is drawn, and it starts from the best known."""
MOST_LEFT_OUT = 0.25
"""Share of the prompts whose pools may be too small for the largest k: one of them must not end everyone's curve."""
LEAST_CANDIDATES = 3
"""Below, every k covers everything."""


class Sample(NamedTuple):
    """P prompts with up to R candidates: ``rewards`` (P, R), ``distances`` (P, R, R), ``mask`` (P, R)."""

    rewards: np.ndarray
    distances: np.ndarray
    mask: np.ndarray


def coverage_of(pool: ReportedPool) -> dict[str, Any] | None:
    """Return the coverage cost of each strategy by k, None without scores or embeddings.

    The cost is Opt-Select's objective of the k chosen negatives over that of one candidate drawn at random, of the same prompt,
    averaged over prompts: 1 is one random negative, 0 covers every candidate. ``random`` is its exact expectation.

    Keys: ``n_prompts``, ``n_too_few`` (prompts looked at that have too few candidates for the largest k and are left out, at most
    `MOST_LEFT_OUT` of them), ``k`` (the values of k) and ``strategies`` (name to costs, one a k; none where all candidates of
    every prompt are equal).
    """
    indices = parts_on_disk(pool, needs=["scores", "embeddings"])
    if not indices or pool.expression is None:
        return None
    identity = pool.groups.artifact.record.identity if pool.groups is not None else {}
    screening = ScreeningFlags(
        **{name: identity[name] for name in ScreeningFlags._fields if name in identity}
    )
    spread = [indices[place] for place in _spread(len(indices), N_PARTS)]
    shares = [len(share) for share in np.array_split(np.arange(N_PROMPTS), len(spread))]
    sample = _joined(
        [
            _sample(pool, index, screening, share)
            for index, share in zip(spread, shares, strict=True)
        ]
    )
    if not len(sample.mask):
        return None
    sizes = sample.mask.sum(axis=1) - screening.positives
    largest = min(MAX_K, int(np.quantile(sizes, MOST_LEFT_OUT, method="lower")) - 1)
    if largest < 1:
        return None
    is_enough = sizes > largest
    ks = list(range(1, largest + 1))
    costs = _costs(
        Sample(*(values[is_enough] for values in sample)), ks, screening.positives, identity
    )
    return {
        "n_prompts": int(is_enough.sum()),
        "n_too_few": int((~is_enough).sum()),
        "k": ks,
        "strategies": costs,
    }


def _costs(
    sample: Sample, ks: Sequence[int], positives: int, identity: dict[str, Any]
) -> dict[str, list[float]]:
    options: Any = {
        "positives": positives,
        "time_limit_s": PROOF_S,
        "cover": identity.get("cover", "negatives"),
        "weight_temperature": _temperature(identity.get("weight_temperature", "paper")),
    }
    costs: dict[str, list[np.ndarray]] = {name: [] for name in ("random", *COMPARED)}
    for k in ks:
        for name in COMPARED:
            found = select_responses(
                sample.rewards,
                None,
                k,
                name,
                distances=sample.distances,
                mask=sample.mask,
                **options,
            )
            # every strategy and every k in one unit, the largest weight: what is beyond floats there is 0 beside random
            unit = np.exp(found.log_unit)
            costs[name].append(found.cost * unit)
        costs["random"].append(found.cost_random * unit)
    scale = costs["random"][0]
    usable = np.isfinite(scale) & (scale > 0)  # equal responses cost nothing, whatever is chosen
    if not usable.any():
        return {}
    return {
        name: [float((cost[usable] / scale[usable]).mean()) for cost in column]
        for name, column in costs.items()
    }


def _temperature(value: Any) -> Any:
    return value if value in ("paper", "auto") else float(value)


def _spread(n: int, wanted: int) -> list[int]:
    """Return up to ``wanted`` places out of n, evenly spread."""
    return sorted({int(place) for place in np.linspace(0, n - 1, min(n, wanted))})


def _sample(pool: ReportedPool, index: int, screening: ScreeningFlags, n_wanted: int) -> Sample:
    """Return up to ``n_wanted`` prompts of a part, evenly spread, with the candidates that ``select`` would choose from."""
    candidates, scores, embeddings = pool.candidates, pool.scores, pool.embeddings
    assert candidates is not None
    assert scores is not None
    assert embeddings is not None
    for child in (scores, embeddings):
        parents = child.artifact.footer(index).parents
        require_same_version(child, index, parents, candidates.artifact.footer(index).data_sha256)
    inputs = {
        "candidates": candidates.artifact,
        "scores": scores.artifact,
        "embeddings": embeddings.artifact,
    }
    screened = screen_part(inputs, parse_reward(str(pool.expression)), screening, index)
    enough = np.flatnonzero(screened.kept.sum(axis=1) >= LEAST_CANDIDATES)
    chosen = enough[_spread(len(enough), n_wanted)] if len(enough) else enough
    mask = screened.kept[chosen]
    assert screened.distances is not None
    distances = np.where(mask[:, :, None] & mask[:, None, :], screened.distances[chosen], 0.0)
    return Sample(np.where(mask, screened.rewards[chosen], 0.0), distances, mask)


def _joined(samples: Sequence[Sample]) -> Sample:
    """Return the prompts of several parts, padded to the largest pool."""
    width = max(sample.mask.shape[1] for sample in samples)

    def widen(values: np.ndarray) -> np.ndarray:
        return np.pad(values, [(0, 0), *[(0, width - values.shape[1])] * (values.ndim - 1)])

    return Sample(
        *(
            np.concatenate([widen(values) for values in column])
            for column in zip(*samples, strict=True)
        )
    )
