"""Keywords are found as whole words in any script, and counted."""

import pytest

from prefpipe.text.checks.grading import CheckedResponse
from prefpipe.text.checks.keywords import KeywordFrequency, Keywords, count_keyword


@pytest.mark.parametrize(
    ("text", "keyword", "n"),
    [
        ("The cat, the CAT and the category", "cat", 2),
        ("I like C++ and c++!", "C++", 2),
        ("New\n  York, new york", "new york", 2),
        ("STRASSE straße", "Straße", 2),
        ("cafe\u0301", "caf\u00e9", 1),
        ("我喜欢北京的天气", "北京", 1),
        ("под, подъезд", "под", 1),
        ("a.b", ".", 0),
        ("x_cat", "cat", 0),
        ("", "cat", 0),
    ],
)
def test_whole_words_are_counted(text, keyword, n):
    assert count_keyword(text, keyword) == n


def test_parts_of_words_and_case_count_on_request():
    assert count_keyword("Cat category cat", "cat", whole_words=False) == 3
    assert count_keyword("Cat category cat", "cat", ignore_case=False) == 1


def test_the_grade_is_the_share_of_demands_met():
    check = Keywords(all=("red", "green"), any=("sun", "moon"), exclude=("bad", "worse"))
    assert check.grade(CheckedResponse("Red and green under the moon")) == (
        1.0,
        "all 5 demands met",
    )
    grade = check.grade(CheckedResponse("red and bad"))
    assert grade.score == pytest.approx(1 - 3 / 5)
    assert grade.reason == "lacks 'green'; has 'bad'; has none of 'sun', 'moon'"


def test_keyword_frequency_grades_like_a_count():
    assert (
        KeywordFrequency(keyword="ha", exactly=4).grade(CheckedResponse("ha ha ha hat")).score
        == 3 / 4
    )


@pytest.mark.parametrize("parameters", [{}, {"all": ()}, {"any": (" ",)}])
def test_keywords_without_a_keyword_are_refused(parameters):
    with pytest.raises(ValueError, match="keyword"):
        Keywords(**parameters)


def test_a_blank_keyword_has_no_frequency():
    with pytest.raises(ValueError, match="white space only"):
        KeywordFrequency(keyword=" ", max=1)
