"""The plan of ``prefpipe rounds``: a YAML file with one section a stage, and what changes by round.

A key of a section is a flag of its command. Where a round differs from the one before, ``changes``
says it, from that round on.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from prefpipe.configs.options import Bounds
from prefpipe.configs.plan_sections import (
    BY_HAND,
    BY_PLAN,
    REFUSED_OF_THE_POOL,
    SECTIONS,
    PlanError,
    Section,
    SectionRules,
    by_field,
    is_whole,
    or_nothing,
    read_plan_values,
    unfit_texts,
)
from prefpipe.spelling import did_you_mean

PAGE = "docs/guides/rounds.md"
"""Of the documentation, with the keys of a plan."""
OPTIONAL_SECTIONS = ("embed", "eval")

SPLIT, REUSE = "split", "reuse"
FIRST, LAST = "first", "last"
ALL = "all"
EVERY_ROUNDS = re.compile(r"every-([1-9]\d{0,3})")
MOST_ROUNDS = 99
"""Folders have two digits, so that they list in order."""

_SEED = "the plan's `seed` sets it"
_ALL_PARTS = "a step makes all parts; to share them, use `workers`, or run the step's line by hand"
_OTHER_BY_ROUND = "a file that would have to be another one in each round"
REFUSED: dict[str, Mapping[str, str]] = {
    "generate": {
        "prompts": "the plan's own key `prompts` sets it",
        "model": "the plan's own key `model` sets it, and later rounds sample from their policy",
        "prompt_share": "the plan's `prompt_use` sets it",
        "seed": _SEED,
        "extend": BY_HAND,
        "retry_errors": BY_HAND,
    },
    **REFUSED_OF_THE_POOL,
    "select": {
        "candidates": BY_PLAN,
        "scores": BY_PLAN,
        "embeddings": "the section `embed` sets it",
        "earlier": "the plan's `pools` sets it",
        "seed": _SEED,
    },
    "train": {
        "groups": BY_PLAN,
        "model": "a round trains what it sampled from",
        "reference_model": "the plan's `reference` sets it",
        "reference": _OTHER_BY_ROUND,
        "eval_reference": _OTHER_BY_ROUND,
        "resume_from": _OTHER_BY_ROUND,
        "seed": _SEED,
    },
    "eval": {
        "policy": BY_PLAN,
        "baseline": "it is the plan's `model`",
        "policy_scores": BY_PLAN,
        "baseline_scores": BY_PLAN,
        "policy_embeddings": BY_PLAN,
        "baseline_embeddings": BY_PLAN,
        "kl_reference": "it is the plan's `model`",
        "seed": _SEED,
    },
}
"""Flags that no section has, with the reason; beside them those of `REFUSED_EVERYWHERE`."""
REFUSED_EVERYWHERE = {
    "output": BY_PLAN,
    "overwrite": "pass --overwrite=stale to `prefpipe rounds`",
    "shard_index": _ALL_PARTS,
    "num_shards": _ALL_PARTS,
    "shards": _ALL_PARTS,
}
RULES = SectionRules(SECTIONS, REFUSED, REFUSED_EVERYWHERE)


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """Rounds of the pipeline, of which each samples from the policy that the last one trained.

    Attributes:
        rounds: how many.
        prompts: what the first command is given as its prompts.
        model: what round 1 samples from, and what evaluations compare with.
        prompt_use: ``split`` gives each round a share of its own, ``reuse`` all prompts to each.
        reference: of objectives that have one: ``last`` is the policy that the round starts from,
            ``first`` is ``model``, ``every-M`` the newest of the policies of rounds M, 2 M, ...
        pools: ``last`` selects from what the round sampled, ``all`` from that and what earlier
            rounds sampled for the same prompts.
        seed: of the whole run.
        sections: by stage the values of its flags, by field.
        changes: by round the values that differ from there on, by stage.
    """

    rounds: int
    prompts: str
    model: str
    sections: Mapping[str, Section]
    changes: Mapping[int, Mapping[str, Section]] = field(default_factory=dict)
    prompt_use: str = SPLIT
    reference: str = LAST
    pools: str = LAST
    seed: int = 0

    @classmethod
    def from_values(cls, values: Mapping[str, Any], *, name: str) -> Self:
        """Make the plan of what a file says.

        What each command makes of its section is checked where the commands are made.

        Args:
            values: the file's keys and values.
            name: of the file, for messages.

        Raises:
            UsageError: everything that is wrong: unknown keys, with the nearest spelling; missing
                ones; values that cannot be; keys that the plan sets itself.
        """
        given = by_field(values)
        problems = [*_top_level_problems(given), *_section_problems(given), *_text_problems(given)]
        if len(given) < len(values):
            problems.insert(0, "a key stands there twice, with _ and with -")
        if problems:
            raise plan_error(name, problems)

        plan = {name: given[name] for name in _TOP_LEVEL if name in given}
        plan["sections"] = {
            stage: by_field(given[stage] or {}) for stage in SECTIONS if stage in given
        }
        plan["changes"] = {
            int(number): {stage: by_field(section) for stage, section in changed.items()}
            for number, changed in sorted((given.get("changes") or {}).items(), key=_changed_round)
        }
        return cls(**plan)

    def to_values(self) -> dict[str, Any]:
        """Return what a file would say, as JSON values; `from_values` reads it back."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _TOP_LEVEL}
        values |= {stage: dict(section) for stage, section in self.sections.items()}
        if self.changes:
            values["changes"] = {
                str(number): {stage: dict(section) for stage, section in changed.items()}
                for number, changed in self.changes.items()
            }
        return values

    @property
    def stages(self) -> list[str]:
        """The stages of every round, in order."""
        return [stage for stage in SECTIONS if stage in self.sections]

    def section(self, stage: str, number: int) -> dict[str, Any]:
        """Return the values of a stage in a round: the section's, and the changes up to there.

        A value that is null is left out: the command's own default.
        """
        values = dict(self.sections[stage])
        for changed_at, changed in self.changes.items():
            if changed_at <= number:
                values |= changed.get(stage, {})
        return {key: value for key, value in values.items() if value is not None}

    def reference_round(self, number: int) -> int:
        """Return the round whose policy is a round's reference, 0 for ``model``."""
        if self.reference == FIRST:
            return 0
        if self.reference == LAST:
            return number - 1
        match = EVERY_ROUNDS.fullmatch(self.reference)
        assert match is not None
        every = int(match[1])
        return (number - 1) // every * every


