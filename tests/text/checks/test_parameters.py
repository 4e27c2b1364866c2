"""Parameters are read strictly, tables' nulls and whole floats are forgiven, and every problem is told."""

from typing import Literal

import pytest
from pydantic.dataclasses import dataclass

from prefpipe.text.checks.parameters import Count, Number, Switch, Text, Texts, read_parameters


@dataclass(frozen=True, kw_only=True)
class Example:
    needed: Text
    size: Count | None = None
    share: Number = 0.5
    names: Texts = ()
    on: Switch = False
    way: Literal["left", "right"] = "left"

    def __post_init__(self):
        if self.needed == "never":
            raise ValueError("'needed' can be anything but that")


def read(**given):
    problems: list[str] = []
    return read_parameters(Example, given, problems), problems


def test_good_values_become_fields():
    check, problems = read(needed="x", size=3.0, share=1, names=["a", "b"], on=True, way="right")
    assert problems == []
    assert check == Example(needed="x", size=3, share=1.0, names=("a", "b"), on=True, way="right")


def test_nulls_are_absent_even_for_parameters_of_other_checks():
    assert read(needed="x", size=None, pattern=None) == (Example(needed="x"), [])


def test_one_text_stands_for_a_list_of_one():
    assert read(needed="x", names="only")[0].names == ("only",)


def test_every_problem_of_the_parameters_is_reported():
    check, problems = read(siz=3, share="much", on=1, names=[1], way="up", size=2.5)
    assert check is None
    assert problems == [
        "unknown parameter 'siz' (did you mean 'size'?); it takes needed, size, share, names, on, way",
        "parameter 'needed' is missing",
        "'size' should be a valid integer, got 2.5",
        "'share' should be a valid number, got 'much'",
        "'names' should be a valid string, got 1",
        "'on' should be a valid boolean, got 1",
        "'way' should be 'left' or 'right', got 'up'",
    ]


@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), "3", [3]])
def test_what_is_no_whole_number_is_refused(value):
    assert read(needed="x", size=value)[1] == [f"'size' should be a valid integer, got {value!r}"]


@pytest.mark.parametrize("value", [True, float("nan"), float("-inf"), None])
def test_numbers_that_are_not_finite_are_refused(value):
    assert len(read(needed="x", share=value)[1]) == (value is not None)


def test_bounds_are_named_with_the_value():
    assert read(needed="x", size=-1)[1] == ["'size' should be greater than or equal to 0, got -1"]
    assert read(needed="")[1] == ["'needed' string should have at least 1 character, got ''"]


def test_lists_of_texts_are_lists_of_texts():
    assert read(needed="x", names={"a": 1})[1] == [
        "'names' should be a text or a list of texts, got {'a': 1}"
    ]
    assert read(needed="x", names=3)[1] == ["'names' should be a text or a list of texts, got 3"]


def test_a_check_may_refuse_what_its_parameters_say_together():
    assert read(needed="never") == (None, ["'needed' can be anything but that"])
