"""What progress says of the time left."""

import time

import pytest

from prefpipe.cli.stderr import Rates, progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose one number is the time."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_first_unit_does_not_count_for_the_pace(clock: list[float]) -> None:
    rates = Rates()
    clock[0] += 60  # a model is loaded
    rates.add(1, {})
    clock[0] += 4
    rates.add(2, {"n_tokens": 640.0})
    assert rates.describe(7) == "about 8 s left, 10 tokens/s"


def test_nothing_is_said_of_the_time_left_where_units_end_in_bunches(clock: list[float]) -> None:
    rates = Rates(in_bunches=True)
    clock[0] += 60
    for _ in range(3):
        rates.add(1, {"n_tokens": 200.0})
        assert rates.describe(4) == ""
    rates.add(1, {"n_tokens": 200.0})
    assert rates.describe(4) == "about 0 s left, 13 tokens/s"


def test_lines_in_a_log_end_with_what_is_known(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("generate: part", 2, in_bunches=True) as advance:
        for _ in range(2):
            clock[0] += 6
            advance(1)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "generate: part 1 of 2 done, 6 s so far"
    assert last == "generate: part 2 of 2 done, 12 s so far, about 0 s left"
