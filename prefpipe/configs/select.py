"""The knobs of ``prefpipe select``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.configs.options import PartwiseConfig, option

STRATEGIES = ("opt-select", "coreset", "bottom-k", "random", "best-worst", "top-bottom", "best-random", "all")
NEED_EMBEDDINGS = ("opt-select", "coreset")


@dataclass(frozen=True, kw_only=True)
class SelectConfig(PartwiseConfig):
    """Keep a small informative group of each prompt's candidates."""

    stage: ClassVar[str] = "select"
    VERSION: ClassVar[int] = 1

    candidates: Path = option(positional=True, identity=False, metavar="CANDIDATES", help="folder written by generate")
    scores: Path = option(identity=False, metavar="DIR", help="folder written by score")
    embeddings: Path | None = option(None, identity=False, metavar="DIR", help="folder written by embed (coreset, opt-select)")
    strategy: str = option("opt-select", choices=STRATEGIES, help="which candidates become negatives")
    k: int = option(7, help="negatives a prompt")
    positives: int = option(1, help="positives a prompt: the highest rewards")
    reward: str | None = option(None, metavar="EXPRESSION",
                                help="reward as an expression over scorers, `checks + 0.5*z(reward_model)`; z() is per prompt; "
                                "default the only scorer")  # fmt: skip
    min_margin: float = option(0.0, help="smallest reward difference between the best positive and the worst negative")
    weight_temperature: str = option(
        "paper", help="opt-select weights exp((mean r - r)/T): paper is T = 1, auto is T = std(r), or a number"
    )
    cover: str = option("negatives", choices=("negatives", "all"), help="opt-select: whom the negatives stand for")
    keep_truncated: bool = option(True, help="let responses that were cut at the token limit take part")
    keep_duplicates: bool = option(False, help="let identical texts of one prompt take part more than once")
    seed: int = option(0, help="seed of random, best-random and of k-means")

    def problems(self) -> list[str]:
        found = super().problems()
        if self.k < 1:
            found.append(f"--k must be 1 or more, not {self.k}")
        if self.positives < 1:
            found.append(f"--positives must be 1 or more, not {self.positives}")
        if self.strategy in NEED_EMBEDDINGS and self.embeddings is None:
            found.append(f"--strategy {self.strategy} needs --embeddings")
        if self.seed < 0:
            found.append(f"--seed must be 0 or more, not {self.seed}")
        if self.strategy in ("best-worst", "best-random") and self.positives > 1:
            found.append(f"--strategy {self.strategy} keeps one pair, so --positives must be 1, not {self.positives}")
        if self.min_margin < 0:
            found.append(f"--min-margin must be 0 or more, not {self.min_margin}")
        if self.weight_temperature not in ("paper", "auto") and not _is_positive(self.weight_temperature):
            found.append(f"--weight-temperature must be paper, auto or a number above 0, not {self.weight_temperature}")
        return found


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
