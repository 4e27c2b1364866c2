"""Rewards and lengths of a pool: all its candidates beside those that were kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.maths.statistics.distribution import Distribution, has_whole_bins
from prefpipe.maths.statistics.rank_correlation import spearman, spearman_within
from prefpipe.report.sources import (
    ReportedArtifact,
    ReportedPart,
    ReportedPool,
    parts_on_disk,
    read_pool_part,
    require_same_version,
)
from prefpipe.stages.shared.pool_index import find_rows, flat

MAX_POINTS, DIGITS = 800, 5
"""Points of each role that are drawn, and the digits of each: more is a cloud without form."""
N_LENGTH_BINS, SUBDIVISION = 12, 4
LARGEST_CUT = 1e307
"""Beyond it, the width of a bin may be no float64."""
CHARACTERS = "characters"
ROLES = ("none", "positive", "negative")
"""What a candidate became; ``none`` where it was not kept."""


def rewards_of(pool: ReportedPool) -> dict[str, Any] | None:
    """Return the distributions of reward and length, None where nothing is scored.

    Keys:

    - ``expression``, ``n``, ``n_without_reward``, ``n_parts``, ``n_parts_in_all``;
    - ``histogram``: ``edges``, and counts of ``pool``, ``positive`` and ``negative``;
    - ``means`` by role;
    - ``lengths``: ``unit``, ``points`` by role (at most `MAX_POINTS` each, evenly spread over the
      file), ``trend`` (mean reward in bins of about equal numbers of candidates by length), ``n``,
      and two rank correlations of reward and length, ``spearman`` over all candidates and
      ``spearman_within`` prompts.
    """
    indices = parts_on_disk(pool, needs=["scores"])
    if not indices or pool.expression is None or pool.candidates is None:
        return None
    unit = _length_unit(pool.candidates, indices[0])
    candidates = _read_candidates(pool, indices, unit)
    rewarded = candidates.filter(pl.col("reward").is_finite())
    if not len(rewarded):
        return None

    rewards = {"pool": rewarded["reward"].to_numpy()}
    for role in ("positive", "negative"):
        rewards[role] = rewarded.filter(pl.col("role") == role)["reward"].to_numpy()

    # One set of bins for all of them, so that they can be laid over each other.
    distributions = {name: Distribution.of("reward", values) for name, values in rewards.items()}
    edges = _finer(np.array(distributions["pool"].edges))
    histogram = {"edges": edges.tolist()}
    for name, values in rewards.items():
        counts, _ = np.histogram(values, edges)
        histogram[name] = counts.tolist()

    return {
        "expression": pool.expression,
        "n": len(rewarded),
        "n_without_reward": len(candidates) - len(rewarded),
        "n_parts": len(indices),
        "n_parts_in_all": pool.candidates.artifact.n_parts,
        "histogram": histogram,
        "means": {name: each.mean for name, each in distributions.items()},
        "lengths": _lengths(rewarded, unit),
    }


def _length_unit(candidates: ReportedArtifact, index: int) -> str:
    """Return what lengths are counted in.

    Tokens, or characters where nobody counted tokens (imported responses).
    """
    table, _ = candidates.artifact.read(index, ["n_response_tokens"])
    column = table["n_response_tokens"]
    return CHARACTERS if column.null_count == len(column) else "tokens"


def _read_candidates(pool: ReportedPool, indices: Sequence[int], unit: str) -> pl.DataFrame:
    """Return a row a candidate: ``reward``, ``length``, ``role`` and ``prompt``.

    Reward and length are NaN where unknown. ``prompt`` is the number of its prompt, and rows are
    prompt by prompt.
    """
    # Texts are read only where they are counted.
    names = ["n_response_tokens"]
    if unit == CHARACTERS:
        names.append("response")

    parts = []
    n_prompts = 0
    for index in indices:
        part = read_pool_part(pool, index, names)
        lengths = part.table["n_response_tokens"]
        if unit == CHARACTERS:
            lengths = pc.utf8_length(part.table["response"])
        lengths = lengths.cast(pa.float64()).to_numpy(zero_copy_only=False)
        columns = {
            "reward": part.pools.unpad(part.rewards),
            "length": lengths[part.pools.order],
            "role": _roles(pool, index, part),
            # Each part counts its prompts from 0, and no prompt is in two parts.
            "prompt": part.pools.prompts + n_prompts,
        }
        parts.append(pl.DataFrame(columns))
        n_prompts += len(part.pools.sizes)
    return pl.concat(parts)


def _roles(pool: ReportedPool, index: int, part: ReportedPart) -> list[str]:
    """Return (N,) each candidate's role."""
    n = len(part.pools.prompts)
    if pool.groups is None or pool.candidates is None or pool.groups.artifact.missing([index]):
        return ["none"] * n
    groups, footer = pool.groups.artifact.read(index, ["prompt_id", "sample_idx", "role"])
    candidates_footer = pool.candidates.artifact.footer(index)
    require_same_version(pool.groups, index, footer.parents, candidates_footer.data_sha256)

    kept = groups.filter(flat(groups, "role").is_valid())
    rows = find_rows(
        part.pools, flat(kept, "prompt_id"), flat(kept, "sample_idx"), "two rows of groups"
    )
    # A candidate without a row has row -1, which is the "none" at the end.
    roles = [*kept["role"].to_pylist(), "none"]
    return [roles[row] for row in rows]


