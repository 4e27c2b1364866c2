"""The coordinates of a prompt's candidates are the projection of their own embeddings, joined by key."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.finished_run import N, copy_to, original
from support.pipelines import open_artifact, rows_of

from prefpipe.artifacts.schemas import embeddings_schema
from prefpipe.artifacts.store import Output, Shard, open_output
from prefpipe.errors import InputError
from prefpipe.maths.statistics.projection import project
from prefpipe.stages.inspect.candidate_map import with_coordinates
from prefpipe.stages.inspect.one_prompt import PromptSources, one_prompt


def embeddings_like(
    folder: Path, rows: list[dict], *, dim: int, n_parts: int = 3, **identity
) -> Output:
    """Embeddings with the finished run's identity and these rows in every part."""
    known = open_artifact(original() / "run" / "embeddings").record
    record = replace(known, n_parts=n_parts, identity=known.identity | identity)
    output = open_output(folder, record, shard=Shard(), overwrite=False)
    for index in range(n_parts):
        parents = {
            "candidates": open_artifact(original() / "run" / "candidates").footer(index).data_sha256
        }
        output.write(
            index,
            pa.Table.from_pylist(rows, schema=embeddings_schema(dim, half=True).arrow()),
            counts={},
            parents=parents,
        )
    return output


def row(prompt_id: str, sample_idx: int, vector: list[float], status: str = "ok") -> dict:
    return {
        "prompt_id": prompt_id,
        "sample_idx": sample_idx,
        "embedding": np.array(vector, np.float16),
        "n_tokens": 1,
        "truncated": False,
        "status": status,
        "reason": None,
    }


def sources() -> PromptSources:
    return PromptSources(open_artifact(original() / "run" / "candidates"))


def found_of(prompt_id: str, *kinds: str) -> dict:
    run = original() / "run"
    sources = PromptSources(
        **{kind: open_artifact(run / kind) for kind in kinds or ("candidates", "groups", "scores")}
    )
    return with_coordinates(
        one_prompt(sources, prompt_id), open_artifact(run / "embeddings"), sources
    )


def test_coordinates_are_the_projection_of_the_vectors_joined_by_key() -> None:
    found = found_of("p3")
    vectors = {
        row["sample_idx"]: row["embedding"]
        for row in rows_of(original() / "run" / "embeddings")
        if row["prompt_id"] == "p3"
    }
    expected = project(np.array([vectors[idx] for idx in sorted(vectors)]))
    assert {entry["sample_idx"]: (entry["x"], entry["y"]) for entry in found["candidates"]} == {
        idx: tuple(place)
        for idx, place in zip(sorted(vectors), expected.coordinates.tolist(), strict=True)
    }
    assert found["map"]["shares"] == expected.shares.tolist()
    assert (found["map"]["n_points"], found["map"]["n_dimensions"]) == (N, expected.n_dimensions)


def test_vectors_of_another_status_are_left_out(tmp_path: Path) -> None:
    rows = [
        row("p0", 0, [1, 0]),
        row("p0", 1, [0, 1]),
        row("p0", 2, [0, 0], "empty"),
        row("p1", 3, [1, 1]),
    ]
    found = with_coordinates(
        one_prompt(sources(), "p0"), embeddings_like(tmp_path / "e", rows, dim=2), sources()
    )
    assert {entry["sample_idx"]: entry["x"] is None for entry in found["candidates"]} == {
        0: False,
        1: False,
        2: True,
        3: True,
    }


def test_a_prompt_without_a_vector_is_an_error(tmp_path: Path) -> None:
    embeddings = embeddings_like(tmp_path / "e", [row("p1", 0, [1, 0])], dim=2)
    with pytest.raises(
        InputError, match="no candidate of prompt p0 has a usable embedding in"
    ) as caught:
        with_coordinates(one_prompt(sources(), "p0"), embeddings, sources())
    assert "prefpipe inspect" in (caught.value.hint or "")


def test_embeddings_of_other_candidates_are_refused(tmp_path: Path) -> None:
    for changes in ({"n_parts": 2}, {"candidates": {"stage": "generate"}}):
        embeddings = embeddings_like(
            tmp_path / str(len(changes)) / next(iter(changes)), [], dim=2, **changes
        )
        with pytest.raises(InputError, match="was not made for the candidates of") as caught:
            with_coordinates(one_prompt(sources(), "p0"), embeddings, sources())
        assert "prefpipe embed CANDIDATES" in (caught.value.hint or "")


def test_embeddings_that_are_missing_or_older_are_refused(tmp_path: Path) -> None:
    run = copy_to(tmp_path)
    own = PromptSources(open_artifact(run / "candidates"))
    embeddings = open_artifact(run / "embeddings")
    table, footer = embeddings.read(0)
    output = Output(embeddings.path, embeddings.record)
    output.write(0, table, counts=footer.counts, parents={"candidates": "0" * 64})
    with pytest.raises(InputError, match="was made from another version of"):
        with_coordinates(one_prompt(own, "p0"), embeddings, own)
    embeddings.part_path(0).unlink()
    with pytest.raises(InputError, match="does not exist yet"):
        with_coordinates(one_prompt(own, "p0"), embeddings, own)


def test_vectors_of_several_lengths_are_refused(tmp_path: Path) -> None:
    output = embeddings_like(tmp_path / "e", [], dim=2)
    rows = [
        row("p0", 0, [1, 0]) | {"embedding": [1.0, 0.0]},
        row("p0", 1, [1, 0]) | {"embedding": [1.0]},
    ]
    parents = {"candidates": open_artifact(original() / "run" / "candidates").footer(0).data_sha256}
    columns = list(embeddings_schema(2, half=False).arrow())
    ragged = [
        pa.field("embedding", pa.list_(pa.float32())) if each.name == "embedding" else each
        for each in columns
    ]
    output.write(
        0, pa.Table.from_pylist(rows, schema=pa.schema(ragged)), counts={}, parents=parents
    )
    with pytest.raises(InputError, match="do not all have the same length"):
        with_coordinates(one_prompt(sources(), "p0"), output, sources())