def read_plan(path: Path, *, seed: int | None = None) -> RoundPlan:
    """Read a plan.

    Args:
        path: of a YAML file.
        seed: instead of the plan's own, None for that.

    Raises:
        UsageError: no file, no YAML, or what `RoundPlan.from_values` refuses.
    """
    values = read_plan_values(path, page=PAGE)
    if seed is not None:
        values["seed"] = seed
    return RoundPlan.from_values(values, name=str(path))


def plan_error(name: str, problems: list[str]) -> PlanError:
    """Return the error of a plan that cannot be run, a line for each problem."""
    return PlanError(name, problems, page=PAGE)


_TOP_LEVEL = ("rounds", "prompts", "model", "prompt_use", "reference", "pools", "seed")
_NEEDED = ("rounds", "prompts", "model")
_NUMBERS = {"rounds": Bounds(minimum=1, maximum=MOST_ROUNDS), "seed": Bounds(minimum=0)}
_CHOICES = {"prompt_use": (SPLIT, REUSE), "pools": (LAST, ALL)}
_PLAN_KEYS = (*_TOP_LEVEL, *SECTIONS, "changes")


def _top_level_problems(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the keys of the plan itself and their values."""
    for key in given:
        if key not in _PLAN_KEYS:
            yield f"unknown key `{key}`{RULES.home_of(key) or did_you_mean(key, _PLAN_KEYS)}"

    needed = (*_NEEDED, *(stage for stage in SECTIONS if stage not in OPTIONAL_SECTIONS))
    missing = [key for key in needed if given.get(key) is None]
    if missing:
        yield f"it needs {', '.join(f'`{key}`' for key in missing)}"

    for key, bounds in _NUMBERS.items():
        value = given.get(key)
        is_asked = key in given and key not in missing
        if is_asked and not (is_whole(value) and bounds.hold(given[key])):
            yield f"`{key}` must be a whole number, {bounds}, not {value!r}"
    for key in ("prompts", "model"):
        value = given.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            yield f"`{key}` must be a text, not {value!r}"

    yield from _choice_problems(given)


def _choice_problems(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the keys whose values are words."""
    for key, choices in _CHOICES.items():
        if given.get(key, choices[0]) not in choices:
            guess = did_you_mean(given[key], choices)
            yield f"`{key}` must be {' or '.join(choices)}, not {given[key]!r}{guess}"
    reference = given.get("reference", LAST)
    if reference not in (FIRST, LAST) and not EVERY_ROUNDS.fullmatch(str(reference)):
        yield f"`reference` must be first, last or every-M, every-2 say, not {reference!r}"

    if given.get("pools") == ALL and given.get("prompt_use", SPLIT) == SPLIT:
        yield (
            "`pools: all` joins what earlier rounds sampled for the same prompts, and with "
            "`prompt_use: split` each round has prompts of its own: pass `prompt_use: reuse`"
        )


def _section_problems(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the keys of the sections, and with the rounds of ``changes``."""
    for stage in SECTIONS:
        if stage in given:
            yield from _key_problems(stage, or_nothing(given[stage]), stage)

    all_changes = or_nothing(given.get("changes"))
    if not isinstance(all_changes, dict):
        yield f"`changes` must hold a round a line, `2: {{...}}`, not {all_changes!r}"
        return
    n_rounds = given.get("rounds")
    named = [int(number) for number in all_changes if _is_round(number)]
    for number in sorted({number for number in named if named.count(number) > 1}):
        yield f"changes, round {number}: the round stands there twice"
    for number, changed in all_changes.items():
        place = f"changes, round {number}"
        if not _is_round(number):
            yield f"{place}: a round is a whole number"
            continue
        if int(number) < 2:
            yield f"{place}: what round 1 runs with stands in the sections"
        elif isinstance(n_rounds, int) and int(number) > n_rounds:
            yield f"{place}: the plan has {n_rounds} rounds"
        if not isinstance(changed, dict):
            yield f"{place} must hold sections, `train: {{...}}`, not {changed!r}"
            continue

        for stage, section in changed.items():
            if stage not in SECTIONS:
                guess = RULES.home_of(str(stage)) or did_you_mean(stage, SECTIONS)
                yield f"{place}: unknown section `{stage}`{guess}"
            elif stage not in given:
                yield f"{place}: the plan has no section `{stage}` to change"
            else:
                yield from _key_problems(stage, section, f"{place}, {stage}")


def _key_problems(stage: str, section: Any, place: str) -> Iterator[str]:
    """Yield what is wrong with the keys of one section."""
    yield from RULES.key_problems(stage, section, place)
    values = by_field(section) if isinstance(section, dict) else {}
    if stage == "train" and values.get("target") == "reward":
        yield (
            f"{place}: `target: reward` trains a reward model, and a round samples from the "
            "policy of the last one; train it before, with `prefpipe train --target reward`"
        )


def _text_problems(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts that no command line can hold."""
    own = {key: given[key] for key in ("prompts", "model") if key in given}
    sections = [("", own), *((stage, given.get(stage)) for stage in SECTIONS)]
    changes = given.get("changes")
    for number, changed in changes.items() if isinstance(changes, dict) else ():
        for stage, section in changed.items() if isinstance(changed, dict) else ():
            sections.append((f"changes, round {number}, {stage}", section))
    yield from unfit_texts(sections)


def _is_round(number: object) -> bool:
    # JSON has no other keys than texts
    return is_whole(number) or (isinstance(number, str) and number.isascii() and number.isdecimal())


def _changed_round(item: tuple[Any, Any]) -> int:
    return int(item[0])
