"""Checks are read with every problem told, and rate any string with a number in [0, 1]."""

import json
import time
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefpipe.errors import InputError
from prefpipe.text.checks.column import CHECKS, CheckResult, parse_checks, rate

EVERY_CHECK = [
    {"type": "words", "min": 1, "max": 50},
    {"type": "chars", "max": 100},
    {"type": "sentences", "exactly": 2},
    {"type": "paragraphs", "exactly": 1},
    {"type": "bullets", "exactly": 3, "style": "bullet"},
    {"type": "lowercase"},
    {"type": "uppercase"},
    {"type": "title_case"},
    {"type": "no_commas"},
    {"type": "starts_with", "text": "Dear"},
    {"type": "ends_with", "text": "Yours"},
    {"type": "quoted"},
    {"type": "json", "required": ["a"]},
    {"type": "regex", "pattern": r"^\w+[.!?]?$", "mode": "fullmatch"},
    {"type": "keywords", "all": ["a"], "any": ["b", "c"], "exclude": ["d"]},
    {"type": "keyword_frequency", "keyword": "the", "max": 3},
    {"type": "language", "language": "en"},
    {"type": "exact_answer", "answer": "Paris"},
    {"type": "numeric_answer", "answer": 42},
    {"type": "python", "function": "tests_text_function:half"},
]
ODD_RESPONSES = {
    "empty": "",
    "one token": "a",
    "white space": " \t\n",
    "NUL": "a\x00b\x00" * 3,
    "emoji": "👩🏽\u200d🚀👍 fine 😀",
    "right to left": "\u202bمرحبا, 42 שלום\u202c.",
    "lone surrogate": "a\ud800b 3",
    "controls": "".join(map(chr, range(32))) + "\x7f\x85\u2028\ufeff",
    "combining": "e" + "\u0301" * 1000,
    "100,000 letters": "a" * 100_000,
    "100,000 words": "The cat, " * 11_111,
    "100,000 digits": "1" * 100_000,
    "100,000 commas": "1," * 50_000,
    "100,000 thousands": "111," * 25_000 + "1",
    "100,000 full stops": "." * 99_999 + "x",
    "100,000 stops in a word": "a" + "." * 99_998 + "b",
    "100,000 spaces": " " * 99_999 + "x",
    "100,000 new lines": "\n" * 100_000,
    "100,000 brackets": "[" * 100_000,
    "100,000 fences": "```\n" * 25_000,
    "100,000 boxes": "\\boxed{" * 14_286,
    "100,000 slashes": "1/" * 50_000,
    "100,000 answers": "answer is " * 10_000,
    "100,000 quotes": '"' * 100_000,
    "100,000 bullets": "- " * 50_000,
    "100,000 signs": "-" * 100_000,
    "100,000 emoji": "😀" * 100_000,
    "100,000 accents": "\u0301" * 100_000,
}


