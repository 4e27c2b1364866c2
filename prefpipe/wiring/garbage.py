"""How often Python collects garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = 10_000
"""New objects between two looks; Python has 700."""


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """Collect garbage less often, until the context is left.

    For a command that loads much and frees little: loaded objects are not garbage, but would be
    scanned again and again while more is loaded.
    """
    before = gc.get_threshold()
    gc.set_threshold(SELDOM, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