def _finer(edges: np.ndarray) -> np.ndarray:
    """Return a terminal's few bins cut in four each; bins of one whole number each stay."""
    if len(edges) < 2 or np.abs(edges).max() > LARGEST_CUT or has_whole_bins(edges):
        return edges
    cuts = np.arange(SUBDIVISION) / SUBDIVISION
    finer = edges[:-1, None] + np.diff(edges)[:, None] * cuts
    return np.append(finer.ravel(), edges[-1])


def _lengths(rewarded: pl.DataFrame, unit: str) -> dict[str, Any] | None:
    """Return how rewards follow lengths, None where no length is known."""
    known = rewarded.filter(pl.col("length").is_finite())
    if not len(known):
        return None
    rewards, lengths = known["reward"].to_numpy(), known["length"].to_numpy()

    points = {}
    for role in ROLES:
        rows = known.filter(pl.col("role") == role)
        # Rounded up: never more than MAX_POINTS.
        every = max(1, -(-len(rows) // MAX_POINTS))
        shown = rows.gather_every(every)
        points[role] = {
            "length": shown["length"].to_list(),
            "reward": shown["reward"].round_sig_figs(DIGITS).to_list(),
            "n": len(rows),
        }
    return {
        "unit": unit,
        "points": points,
        "trend": _trend(rewards, lengths),
        "n": len(known),
        "spearman": spearman(lengths, rewards),
        "spearman_within": spearman_within(lengths, rewards, known["prompt"].to_numpy()),
    }


def _trend(rewards: np.ndarray, lengths: np.ndarray) -> list[dict[str, Any]]:
    """Return mean length and mean reward in bins of about equal numbers of candidates."""
    # Edges are lengths that occur, so that equal lengths share a bin; equal edges become one.
    levels = np.linspace(0.0, 1.0, N_LENGTH_BINS + 1)
    edges = np.unique(np.quantile(lengths, levels, method="lower"))
    last = max(0, len(edges) - 2)
    bins = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, last)

    trend = []
    for number in np.unique(bins):
        rows = bins == number
        # The mean of rewards whose sum is beyond float64 is not, and Distribution knows it.
        mean_reward = Distribution.of("reward", rewards[rows]).mean
        trend.append(
            {
                "length": float(lengths[rows].mean()),
                "reward": mean_reward,
                "n": int(rows.sum()),
            }
        )
    return trend
