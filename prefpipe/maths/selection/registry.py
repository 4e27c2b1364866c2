"""Strategies, pair rules and prompt filters by name, with their needs; without NumPy.

Flags, checks and docs read this table. The functions are in `strategies.RULES` and in `pairs`,
under the same names: they need arrays and compiled loops, which ``prefpipe select --help`` should
not wait for.

A new strategy is a row here, a function of `Pools` in `strategies`, and a row in
docs/explanation/methods.md.
"""

from typing import Literal, NamedTuple

from prefpipe.errors import UsageError
from prefpipe.spelling import nearest

PAIR_RULES = ("positive-negative", "best-worst", "best-random", "all-ordered", "adjacent")


class Strategy(NamedTuple):
    """What a strategy needs.

    Attributes:
        name: as ``--strategy`` takes it.
        needs: ``"rewards"``; or beside them ``"embeddings"`` (or distances), ``"uncertainty"``, the
            spread of several scorers, or ``"samplers"``, which model gave each response.
        n_positives: how many it keeps; None if the caller decides.
        n_negatives: how many it chooses; None if the caller decides with ``k``.
    """

    name: str
    needs: Literal["rewards", "embeddings", "uncertainty", "samplers"] = "rewards"
    n_positives: int | None = None
    n_negatives: int | Literal["all"] | None = None

    @property
    def takes_k(self) -> bool:
        """Whether the caller sets the number of negatives."""
        return self.n_negatives is None

    @property
    def draws(self) -> bool:
        """Whether it is random and so needs a seed."""
        return self.name in ("coreset", "random", "best-random", "drts")

    @property
    def decides_positives(self) -> bool:
        """Whether its positives differ from the highest rewards."""
        return self.needs in ("uncertainty", "samplers")

    @property
    def takes_margin(self) -> bool:
        """Whether a minimum margin between positives and negatives applies."""
        return self.needs != "uncertainty" and self.n_negatives != 0

    @property
    def n_spared(self) -> int:
        """Candidates that always remain for negatives."""
        return 0 if self.n_negatives == 0 else 1

    @property
    def accepts_ties(self) -> bool:
        """Whether it works with equal rewards: it does not rank, or needs no negative."""
        return self.needs == "samplers" or self.n_negatives == 0


_ROWS = (
    Strategy("opt-select", needs="embeddings"),
    Strategy("coreset", needs="embeddings"),
    Strategy("bottom-k"),
    Strategy("random"),
    Strategy("best-worst", n_positives=1, n_negatives=1),
    Strategy("top-bottom"),
    Strategy("best-random", n_positives=1, n_negatives=1),
    Strategy("all", n_negatives="all"),
    Strategy("reward-position"),
    Strategy("delta", needs="samplers"),
    Strategy("delta-ucb", needs="uncertainty", n_positives=1, n_negatives=1),
    Strategy("drts", needs="uncertainty", n_positives=1, n_negatives=1),
    Strategy("delta-quantile", needs="uncertainty", n_positives=1, n_negatives=1),
    Strategy("best-of-n", n_negatives=0),
)
STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in _ROWS}
"""Every strategy by its name."""


class PromptFilters(NamedTuple):
    """Conditions on prompts, see `prefpipe.maths.selection.prompt_filters`; None: no condition.

    The first three are quantiles over prompts, in (0, 1); ``min_spread`` is in units of the reward;
    pass rates are in [0, 1], and a response passes from ``pass_reward`` on.
    """

    min_rejected_reward: float | None = None
    min_rejected_tokens: float | None = None
    max_gap: float | None = None
    min_spread: float | None = None
    min_pass_rate: float | None = None
    max_pass_rate: float | None = None
    pass_reward: float = 1.0

    @property
    def are_any(self) -> bool:
        """Whether any filter is set."""
        return any(value is not None for value in self[:6])

    @property
    def are_quantiles(self) -> bool:
        """Whether a threshold depends on all prompts."""
        return any(value is not None for value in self[:3])


def find_strategy(name: str) -> Strategy:
    """Return the strategy called ``name``.

    Raises:
        UsageError: there is none; the hint gives the nearest name, or all names.
    """
    if isinstance(name, str) and name in STRATEGIES:
        return STRATEGIES[name]
    match = nearest(name, STRATEGIES)
    hint = f"strategies: {', '.join(STRATEGIES)}" if match is None else f"did you mean {match}?"
    raise UsageError(f"unknown selection strategy {name!r}", hint=hint)
