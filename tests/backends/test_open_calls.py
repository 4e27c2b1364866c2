"""How far the calls of an engine are while it works on them; what is read is read by the engine's own thread."""

import pytest

from prefpipe.backends.fake import FakeGenerator
from prefpipe.backends.open_calls import NONE_OPEN, Answered, OpenCalls, answered_by


def test_calls_count_while_they_are_open() -> None:
    calls = OpenCalls()
    assert calls.answered() == NONE_OPEN
    with calls.call(64) as count, calls.call(8) as count_of_other:
        assert calls.answered() == Answered(0, 72)
        count(16)
        count_of_other(2)
        count(16)
        assert calls.answered() == Answered(34, 72)
    assert calls.answered() == NONE_OPEN


def test_a_call_that_fails_leaves_nothing_behind() -> None:
    calls = OpenCalls()
    with pytest.raises(ZeroDivisionError), calls.call(64) as count:
        count(16 // 0)
    assert calls.answered() == NONE_OPEN


def test_an_engine_that_does_not_count_says_nothing() -> None:
    assert answered_by(object()) == NONE_OPEN
    assert answered_by(None) == NONE_OPEN
    assert answered_by(FakeGenerator()) == NONE_OPEN
