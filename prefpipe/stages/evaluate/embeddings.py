"""Embeddings of an evaluation's two sides: the same embedder, of these candidates, found by key."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from prefpipe.artifacts.store import Artifact
from prefpipe.errors import InputError
from prefpipe.stages.shared.candidate_rows import Row, key_of
from prefpipe.stages.shared.recipe import SIDES, RatedCandidates


def check_embeddings(policy: RatedCandidates, baseline: RatedCandidates) -> None:
    """Refuse embeddings that do not belong to the sides' candidates.

    That is, embeddings of other candidates, of candidates made again since, or of two embedders.

    Raises:
        InputError: naming the folder.
    """
    embedders: list[dict[str, Any]] = []
    for name, side in zip(SIDES, (policy, baseline), strict=True):
        if side.embeddings is None:
            continue
        flag = f"--{name}-embeddings {side.embeddings.path}"
        again = (
            f"make them with `prefpipe embed {side.candidates.path} -o {side.embeddings.path} ..."
        )

        identity = dict(side.embeddings.record.identity)
        if identity.pop("candidates", None) != side.candidates.record.identity:
            raise InputError(
                f"{flag} was not made for the candidates in {side.candidates.path}", hint=again
            )
        for index in side.candidates.present(range(side.candidates.n_parts), allow_partial=False):
            parents = side.embeddings.footer(index).parents
            if parents.get("candidates") != side.candidates.footer(index).data_sha256:
                raise InputError(
                    f"{flag}: part {index} was made from another version of {side.candidates.path}",
                    hint=again,
                )
        embedders.append(identity)  # without its candidates: what is left is the embedder

    if len(embedders) == len(SIDES) and embedders[0] != embedders[1]:
        raise InputError(
            "--policy-embeddings and --baseline-embeddings were not made by the same embedder",
            hint="embed both with the same --model",
        )


def vectors_by_prompt(
    embeddings: Artifact, index: int, rows: Sequence[Row]
) -> dict[str, np.ndarray]:
    """Return each prompt's embeddings (N, D) in the order of ``rows``.

    Rows without an embedding are left out.

    Args:
        embeddings: checked by `check_embeddings`.
        index: of the part.
        rows: the part's candidates.
    """
    columns = ["prompt_id", "sample_idx", "status"]
    table, _ = embeddings.read(index, [*columns, "embedding"])
    vectors = table["embedding"].combine_chunks()
    vectors_ND = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
    places: dict[tuple[str, int], int] = {}
    values = (table[name].to_pylist() for name in columns)
    for place, (prompt_id, sample_idx, status) in enumerate(zip(*values, strict=True)):
        if status == "ok":
            places[prompt_id, sample_idx] = place

    places_of_prompt: dict[str, list[int]] = {}
    for row in rows:
        places_of_row = places_of_prompt.setdefault(row["prompt_id"], [])
        place_of_row = places.get(key_of(row))
        if place_of_row is not None:
            places_of_row.append(place_of_row)
    return {prompt_id: vectors_ND[rows_N] for prompt_id, rows_N in places_of_prompt.items()}
