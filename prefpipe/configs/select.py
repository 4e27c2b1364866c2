"""The knobs of ``prefpipe select``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prefpipe.configs.options import flag_named, option
from prefpipe.configs.stage import PartwiseConfig
from prefpipe.maths.selection.registry import PAIR_RULES, STRATEGIES

NEED_EMBEDDINGS = tuple(each.name for each in STRATEGIES.values() if each.needs == "embeddings")
ONE_POSITIVE = tuple(each.name for each in STRATEGIES.values() if each.n_positives == 1)
NO_K = tuple(each.name for each in STRATEGIES.values() if not each.takes_k)
AMONG_ALL = ("all-ordered", "adjacent")
"""Pair rules between any two kept responses.

Under them a least margin is one of pairs, and no candidate is too close to the positive.
"""
_ONE_STRATEGY = {
    "weight_temperature": ("opt-select", "paper"),
    "cover": ("opt-select", "negatives"),
    "time_limit": ("opt-select", 10.0),
    "n_init": ("coreset", 10),
}
"""Knobs that one strategy reads, with their defaults."""
_OF_COVERAGE = ("weight_temperature", "cover")
"""Of them, those that also scale the coverage that every strategy reports."""


@dataclass(frozen=True, kw_only=True)
class SelectConfig(PartwiseConfig):
    """Keep a small informative group of each prompt's candidates."""

    stage: ClassVar[str] = "select"
    VERSION: ClassVar[int] = 2

    candidates: Path = option(
        positional=True,
        identity=False,
        metavar="CANDIDATES",
        help="folder written by generate or import",
    )
    scores: Path = option(identity=False, metavar="DIR", help="folder written by score or import")
    embeddings: Path | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="folder written by embed; coreset and opt-select need it, with the others it explains "
        "what they cover",
    )
    strategy: str = option(
        "opt-select", choices=tuple(STRATEGIES), help="which candidates become negatives"
    )
    k: int = option(7, minimum=1, help="negatives a prompt")
    positives: int = option(1, minimum=1, help="positives a prompt: the highest rewards")
    reward: str | None = option(
        None,
        metavar="EXPRESSION",
        help="reward as an expression over scorers, `checks + 0.5*z(reward_model)`; z() is per "
        "prompt; default the only scorer",
    )
    min_margin: float = option(
        0.0,
        minimum=0,
        help="smallest reward difference between the lowest positive and a negative, and within a "
        "pair; with --pairs all-ordered or adjacent of pairs alone",
    )
    near_duplicates: float | None = option(
        None,
        above=0,
        maximum=1,
        help="cosine similarity from which two responses count as one, 0.98 say; the higher reward "
        "stays; default never",
    )
    weight_temperature: str = option(
        "paper",
        help="opt-select weights exp((mean r - r)/T): paper is T = 1, auto is T = std(r), or a "
        "number",
    )
    cover: str = option(
        "negatives", choices=("negatives", "all"), help="opt-select: whom the negatives stand for"
    )
    n_init: int = option(10, minimum=1, help="coreset: k-means starts, of which the best is taken")
    time_limit: float = option(
        10.0,
        above=0,
        help="opt-select: seconds a prompt for the proof, counted in work, the same on any machine",
    )
    pairs: str | None = option(
        None,
        choices=PAIR_RULES,
        help="pairs for pairwise objectives and exports; default every positive with every "
        "negative",
    )
    max_pairs: int | None = option(
        None, minimum=1, help="at most so many pairs a prompt, spread over their margins"
    )
    keep_truncated: bool = option(
        True, help="let responses that were cut at the token limit take part"
    )
    keep_duplicates: bool = option(
        False, help="let identical texts of one prompt take part more than once"
    )
    seed: int = option(
        0, minimum=0, help="seed of random, best-random, of k-means and of --pairs best-random"
    )
    workers: int | None = option(
        None,
        identity=False,
        minimum=1,
        help="parts selected at the same time, in threads; default the processor's cores, at "
        "most 8",
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.strategy in NEED_EMBEDDINGS and self.embeddings is None:
            problems.append(f"--strategy {self.strategy} needs --embeddings")
        if self.near_duplicates is not None and self.embeddings is None:
            problems.append("--near-duplicates needs --embeddings")
        if self.strategy in ONE_POSITIVE and self.positives != 1:
            problems.append(
                f"--strategy {self.strategy} keeps one pair, so --positives must be 1, "
                f"not {self.positives}"
            )
        if self.weight_temperature not in ("paper", "auto") and not _is_positive(
            self.weight_temperature
        ):
            problems.append(
                "--weight-temperature must be paper, auto or a number above 0, "
                f"not {self.weight_temperature}"
            )

        # a knob that was given and would change nothing is a misunderstanding
        if self.k != SelectConfig.k and self.strategy in NO_K:
            problems.append(f"--k does not apply to --strategy {self.strategy}")
        for name in self._idle_knobs():
            strategy, default = _ONE_STRATEGY[name]
            if getattr(self, name) != default:
                problems.append(
                    f"{flag_named(name)} belongs to --strategy {strategy}, not to {self.strategy}"
                )
        return problems

    def _idle_knobs(self) -> list[str]:
        """Return the knobs of other strategies, which change nothing under this one."""
        idle = []
        for name, (strategy, _) in _ONE_STRATEGY.items():
            scales_coverage = name in _OF_COVERAGE and self.embeddings is not None
            if self.strategy != strategy and not scales_coverage:
                idle.append(name)
        return idle

    def identity(self) -> dict[str, Any]:
        """Return the fields that can change the answer under this strategy, and those alone."""
        identity = super().identity()
        for name in self._idle_knobs():
            del identity[name]
        if self.strategy in NO_K:
            del identity["k"]

        # the margin once left candidates out under these rules too: groups made so are others
        if self.min_margin > 0 and self.pairs in AMONG_ALL:
            identity["min_margin_of"] = "pairs"
        return identity


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
