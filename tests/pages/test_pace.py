"""What is said of the time left and of tokens a second, by a clock that stands still."""

from typing import Any

import pytest

from prefpipe.execution.runtime import Task
from prefpipe.pages.pace import Pace


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pace_of(clock: Clock, total: int = 10, **settings: Any) -> Pace:
    return Pace(Task("generate", "part", total, "run/candidates", **settings), clock)


def test_nothing_is_said_before_the_first_unit(clock: Clock) -> None:
    pace = pace_of(clock)
    clock.now_s += 60
    assert (pace.left_s(), pace.tokens_per_s()) == (None, None)


def test_loading_a_model_is_no_part_of_the_pace(clock: Clock) -> None:
    pace = pace_of(clock)
    with pace.loading():
        clock.now_s += 60
        assert pace.is_loading
    assert not pace.is_loading
    clock.now_s += 4
    pace.add(1, {"n_tokens": 640.0})
    assert pace.elapsed_s == 64
    assert pace.left_s() == 9 * 4
    assert pace.tokens_per_s() == 160


def test_parts_that_end_together_are_not_taken_for_fast_ones(clock: Clock) -> None:
    """Four at a time, every 20 s: behind the fifth one, which is late, 20 s a bunch are left."""
    pace = pace_of(clock, total=12)
    for seconds in (20, 0.1, 0.1, 0.1):
        clock.now_s += seconds
        pace.add(1)
    assert pace.left_s() == pytest.approx(8 * 20.3 / 4)
    for seconds in (19.7, 0.1, 0.1, 0.1):
        clock.now_s += seconds
        pace.add(1)
    assert pace.left_s() == pytest.approx(20)


def test_parts_that_were_under_way_with_the_first_one_are_not_taken_for_fast_ones(
    clock: Clock,
) -> None:
    """Behind 200 s three more end after 10 s each; then one takes 50 s, and that is the pace."""
    pace = pace_of(clock)
    for seconds in (200, 10, 10, 10):
        clock.now_s += seconds
        pace.add(1)
    assert pace.left_s() == 6 * 230 / 4
    for _ in range(4):
        clock.now_s += 50
        pace.add(1)
    assert pace.left_s() == 2 * (430 - 220) / 5


def test_the_first_units_of_workers_hold_the_models_that_they_load(clock: Clock) -> None:
    pace = pace_of(clock, first_is_slow=True)
    clock.now_s += 60
    pace.add(1, {"n_tokens": 100.0})
    pace.add(1, {"n_tokens": 100.0})
    assert (pace.left_s(), pace.tokens_per_s()) == (None, None)
    for _ in range(20):
        clock.now_s += 8
        pace.add(0)
    pace.add(2, {"n_tokens": 320.0})
    assert pace.left_s() == 6 * 80
    assert pace.tokens_per_s() == 2


def test_the_time_left_goes_down_and_is_not_said_of_a_last_part_that_is_late(clock: Clock) -> None:
    pace = pace_of(clock, total=3)
    clock.now_s += 10
    pace.add(1)
    assert pace.left_s() == 20
    clock.now_s += 4
    assert pace.left_s() == 16
    clock.now_s += 30  # the second one is late; the third one takes its time in any case
    assert pace.left_s() == 10
    pace.add(1)
    clock.now_s += 100
    assert pace.left_s() is None
    pace.add(1)
    assert (pace.is_done, pace.left_s()) == (True, None)


def test_tokens_a_second_are_of_the_last_minute(clock: Clock) -> None:
    pace = pace_of(clock, total=100)
    for n_tokens in (300.0, 300.0, 300.0, 30.0, 30.0, 30.0):
        clock.now_s += 20
        pace.add(1, {"n_tokens": n_tokens})
    assert pace.tokens_per_s() == 90 / 60


def test_nothing_is_said_where_parts_end_in_bunches_until_all_have(clock: Clock) -> None:
    pace = pace_of(clock, total=4, in_bunches=True)
    clock.now_s += 50
    for _ in range(3):
        pace.add(1, {"n_tokens": 200.0})
        assert (pace.left_s(), pace.tokens_per_s()) == (None, None)
    pace.add(1, {"n_tokens": 200.0})
    assert pace.tokens_per_s() == 16


def test_a_last_part_that_is_small_counts_as_what_it_is(clock: Clock) -> None:
    """Two parts, of 32 prompts and of 8: behind the first one a quarter of its time is left."""
    pace = pace_of(clock, total=2, last_share=0.25)
    clock.now_s += 400
    pace.add(1)
    assert pace.left_s() == 100
    clock.now_s += 60
    assert pace.left_s() == 40
    clock.now_s += 60  # it is late
    assert pace.left_s() is None
