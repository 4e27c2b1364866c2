"""Embeddings of an evaluation's two sides: the same embedder, of these candidates, found by key."""

from collections.abc import Sequence

import numpy as np

from prefpipe.artifacts.store import Artifact
from prefpipe.errors import InputError
from prefpipe.stages.shared.candidate_rows import Row, key_of
from prefpipe.stages.shared.recipe import SIDES, RatedCandidates


def check_embeddings(policy: RatedCandidates, baseline: RatedCandidates) -> None:
    """Refuse embeddings of other candidates than the side's, of candidates that were made again, or of two embedders.

    Raises:
        InputError: naming the folder.
    """
    made_by = []
    for name, side in zip(SIDES, (policy, baseline), strict=True):
        if side.embeddings is None:
            continue
        flag = f"--{name}-embeddings {side.embeddings.path}"
        again = f"make them: prefpipe embed {side.candidates.path} -o {side.embeddings.path} ..."
        identity = dict(side.embeddings.record.identity)
        if identity.pop("candidates", None) != side.candidates.record.identity:
            raise InputError(
                f"{flag} was made for other candidates than {side.candidates.path}", hint=again
            )
        for index in side.candidates.present(range(side.candidates.n_parts), allow_partial=False):
            parents = side.embeddings.footer(index).parents
            if parents.get("candidates") != side.candidates.footer(index).data_sha256:
                raise InputError(
                    f"{flag}: part {index} is of another version of {side.candidates.path}",
                    hint=again,
                )
        made_by.append(identity)
    if len(made_by) == len(SIDES) and made_by[0] != made_by[1]:
        raise InputError(
            "--policy-embeddings and --baseline-embeddings are not of the same embedder",
            hint="embed both with the same --model",
        )


def vectors_by_prompt(
    embeddings: Artifact, index: int, rows: Sequence[Row]
) -> dict[str, np.ndarray]:
    """Return each prompt's embeddings (N, D) in the order of ``rows``, without those that have none.

    Args:
        embeddings: checked by `check_embeddings`.
        index: of the part.
        rows: the part's candidates.
    """
    table, _ = embeddings.read(index, ["prompt_id", "sample_idx", "embedding", "status"])
    column = table["embedding"].combine_chunks()
    vectors_ND = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    keys = zip(table["prompt_id"].to_pylist(), table["sample_idx"].to_pylist(), strict=True)
    places = {
        key: place
        for place, (key, status) in enumerate(zip(keys, table["status"].to_pylist(), strict=True))
        if status == "ok"
    }
    found: dict[str, list[int]] = {}
    for row in rows:
        place = places.get(key_of(row))
        found.setdefault(row["prompt_id"], []).extend([] if place is None else [place])
    return {prompt_id: vectors_ND[own] for prompt_id, own in found.items()}
