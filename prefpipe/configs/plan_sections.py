"""What the plans of ``prefpipe rounds`` and ``prefpipe study`` share: sections that are commands.

A plan is a YAML file. A key of a section is a flag of its command, spelt with ``_`` or ``-``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from prefpipe.configs.embed import EmbedConfig
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.options import flag_of, resolved_types, scalar_type, short_flag_of
from prefpipe.configs.recorded_commands import Word
from prefpipe.configs.score import ScoreConfig
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.stage import StageConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.configs.yaml_keys import UniqueKeyLoader
from prefpipe.errors import UsageError
from prefpipe.spelling import did_you_mean
from prefpipe.surrogates import has_lone_surrogates

LARGEST_WHOLE = 2**63 - 1
"""The greatest whole number that a table holds, and any key takes."""

Section = Mapping[str, Any]
"""Values of a command's flags, by field."""
SECTIONS: dict[str, type[StageConfig]] = {
    "generate": GenerateConfig,
    "score": ScoreConfig,
    "embed": EmbedConfig,
    "select": SelectConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
}
"""The stages of a round, in the order in which they run."""
BY_PLAN = "the plan sets it"
BY_HAND = "run the step's line by hand with it, then go on"
REFUSED_OF_THE_POOL: Mapping[str, Mapping[str, str]] = {
    "score": {
        "candidates": BY_PLAN,
        "retry_errors": BY_HAND,
        "emit_batch": "a batch is waited for outside",
        "ingest_batch": "a batch is waited for outside",
    },
    "embed": {"candidates": BY_PLAN},
}
"""Flags that no plan's sections `score` and `embed` have, with the reason."""


class PlanError(UsageError):
    """A plan that cannot be run; ``problems`` has a sentence for each reason."""

    def __init__(self, name: str, problems: Sequence[str], *, page: str) -> None:
        """Word the problems.

        Args:
            name: of the plan's file.
            problems: with the place in the plan that each is of.
            page: of the documentation, with the plan's keys.
        """
        lines = "\n  ".join(problems)
        super().__init__(
            f"the plan {name} cannot be run:\n  {lines}",
            hint=f"{page} has the keys of a plan; those of a section are the flags of its "
            "command, `prefpipe train --help`",
        )
        self.problems = list(problems)


@dataclass(frozen=True)
class SectionRules:
    """Which sections a plan has, and which flags stand in none of them.

    Attributes:
        configs: by stage, what its command can be given.
        refused: by stage the flags that its section does not have, with the reason.
        refused_everywhere: the same of all stages.
        places: by stage where its section stands, where that is another name than the stage's.
    """

    configs: Mapping[str, type[StageConfig]]
    refused: Mapping[str, Mapping[str, str]]
    refused_everywhere: Mapping[str, str]
    places: Mapping[str, str] = field(default_factory=dict)

    def refused_in(self, stage: str) -> dict[str, str]:
        """Return the flags that the section of a stage does not have, with the reason."""
        return {**self.refused_everywhere, **self.refused[stage]}

    def key_problems(self, stage: str, section: Any, place: str) -> Iterator[str]:
        """Yield what is wrong with the keys of one section, which stands at ``place``."""
        if not isinstance(section, dict):
            yield f"{place} must hold `key: value` lines, not {section!r}"
            return
        known = [item.name for item in fields(self.configs[stage])]
        refused = self.refused_in(stage)
        allowed = [key for key in known if key not in refused]
        if len(by_field(section)) < len(section):
            yield f"{place}: a key stands there twice, with _ and with -"
        for key in by_field(section):
            if key in refused:
                yield f"{place}: `{key}` does not stand in a section: {refused[key]}"
            elif key not in known:
                guess = self.home_of(key) or did_you_mean(key, allowed)
                yield f"{place}: unknown key `{key}`{guess}"

    def home_of(self, key: str) -> str:
        """Return in which section a key belongs, to be added; "" where it belongs in none."""
        homes = []
        for stage, config_class in self.configs.items():
            names = {item.name for item in fields(config_class)}
            if key in names - self.refused_in(stage).keys():
                homes.append(f"`{self.places.get(stage, stage)}`")
        return f"; it is a key of {' and '.join(homes)}" if homes else ""


