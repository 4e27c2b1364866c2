"""What the strategies would cover with k negatives, for every k: from the embeddings of a sample of prompts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.errors import InputError
from prefpipe.maths.selection import select_responses
from prefpipe.stages.pool_index import find_rows, flat
from prefpipe.stages.report_sources import Pool, parts_on_disk, read_pool_part, require_same_version

N_PROMPTS, N_PARTS, MAX_K = 48, 8, 16
COMPARED = ("bottom-k", "coreset", "opt-select")
PROOF_S = 0.05
"""Opt-select's seconds a prompt for its proof; what it has found by then is drawn, and it starts from the best known."""
LEAST_CANDIDATES = 3
"""Below, every k covers everything."""


class Sample(NamedTuple):
    """P prompts with up to R candidates: ``rewards`` (P, R), ``embeddings`` (P, R, D), ``mask`` (P, R)."""

    rewards: np.ndarray
    embeddings: np.ndarray
    mask: np.ndarray


def coverage_of(pool: Pool) -> dict[str, Any] | None:
    """Return the coverage cost of each strategy by k, None without scores or embeddings.

    The cost is Opt-Select's objective of the k chosen negatives over that of one candidate drawn at random, of the same prompt,
    averaged over prompts: 1 is one random negative, 0 covers every candidate. ``random`` is its exact expectation.

    Keys: ``n_prompts``, ``k`` (the values of k) and ``strategies`` (name to costs, one a k).
    """
    indices = parts_on_disk(pool, needs=["scores", "embeddings"])
    if not indices:
        return None
    spread = [indices[place] for place in _spread(len(indices), N_PARTS)]
    sample = _joined([_sample(pool, index, -(-N_PROMPTS // len(spread))) for index in spread])
    if not len(sample.mask):
        return None
    identity = pool.groups.artifact.record.identity if pool.groups is not None else {}
    positives = int(identity.get("positives", 1))
    largest = int(sample.mask.sum(axis=1).min()) - positives - 1
    ks = list(range(1, min(MAX_K, largest) + 1))
    if not ks:
        return None
    return {"n_prompts": len(sample.mask), "k": ks, "strategies": _costs(sample, ks, positives, identity)}


def _costs(sample: Sample, ks: Sequence[int], positives: int, identity: dict[str, Any]) -> dict[str, list[float]]:
    options: Any = {"positives": positives, "time_limit_s": PROOF_S, "cover": identity.get("cover", "negatives"),
                    "weight_temperature": _temperature(identity.get("weight_temperature", "paper"))}  # fmt: skip
    costs: dict[str, list[np.ndarray]] = {name: [] for name in ("random", *COMPARED)}
    for k in ks:
        for name in COMPARED:
            found = select_responses(sample.rewards, sample.embeddings, k, name, mask=sample.mask, **options)
            costs[name].append(found.cost)
        costs["random"].append(found.cost_random)
    scale = costs["random"][0]
    usable = np.isfinite(scale) & (scale > 0)  # equal responses cost nothing, whatever is chosen
    if not usable.any():
        return {}
    return {name: [float((cost[usable] / scale[usable]).mean()) for cost in column] for name, column in costs.items()}


def _temperature(value: Any) -> Any:
    return value if value in ("paper", "auto") else float(value)


def _spread(n: int, wanted: int) -> list[int]:
    """Return up to ``wanted`` places out of n, evenly spread."""
    return sorted({int(place) for place in np.linspace(0, n - 1, min(n, wanted))})


def _sample(pool: Pool, index: int, n_wanted: int) -> Sample:
    """Return up to ``n_wanted`` prompts of a part that have candidates enough."""
    part = read_pool_part(pool, index, ["duplicate_of"])
    assert pool.embeddings is not None
    artifact = pool.embeddings.artifact
    table, footer = artifact.read(index, ["prompt_id", "sample_idx", "embedding", "status"])
    require_same_version(pool.embeddings, index, footer.parents, pool.candidates.artifact.footer(index).data_sha256)
    table = table.filter(pc.equal(table["status"], "ok")).combine_chunks()
    column = flat(table, "embedding")
    if not pa.types.is_fixed_size_list(column.type):
        raise InputError(
            f"the vectors in {artifact.part_path(index)} are not all of one length", hint="run `prefpipe embed` again"
        )
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size).astype(np.float32)
    pools = part.pools
    rows = find_rows(pools, flat(table, "prompt_id"), flat(table, "sample_idx"), "two embeddings")
    keep_duplicates = pool.groups is not None and bool(pool.groups.artifact.record.identity.get("keep_duplicates"))
    is_first = flat(part.table, "duplicate_of").is_null().to_numpy(zero_copy_only=False)[pools.order] | keep_duplicates
    mask = pools.pad((rows >= 0) & is_first, fill=False) & np.isfinite(part.rewards)
    enough = np.flatnonzero(mask.sum(axis=1) >= LEAST_CANDIDATES)
    chosen = enough[_spread(len(enough), n_wanted)] if len(enough) else enough
    padded = np.zeros((*mask.shape, vectors.shape[1]), np.float32)
    has_vector = rows >= 0
    padded[pools.prompts[has_vector], pools.places[has_vector]] = vectors[rows[has_vector]]
    return Sample(np.where(mask, part.rewards, 0.0)[chosen], padded[chosen], mask[chosen])


def _joined(samples: Sequence[Sample]) -> Sample:
    """Return the prompts of several parts, padded to the largest pool."""
    width = max(sample.mask.shape[1] for sample in samples)

    def widen(values: np.ndarray) -> np.ndarray:
        return np.pad(values, [(0, 0), (0, width - values.shape[1]), *[(0, 0)] * (values.ndim - 2)])

    return Sample(*(np.concatenate([widen(values) for values in column]) for column in zip(*samples, strict=True)))
