"""JSON of programs that write NaN and infinity."""

import pytest

from prefpipe.artifacts.finite_json import parse_finite_json


def test_what_is_no_number_is_null_and_all_else_stays() -> None:
    assert parse_finite_json(
        '{"a": [NaN, Infinity, -Infinity, 1e999, -1e999, 1.5, 3, null, "NaN"]}'
    ) == {"a": [None, None, None, None, None, 1.5, 3, None, "NaN"]}
    assert parse_finite_json(b'"\xc3\xa9"') == "é"


@pytest.mark.parametrize("text", ["", "{", "nan", b"\xff"])
def test_texts_that_are_no_json_are_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_finite_json(text)
