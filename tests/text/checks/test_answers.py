"""Final answers, exact and numeric, wherever a model writes them."""

import math

import pytest

from prefpipe.text.checks.answers import (
    ExactAnswer,
    NumericAnswer,
    final_number,
    marked_answers,
    normalise_answer,
    read_numbers,
)
from prefpipe.text.checks.grading import CheckedResponse


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", []),
        ("-3 and +4, \u22125", [-3, 4, -5]),
        ("1,234.5 1,2,3 12,34 1,234,567", [1234.5, 1, 2, 3, 12, 34, 1234567]),
        (".5 1e-3 2.5E2 7.", [0.5, 1e-3, 250, 7]),
        ("$5, \u20ac-6, -$7.50", [5, -6, -7.5]),
        ("3/4 of 1 1/2, -2/8", [3 / 4, 1.5, -1 / 4]),
        ("3 / 4", [3 / 4]),
        ("3/\n4", [3, 4]),
        ("3/  4", [3, 4]),
        (r"\frac{3}{4} \dfrac{-1}{2} 12{,}000 5\%", [3 / 4, -1 / 2, 12000, 5]),
        ("3-5 2024-05-06", [3, 5, 2024, 5, 6]),
        ("x2 v1.2.3 a_9", []),
        ("**12**, (13), 14km, 20%.", [12, 13, 14, 20]),
        ("1/0", [math.nan]),
        ("1e999 " + "9" * 400, [math.inf, math.inf]),
    ],
)
def test_numbers_are_read_as_people_write_them(text, numbers):
    assert [value for value, _ in read_numbers(text)] == pytest.approx(numbers, nan_ok=True)


def test_percent_belongs_to_the_number_before_it():
    assert read_numbers("1,2% or 3 percent or 4") == [(1, False), (2, True), (3, True), (4, False)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("First 3, then 4, so 7", 7),
        ("The answer is 7, because 3 + 4 = 8 - 1.", 7),
        ("Answer: **7**\nIt took 3 steps.", 7),
        ("so 3\n#### 7\n", 7),
        (r"answer is 5, no: $\boxed{\frac{7}{1}}$ in 2 steps", 7),
        (r"\boxed{x = {7}} \boxed{none}, 8", 8),
        ("The answer is seven. 7", 7),
        ("no number", None),
    ],
)
def test_the_final_number_is_the_marked_one_or_the_last(text, number):
    found = final_number(text)
    assert (found and found[0]) == number


def test_numeric_answers_have_tolerances():
    def score(text, **parameters):
        return NumericAnswer(**parameters).grade(CheckedResponse(text)).score

    assert score("It is 0.3333", answer=1 / 3) == 0.0
    assert score("It is 0.3333", answer=1 / 3, tolerance=1e-3) == 1.0
    assert score("About 1,010", answer=1000, relative_tolerance=0.01) == 1.0
    assert score("About 1,011", answer=1000, relative_tolerance=0.01) == 0.0
    assert score("50%", answer=50) == score("50%", answer=0.5) == 1.0
    assert score("1/0", answer=0) == score("9" * 1000, answer=9) == score("", answer=0) == 0.0


def test_negative_tolerances_are_refused():
    with pytest.raises(ValueError, match=r"tolerance\n.*greater than or equal to 0"):
        NumericAnswer(answer=1.0, tolerance=-1.0)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("  The Eiffel\tTower! ", "the eiffel tower"),
        ("\uff30\uff41\uff52\uff49\uff53", "paris"),
        ("-5, (3.5) don't", "-5 3.5 don't"),
        ("?!", ""),
        ("...a...b...", "a...b"),
    ],
)
def test_normalise_answer_keeps_words_and_signs_of_numbers(text, form):
    assert normalise_answer(text) == form


@pytest.mark.parametrize(
    "text",
    [
        "Paris",
        " **PARIS**.",
        "I think the answer is Paris. It is the capital.",
        "Final answer: Paris\nThanks!",
        "Rome? No.\n#### paris",
        r"$\boxed{Paris}$",
        "La Paz",
    ],
)
def test_an_exact_answer_may_be_marked_or_alone(text):
    assert ExactAnswer(answer=("paris", "la paz")).grade(CheckedResponse(text)).score == 1.0


@pytest.mark.parametrize(
    "text", ["", "Not Paris", "Paris is nice", "Paris\nis the answer", "#### Rome"]
)
def test_other_texts_are_not_the_exact_answer(text):
    assert ExactAnswer(answer=("Paris",)).grade(CheckedResponse(text)).score == 0.0


def test_an_answer_can_be_compared_letter_by_letter():
    check = ExactAnswer(answer=("C#",), normalise=False)
    assert [check.grade(CheckedResponse(text)).score for text in ("C#\n", "c#", "C")] == [
        1.0,
        0.0,
        0.0,
    ]


def test_an_answer_that_normalises_to_nothing_is_refused():
    with pytest.raises(ValueError, match=r"'answer' '\?' is empty once normalised"):
        ExactAnswer(answer=("?",))
    with pytest.raises(ValueError, match="'answer' needs a text"):
        ExactAnswer(answer=())


def test_the_most_explicit_mark_comes_first():
    assert list(marked_answers("answer: a\n#### b \\boxed{c{d}}")) == [
        "c{d}",
        " b \\boxed{c{d}}",
        "a",
    ]


def test_a_long_answer_is_shortened_in_the_reason():
    assert len(ExactAnswer(answer=("a",)).grade(CheckedResponse("b" * 100_000)).reason) < 80
