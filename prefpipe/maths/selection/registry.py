"""The table of strategies and pair rules: names, and what each asks for; read without NumPy.

Flags, checks and docs read this table. The functions stand in `strategies.RULES` and in `pairs`, by
the same names: they need arrays and compiled loops, which ``prefpipe select --help`` should not
wait for.

A new strategy is a row here, a function of `Pools` in `strategies`, and a row in docs/methods.md.
"""

from typing import Literal, NamedTuple

from prefpipe.errors import UsageError
from prefpipe.spelling import nearest

PAIR_RULES = ("positive-negative", "best-worst", "best-random", "all-ordered", "adjacent")


class Strategy(NamedTuple):
    """What a strategy asks for.

    Attributes:
        name: as ``--strategy`` takes it.
        needs: ``"rewards"``, or ``"embeddings"`` (or distances).
        n_positives: how many it keeps; None where the caller decides.
        n_negatives: how many it chooses; None where the caller decides, by ``k``.
    """

    name: str
    needs: Literal["rewards", "embeddings"] = "rewards"
    n_positives: int | None = None
    n_negatives: int | Literal["all"] | None = None

    @property
    def takes_k(self) -> bool:
        """Whether the caller says how many negatives are chosen."""
        return self.n_negatives is None


_ROWS = (
    Strategy("opt-select", needs="embeddings"),
    Strategy("coreset", needs="embeddings"),
    Strategy("bottom-k"),
    Strategy("random"),
    Strategy("best-worst", n_positives=1, n_negatives=1),
    Strategy("top-bottom"),
    Strategy("best-random", n_positives=1, n_negatives=1),
    Strategy("all", n_negatives="all"),
)
STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in _ROWS}
"""Every strategy by its name."""


def find_strategy(name: str) -> Strategy:
    """Return the strategy called ``name``.

    Raises:
        UsageError: there is none; the hint is the nearest name, or all of them.
    """
    if isinstance(name, str) and name in STRATEGIES:
        return STRATEGIES[name]
    match = nearest(name, STRATEGIES)
    hint = f"strategies: {', '.join(STRATEGIES)}" if match is None else f"did you mean {match}?"
    raise UsageError(f"unknown selection strategy {name!r}", hint=hint)
