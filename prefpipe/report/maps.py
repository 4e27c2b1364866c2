"""Maps of single prompts: their candidates in two dimensions, what each selection kept of them, and the texts."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from prefpipe.errors import PrefpipeError
from prefpipe.report.sources import ReportedPool, parts_on_disk
from prefpipe.stages.inspect.candidate_map import with_coordinates
from prefpipe.stages.inspect.one_prompt import prompt_of_part
from prefpipe.text.untrusted import visible

N_PARTS = 3
TEXT_LIMIT = 1_500
"""Characters of a response that a report keeps; the Parquet has the rest."""


def maps_of(
    pools: Sequence[ReportedPool], n_prompts: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return maps, and an error for each part or prompt that has none: one damaged part must not hide the others.

    The maps are up to ``n_prompts`` prompts, spread over the run, with the candidates' coordinates and every selection of them.

    Only pools of the same candidates and embeddings as the first that has both, and groups, are looked at.

    Keys: ``prompt_id``, ``prompt`` (its last message), ``expression``, ``shares`` (of the variance that each axis shows),
    ``candidates`` (``sample_idx``, ``x``, ``y``, ``reward``, ``n_tokens``, ``finish_reason``, ``response``), and
    ``selections``: ``name``, ``strategy``, ``status`` and ``kept``, a list of ``sample_idx``, ``role``, ``cluster``,
    ``represents``.
    """
    first = next(
        (pool for pool in pools if all((pool.groups, pool.embeddings, pool.candidates))), None
    )
    if first is None or n_prompts < 1:
        return [], []
    alike = [
        pool
        for pool in pools
        if pool.groups
        and (pool.candidates, pool.embeddings) == (first.candidates, first.embeddings)
    ]
    errors: list[dict[str, Any]] = []
    maps = (
        _or_none(errors, _map, first, alike, *chosen)
        for chosen in _choose(first, n_prompts, errors)
    )
    return [each for each in maps if each is not None], errors


def _or_none(errors: list[dict[str, Any]], make: Callable[..., Any], *arguments: Any) -> Any:
    """Return what is made, or None and the error in the list, each message once."""
    try:
        return make(*arguments)
    except PrefpipeError as error:
        told = {"error": error.message, "hint": error.hint}
        errors += [told] * (told not in errors)
        return None


def _choose(
    pool: ReportedPool, n_prompts: int, errors: list[dict[str, Any]]
) -> list[tuple[str, int]]:
    """Return prompts that have a group, evenly spread over a few parts, and their parts."""
    indices = _or_none(errors, partial(parts_on_disk, needs=["embeddings", "groups"]), pool)
    if not indices:
        return []
    parts = [
        indices[place]
        for place in sorted({int(place) for place in np.linspace(0, len(indices) - 1, N_PARTS)})
    ]
    assert pool.groups is not None
    having: list[tuple[str, int]] = []
    for part in parts:
        read = _or_none(errors, pool.groups.artifact.read, part, ["prompt_id", "role"])
        if read is not None:
            ids = dict.fromkeys(read[0].filter(read[0]["role"].is_valid())["prompt_id"].to_pylist())
            having += [(prompt_id, part) for prompt_id in ids]
    places = np.linspace(0, len(having) - 1, min(n_prompts, len(having)))
    return [having[int(place)] for place in places]


def _map(
    first: ReportedPool, alike: Sequence[ReportedPool], prompt_id: str, part: int
) -> dict[str, Any]:
    assert first.embeddings is not None
    found = with_coordinates(
        prompt_of_part(first.sources, prompt_id, part), first.embeddings.artifact, first.sources
    )
    messages = found["messages"] or []
    candidates = [_candidate(entry) for entry in found["candidates"] if entry["x"] is not None]
    return {
        "prompt_id": prompt_id,
        "prompt": _text(messages[-1]["content"] if messages else ""),
        "n_messages": len(messages),
        "expression": found["ranked_by"],
        "shares": found["map"]["shares"],
        "n_candidates": found["n_candidates"],
        "candidates": candidates,
        "selections": [
            _selection(pool, prompt_of_part(pool.sources, prompt_id, part)) for pool in alike
        ],
    }


def _candidate(entry: Mapping[str, Any]) -> dict[str, Any]:
    names = ("sample_idx", "x", "y", "reward", "finish_reason", "model")
    return {name: entry[name] for name in names} | {
        "n_tokens": entry["n_response_tokens"],
        "response": _text(entry["response"]),
    }


def _selection(pool: ReportedPool, found: Mapping[str, Any]) -> dict[str, Any]:
    group = found["group"] or {"strategy": None, "status": "no group", "reason": None}
    names = ("sample_idx", "role", "cluster", "represents")
    kept = [
        {name: entry[name] for name in names}
        for entry in found["candidates"]
        if entry["role"] is not None
    ]
    return {
        "name": pool.name,
        "strategy": group["strategy"],
        "status": group["status"],
        "reason": group.get("reason"),
        "kept": kept,
    }


def _text(text: str | None) -> str:
    """Return the beginning of a text, its control characters as signs, and how much more there is."""
    whole = text or ""
    rest = len(whole) - TEXT_LIMIT
    return visible(whole[:TEXT_LIMIT]) + (f" … ({rest:,} more characters)" if rest > 0 else "")