def read_plan_values(path: Path, *, page: str) -> dict[str, Any]:
    """Read the keys and values of a plan's file.

    Args:
        path: of a YAML file.
        page: of the documentation, with a plan to begin with.

    Raises:
        UsageError: no file, no YAML, or no `key: value` lines.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlanLoader)  # noqa: S506
    except OSError as error:
        raise UsageError(
            f"the plan {path} cannot be read: {error.strerror}",
            hint=f"{page} has a plan to begin with",
        ) from error
    # a day like 2026-13-45, and more brackets than the reader can count, are no YAMLError
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"the plan {path} is not YAML: {error}") from error

    if not isinstance(values, dict):
        kind = "nothing" if values is None else f"a {type(values).__name__}"
        raise UsageError(
            f"the plan {path} must hold `key: value` lines, not {kind}",
            hint=f"{page} has a plan to begin with",
        )
    return values


def by_field(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return values by field: keys may be spelt as flags are; a day is a text."""
    return {
        str(key).replace("-", "_"): value.isoformat() if isinstance(value, date) else value
        for key, value in values.items()
    }


def or_nothing(value: object) -> object:
    """Return an empty mapping for a key without a value, and any other value as it is."""
    return {} if value is None else value


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number, which true is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def unfit_texts(sections: Sequence[tuple[str, Any]]) -> Iterator[str]:
    """Yield the texts that no command line can hold.

    Args:
        sections: places, "" for the plan itself, and what stands there.
    """
    for place, section in sections:
        for key, value in section.items() if isinstance(section, dict) else ():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and not _is_fit(text):
                    where = f"{place}: " if place else ""
                    yield f"{where}`{key}` is no text that a command can be given, {text!r}"


def value_problems(values: Mapping[Any, Any]) -> Iterator[str]:
    """Yield the values of a plan that neither JSON nor a command line can hold.

    Of values that hold others the innermost are named; one that holds itself is named and left.
    """
    # a mapping that many places name, `&a` and `*a`, is looked at once
    looked_at: set[int] = set()

    def walk(value: Any, place: str, holders: tuple[int, ...]) -> Iterator[str]:
        if isinstance(value, dict | list):
            if id(value) in holders:
                yield f"`{place}` holds itself"
            if id(value) in looked_at:
                return
            looked_at.add(id(value))
            pairs = value.items() if isinstance(value, dict) else enumerate(value, start=1)
            for key, each in pairs:
                name = f"{place}: {key}" if place else str(key)
                if isinstance(key, str) and not _is_fit(key):
                    yield f"the key {key!r} is no text that can be written down"
                    continue
                yield from walk(each, name, (*holders, id(value)))
        elif isinstance(value, str):
            if not _is_fit(value):
                yield f"`{place}` is no text that a command can be given, {value!r}"
        elif isinstance(value, float):
            if not isfinite(value):
                yield f"`{place}` must be a finite number, not {value}"
        elif isinstance(value, int):
            if abs(value) > LARGEST_WHOLE:
                yield f"`{place}` is a whole number beyond {LARGEST_WHOLE}"
        elif value is not None and not isinstance(value, date):
            yield f"`{place}` is a {type(value).__name__}, which no key takes"

    yield from walk(values, "", ())


def _is_fit(text: str) -> bool:
    """Return whether a text can be a word of a command line: no half pair, and no zero byte."""
    return not has_lone_surrogates(text) and "\0" not in text


def words_of(config_class: type[StageConfig], values: Mapping[str, Any]) -> Iterator[Word]:
    """Yield values, by field, as the words of a command line, arguments first."""
    kinds = resolved_types(config_class)
    items = {item.name: item for item in fields(config_class)}
    for name in sorted(values, key=lambda name: not items[name].metadata["positional"]):
        item, value = items[name], values[name]
        if item.metadata["positional"]:
            # an argument like `-run/round-01/candidates` would be a flag
            text = str(value)
            yield Word(name, "", f"./{text}" if text.startswith("-") else text)
        elif name == "overwrite":
            yield Word(name, flag_of(item), str(value), is_joined=True)
        elif scalar_type(kinds[name]) is bool:
            if value:
                yield Word(name, flag_of(item), None)
            # a switch that is off by itself has no word for off
            elif item.default is not False and item.default is not MISSING:
                yield Word(name, f"--no-{flag_of(item)[2:]}", None)
        else:
            flag = short_flag_of(item) or flag_of(item)
            for each in value if isinstance(value, list | tuple) else [value]:
                text = str(each)
                # `--reward -length` would be two flags
                is_joined = text.startswith("-") and flag.startswith("--")
                yield Word(name, flag, text, is_joined)


class _PlanLoader(UniqueKeyLoader):
    """YAML in which ``on`` is no word for true: 1.1 reads the flag ``on: ray`` as ``true: ray``."""


_PlanLoader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:bool"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlanLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")
)
