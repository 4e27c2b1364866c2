"""Case, commas, beginnings and ends, quotes, JSON and regular expressions."""

import time

import pytest

from prefpipe.text.checks.formats import (
    REGEX_TIMEOUT_S,
    EndsWith,
    Json,
    Lowercase,
    NoCommas,
    Quoted,
    Regex,
    StartsWith,
    TitleCase,
    Uppercase,
)
from prefpipe.text.checks.grading import CheckedResponse


def score(check, text):
    return check.grade(CheckedResponse(text)).score


def test_case_is_graded_by_the_share_of_words():
    assert score(Lowercase(), "all small 123") == 1.0
    assert score(Lowercase(), "One of four wordS") == 2 / 4
    assert score(Uppercase(), "ALL BIG, 1 of 4") == 2 / 3
    assert score(TitleCase(), "The Lord of the rings") == 2 / 3
    assert score(Uppercase(), "ÉTÉ ΑΒΓ ПРИВЕТ") == 1.0


@pytest.mark.parametrize("check", [Lowercase(), Uppercase(), TitleCase()])
@pytest.mark.parametrize("text", ["", "123 !", "你好"])
def test_a_text_without_case_scores_nothing(check, text):
    assert check.grade(CheckedResponse(text)) == (0.0, "no words with upper or lower case")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 1.0), ("no", 1.0), ("a,b", 0.0), ("مرحبا، بك", 0.0), ("你好，", 0.0)],
)
def test_commas_of_all_scripts_are_commas(text, expected):
    assert score(NoCommas(), text) == expected


def test_beginning_and_end_ignore_white_space_and_by_default_case():
    assert score(StartsWith(text="Dear "), "\n dear friend") == 1.0
    assert score(StartsWith(text="Dear", ignore_case=False), "dear friend") == 0.0
    assert score(EndsWith(text="Any more questions?"), "So. any more Questions? \n") == 1.0
    assert EndsWith(text="end").grade(CheckedResponse("the start")) == (0.0, "ends with 'art'")


@pytest.mark.parametrize(
    "text", ['"all of it"', "\u201cal\u201d", " \u00aboui\u00bb\n", "\u201ega\u201c"]
)
def test_one_pair_of_quotes_around_everything_passes(text):
    assert score(Quoted(), text) == 1.0


@pytest.mark.parametrize("text", ["", '"', "'single'", '"half', "\u201cwrong way\u201e"])
def test_responses_not_in_one_pair_of_quotes_are_not_quoted(text):
    assert score(Quoted(), text) == 0.0


@pytest.mark.parametrize(
    "text",
    ['{"a": 1}', " [1, 2]\n", '"x"', "3", "null", '```json\n{"a": 1}\n```', "```\n[]\n```\n"],
)
def test_json_passes_bare_and_in_a_fence(text):
    assert score(Json(), text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{'a': 1}",
        '{"a": 1} so',
        "NaN",
        "[1,]",
        'Here:\n```json\n{"a": 1}\n```',
        "[" * 100_000,
        "\x00",
    ],
)
def test_everything_else_is_not_json_and_says_why(text):
    grade = Json().grade(CheckedResponse(text))
    assert grade.score == 0.0
    assert grade.reason.startswith("not JSON: ")


def test_json_keys_raise_the_grade_one_by_one():
    check = Json(required=("a", "b", "c"))
    assert [
        score(check, text)
        for text in ("{}", '{"a":1}', '{"a":1,"b":2}', '{"a":1,"b":2,"c":3}', "[]", "{")
    ] == [
        1 / 4,
        2 / 4,
        3 / 4,
        1.0,
        1 / 4,
        0.0,
    ]
    assert check.grade(CheckedResponse('{"b": 1}')).reason == "valid JSON without 'a', 'c'"


def test_a_fence_can_be_forbidden_and_a_long_integer_is_json():
    assert score(Json(fenced=False), "```json\n{}\n```") == 0.0
    assert score(Json(), "1" * 10_000) == 1.0


def test_regular_expressions_search_or_match_all():
    assert score(Regex(pattern=r"\d{3}"), "call 911 now") == 1.0
    assert score(Regex(pattern=r"\d{3}", mode="fullmatch"), "call 911 now") == 0.0
    assert score(Regex(pattern="YES", ignore_case=True), "oh yes") == 1.0


def test_a_pattern_that_does_not_compile_is_refused():
    with pytest.raises(
        ValueError, match=r"'pattern' '\(a' is not a regular expression: missing \)"
    ):
        Regex(pattern="(a")


@pytest.mark.slow
def test_a_pattern_that_backtracks_without_end_is_stopped():
    began = time.perf_counter()
    grade = Regex(pattern=r"(x+x+)+y?\Z[^x]").grade(CheckedResponse("x" * 5000))
    assert time.perf_counter() - began < REGEX_TIMEOUT_S + 10
    assert grade.score == 0.0
    assert "took more than" in grade.reason
