"""Rows of ``logprobs`` by key, for the stages that take them; nothing heavy is imported."""

from collections.abc import Sequence

import pyarrow.compute as pc

from prefpipe.artifacts.store import Artifact
from prefpipe.stages.shared.candidate_rows import Key


def read_logprobs(artifact: Artifact, indices: Sequence[int]) -> dict[Key, tuple[float, int]]:
    """Return sum and token count of every measured response of some parts, by key."""
    columns = ["prompt_id", "sample_idx", "logp", "n_tokens"]
    logprobs: dict[Key, tuple[float, int]] = {}
    for index in artifact.in_turn(indices):
        table, _ = artifact.read(index, columns)
        measured = table.filter(pc.is_valid(table["logp"]))
        values = (measured[name].to_pylist() for name in columns)
        for prompt_id, sample_idx, logp, n_tokens in zip(*values, strict=True):
            logprobs[prompt_id, sample_idx] = (logp, n_tokens)
    return logprobs
