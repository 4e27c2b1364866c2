"""The knobs of ``prefpipe select``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.command import OUTPUT_HEADING
from prefpipe.configs.options import flag_named, option
from prefpipe.configs.stage import MACHINES_HEADING, PartwiseConfig
from prefpipe.maths.selection.registry import PAIR_RULES, STRATEGIES, PromptFilters

NEED_EMBEDDINGS = tuple(each.name for each in STRATEGIES.values() if each.needs == "embeddings")
ONE_POSITIVE = tuple(each.name for each in STRATEGIES.values() if each.n_positives == 1)
NO_K = tuple(each.name for each in STRATEGIES.values() if not each.takes_k)
AMONG_ALL = ("all-ordered", "adjacent")
"""Pair rules between any two kept responses.

Under them a least margin is one of pairs, and no candidate is too close to the positive.
"""
BY_UNCERTAINTY = tuple(each.name for each in STRATEGIES.values() if each.needs == "uncertainty")
BY_SAMPLER = tuple(each.name for each in STRATEGIES.values() if each.needs == "samplers")
_ONE_STRATEGY: dict[str, tuple[str, ...]] = {
    "weight_temperature": ("opt-select",),
    "cover": ("opt-select",),
    "time_limit": ("opt-select",),
    "n_init": ("coreset",),
    "position": ("reward-position",),
    "spread_of": BY_UNCERTAINTY,
    "spread_weight": BY_UNCERTAINTY,
    "quantile": ("delta-quantile",),
    "chosen_from": BY_SAMPLER,
    "rejected_from": BY_SAMPLER,
}
"""Knobs that one strategy reads, or a few that are akin."""
_OF_COVERAGE = ("weight_temperature", "cover")
"""Of them, those that also scale the coverage that every strategy reports."""


@dataclass(frozen=True, kw_only=True)
class SelectConfig(PartwiseConfig):
    """Keep a small, informative group of each prompt's responses.

    A group has positives, the highest rewards, and negatives that --strategy picks. `prefpipe
    inspect` shows groups, and `prefpipe check` looks for problems before training.
    """

    stage: ClassVar[str] = "select"
    VERSION: ClassVar[int] = 2
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        OUTPUT_HEADING: ("output", "scores", "embeddings", "earlier", "overwrite"),
        "Selection": ("strategy", "k", "positives", "reward", "seed"),
        "Candidates and pairs": (
            "min_margin",
            "near_duplicates",
            "pairs",
            "max_pairs",
            "keep_truncated",
            "keep_duplicates",
        ),
        "Settings of one strategy": (
            "weight_temperature",
            "cover",
            "time_limit",
            "n_init",
            "position",
            "chosen_from",
            "rejected_from",
            "spread_of",
            "spread_weight",
            "quantile",
        ),
        "Prompts to drop": (
            "min_spread",
            "max_gap",
            "min_rejected_reward",
            "min_rejected_tokens",
            "min_pass_rate",
            "max_pass_rate",
            "pass_reward",
        ),
        MACHINES_HEADING: ("workers",),
    }
    examples: ClassVar[tuple[str, ...]] = (
        (
            "prefpipe select run/candidates --scores run/scores --embeddings run/embeddings -o "
            "run/groups --k 7"
        ),
        "prefpipe select run/candidates --scores run/scores -o run/groups --strategy best-worst",
    )

    candidates: Location = option(
        positional=True,
        identity=False,
        metavar="CANDIDATES",
        common=True,
        help="folder written by generate or import",
    )
    scores: Location = option(
        identity=False, metavar="DIR", common=True, help="folder written by score or import"
    )
    embeddings: Location | None = option(
        None,
        identity=False,
        metavar="DIR",
        common=True,
        help="folder written by embed; coreset and opt-select need it, other strategies use it "
        "to report coverage",
    )
    earlier: tuple[Location, ...] = option(
        (),
        identity=False,
        metavar="DIR",
        help="folder of an earlier round, whose responses to the same prompts join the pool; "
        "repeatable",
    )
    strategy: str = option(
        "opt-select", choices=tuple(STRATEGIES), common=True, help="rule that picks the negatives"
    )
    k: int = option(7, minimum=1, common=True, help="negatives per prompt")
    positives: int = option(
        1, minimum=1, common=True, help="positives per prompt: the highest rewards"
    )
    reward: str | None = option(
        None,
        metavar="EXPRESSION",
        common=True,
        help="reward as an expression over scorers, `checks + 0.5*z(reward_model)`; z() is per "
        "prompt; default: the only scorer",
    )
    min_margin: float = option(
        0.0,
        minimum=0,
        common=True,
        help="smallest reward difference of a pair, and of the lowest positive to a negative; "
        "with --pairs all-ordered or adjacent, of pairs only",
    )
    near_duplicates: float | None = option(
        None,
        above=0,
        maximum=1,
        common=True,
        help="cosine similarity, such as 0.98, from which two responses count as one and the "
        "higher reward stays; default: never",
    )
    weight_temperature: str = option(
        "paper",
        help="T of the opt-select weights exp((mean r - r)/T): paper is 1, auto is std(r), or "
        "a number",
    )
    cover: str = option(
        "negatives",
        choices=("negatives", "all"),
        help="candidates that the negatives must cover (opt-select)",
    )
    n_init: int = option(
        10, minimum=1, maximum=1_000_000, help="k-means starts, of which the best is kept (coreset)"
    )
    time_limit: float = option(
        10.0,
        above=0,
        help="seconds per prompt for the proof, counted in work, so that every machine gives "
        "the same result (opt-select)",
    )
    position: float = option(
        -2.0,
        help="take the negatives with rewards nearest to mean + position * std of the prompt's "
        "rewards (reward-position)",
    )
    chosen_from: str | None = option(
        None,
        metavar="MODEL",
        help="sampler of the positives, a value of the column `model`; with --earlier, 1:MODEL "
        "is the first earlier round's (delta)",
    )
    rejected_from: str | None = option(
        None, metavar="MODEL", help="sampler of the negatives, named as for --chosen-from (delta)"
    )
    spread_of: tuple[str, ...] = option(
        (),
        metavar="SCORER",
        help="two or more scorers whose disagreement is the uncertainty; default: those in "
        "--reward; repeatable (delta-ucb, drts, delta-quantile)",
    )
    spread_weight: float = option(
        1.0,
        minimum=0,
        help="b of the bounds r + b*spread and r - b*spread (delta-ucb, drts, delta-quantile)",
    )
    quantile: float = option(
        0.05,
        minimum=0,
        maximum=1,
        help="place of the kept pair in the pairs by descending gap of their bounds; 0 is the "
        "widest gap (delta-quantile)",
    )
    min_rejected_reward: float | None = option(
        None,
        above=0,
        below=1,
        metavar="QUANTILE",
        help="drop prompts whose lowest reward is below this quantile over prompts, such as 0.25",
    )
    min_rejected_tokens: float | None = option(
        None,
        above=0,
        below=1,
        metavar="QUANTILE",
        help="drop prompts whose lowest-reward response is shorter than this quantile over prompts",
    )
    max_gap: float | None = option(
        None,
        above=0,
        below=1,
        metavar="QUANTILE",
        help="drop prompts whose highest minus lowest reward is above this quantile over prompts",
    )
    min_spread: float | None = option(
        None, above=0, help="drop prompts whose highest minus lowest reward is below this value"
    )
    min_pass_rate: float | None = option(
        None,
        minimum=0,
        maximum=1,
        help="drop prompts where a smaller share of the responses reaches --pass-reward",
    )
    max_pass_rate: float | None = option(
        None,
        minimum=0,
        maximum=1,
        help="drop prompts where a larger share of the responses reaches --pass-reward (too easy)",
    )
    pass_reward: float = option(1.0, help="reward at which a response passes")
    pairs: str | None = option(
        None,
        choices=PAIR_RULES,
        common=True,
        help="pairs for pairwise objectives and exports; default: every positive with every "
        "negative",
    )
    max_pairs: int | None = option(
        None, minimum=1, help="most pairs per prompt, spread over their margins; default: no limit"
    )
    keep_truncated: bool = option(True, help="keep responses that were cut at the token limit")
    keep_duplicates: bool = option(False, help="keep identical texts of one prompt more than once")
    seed: int = option(
        0,
        minimum=0,
        common=True,
        help="seed of random, best-random, drts, k-means and --pairs best-random",
    )
    workers: int | None = option(
        None,
        identity=False,
        minimum=1,
        help="parts selected in parallel, in threads; default: one more than the processor's "
        "cores, at most 8",
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.strategy in NEED_EMBEDDINGS and self.embeddings is None:
            problems.append(f"--strategy {self.strategy} needs --embeddings")
        if len(set(self.earlier)) < len(self.earlier):
            problems.append("--earlier names the same folder twice")
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
            why = ""
            if STRATEGIES[self.strategy].n_negatives == 0:
                why = ", which has no negatives; --positives says how many responses it keeps"
            problems.append(f"--k does not apply to --strategy {self.strategy}{why}")
        for name in self._idle_knobs():
            if getattr(self, name) != getattr(SelectConfig, name):
                strategies = " and ".join(_ONE_STRATEGY[name])
                problems.append(
                    f"{flag_named(name)} belongs to --strategy {strategies}, not to {self.strategy}"
                )
        return [*problems, *self._strategy_problems(), *self._filter_problems()]

    def _strategy_problems(self) -> list[str]:
        """Return what a strategy without negatives, by uncertainty or by sampler cannot take."""
        problems = []
        rule = STRATEGIES.get(self.strategy)
        if rule is None:
            return []
        if self.min_margin > 0 and not rule.takes_margin:
            problems.append(
                f"--min-margin does not apply to --strategy {self.strategy}; --min-spread drops "
                "prompts whose rewards are close"
            )
        if rule.n_negatives == 0:
            problems += [
                f"{flag_named(name)} does not apply to --strategy {self.strategy}, which has no "
                "negatives"
                for name in ("pairs", "max_pairs")
                if getattr(self, name) is not None
            ]
        if rule.needs == "uncertainty" and len(self.spread_of) == 1:
            problems.append(
                f"--spread-of names one scorer, {self.spread_of[0]}; a spread is of two or more"
            )
        if rule.needs == "samplers":
            problems += [
                f"--strategy {self.strategy} needs {flag_named(name)}"
                for name in ("chosen_from", "rejected_from")
                if getattr(self, name) is None
            ]
            if self.chosen_from is not None and self.chosen_from == self.rejected_from:
                problems.append(f"--chosen-from and --rejected-from are both {self.chosen_from}")
        return problems

    def _filter_problems(self) -> list[str]:
        """Return what is wrong with the filters of prompts taken together."""
        problems = []
        least, most = self.min_pass_rate, self.max_pass_rate
        if least is not None and most is not None and least > most:
            problems.append(f"--min-pass-rate {least:g} is above --max-pass-rate {most:g}")
        if self.pass_reward != SelectConfig.pass_reward and least is None and most is None:
            problems.append("--pass-reward belongs to --min-pass-rate and --max-pass-rate")
        if self.allow_partial and self.filters().are_quantiles:
            problems.append(
                "--allow-partial does not go with --min-rejected-reward, --min-rejected-tokens and "
                "--max-gap, which are quantiles over all prompts"
            )
        return problems

    def filters(self) -> PromptFilters:
        """Return the filters of prompts."""
        return PromptFilters(**{name: getattr(self, name) for name in PromptFilters._fields})

    def _idle_knobs(self) -> list[str]:
        """Return the knobs of other strategies, which change nothing under this one."""
        idle = []
        for name, strategies in _ONE_STRATEGY.items():
            scales_coverage = name in _OF_COVERAGE and self.embeddings is not None
            if self.strategy not in strategies and not scales_coverage:
                idle.append(name)
        return idle

    def identity(self) -> dict[str, Any]:
        """Return the fields that can change the answer under this strategy, and those alone."""
        identity = super().identity()
        for name in self._idle_knobs():
            del identity[name]
        if self.strategy in NO_K:
            del identity["k"]

        # a filter that was not asked for is no difference to a run from before there was one
        for name in PromptFilters._fields:
            if getattr(self, name) is None:
                del identity[name]
        if self.min_pass_rate is None and self.max_pass_rate is None:
            del identity["pass_reward"]

        # the margin once left candidates out under these rules too: groups made so are others
        if self.min_margin > 0 and self.pairs in AMONG_ALL:
            identity["min_margin_of"] = "pairs"
        return identity


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
