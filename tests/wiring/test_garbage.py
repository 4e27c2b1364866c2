"""Python looks for garbage as often as before, once a command is over."""

import gc

import pytest

from prefpipe.wiring.garbage import SELDOM, collecting_seldom


def test_garbage_is_looked_for_seldom_until_the_context_is_left() -> None:
    before = gc.get_threshold()
    with collecting_seldom():
        assert gc.get_threshold() == (SELDOM, *before[1:])
    assert gc.get_threshold() == before


def test_an_error_leaves_it_as_it_was() -> None:
    before = gc.get_threshold()
    with pytest.raises(ZeroDivisionError), collecting_seldom():
        raise ZeroDivisionError
    assert gc.get_threshold() == before
