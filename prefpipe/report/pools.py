"""Rewards and lengths of a pool: all its candidates beside those that were kept."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.maths.statistics.distribution import Distribution
from prefpipe.maths.statistics.rank_correlation import spearman, spearman_within
from prefpipe.report.sources import (
    ReportedArtifact,
    ReportedPool,
    parts_on_disk,
    read_pool_part,
    require_same_version,
)
from prefpipe.stages.shared.pool_index import find_rows, flat

MAX_POINTS = 1_500
"""Points of each role that are drawn; more would be a cloud without form, and a large file."""
N_LENGTH_BINS, SUBDIVISION = 12, 4
LARGEST_CUT = 1e307
"""Beyond it, the width of a bin may be no float64."""
CHARACTERS = "characters"
ROLES = ("none", "positive", "negative")


class _Columns(NamedTuple):
    """N candidates with a reward: ``rewards``, ``lengths`` (NaN where unknown), ``roles`` into ROLES, ``prompts``."""

    rewards: np.ndarray
    lengths: np.ndarray
    roles: np.ndarray
    prompts: np.ndarray


def rewards_of(pool: ReportedPool) -> dict[str, Any] | None:
    """Return the distributions of reward and length, None where nothing is scored.

    Keys: ``expression``, ``n``, ``n_without_reward``, ``histogram`` (``edges`` and counts of ``pool``, ``positive``,
    ``negative``), ``means`` by role, ``lengths``: ``points`` by role (at most `MAX_POINTS` each, evenly spread over the file),
    ``trend`` (mean reward in bins of about equal numbers of candidates by length), ``n``, and the two rank correlations
    of reward and length, ``spearman`` over all candidates and ``spearman_within`` prompts.
    """
    indices = parts_on_disk(pool, needs=["scores"])
    if not indices or pool.expression is None or pool.candidates is None:
        return None
    unit = _unit(pool.candidates, indices[0])
    columns, n_without = _read(pool, indices, unit)
    if not len(columns.rewards):
        return None
    shown = {
        name: Distribution.of("reward", columns.rewards[rows])
        for name, rows in _of_role(columns.roles).items()
    }
    edges = _finer(np.array(shown["pool"].edges))
    return {
        "expression": pool.expression,
        "n": len(columns.rewards),
        "n_without_reward": n_without,
        "n_parts": len(indices),
        "n_parts_in_all": pool.candidates.artifact.n_parts,
        "histogram": {"edges": edges.tolist()}
        | {
            name: np.histogram(columns.rewards[rows], edges)[0].tolist()
            for name, rows in _of_role(columns.roles).items()
        },
        "means": {name: each.mean for name, each in shown.items()},
        "lengths": _lengths(columns, unit),
    }


def _of_role(roles: np.ndarray) -> dict[str, np.ndarray]:
    """Return which candidates are of the pool, the positives and the negatives."""
    return {"pool": np.ones(len(roles), bool), **{ROLES[i]: roles == i for i in (1, 2)}}


def _finer(edges: np.ndarray) -> np.ndarray:
    """Return a terminal's few bins cut in four each; bins that stand for one whole number stay."""
    if (
        len(edges) < 2
        or np.abs(edges).max() > LARGEST_CUT
        or (edges[1] - edges[0] == 1.0 and edges[0] % 1.0 == 0.5)
    ):
        return edges
    return np.append(
        (edges[:-1, None] + np.diff(edges)[:, None] * np.arange(SUBDIVISION) / SUBDIVISION).ravel(),
        edges[-1],
    )


def _unit(candidates: ReportedArtifact, index: int) -> str:
    """Return what lengths are counted in: tokens, or characters where nobody counted tokens (imported responses)."""
    column = candidates.artifact.read(index, ["n_response_tokens"])[0]["n_response_tokens"]
    return CHARACTERS if column.null_count == len(column) else "tokens"


def _read(pool: ReportedPool, indices: Sequence[int], unit: str) -> tuple[_Columns, int]:
    pieces: list[_Columns] = []
    n_without, n_prompts = 0, 0
    for index in indices:
        part = read_pool_part(
            pool, index, ["n_response_tokens", *(["response"] if unit == CHARACTERS else [])]
        )
        pools = part.pools
        rewards = part.rewards[pools.prompts, pools.places]
        counted = (
            pc.utf8_length(part.table["response"])
            if unit == CHARACTERS
            else part.table["n_response_tokens"]
        )
        lengths = counted.cast(pa.float64()).to_numpy(zero_copy_only=False)[pools.order]
        known = np.isfinite(rewards)
        n_without += int((~known).sum())
        columns = (rewards, lengths, _roles(pool, index, part), pools.prompts + n_prompts)
        pieces.append(_Columns(*(column[known] for column in columns)))
        n_prompts += len(pools.sizes)
    return _Columns(*(np.concatenate(columns) for columns in zip(*pieces, strict=True))), n_without


def _roles(pool: ReportedPool, index: int, part: Any) -> np.ndarray:
    """Return (N,) each candidate's role as a number into ROLES; 0 where it was not kept."""
    roles = np.zeros(len(part.pools.prompts), dtype=np.int64)
    if pool.groups is None or pool.candidates is None or pool.groups.artifact.missing([index]):
        return roles
    groups, footer = pool.groups.artifact.read(index, ["prompt_id", "sample_idx", "role"])
    require_same_version(
        pool.groups, index, footer.parents, pool.candidates.artifact.footer(index).data_sha256
    )
    kept = groups.filter(flat(groups, "role").is_valid())
    rows = find_rows(
        part.pools, flat(kept, "prompt_id"), flat(kept, "sample_idx"), "two rows of groups"
    )
    numbers = np.array(
        [ROLES.index(role) for role in kept["role"].to_pylist()] + [0], dtype=np.int64
    )
    return np.asarray(numbers[rows])  # -1 is the 0 at the end


def _lengths(columns: _Columns, unit: str) -> dict[str, Any] | None:
    known = np.isfinite(columns.lengths)
    if not known.any():
        return None
    rewards, lengths, roles, prompts = (column[known] for column in columns)
    edges = np.unique(
        np.quantile(lengths, np.linspace(0.0, 1.0, N_LENGTH_BINS + 1), method="lower")
    )
    places = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, max(0, len(edges) - 2))
    trend = [
        {
            "length": float(lengths[places == place].mean()),
            "reward": Distribution.of("reward", rewards[places == place]).mean,
            "n": int((places == place).sum()),
        }
        for place in np.unique(places)
    ]
    points = {}
    for number, name in enumerate(ROLES):
        own = np.flatnonzero(roles == number)
        own = own[:: -(-len(own) // MAX_POINTS)] if len(own) else own
        points[name] = {
            "length": lengths[own].tolist(),
            "reward": rewards[own].tolist(),
            "n": int((roles == number).sum()),
        }
    return {
        "unit": unit,
        "points": points,
        "trend": trend,
        "n": int(known.sum()),
        "spearman": spearman(lengths, rewards),
        "spearman_within": spearman_within(lengths, rewards, prompts),
    }
