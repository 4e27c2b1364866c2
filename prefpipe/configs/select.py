"""The knobs of ``prefpipe select``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prefpipe.configs.options import PartwiseConfig, option

STRATEGIES = (
    "opt-select",
    "coreset",
    "bottom-k",
    "random",
    "best-worst",
    "top-bottom",
    "best-random",
    "all",
)
NEED_EMBEDDINGS = ("opt-select", "coreset")
NO_K = ("best-worst", "best-random", "all")
AMONG_ALL = ("all-ordered", "adjacent")
"""Pair rules between any two kept responses: a least margin is one of pairs, and no candidate is too close to the positive."""
PAIR_RULES = ("positive-negative", "best-worst", "best-random", "all-ordered", "adjacent")
_ONE_STRATEGY = {
    "weight_temperature": ("opt-select", "paper"),
    "cover": ("opt-select", "negatives"),
    "time_limit": ("opt-select", 10.0),
    "n_init": ("coreset", 10),
}
"""Knobs that one strategy reads, with their defaults. The first two also scale the coverage that every strategy reports."""


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
        help="folder written by embed; coreset and opt-select need it, with the others it explains what they cover",
    )
    strategy: str = option(
        "opt-select", choices=STRATEGIES, help="which candidates become negatives"
    )
    k: int = option(7, help="negatives a prompt")
    positives: int = option(1, help="positives a prompt: the highest rewards")
    reward: str | None = option(
        None,
        metavar="EXPRESSION",
        help="reward as an expression over scorers, `checks + 0.5*z(reward_model)`; z() is per prompt; "
        "default the only scorer",
    )
    min_margin: float = option(
        0.0,
        help="smallest reward difference between the lowest positive and a negative, and within a pair; with --pairs "
        "all-ordered or adjacent of pairs alone",
    )
    near_duplicates: float | None = option(
        None,
        help="cosine similarity from which two responses count as one, 0.98 say; the higher reward stays; default never",
    )
    weight_temperature: str = option(
        "paper",
        help="opt-select weights exp((mean r - r)/T): paper is T = 1, auto is T = std(r), or a number",
    )
    cover: str = option(
        "negatives", choices=("negatives", "all"), help="opt-select: whom the negatives stand for"
    )
    n_init: int = option(10, help="coreset: k-means starts, of which the best is taken")
    time_limit: float = option(
        10.0,
        help="opt-select: seconds a prompt for the proof, counted in work, the same on any machine",
    )
    pairs: str | None = option(
        None,
        choices=PAIR_RULES,
        help="pairs for pairwise objectives and exports; default every positive with every negative",
    )
    max_pairs: int | None = option(
        None, help="at most so many pairs a prompt, spread over their margins"
    )
    keep_truncated: bool = option(
        True, help="let responses that were cut at the token limit take part"
    )
    keep_duplicates: bool = option(
        False, help="let identical texts of one prompt take part more than once"
    )
    seed: int = option(0, help="seed of random, best-random, of k-means and of --pairs best-random")
    workers: int | None = option(
        None,
        identity=False,
        help="parts selected at the same time; default the processor's cores, at most 8",
    )

    def problems(self) -> list[str]:
        found = super().problems()
        checks = (
            (self.k >= 1, f"--k must be 1 or more, not {self.k}"),
            (self.positives >= 1, f"--positives must be 1 or more, not {self.positives}"),
            (
                self.strategy not in NEED_EMBEDDINGS or self.embeddings is not None,
                f"--strategy {self.strategy} needs --embeddings",
            ),
            (
                self.near_duplicates is None or self.embeddings is not None,
                "--near-duplicates needs --embeddings",
            ),
            (
                self.near_duplicates is None or 0 < self.near_duplicates <= 1,
                f"--near-duplicates must be above 0 and at most 1, not {self.near_duplicates}",
            ),
            (self.seed >= 0, f"--seed must be 0 or more, not {self.seed}"),
            (
                self.strategy not in ("best-worst", "best-random") or self.positives == 1,
                f"--strategy {self.strategy} keeps one pair, so --positives must be 1, not {self.positives}",
            ),
            (self.min_margin >= 0, f"--min-margin must be 0 or more, not {self.min_margin}"),
            (
                self.weight_temperature in ("paper", "auto")
                or _is_positive(self.weight_temperature),
                f"--weight-temperature must be paper, auto or a number above 0, not {self.weight_temperature}",
            ),
            (
                self.k == 7 or self.strategy not in NO_K,
                f"--k does not apply to --strategy {self.strategy}",
            ),
            (self.n_init >= 1, f"--n-init must be 1 or more, not {self.n_init}"),
            (self.time_limit > 0, f"--time-limit must be above 0, not {self.time_limit}"),
            (
                self.max_pairs is None or self.max_pairs >= 1,
                f"--max-pairs must be 1 or more, not {self.max_pairs}",
            ),
            (
                self.workers is None or self.workers >= 1,
                f"--workers must be 1 or more, not {self.workers}",
            ),
        )
        return found + [sentence for holds, sentence in checks if not holds] + self._idle_knobs()

    def _idle_knobs(self) -> list[str]:
        """Name the knobs that were given and would change nothing."""
        return [
            f"--{name.replace('_', '-')} belongs to --strategy {strategy}, not to {self.strategy}"
            for name, (strategy, default) in _ONE_STRATEGY.items()
            if self.strategy != strategy
            and getattr(self, name) != default
            and not self._scales_coverage(name)
        ]

    def _scales_coverage(self, name: str) -> bool:
        return name in ("weight_temperature", "cover") and self.embeddings is not None

    def identity(self) -> dict[str, Any]:
        """Return the fields that can change the answer under this strategy, and those alone."""
        idle = {
            name
            for name, (strategy, _) in _ONE_STRATEGY.items()
            if self.strategy != strategy and not self._scales_coverage(name)
        }
        idle |= {"k"} if self.strategy in NO_K else set()
        identity = {name: value for name, value in super().identity().items() if name not in idle}
        # The margin once left candidates out under these rules too: groups made so are other groups.
        return identity | (
            {"min_margin_of": "pairs"} if self.min_margin > 0 and self.pairs in AMONG_ALL else {}
        )


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
