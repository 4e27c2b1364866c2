"""The fingerprint of a run: the sha256 of the canonical JSON of its identity.

The identity of a run holds what can change its rows: stage, stage VERSION, the config's identity
fields, parents' identities, content hashes of models, tokenizers and chat templates. Batch sizes,
devices, workers and paths are not in it.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys, no spaces, ASCII only.

    Raises:
        ValueError: a value is NaN or infinite, which JSON does not have.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Return the sha256 (64 hexadecimal digits) of the canonical JSON of an identity."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one level with dotted keys.

    A list is a leaf, unless it holds nothing but mappings: then its positions are keys.
    """
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        value = {str(position): item for position, item in enumerate(value)}

    # an empty mapping inside is a leaf, so that it differs from none at all
    is_leaf = not isinstance(value, Mapping) or (not value and prefix != "")
    if is_leaf:
        return {prefix: value}

    leaves: dict[str, Any] = {}
    for key, item in value.items():
        leaves |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return leaves


ABSENT = object()
"""The value of a field that only one of two identities has; None is a value like any other."""


class FieldDifference(NamedTuple):
    """A field in which two identities differ, with its dotted key and both values."""

    key: str
    before: Any
    after: Any

    def worded(self, before: str, after: str) -> str:
        """Return the difference as a line, such as ``temperature: 0.8 on disk, 1.0 requested``.

        Args:
            before: what the first identity is called, such as "on disk".
            after: what the other one is called.
        """
        # long values are shown where they differ, not from their beginning
        place = _first_difference(_json_of(self.before), _json_of(self.after))
        old, new = shorten(self.before, around=place), shorten(self.after, around=place)
        return f"{self.key}: {old} {before}, {new} {after}"


def field_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[FieldDifference]:
    """Return the fields in which two identities differ, by key; [] when fingerprints are alike."""
    old, new = flatten(before), flatten(after)
    differences = []
    for key in sorted(old.keys() | new.keys()):
        difference = FieldDifference(key, old.get(key, ABSENT), new.get(key, ABSENT))
        # 1, 1.0 and True are equal in Python and not in JSON, of which the fingerprint is made
        if _json_of(difference.before) != _json_of(difference.after):
            differences.append(difference)
    return differences


def _json_of(value: Any) -> str:
    return "absent" if value is ABSENT else canonical_json(value)


def _first_difference(text: str, other: str) -> int:
    for place, (letter, other_letter) in enumerate(zip(text, other, strict=False)):
        if letter != other_letter:
            return place
    return 0


def shorten(value: Any, limit: int = 60, around: int = 0) -> str:
    """Return a value's JSON; of a long one ``limit`` characters around a place in it."""
    if value is ABSENT:
        return "absent"
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= limit:
        return text

    start = max(0, min(around - limit // 2, len(text) - limit))
    end = start + limit
    before = "..." if start else ""
    after = "..." if end < len(text) else ""
    return before + text[start:end] + after
