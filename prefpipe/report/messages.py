"""The messages of a story: unreadable items, and artifacts by their names in the report."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefpipe.report.sources import ReportedArtifact

MESSAGE_KEYS = ("error", "hint", "reasons", "trouble")
"""Keys of a story that hold messages."""


def error_lines(story: Mapping[str, Any]) -> list[str]:
    """Return a line for everything that could not be read."""
    lines: list[str] = []
    for section in ("pools", "maps", "win_rates"):
        lines += _errors_in(story[section], section)
    lines += [f"maps: {prompt['error']}" for prompt in story["maps_left_out"]]
    for entry in story["lineage"]:
        lines += [f"{entry['name']}: {trouble}" for trouble in entry["trouble"]]
        if entry["state"] == "corrupt":
            lines += [f"{entry['name']} is corrupt: {reason}" for reason in entry["reasons"][:1]]
    return lines


def _errors_in(value: Any, place: str) -> Iterator[str]:
    """Yield the errors anywhere in a value, each with its place."""
    if isinstance(value, Mapping):
        if isinstance(value.get("error"), str):
            yield f"{place}: {value['error']}"
        for name, item in value.items():
            yield from _errors_in(item, f"{place} {name}".strip())
    elif isinstance(value, list):
        for item in value:
            is_named = isinstance(item, Mapping) and "name" in item
            yield from _errors_in(item, f"{place} {item['name']}" if is_named else place)


def with_names(story: Mapping[str, Any], artifacts: Sequence[ReportedArtifact]) -> dict[str, Any]:
    """Return the story with artifacts in messages under their names in the report.

    Their paths depend on the folder from which the command is run, and the same artifacts give the
    same report.
    """
    names = _names_by_spelling(artifacts)
    # The longest first, because run/scores is not part of run; and whole paths, not the ends of
    # others.
    spellings = "|".join(re.escape(each) for each in sorted(names, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w/.-])(?:{spellings})(?=[/\s,:;)]|$)")

    def named(value: Any, *, is_message: bool = False) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: names[match[0]], value) if is_message else value
        if isinstance(value, Mapping):
            return {key: named(item, is_message=key in MESSAGE_KEYS) for key, item in value.items()}
        if isinstance(value, list):
            return [named(item, is_message=is_message) for item in value]
        return value

    return {key: named(item, is_message=key in MESSAGE_KEYS) for key, item in story.items()}


def _names_by_spelling(artifacts: Sequence[ReportedArtifact]) -> dict[str, str]:
    """Return the name of each artifact for every spelling of its path in messages."""
    here = Path.cwd()
    names: dict[str, str] = {}
    for item in artifacts:
        path = item.artifact.path
        resolved = path.resolve()
        spellings = [str(path), str(resolved)]
        if isinstance(resolved, Path) and resolved.is_relative_to(here):
            spellings.append(str(resolved.relative_to(here)))
        names |= {spelling: item.name for spelling in spellings if spelling != "."}
    return names
