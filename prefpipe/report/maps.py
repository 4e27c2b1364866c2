"""Maps of single prompts: candidates in two dimensions, what was kept of them, and the texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from prefpipe.errors import PrefpipeError
from prefpipe.report.sources import ReportedPool, parts_on_disk
from prefpipe.stages.inspect.candidate_map import with_coordinates
from prefpipe.stages.inspect.one_prompt import prompt_of_part
from prefpipe.text.untrusted import visible

N_PARTS = 3
TEXT_LIMIT, LEAST_TEXT = 1_500, 120
"""Characters of a response that a report keeps, many and few; the Parquet has the rest."""
ALL_TEXT = 300_000
"""Characters of all responses of all maps: where they are many, each is cut earlier."""
MOST_CANDIDATES = 128
"""Candidates of a prompt that are drawn beside those that a selection kept."""
CANDIDATE_FIELDS = ("sample_idx", "x", "y", "reward", "finish_reason", "model")
KEPT_FIELDS = ("sample_idx", "role", "cluster", "represents")


def maps_of(
    pools: Sequence[ReportedPool], n_prompts: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return maps, and an error for each part or prompt that has none.

    One damaged part must not hide the others. The maps are up to ``n_prompts`` prompts, spread over
    the run, with the candidates' coordinates and every selection of them. Only pools of the same
    candidates and embeddings as the first that has both, and groups, are looked at.

    Keys of a map:

    - ``prompt_id``, ``prompt`` (its last message), ``n_messages``, ``n_candidates``,
      ``n_not_drawn`` (those beyond `MOST_CANDIDATES`),
      ``expression``, ``shares`` (of the variance that each axis shows);
    - ``candidates``: ``sample_idx``, ``x``, ``y``, ``reward``, ``n_tokens``, ``finish_reason``,
      ``model``, ``response``;
    - ``selections``: ``name``, ``strategy``, ``status``, ``reason`` and ``kept``, a list of
      ``sample_idx``, ``role``, ``cluster``, ``represents``.
    """
    mapped = [pool for pool in pools if pool.groups and pool.embeddings and pool.candidates]
    if not mapped or n_prompts < 1:
        return [], []
    # Selections can be laid over each other where every candidate has one place.
    first = mapped[0]
    alike = [
        pool
        for pool in mapped
        if pool.candidates == first.candidates and pool.embeddings == first.embeddings
    ]

    errors: list[dict[str, Any]] = []
    maps = []
    for prompt_id, part in _choose_prompts(first, n_prompts, errors):
        try:
            maps.append(_map(first, alike, prompt_id, part))
        except PrefpipeError as error:
            _add_once(errors, error)
    return _with_texts_cut(maps), errors


def _with_texts_cut(maps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the maps with every response cut so that all of them are about `ALL_TEXT`.

    A response that is cut says by how much.
    """
    n_responses = sum(len(each["candidates"]) for each in maps)
    limit = max(LEAST_TEXT, min(TEXT_LIMIT, ALL_TEXT // max(n_responses, 1)))
    for each in maps:
        for candidate in each["candidates"]:
            candidate["response"] = _beginning(candidate["response"], limit)
    return maps


def _choose_prompts(
    pool: ReportedPool, n_prompts: int, errors: list[dict[str, Any]]
) -> list[tuple[str, int]]:
    """Return prompts that have a group, evenly spread over a few parts, and their parts."""
    assert pool.groups is not None
    try:
        indices = parts_on_disk(pool, needs=["embeddings", "groups"])
    except PrefpipeError as error:
        _add_once(errors, error)
        return []
    if not indices:
        return []

    prompts: list[tuple[str, int]] = []
    for place in sorted({int(place) for place in np.linspace(0, len(indices) - 1, N_PARTS)}):
        part = indices[place]
        try:
            table, _ = pool.groups.artifact.read(part, ["prompt_id", "role"])
        except PrefpipeError as error:
            _add_once(errors, error)
            continue
        # The one row of a prompt that select rejected has no role.
        with_group = table.filter(table["role"].is_valid())
        prompt_ids = pc.unique(with_group["prompt_id"]).to_pylist()
        prompts += [(prompt_id, part) for prompt_id in prompt_ids]

    places = np.linspace(0, len(prompts) - 1, min(n_prompts, len(prompts)))
    return [prompts[int(place)] for place in places]


def _add_once(errors: list[dict[str, Any]], error: PrefpipeError) -> None:
    entry = {"error": error.message, "hint": error.hint}
    if entry not in errors:
        errors.append(entry)


def _map(
    first: ReportedPool, alike: Sequence[ReportedPool], prompt_id: str, part: int
) -> dict[str, Any]:
    """Return the map of one prompt, with the selections of all pools that are alike."""
    assert first.embeddings is not None
    sources = first.prompt_sources
    prompt = prompt_of_part(sources, prompt_id, part)
    prompt = with_coordinates(prompt, first.embeddings.artifact, sources)
    messages = prompt["messages"] or []

    selections = []
    for pool in alike:
        selected = prompt_of_part(pool.prompt_sources, prompt_id, part)
        selections.append(_selection(pool.name, selected))
    candidates = [_candidate(each) for each in prompt["candidates"] if each["x"] is not None]
    drawn = _drawn(candidates, selections)
    return {
        "prompt_id": prompt_id,
        "prompt": _beginning(messages[-1]["content"] if messages else "", TEXT_LIMIT),
        "n_messages": len(messages),
        "expression": prompt["ranked_by"],
        "shares": prompt["map"]["shares"],
        "n_candidates": prompt["n_candidates"],
        "n_not_drawn": len(candidates) - len(drawn),
        "candidates": drawn,
        "selections": selections,
    }


def _drawn(
    candidates: list[dict[str, Any]], selections: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the candidates that a map shows: all that were kept, and an even sample of others."""
    kept = {item["sample_idx"] for selection in selections for item in selection["kept"]}
    others = [each["sample_idx"] for each in candidates if each["sample_idx"] not in kept]
    n_shown = min(MOST_CANDIDATES, len(others))
    shown = {others[int(place)] for place in np.linspace(0, len(others) - 1, n_shown)}
    return [each for each in candidates if each["sample_idx"] in kept | shown]


def _candidate(entry: Mapping[str, Any]) -> dict[str, Any]:
    candidate = {name: entry[name] for name in CANDIDATE_FIELDS}
    candidate["n_tokens"] = entry["n_response_tokens"]
    candidate["response"] = entry["response"] or ""
    return candidate


def _selection(name: str, prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a selection kept of a prompt."""
    group = prompt["group"] or {"strategy": None, "status": "no group", "reason": None}
    kept = [entry for entry in prompt["candidates"] if entry["role"] is not None]
    return {
        "name": name,
        "strategy": group["strategy"],
        "status": group["status"],
        "reason": group.get("reason"),
        "kept": [{field: entry[field] for field in KEPT_FIELDS} for entry in kept],
    }


def _beginning(text: str | None, limit: int) -> str:
    """Return how a text begins, its control characters as signs, and how much more there is."""
    text = text or ""
    shown = visible(text[:limit])
    n_more = len(text) - limit
    return f"{shown} … ({n_more:,} more characters)" if n_more > 0 else shown
