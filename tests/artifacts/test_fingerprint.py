"""The fingerprint changes when, and only when, the identity does, and a difference can always be named."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefpipe.artifacts.fingerprint import (
    canonical_json,
    field_differences,
    fingerprint_of,
    flatten,
    shorten,
)

plain_names = st.text("abcXYZ_", min_size=1, max_size=4)
patiently = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_names, inner, max_size=3),
    max_leaves=8,
)
identities = st.dictionaries(plain_names, values, max_size=5)


def test_the_fingerprint_is_the_sha256_of_json_with_sorted_keys() -> None:
    identity = {"b": [1, 2.5, None, True], "a": {"ü": "x"}}
    text = '{"a":{"\\u00fc":"x"},"b":[1,2.5,null,true]}'
    assert canonical_json(identity) == text
    assert fingerprint_of(identity) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.slow
@patiently
@given(identities)
def test_order_of_keys_and_a_round_trip_through_json_change_nothing(
    identity: dict[str, Any],
) -> None:
    backwards = dict(reversed(identity.items()))
    assert fingerprint_of(backwards) == fingerprint_of(identity)
    assert fingerprint_of(json.loads(json.dumps(identity))) == fingerprint_of(identity)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_json_does_not_have_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint_of({"x": [value]})


def test_flatten_makes_dotted_keys_of_mappings_and_of_lists_of_mappings() -> None:
    nested = {
        "a": {"b": {"c": 1}},
        "models": [{"name": "x"}, {"name": "y", "n": 2}],
        "list": [1, 2],
        "none": {},
        "empty": [],
    }
    assert flatten(nested) == {
        "a.b.c": 1,
        "models.0.name": "x",
        "models.1.name": "y",
        "models.1.n": 2,
        "list": [1, 2],
        "none": {},
        "empty": [],
    }


def test_a_difference_names_the_field_and_both_values() -> None:
    on_disk = {"temperature": 0.8, "n": 8, "model": {"hash": "aa"}, "gone": True, "same": [1]}
    wanted = {"temperature": 1.0, "n": 8, "model": {"hash": "bb"}, "new": None, "same": [1]}
    differences = field_differences(on_disk, wanted)
    assert [item.key for item in differences] == ["gone", "model.hash", "new", "temperature"]
    assert [item.worded("on disk", "requested") for item in differences] == [
        "gone: true on disk, absent requested",
        'model.hash: "aa" on disk, "bb" requested',
        "new: absent on disk, null requested",
        "temperature: 0.8 on disk, 1.0 requested",
    ]


@pytest.mark.parametrize(
    ("before", "after"), [(1, 1.0), (1, True), (0, False), ({}, None), ("absent", 1), (0.0, -0.0)]
)
def test_values_that_python_confuses_differ(before: Any, after: Any) -> None:
    """Equal in Python and different in JSON is a different fingerprint, which must not end in an empty list of differences."""
    assert fingerprint_of({"x": before}) != fingerprint_of({"x": after})
    assert field_differences({"x": before}, {"x": after})
    assert field_differences({}, {"x": before})


@pytest.mark.slow
@patiently
@given(identities, identities)
def test_there_is_a_difference_to_name_exactly_when_fingerprints_differ(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert bool(field_differences(one, other)) == (fingerprint_of(one) != fingerprint_of(other))
    assert field_differences(one, one) == []


def test_long_texts_are_shown_where_they_differ() -> None:
    """Two system prompts of 400 characters with one word changed: the word is in the line."""
    text = "be kind and brief " * 20
    [difference] = field_differences(
        {"system_prompt": text + "please"}, {"system_prompt": text + "always"}
    )
    line = difference.worded("in training", "in evaluation")
    assert line.startswith("system_prompt: ...")
    assert "please" in line
    assert "always" in line
    assert len(line) < 200


@patiently
@given(st.text(max_size=300), st.integers(0, 400), st.integers(20, 80))
def test_shortened_values_are_short(text: str, place: int, limit: int) -> None:
    short = shorten(text, limit, place)
    whole = json.dumps(text, ensure_ascii=False)
    assert short == whole if len(whole) <= limit else len(short) <= limit + 2 * len("...")
    assert short.removeprefix("...").removesuffix("...").strip(".") in whole
