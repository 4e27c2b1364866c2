"""docs/verification.md names exactly what is registered, and what it says was measured still holds."""

import re

import pytest
from support.strategies_a_second_time import PEERS
from support.verification_page import PAGE, objective_rows, page_of, strategy_rows

from prefpipe.maths.objectives.registry import ALL_OBJECTIVES
from prefpipe.maths.selection.registry import STRATEGIES

MEASURED = re.compile(r"(?<=[ (])(?:\d+(?:\.\d+)?(?:e[+-]\d+)?)(?=, | \||;)")
"""A figure of the tables: it stands before a comma, a semicolon or the end of a cell."""
GROWN = 30.0
"""Times the figure of the page: rounding differs from machine to machine, a fault by more."""
ROUNDING = 1e-12


def test_every_strategy_has_a_peer_and_every_row_is_of_something_registered() -> None:
    assert set(PEERS) == set(STRATEGIES)
    names = re.findall(r"^\| `?([a-z-]+)`? \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert names == [
        "strategy",
        *STRATEGIES,
        "objective",
        *ALL_OBJECTIVES,
        "--sft-weight",
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_is_measured_now_is_what_the_page_says() -> None:
    """Words to the letter, choices too; deviations up to rounding, and within their bounds."""
    pytest.importorskip("trl")
    strategies, objectives = strategy_rows(), objective_rows()
    for row in strategies:
        assert "| 0 of " in row.line(), row
        assert all(value <= PEERS[row.name].bound for value in row.figures), row
    for row in objectives:
        assert all(value <= 1e-6 for value in row.figures), row

    now, then = page_of(strategies, objectives), PAGE.read_text(encoding="utf-8")
    assert MEASURED.sub("#", now) == MEASURED.sub("#", then), "run `make verification`"
    pairs = zip(MEASURED.findall(now), MEASURED.findall(then), strict=True)
    for new, old in pairs:
        assert float(new) <= max(GROWN * float(old), ROUNDING), (new, old)