@pytest.fixture(scope="module", autouse=True)
def _function(tmp_path_factory):
    folder = tmp_path_factory.mktemp("functions")
    (folder / "tests_text_function.py").write_text(
        "def half(response, messages, columns):\n    return 0.5\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


@pytest.fixture(scope="module")
def every_check():
    return parse_checks(EVERY_CHECK, "prompt 'p'", trust_python_checks=True)


def test_the_examples_here_cover_every_type():
    assert [item["type"] for item in EVERY_CHECK] == list(CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD_RESPONSES)
def test_odd_responses_are_rated_and_rated_fast(name, every_check):
    rate("warm", every_check)
    began = time.process_time()
    rating = rate(ODD_RESPONSES[name], every_check)
    elapsed_s = time.process_time() - began
    assert all(0.0 <= result.score <= 1.0 for result in rating.results)
    assert 0.0 <= rating.reward <= 1.0
    assert elapsed_s < 3.0, f"{elapsed_s:.2f} s of CPU"


@pytest.mark.slow
@given(response=st.text(st.characters(codec=None), max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_string_is_rated(response, every_check):
    rating = rate(response, every_check)
    assert all(0.0 <= result.score <= 1.0 and result.reason for result in rating.results)
    assert 0.0 <= rating.reward <= 1.0


PIECES = st.sampled_from(
    [
        *'0123456789.,-+/%$\\{}#" \n`*[]()',
        "answer is ",
        "\\boxed{",
        "\\frac{",
        "####",
        "1e9",
        "```",
        "Dr.",
    ]
)


@pytest.mark.slow
@given(response=st.lists(PIECES, max_size=40).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_mixture_of_marks_and_digits_is_rated(response, every_check):
    assert 0.0 <= rate(response, every_check).reward <= 1.0


def test_the_reward_is_the_weighted_mean():
    checks = parse_checks(
        [{"type": "words", "max": 2, "weight": 3}, {"type": "no_commas"}], "prompt 'p'"
    )
    rating = rate("one two three", checks)
    assert rating.reward == pytest.approx((3 * (1 - 1 / 2) + 1 * 1) / (3 + 1))
    assert rating.results == (
        CheckResult("words", 0.5, 3.0, "found 3, wanted at most 2"),
        CheckResult("no_commas", 1.0, 1.0, "0 commas"),
    )


def test_strict_checks_know_no_half_measures():
    checks = parse_checks([{"type": "words", "max": 2, "strict": True}], "prompt 'p'")
    assert [rate(text, checks).reward for text in ("a b", "a b c")] == [1.0, 0.0]


def test_an_empty_response_is_rated_like_any_other():
    assert rate("", parse_checks([{"type": "words", "max": 2}], "p")).reward == 1.0
    assert rate("", parse_checks([{"type": "words", "min": 1, "max": 2}], "p")).reward == 0.0


def test_a_users_function_sees_the_conversation_and_the_columns(tmp_path, monkeypatch):
    (tmp_path / "tests_text_sees.py").write_text(
        "def sees(response, messages, columns):\n    return columns['k'] == messages[0]['content'] == response\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    checks = parse_checks(
        [{"type": "python", "function": "tests_text_sees:sees"}], "p", trust_python_checks=True
    )
    assert rate("x", checks, [{"role": "user", "content": "x"}], {"k": "x"}).reward == 1.0
    assert rate("y", checks, [{"role": "user", "content": "x"}], {"k": "x"}).reward == 0.0


@pytest.mark.parametrize("value", [None, "", "  ", "null", "[]", [], ()])
def test_no_checks_are_no_checks(value):
    assert parse_checks(value, "prompt 'p'") == ()


def test_json_text_a_list_and_a_table_with_nulls_read_alike():
    items = [
        {"type": "words", "max": 5, "text": None, "weight": None},
        {"type": "ends_with", "max": None, "text": "end"},
    ]
    plain = parse_checks([{"type": "words", "max": 5.0}, {"type": "ends_with", "text": "end"}], "p")
    assert parse_checks(items, "p") == parse_checks(json.dumps(items), "p") == plain


def test_all_problems_of_a_prompt_are_reported_at_once():
    value = [
        {"type": "word", "max": 3},
        {"type": "words", "weight": -1},
        {"type": "regex", "patern": "("},
        "words",
        {},
    ]
    with pytest.raises(InputError) as caught:
        parse_checks(value, "prompt 'p7'")
    known = ", ".join(CHECKS)
    assert caught.value.message.split("\n  ") == [
        "prompt 'p7': column 'checks': 7 problems",
        f"[0]: unknown type 'word' (did you mean 'words'?); known: {known}",
        "[1] words: 'weight' should be greater than or equal to 0, got -1",
        "[1] words: one of 'min', 'max', 'exactly' is needed",
        "[2] regex: unknown parameter 'patern' (did you mean 'pattern'?); it takes pattern, mode, ignore_case",
        "[2] regex: parameter 'pattern' is missing",
        "[3]: must be an object, got 'words'",
        f"[4]: unknown type None; known: {known}",
    ]
    assert "docs/guides/checks.md" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[{", "prompt 'p': column 'checks': not JSON: "),
        ('{"type": "quoted"}', "must be a list of objects, got dict"),
        (3, "must be a list of objects, got int: 3"),
        ([{"type": "quoted", "weight": 0}], "all weights are 0"),
        ([{"type": "quoted", "weight": "x"}], "'weight' should be a valid number, got 'x'"),
        ([{"type": "quoted", "strict": "yes"}], "'strict' should be a valid boolean, got 'yes'"),
        ([{"type": "regex", "pattern": "("}], r"'pattern' '\(' is not a regular expression"),
        ([{"type": "language", "language": "deutsch"}], "unknown language 'deutsch'"),
        (
            [{"type": "python", "function": "os:system"}],
            "names code to run: pass --trust-python-checks",
        ),
        ([{"type": "python", "function": 7}], "'function' should be a valid string, got 7"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_prompt_named(value, message):
    with pytest.raises(InputError, match=message):
        parse_checks(value, "prompt 'p'")


def test_the_reference_page_has_every_check_and_parameter():
    page = (Path(__file__).parents[3] / "docs" / "guides" / "checks.md").read_text(encoding="utf-8")
    for name, check in CHECKS.items():
        row = next((line for line in page.splitlines() if line.startswith(f"| `{name}` |")), "")
        assert row, f"docs/guides/checks.md has no row for {name!r}"
        missing = [field.name for field in fields(check) if f"`{field.name}`" not in row]
        assert not missing, f"docs/guides/checks.md: the row of {name!r} lacks {missing}"


def test_every_example_on_the_reference_page_can_be_read():
    page = (Path(__file__).parents[3] / "docs" / "guides" / "checks.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `") and '{"type"' in line]
    examples = [row[row.index('{"type"') : row.index("`", row.index('{"type"'))] for row in rows]
    assert len(examples) >= len(CHECKS)
    for example in examples:
        item = json.loads(example)
        if item["type"] != "python":
            parse_checks([item], example)
