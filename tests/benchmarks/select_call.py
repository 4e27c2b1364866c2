"""A whole call of `prefpipe.select_responses`, beside HiGHS on the same prompts.

    make bench-select

Embeddings in, a `Selection` out: checks, distances, Opt-Select with its proof, and the explanation.
Pools of 32 candidates in 384 dimensions, 7 negatives, as the project's bars have them: at most 60
us a prompt and at least 300 times faster than HiGHS. Rounds take turns, and times are of the
processor, so that a machine that is busy with other things says the same; wall time stands beside.
"""

import argparse
import time

import numpy as np
from support.highs import p_median_by_highs

from prefpipe import select_responses
from prefpipe.maths.selection.distances import measure_embeddings
from prefpipe.maths.selection.opt_select.coverage import cost_matrix
from prefpipe.maths.selection.select_responses import PROMPTS_AT_ONCE
from prefpipe.maths.selection.validation import checked_geometry

R, D, K = 32, 384, 7
BAR_US, BAR_TIMES = 60.0, 300.0


class Clock:
    """Processor and wall time from when it was made."""

    def __init__(self) -> None:
        self._cpu_s, self._wall_s = time.process_time(), time.perf_counter()

    def since_then(self, n: int) -> tuple[float, float]:
        """Return both in seconds, for one of ``n``."""
        return (
            (time.process_time() - self._cpu_s) / n,
            (time.perf_counter() - self._wall_s) / n,
        )


def verdict(is_held: bool) -> str:
    """Return what a bar says."""
    return "held" if is_held else "MISSED"


def make_pools(n_prompts: int, n_clusters: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return rewards (P, R) of that standard deviation and unit vectors (P, R, D), in clusters."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n_prompts, R, D), dtype=np.float32)
    if n_clusters:
        centres = rng.standard_normal((n_prompts, n_clusters, D), dtype=np.float32)
        places = rng.integers(n_clusters, size=(n_prompts, R, 1))
        vectors = np.take_along_axis(centres, places, axis=1) + np.float32(0.7) * vectors
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return scale * rng.normal(size=(n_prompts, R)), vectors


def cost_of(rewards: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the cost matrix over the candidate negatives of one prompt."""
    negatives = np.argsort(rewards, kind="stable")[:-1]
    distances = measure_embeddings(vectors[None], np.ones((1, R), dtype=bool)).distances[0]
    return cost_matrix(distances, np.exp(rewards[negatives].min() - rewards), negatives, negatives)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--highs", type=int, default=12, help="prompts of HiGHS a round")
    options = parser.parse_args()

    for name, n_clusters, scale in (("synthetic", 0, 1.0), ("six clusters", 6, 4.0)):
        rewards, vectors = make_pools(options.prompts, n_clusters, scale)
        # Loops are compiled, or loaded, before a clock runs.
        select_responses(rewards[:4], vectors[:4], K)

        calls, highs, checks = [], [], []
        n_equal, n_proven = 0, 0
        for round_ in range(options.rounds):
            clock = Clock()
            found = select_responses(rewards, vectors, K)
            calls.append(clock.since_then(options.prompts))
            n_proven = int(found.is_optimal.sum())

            # What a look at every number costs, which the norms spare.
            few = slice(0, PROMPTS_AT_ONCE)
            everyone = np.ones((len(vectors[few]), R), dtype=bool)
            clock = Clock()
            checked_geometry(vectors[few], everyone, is_distance=False, first_prompt=0)
            checks.append(clock.since_then(len(everyone)))

            first = round_ * options.highs
            for p in range(first, first + options.highs):
                cost_CJ = cost_of(rewards[p], vectors[p])
                clock = Clock()
                _, optimum = p_median_by_highs(cost_CJ, K)
                highs.append(clock.since_then(1))
                n_equal += abs(found.cost[p] - optimum) <= 1e-6 * optimum

        call_us, call_wall_us = 1e6 * np.median(calls, axis=0)
        highs_us, highs_wall_us = 1e6 * np.median(highs, axis=0)
        times = highs_us / call_us
        print(
            f"{name}, {options.prompts:,} prompts, {n_proven:,} proven\n"
            f"  a call    {call_us:7.1f} us a prompt (wall {call_wall_us:.1f}, least "
            f"{1e6 * min(calls)[0]:.1f}), bar {BAR_US:.0f}: {verdict(call_us <= BAR_US)}\n"
            f"  HiGHS     {highs_us:7.0f} us (wall {highs_wall_us:.0f}) = {times:.0f} x, bar "
            f"{BAR_TIMES:.0f}: {verdict(times >= BAR_TIMES)}; {n_equal} of {len(highs)} equal costs\n"
            f"  a look at every number would add {1e6 * np.median(checks, axis=0)[0]:.1f} us",
            flush=True,
        )


if __name__ == "__main__":
    main()
