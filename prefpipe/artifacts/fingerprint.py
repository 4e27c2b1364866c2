"""What makes two runs the same run: canonical JSON of the identity, and its sha256.

The identity of a run holds what can change its rows: stage, stage VERSION, the config's identity fields,
parents' identities, content hashes of models, tokenizers and chat templates. Batch sizes, devices, workers
and paths are not in it.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys, no spaces, ASCII only; NaN and infinity are refused (ValueError)."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Return the sha256 (64 hexadecimal digits) of the canonical JSON of an identity."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one level with dotted keys; lists are leaves unless they hold mappings."""
    if isinstance(value, Mapping) and (value or not prefix):
        rows: dict[str, Any] = {}
        for key in value:
            rows |= flatten(value[key], f"{prefix}.{key}" if prefix else str(key))
        return rows
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return flatten({str(position): item for position, item in enumerate(value)}, prefix)
    return {prefix: value}


def describe_difference(on_disk: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return a line for each field that differs: ``temperature: 0.8 on disk, 1.0 asked for``."""
    old, new = flatten(on_disk), flatten(wanted)
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = (
            canonical_json(side[key]) if key in side else "absent" for side in (old, new)
        )
        if before != after:
            place = next(
                (
                    i
                    for i, pair in enumerate(zip(before, after, strict=False))
                    if pair[0] != pair[1]
                ),
                0,
            )
            shown = [
                shorten(side[key], around=place) if key in side else "absent" for side in (old, new)
            ]
            lines.append(f"{key}: {shown[0]} on disk, {shown[1]} asked for")
    return lines


def shorten(value: Any, limit: int = 60, around: int = 0) -> str:
    """Return a value's JSON; of a long one what is around a place, where it differs from another."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= limit:
        return text
    start = max(0, min(around - limit // 2, len(text) - limit))
    return (
        ("..." if start else "")
        + text[start : start + limit]
        + ("..." if start + limit < len(text) else "")
    )
