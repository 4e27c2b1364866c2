"""Rows of ``logprobs`` by key, for the stages that take them; nothing heavy is imported."""

from collections.abc import Sequence

from prefpipe.artifacts.store import Artifact


def read_logprobs(
    artifact: Artifact, indices: Sequence[int]
) -> dict[tuple[str, int], tuple[float, int]]:
    """Return sum and token count of every measured response of some parts, by ``(prompt_id, sample_idx)``."""
    found: dict[tuple[str, int], tuple[float, int]] = {}
    for index in indices:
        table, _ = artifact.read(index, ["prompt_id", "sample_idx", "logp", "n_tokens"])
        for row in table.to_pylist():
            if row["logp"] is not None:
                found[row["prompt_id"], row["sample_idx"]] = (row["logp"], row["n_tokens"])
    return found
