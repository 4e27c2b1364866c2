"""Coverage of each strategy with k negatives, for every k, in a sample of prompts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from prefpipe.maths.selection.rewards import parse_reward
from prefpipe.maths.selection.select_responses import select_responses
from prefpipe.report.sources import ReportedPool, parts_on_disk, require_same_version
from prefpipe.stages.select.screening import ScreeningFlags, screen_part

N_PROMPTS, N_PARTS, MAX_K = 48, 8, 16
COMPARED = ("bottom-k", "coreset", "opt-select")
PROOF_S = 0.05
"""Opt-select's seconds a prompt for its proof; it starts from the best known choice."""
MOST_LEFT_OUT = 0.25
"""Share of prompts whose pools may be too small for the largest k, so that one does not end all
curves."""
LEAST_CANDIDATES = 3
"""Below, every k covers everything."""


class SampledPools(NamedTuple):
    """P prompts with up to R candidates.

    ``rewards`` (P, R), ``distances`` (P, R, R), ``mask`` (P, R).
    """

    rewards: np.ndarray
    distances: np.ndarray
    mask: np.ndarray

    def where(self, chosen: np.ndarray) -> "SampledPools":
        """Return some of the prompts."""
        return SampledPools(self.rewards[chosen], self.distances[chosen], self.mask[chosen])


def coverage_of(pool: ReportedPool) -> dict[str, Any] | None:
    """Return the coverage cost of each strategy by k, None without scores or embeddings.

    The cost is Opt-Select's objective of the k chosen negatives over that of one candidate drawn at
    random, of the same prompt, averaged over prompts: 1 is one random negative, 0 covers every
    candidate. ``random`` is its exact expectation.

    Keys:

    - ``n_prompts``;
    - ``n_too_few``: examined prompts with too few candidates for the largest k, which are left out,
      at most `MOST_LEFT_OUT` of them;
    - ``k``: the values of k;
    - ``strategies``: name to costs, one a k; none if all candidates of every prompt are equal.
    """
    indices = parts_on_disk(pool, needs=["scores", "embeddings"])
    if not indices or pool.expression is None:
        return None
    identity = pool.selection
    flags = ScreeningFlags(
        **{name: identity[name] for name in ScreeningFlags._fields if name in identity}
    )

    parts = [indices[place] for place in _spread(len(indices), N_PARTS)]
    shares = np.array_split(np.arange(N_PROMPTS), len(parts))
    samples = []
    for index, share in zip(parts, shares, strict=True):
        samples.append(_sample_part(pool, index, flags, len(share)))
    sample = _joined(samples)
    if not len(sample.mask):
        return None

    # The largest k is one with which most prompts have a choice left.
    n_negatives = sample.mask.sum(axis=1) - flags.positives
    largest = int(np.quantile(n_negatives, MOST_LEFT_OUT, method="lower")) - 1
    largest = min(MAX_K, largest)
    if largest < 1:
        return None
    is_enough = n_negatives > largest
    ks = list(range(1, largest + 1))
    return {
        "n_prompts": int(is_enough.sum()),
        "n_too_few": int((~is_enough).sum()),
        "k": ks,
        "strategies": _costs(sample.where(is_enough), ks, flags.positives, identity),
    }


def _costs(
    sample: SampledPools, ks: Sequence[int], positives: int, identity: Mapping[str, Any]
) -> dict[str, list[float]]:
    """Return each strategy's cost by k, in units of one candidate drawn at random."""
    temperature = identity.get("weight_temperature", "paper")
    if temperature not in ("paper", "auto"):
        temperature = float(temperature)
    options: Any = {
        "positives": positives,
        "time_limit_s": PROOF_S,
        "cover": identity.get("cover", "negatives"),
        "weight_temperature": temperature,
    }

    costs: dict[str, list[np.ndarray]] = {name: [] for name in ("random", *COMPARED)}
    for k in ks:
        for name in COMPARED:
            selection = select_responses(
                sample.rewards,
                None,
                k,
                name,
                distances=sample.distances,
                mask=sample.mask,
                **options,
            )
            # Every strategy and every k in one unit, the largest weight: what is beyond floats
            # there is 0 beside random.
            unit = np.exp(selection.log_unit)
            costs[name].append(selection.cost * unit)
        # The expectation depends on no strategy: that of the last one will do.
        costs["random"].append(selection.cost_random * unit)

    # Equal responses cost nothing, whatever is chosen.
    one_random = costs["random"][0]
    is_usable = np.isfinite(one_random) & (one_random > 0)
    if not is_usable.any():
        return {}
    means: dict[str, list[float]] = {}
    for name, costs_by_k in costs.items():
        means[name] = []
        for cost in costs_by_k:
            shares = cost[is_usable] / one_random[is_usable]
            means[name].append(float(shares.mean()))
    return means


def _spread(n: int, wanted: int) -> list[int]:
    """Return up to ``wanted`` places out of n, evenly spread."""
    return sorted({int(place) for place in np.linspace(0, n - 1, min(n, wanted))})


def _sample_part(
    pool: ReportedPool, index: int, flags: ScreeningFlags, n_wanted: int
) -> SampledPools:
    """Return up to ``n_wanted`` prompts of a part, evenly spread.

    They have the candidates that ``select`` would choose from.
    """
    candidates, scores, embeddings = pool.candidates, pool.scores, pool.embeddings
    assert candidates is not None
    assert scores is not None
    assert embeddings is not None
    # Rows are joined by key, which does not prove that the rated text is the same.
    digest = candidates.artifact.footer(index).data_sha256
    for child in (scores, embeddings):
        require_same_version(child, index, child.artifact.footer(index).parents, digest)

    inputs = {
        "candidates": candidates.artifact,
        "scores": scores.artifact,
        "embeddings": embeddings.artifact,
    }
    screened = screen_part(inputs, parse_reward(str(pool.expression)), flags, index)
    assert screened.distances is not None
    enough = np.flatnonzero(screened.usable.sum(axis=1) >= LEAST_CANDIDATES)
    chosen = enough[_spread(len(enough), n_wanted)] if len(enough) else enough

    mask = screened.usable[chosen]
    both = mask[:, :, None] & mask[:, None, :]
    rewards = np.where(mask, screened.rewards[chosen], 0.0)
    distances = np.where(both, screened.distances[chosen], 0.0)
    return SampledPools(rewards, distances, mask)


def _joined(samples: Sequence[SampledPools]) -> SampledPools:
    """Return the prompts of several parts, padded to the largest pool."""
    width = max(sample.mask.shape[1] for sample in samples)

    def widen(values: np.ndarray) -> np.ndarray:
        missing = width - values.shape[1]
        return np.pad(values, [(0, 0)] + [(0, missing)] * (values.ndim - 1))

    return SampledPools(
        rewards=np.concatenate([widen(sample.rewards) for sample in samples]),
        distances=np.concatenate([widen(sample.distances) for sample in samples]),
        mask=np.concatenate([widen(sample.mask) for sample in samples]),
    )
