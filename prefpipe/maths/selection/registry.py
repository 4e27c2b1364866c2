"""Strategies, pair rules and prompt filters by name, and what each asks for; without NumPy.

Flags, checks and docs read this table. The functions stand in `strategies.RULES` and in `pairs`, by
the same names: they need arrays and compiled loops, which ``prefpipe select --help`` should not
wait for.

A new strategy is a row here, a function of `Pools` in `strategies`, and a row in
docs/explanation/methods.md.
"""

from typing import Literal, NamedTuple

from prefpipe.errors import UsageError
from prefpipe.spelling import nearest

PAIR_RULES = ("positive-negative", "best-worst", "best-random", "all-ordered", "adjacent")


class Strategy(NamedTuple):
    """What a strategy asks for.

    Attributes:
        name: as ``--strategy`` takes it.
        needs: ``"rewards"``; or beside them ``"embeddings"`` (or distances), ``"uncertainty"``, the
            spread of several scorers, or ``"samplers"``, which model gave each response.
        n_positives: how many it keeps; None where the caller decides.
        n_negatives: how many it chooses; None where the caller decides, by ``k``.
    """

    name: str
    needs: Literal["rewards", "embeddings", "uncertainty", "samplers"] = "rewards"
    n_positives: int | None = None
    n_negatives: int | Literal["all"] | None = None

    @property
    def takes_k(self) -> bool:
        """Whether the caller says how many negatives are chosen."""
        return self.n_negatives is None

    @property
    def draws(self) -> bool:
        """Whether chance has a part in it, and so a seed."""
        return self.name in ("coreset", "random", "best-random", "drts")

    @property
    def decides_positives(self) -> bool:
        """Whether its positives are others than the highest rewards."""
        return self.needs in ("uncertainty", "samplers")

    @property
    def takes_margin(self) -> bool:
        """Whether a least margin between positives and negatives means something under it."""
        return self.needs != "uncertainty" and self.n_negatives != 0

    @property
    def n_spared(self) -> int:
        """Candidates that are always left to be negatives."""
        return 0 if self.n_negatives == 0 else 1

    @property
    def accepts_ties(self) -> bool:
        """Whether equal rewards leave it a choice: it ranks nothing, or needs no negative."""
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
    """What a prompt must be like, by `prefpipe.maths.selection.prompt_filters`; None: anything.

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
        """Whether any prompt can be left out."""
        return any(value is not None for value in self[:6])

    @property
    def are_quantiles(self) -> bool:
        """Whether a threshold depends on all prompts."""
        return any(value is not None for value in self[:3])


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
