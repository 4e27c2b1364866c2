"""docs/verification.md: one row each strategy and objective, what it is compared with, and how far off it was.

``make verification`` writes the page again.
"""

import math
from pathlib import Path
from typing import NamedTuple

from prefpipe.maths.objectives.registry import ALL_OBJECTIVES
from prefpipe.maths.selection.registry import STRATEGIES
from support.loss_groups import VARIANTS
from support.strategies_a_second_time import PEERS as STRATEGY_PEERS
from support.trl_losses import PEERS as TRL_PEERS
from support.trl_losses import deviation_from_reward_trainer, deviation_from_trl
from support.written_out_losses import Deviation, deviation_from_formula

PAGE = Path(__file__).parents[2] / "docs" / "verification.md"
SEEDS = range(3)
AMPO, ULTRA = "arXiv 2502.18293", "arXiv 2603.09692"
STRATEGY_SOURCES = {
    "opt-select": AMPO,
    "coreset": AMPO,
    "bottom-k": AMPO,
    "best-worst": "arXiv 2405.14734",
    "reward-position": "arXiv 2502.16825",
    "delta": "arXiv 2507.06187",
    "delta-ucb": ULTRA,
    "drts": ULTRA,
    "delta-quantile": f"public code of {ULTRA}",
    "best-of-n": "arXiv 2304.06767",
}
"""As in docs/explanation/methods.md; the others are the plain rules of their names."""

HEAD = """# Verification: what each strategy and objective is compared with

This page is for anyone who asks whether a number can be trusted. `make verification` measures and writes this
page again. `tests/test_verification.py` fails if a row is missing or a figure has grown. Formulas
and sources: [methods.md](explanation/methods.md#3-selection),
[objectives.md](explanation/objectives.md).

## Strategies

Each rule is computed a second time, in plain Python or by another solver, on 24 pools of 3 to 12
responses; every second pool has tied rewards (`tests/support/strategies_a_second_time.py`).
*Different* counts pools with another choice. The deviation has the unit that the row names.
`tests/maths/selection/` tests properties over the whole table: order of candidates, constants
added to rewards, ties, sizes, seeds.

| strategy | source | compared with | different | largest deviation |
|---|---|---|---|---|
"""

MIDDLE = """
Shares of drawn choices are over 1,500 seeds; the bound is five standard errors. `coreset`
minimises by local search, so its inertia may lie above the minimum. Larger pools against HiGHS,
with times: [benchmarks.md](benchmarks.md).

## Objectives

The table has the largest absolute difference of value and gradient, in float64; all are held to
1e-6.

*Written out* is the formula a second time with loops over Python floats, gradients from its
differences (steps of 1e-5, so about 1e-10 is their own error), six ragged prompts, three seeds,
every variant of the knobs (`tests/support/written_out_losses.py`); `ddo` with its target held
fixed. *TRL* is its own methods on the same log-probabilities of tokens, seven pairs, three seeds,
the gradient in every token (`tests/support/trl_losses.py`); `-` if TRL has no such loss.
Properties over the whole table: `tests/maths/objectives/test_loss_properties.py`.

| objective | source | written out: value, gradient | TRL: value, gradient |
|---|---|---|---|
"""


class Row(NamedTuple):
    """A row of a table: cells that stand fast, and figures that are measured."""

    name: str
    words: tuple[str, ...]
    figures: tuple[float, ...]

    def line(self) -> str:
        """Return the row in Markdown."""
        return f"| {self.name} | {' | '.join(self.words)} |"


def figure(value: float) -> str:
    """Return one digit, rounded up: a figure is a bound on what was measured."""
    if value == 0:
        return "0"
    power = math.floor(math.log10(value))
    digit = math.ceil(round(value / 10.0**power, 6))
    if digit == 10:
        digit, power = 1, power + 1
    return f"{digit}e{power:+03d}" if power < -2 else f"{digit * 10.0**power:g}"


def strategy_row(name: str) -> Row:
    """Measure a strategy."""
    peer = STRATEGY_PEERS[name]
    distance = peer.measure()
    deviation = "-" if distance.deviation is None else figure(distance.deviation)
    different = f"{distance.n_different} of {distance.n_pools}"
    figures = () if distance.deviation is None else (distance.deviation,)
    source = STRATEGY_SOURCES.get(name, "-")
    return Row(name, (source, peer.reference, different, deviation), figures)


def _largest(deviations: list[Deviation]) -> Deviation:
    return Deviation(
        max(each.value for each in deviations), max(each.gradient for each in deviations)
    )


def _pair(deviation: Deviation) -> str:
    return f"{figure(deviation.value)}, {figure(deviation.gradient)}"


def objective_row(name: str) -> Row:
    """Measure an objective against its formula and against TRL."""
    variants = [variant for variant, (of, _) in VARIANTS.items() if of == name]
    written = _largest(
        [deviation_from_formula(variant, seed) for variant in variants for seed in SEEDS]
    )
    cells, figures = [], [*written]
    for peer in TRL_PEERS:
        if peer.name == name:
            found = _largest([deviation_from_trl(peer, seed) for seed in SEEDS])
            cells.append(f"{peer.words}: {_pair(found)}")
            figures += found
    if name in ("bt", "bt-margin"):
        found = _largest([deviation_from_reward_trainer(name, seed) for seed in SEEDS])
        cells.append(f"RewardTrainer: {_pair(found)}")
        figures += found
    source = ALL_OBJECTIVES[name].source
    return Row(name, (source, _pair(written), "; ".join(cells) or "-"), tuple(figures))


def term_row() -> Row:
    """Measure ``--sft-weight`` beside other objectives."""
    cells, figures = [], []
    for peer in TRL_PEERS:
        if peer.name == "--sft-weight":
            found = _largest([deviation_from_trl(peer, seed) for seed in SEEDS])
            cells.append(f"{peer.words}: {_pair(found)}")
            figures += found
    return Row("`--sft-weight`", ("arXiv 2604.15602", "as sft", "; ".join(cells)), tuple(figures))


def strategy_rows() -> list[Row]:
    """Measure all strategies."""
    return [strategy_row(name) for name in STRATEGIES]


def objective_rows() -> list[Row]:
    """Measure all objectives, and the term beside them."""
    return [*(objective_row(name) for name in ALL_OBJECTIVES), term_row()]


def page_of(strategies: list[Row], objectives: list[Row]) -> str:
    """Return the page."""
    tables = ["\n".join(row.line() for row in rows) for rows in (strategies, objectives)]
    return HEAD + tables[0] + "\n" + MIDDLE + tables[1] + "\n"


if __name__ == "__main__":
    PAGE.write_text(page_of(strategy_rows(), objective_rows()), encoding="utf-8")
