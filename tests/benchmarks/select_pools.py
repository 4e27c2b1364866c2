"""Selection on real candidate pools: certified shares, and speed and quality beside others.

Beside HiGHS, kmedoids and scikit-learn:

    make bench-select

Pools are read from the test data, imported and embedded with all-MiniLM-L6-v2 by prefpipe's own
commands into ``runs/pools``. That takes about an hour on two cores the first time; what is there is
kept.
"""

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import kmedoids
import numpy as np
import pyarrow.compute as pc
from sklearn.cluster import KMeans
from support.compiled_solvers import cluster_k_means, response_weights, solve_k_medoids
from support.highs import p_median_by_highs

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.store import Artifact
from prefpipe.maths.selection.distances import pairwise_distances
from prefpipe.maths.selection.opt_select.coverage import cost_matrix
from prefpipe.maths.selection.opt_select.k_medoids import coverage_cost
from prefpipe.maths.selection.rewards import parse_reward
from prefpipe.maths.selection.select_responses import select_responses
from prefpipe.maths.selection.weights import resolve_temperature
from prefpipe.stages.shared.pool_index import find_rows, flat, index_pools, pool_rewards

DATA = Path(os.environ.get("PREFPIPE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
FOLDER = Path("runs/pools")
OF_SESSIONS = ["--prompt-id-column", "session_id", "--prompt-column", "session_id"]
OF_SUMMARIES = [
    "--prompt-id-column",
    "doc_id",
    "--prompt-column",
    "source",
    "--model-column",
    "system",
]
POOLS = {
    "alpaca": ("alpaca_candidates", "preference", [], "logit(clip(preference, 1e-6, 0.999999))"),
    "wildbench": ("wildbench_scores_1to10", "score_1_10", OF_SESSIONS, "score_1_10"),
    "realsumm": ("realsumm_human", "litepyramid_recall", OF_SUMMARIES, "litepyramid_recall"),
    "summeval": ("summeval_human", "score", OF_SUMMARIES, "score"),
}


class Pool(NamedTuple):
    """One prompt: rewards (R,), embeddings (R, D), distances (R, R), and the candidate negatives by
    ascending reward."""

    rewards: np.ndarray
    embeddings: np.ndarray
    distances: np.ndarray
    negatives: np.ndarray

    def costs(self, temperature: Any = "paper") -> np.ndarray:
        """Return Opt-Select's cost matrix over the candidate negatives."""
        weights = np.zeros(len(self.rewards))
        scale = resolve_temperature(self.rewards, temperature)
        weights[self.negatives] = response_weights(self.rewards[self.negatives], scale)
        return cost_matrix(self.distances, weights, self.negatives, self.negatives)


def command(*words: Any) -> None:
    """Run prefpipe as a user would, on all cores."""
    subprocess.run(
        [sys.executable, "-m", "prefpipe", *map(str, words)], check=True, stdout=subprocess.DEVNULL
    )


def load(name: str) -> list[Pool]:
    """Return the pools of a data set, made by import and embed where they are not there yet."""
    source, column, flags, expression = POOLS[name]
    folder = FOLDER / name
    command(
        "import",
        DATA / f"{source}.parquet",
        "-o",
        folder,
        "--format",
        "rows",
        "--reward-column",
        column,
        *flags,
    )
    command(
        "embed", folder / "candidates", "-o", folder / "embeddings", "--model", "bundled:minilm"
    )
    kinds = ("candidates", "scores", "embeddings")
    candidates, scores, embeddings = (
        Artifact(folder / kind, read_run_record(folder / kind)) for kind in kinds
    )
    pools = []
    for index in range(candidates.n_parts):
        table, vectors = candidates.read(index)[0], embeddings.read(index)[0]
        part = index_pools(flat(table, "prompt_id"), flat(table, "sample_idx"), name)
        rewards = pool_rewards(scores.read(index)[0], parse_reward(expression), part)
        rows = find_rows(
            part, flat(vectors, "prompt_id"), flat(vectors, "sample_idx"), "two embeddings"
        )
        column = flat(vectors, "embedding")
        matrix = column.flatten().to_numpy().reshape(len(column), -1)[rows]
        has_vector = pc.equal(flat(vectors, "status"), "ok").to_numpy(zero_copy_only=False)[rows]
        for p, start in enumerate(part.starts):
            usable = np.flatnonzero(has_vector[start : start + part.sizes[p]])
            own = rewards[p, usable]
            vectors_RD = matrix[start + usable]
            negatives = np.argsort(own, kind="stable")
            best = np.argsort(-own, kind="stable")[0]
            pools.append(
                Pool(
                    own,
                    vectors_RD,
                    pairwise_distances(vectors_RD[None])[0],
                    negatives[negatives != best],
                )
            )
    return pools


def synthetic(n_prompts: int) -> list[Pool]:
    """Return pools of 32 candidates with Gaussian rewards and unit vectors in 384 dimensions, as
    the issue's pilot had them."""
    rng, pools = np.random.default_rng(0), []
    for _ in range(n_prompts):
        vectors, rewards = rng.normal(size=(32, 384)).astype(np.float32), rng.normal(size=32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        negatives = np.argsort(rewards, kind="stable")[:-1]
        pools.append(Pool(rewards, vectors, pairwise_distances(vectors[None])[0], negatives))
    return pools


def timed(work: Callable[[Any], Any], items: list[Any]) -> tuple[list[Any], float]:
    """Return the results and the mean seconds an item."""
    started = time.perf_counter()
    results = [work(item) for item in items]
    return results, (time.perf_counter() - started) / len(items)


def certified(pools: list[Pool], temperature: Any) -> str:
    """Solve every pool for every k from 1 to n - 2."""
    n_solved, n_proven, slowest_s, started = 0, 0, 0.0, time.perf_counter()
    for pool in pools:
        costs = pool.costs(temperature)
        for k in range(1, len(pool.rewards) - 1):
            before = time.perf_counter()
            n_proven += solve_k_medoids(costs, k).is_optimal
            slowest_s = max(slowest_s, time.perf_counter() - before)
            n_solved += 1
    mean_s = (time.perf_counter() - started) / n_solved
    return (
        f"{n_proven:>7,} of {n_solved:>7,} = {n_proven / n_solved:.2%}   "
        f"mean {mean_s * 1e6:6.0f} us   slowest {slowest_s * 1e3:6.1f} ms"
    )


def beside_highs(name: str, pools: list[Pool], k: int) -> str:
    """Compare with HiGHS on the p-median form and with kmedoids' FasterPAM, prompt by prompt, at
    one ``k``."""
    costs = [pool.costs() for pool in pools if len(pool.negatives) > k + 1]
    ours, our_s = timed(lambda cost: solve_k_medoids(cost, k), costs)
    highs, highs_s = timed(lambda cost: p_median_by_highs(cost, k)[1], costs)
    pam, pam_s = timed(
        lambda cost: kmedoids.fasterpam(np.ascontiguousarray(cost), k, random_state=0), costs
    )
    n_equal = sum(
        abs(one.cost - other) <= 1e-6 * max(other, 1e-300)
        for one, other in zip(ours, highs, strict=True)
    )
    n_certified = sum(one.is_optimal for one in ours)
    n_pam = sum(
        coverage_cost(cost, np.sort(found.medoids.astype(np.int64))) <= one.cost * (1 + 1e-6)
        for cost, found, one in zip(costs, pam, ours, strict=True)
    )
    return (
        f"{name:<10} {len(costs):>5}  prefpipe {our_s * 1e6:7.1f} us, {n_certified:>5} certified   "
        f"HiGHS {highs_s * 1e3:7.2f} ms = {highs_s / our_s:6.0f} x, {n_equal:>5} equal costs   "
        f"FasterPAM {pam_s * 1e6:6.0f} us, {n_pam:>5} optimal, no proof"
    )


def beside_scikit_learn(name: str, pools: list[Pool], k: int) -> str:
    """Compare k-means with scikit-learn's KMeans(n_init=10), inertia computed alike from the
    labels, in float64."""
    pools = [pool for pool in pools if len(pool.negatives) > k]
    vectors = [pool.embeddings[pool.negatives] for pool in pools]
    distances = [pool.distances[np.ix_(pool.negatives, pool.negatives)] for pool in pools]
    ours, our_s = timed(lambda distance: cluster_k_means(distance, k, seed=0), distances)
    theirs, their_s = timed(
        lambda vector: KMeans(k, n_init=10, random_state=0).fit_predict(vector), vectors
    )
    pairs = list(zip(ours, theirs, vectors, strict=True))
    mine = np.array([inertia(vector.astype(np.float64), one.labels) for one, _, vector in pairs])
    other = np.array([inertia(vector.astype(np.float64), labels) for _, labels, vector in pairs])
    share = np.mean(mine <= other * (1 + 1e-9))
    return (
        f"{name:<10} {len(pools):>5}  prefpipe {our_s * 1e6:7.1f} us   "
        f"scikit-learn {their_s * 1e3:6.2f} ms = {their_s / our_s:5.0f} x   "
        f"inertia {mine.mean():.5f} against {other.mean():.5f}, equal or below on {share:.1%}"
    )


def inertia(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Return the sum of squared distances to the clusters' means."""
    groups = [vectors[labels == label] for label in np.unique(labels)]
    return float(sum(((group - group.mean(axis=0)) ** 2).sum() for group in groups))


def main() -> None:
    warnings.simplefilter("ignore")  # scikit-learn's, on identical vectors
    select_responses(np.arange(4.0), np.eye(4), 2)
    solve_k_medoids(np.random.default_rng(0).random((9, 9)), 3)
    cluster_k_means(np.ones((9, 9)) - np.eye(9), 3, seed=0)
    pools = {"synthetic": synthetic(300)} | {name: load(name) for name in POOLS}
    print("\nOpt-Select: every prompt, every k from 1 to n - 2, weights with T = 1 and T = std(r)")
    for name in POOLS:
        for temperature in ("paper", "auto"):
            print(f"{name:<10} {temperature:<6} {certified(pools[name], temperature)}", flush=True)
    print("\nOpt-Select at k = 7 (SummEval and WildBench: k = 4), one core")
    for name, members in pools.items():
        print(
            beside_highs(name, members, 4 if name in ("summeval", "wildbench") else 7), flush=True
        )
    print("\nCoreset at k = 7 (SummEval and WildBench: k = 4), one core, ten starts each")
    for name, members in pools.items():
        print(
            beside_scikit_learn(name, members, 4 if name in ("summeval", "wildbench") else 7),
            flush=True,
        )


if __name__ == "__main__":
    main()
