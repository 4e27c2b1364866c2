"""The candidates of one prompt in two dimensions: coordinates from their embeddings."""

from collections.abc import Mapping
from shlex import quote
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.artifacts.store import Artifact
from prefpipe.errors import InputError
from prefpipe.maths.statistics.projection import project
from prefpipe.stages.inspect.one_prompt import PromptSources
from prefpipe.stages.shared.pool_index import flat

AGAIN_HINT = (
    "pass the embeddings of these candidates, or make them with `prefpipe embed CANDIDATES ...`"
)


def with_coordinates(
    prompt: Mapping[str, Any], embeddings: Artifact, sources: PromptSources
) -> dict[str, Any]:
    """Return a prompt with ``x`` and ``y`` for each candidate, and ``map``: what the axes show.

    ``x`` and ``y`` are null where a candidate has no embedding. ``map`` has ``n_points``,
    ``n_dimensions`` and ``shares``, the share of the variance that each axis shows.

    Args:
        prompt: what `prefpipe.stages.inspect.one_prompt.one_prompt` returned.
        embeddings: of the same candidates.
        sources: what the prompt was read from.

    Raises:
        InputError: embeddings of other candidates, an earlier version of them, or none of this
            prompt.
    """
    _refuse_other_candidates(embeddings, sources, prompt["part"])
    vectors = _vectors_by_sample(embeddings, sources, prompt["part"], prompt["prompt_id"])

    # By sample, not by rank: the picture must not depend on the reward, not even in its last digit.
    samples = sorted(entry["sample_idx"] for entry in prompt["candidates"])
    samples = [sample_idx for sample_idx in samples if sample_idx in vectors]
    if not samples:
        raise InputError(
            f"no candidate of prompt {prompt['prompt_id']} has a usable embedding in "
            f"{embeddings.path}",
            hint=f"run `prefpipe inspect {quote(str(embeddings.path))}` to see why",
        )
    projection = project(np.stack([vectors[sample_idx] for sample_idx in samples]))
    coordinates = dict(zip(samples, projection.coordinates.tolist(), strict=True))

    candidates = []
    for entry in prompt["candidates"]:
        x, y = coordinates.get(entry["sample_idx"], (None, None))
        candidates.append({**entry, "x": x, "y": y})

    axes = {
        "embeddings": str(embeddings.path),
        "n_points": len(samples),
        "n_dimensions": projection.n_dimensions,
        "shares": projection.shares.tolist(),
    }
    return {**prompt, "candidates": candidates, "map": axes}


def _refuse_other_candidates(embeddings: Artifact, sources: PromptSources, part: int) -> None:
    """Refuse embeddings of other candidates than the prompt's, or without this part."""
    expected: Any = None
    if sources.candidates is not None:
        expected = sources.candidates.record.identity
    elif sources.groups is not None:
        expected = sources.groups.record.identity.get("candidates")

    is_of_them = embeddings.record.identity.get("candidates") == expected
    if embeddings.n_parts != sources.index.n_parts or not is_of_them:
        raise InputError(
            f"{embeddings.path} was not made for the candidates of {sources.index.path}",
            hint=AGAIN_HINT,
        )
    if embeddings.missing([part]):
        raise InputError(
            f"{embeddings.part_path(part)} does not exist yet",
            hint=f"run `prefpipe status {quote(str(embeddings.path))}`",
        )


def _vectors_by_sample(
    embeddings: Artifact, sources: PromptSources, part: int, prompt_id: str
) -> dict[int, np.ndarray]:
    """Return the prompt's vectors by ``sample_idx``, of responses that the embedder could embed."""
    table, _ = embeddings.read(part, ["prompt_id", "sample_idx", "embedding", "status"])
    candidates = sources.candidates
    if candidates is not None:
        embeddings.footer_made_from(part, candidates, candidates.footer(part).data_sha256)

    is_ok = pc.equal(table["status"], "ok")
    is_of_prompt = pc.equal(table["prompt_id"], prompt_id)
    table = table.filter(pc.and_(is_ok, is_of_prompt))
    column = flat(table, "embedding")
    if not pa.types.is_fixed_size_list(column.type):
        raise InputError(
            f"the vectors in {embeddings.part_path(part)} do not all have the same length",
            hint=AGAIN_HINT,
        )
    vectors = column.flatten().to_numpy(zero_copy_only=False)
    vectors = vectors.reshape(len(column), column.type.list_size)
    return dict(zip(table["sample_idx"].to_pylist(), vectors, strict=True))
