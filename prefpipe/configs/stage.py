"""What the stages' dataclasses share: output, shards, error rates, templates, and a YAML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.configs.command import OUTPUT_HEADING, CommandConfig
from prefpipe.configs.options import option
from prefpipe.configs.yaml_keys import UniqueKeyLoader
from prefpipe.errors import UsageError
from prefpipe.spelling import did_you_mean

FAILURES_HEADING = "Failures and stopping"
MACHINES_HEADING = "GPUs and machines"
TEMPLATE_HEADING = "Chat template"
FILES_HEADING = "Your files"
ENGINE_HEADING = "Engine"
INTERVALS_HEADING = "Intervals"

MOST_GRACE_S = 86_400
"""A day: a longer grace is no grace."""


@dataclass(frozen=True, kw_only=True)
class StageConfig(CommandConfig):
    """What all stages share."""

    stage: ClassVar[str]
    """The stage's name, which is its command's."""
    VERSION: ClassVar[int]
    """Grows when an unchanged configuration gives other rows."""
    panels: ClassVar[Mapping[str, Sequence[str]]] = {OUTPUT_HEADING: ("output", "overwrite")}

    output: Location = option(
        common=True,
        help="folder of the artifact to write",
        identity=False,
        flag="-o",
        metavar="DIR",
    )
    overwrite: Overwrite = option(
        Overwrite.NO,
        identity=False,
        choices=tuple(Overwrite),
        common=True,
        help="delete what the output folder holds and start again; `=stale` deletes it only if "
        "it was made with another configuration",
    )

    @classmethod
    def command_name(cls) -> str:
        """Return the words after ``prefpipe``."""
        return cls.stage

    def identity(self) -> dict[str, Any]:
        """Return the fields that can change the answer, as JSON values."""
        return {
            item.name: _json_value(getattr(self, item.name))
            for item in fields(self)
            if item.metadata["identity"]
        }

    @classmethod
    def from_sources(cls, flags: Mapping[str, Any], yaml_path: Path | None) -> Self:
        """Make the config: flag beats YAML beats default.

        Raises:
            UsageError: unknown YAML keys (with the nearest spelling), missing required values, bad
                values; all at once.
        """
        of_file = {} if yaml_path is None else _read_yaml(yaml_path, cls)
        return cls.from_values({**of_file, **flags})


@dataclass(frozen=True, kw_only=True)
class ErrorRateConfig(StageConfig):
    """What the stages share whose rows can fail one by one."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {FAILURES_HEADING: ("max_error_rate",)}

    max_error_rate: float = option(
        0.05,
        identity=False,
        minimum=0,
        maximum=1,
        help="exit with code 3 if more than this share of rows failed; finished rows stay on disk",
    )


@dataclass(frozen=True, kw_only=True)
class GraceConfig(StageConfig):
    """What the stages share that finish their open parts on a signal to stop."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {FAILURES_HEADING: ("grace_seconds",)}

    grace_seconds: float = option(
        20,
        identity=False,
        minimum=0,
        maximum=MOST_GRACE_S,
        help="seconds after SIGTERM in which open parts and paid answers are finished; 0 drops "
        "them at once. Slurm kills after 30 s",
    )


@dataclass(frozen=True, kw_only=True)
class ShardedConfig(GraceConfig):
    """What the stages share whose parts can be divided among workers."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        MACHINES_HEADING: ("claim", "lease_seconds", "shard_index", "num_shards", "shards")
    }

    shard_index: int | None = option(
        None,
        identity=False,
        minimum=0,
        help="number of this worker, from 0; default: the task's place in a Slurm array",
    )
    num_shards: int | None = option(
        None,
        identity=False,
        minimum=1,
        help="number of workers; default: the tasks of a Slurm array",
    )
    shards: bool = option(
        True,
        identity=False,
        help="take the shard from Slurm's array variables; --no-shards makes every part in "
        "each task",
    )

    claim: bool = option(
        False,
        identity=False,
        help="take free parts one by one, so that any number of copies of this command share "
        "the output",
    )
    lease_seconds: float = option(
        120.0,
        identity=False,
        minimum=1,
        maximum=86_400,
        help="seconds without a sign of life after which a part claimed by another copy is "
        "made here",
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.claim and Overwrite.of(self.overwrite) is Overwrite.ALL:
            problems.append(
                "--claim excludes --overwrite, with which each copy would throw away what the "
                "others have made; --overwrite=stale throws away another configuration alone"
            )
        index, count = self.shard_index, self.num_shards
        if not self.shards and (index is not None or count is not None):
            problems.append("--no-shards excludes --shard-index and --num-shards")
        if (index is None) != (count is None):
            problems.append("--shard-index and --num-shards go together")
        # a count below 1 is named by its bound already
        if index is not None and count is not None and index >= count >= 1:
            problems.append(f"--shard-index must be within 0 and {count - 1}, not {index}")
        return problems


@dataclass(frozen=True, kw_only=True)
class PartwiseConfig(ShardedConfig):
    """What the stages share that make each part from one part of an earlier artifact."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {OUTPUT_HEADING: ("allow_partial",)}

    allow_partial: bool = option(
        False,
        identity=False,
        help="use the input parts that exist, instead of refusing an unfinished input",
    )


PART_SIZE = 32
"""Prompts a part of a run that is not on disk yet."""
PART_SIZE_HELP = (
    f"prompts per part; default: the existing run's, else {PART_SIZE}. A crash loses only the open "
    "parts"
)


class SizedParts(StageConfig):
    """What the stages share that read prompts and divide them into parts.

    A run that is on disk keeps its part size: that the default was another one in an earlier
    release must not make another run of it. So the flag has no default here, and `wiring` looks.
    """

    panels: ClassVar[Mapping[str, Sequence[str]]] = {MACHINES_HEADING: ("part_size",)}

    part_size: int | None

    @property
    def prompts_a_part(self) -> int:
        """The number of prompts of a part."""
        return PART_SIZE if self.part_size is None else self.part_size

    def identity(self) -> dict[str, Any]:
        """Return what can change the rows, the part size as a number whether given or not."""
        return super().identity() | {"part_size": self.prompts_a_part}


@dataclass(frozen=True, kw_only=True)
class TemplatedConfig(StageConfig):
    """What the stages share that write conversations with a model's chat template."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {TEMPLATE_HEADING: ("template_date",)}

    template_date: str | None = option(
        None,
        help="date for chat templates that read the clock, YYYY-MM-DD; default: the day the "
        "run, or its candidates' run, began",
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.template_date is not None and not _is_day(self.template_date):
            problems.append(
                f"--template-date must be a day, YYYY-MM-DD, not {self.template_date!r}"
            )
        return problems

    def identity(self) -> dict[str, Any]:
        """Return what can change the rows.

        The day is not among it: it stands with each model whose template reads the clock.
        """
        identity = super().identity()
        del identity["template_date"]
        return identity


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _json_value(value: Any) -> Any:
    if isinstance(value, Path | Url):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def by_field(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the values of a YAML file by field: YAML 1.1 reads the key ``on`` as true."""
    return {
        "on" if key is True else str(key).replace("-", "_"): value for key, value in values.items()
    }


def _read_yaml(path: Path, config_class: type[StageConfig]) -> dict[str, Any]:
    """Return the values of a file of ``--config`` by field.

    Raises:
        UsageError: no file, no YAML, no `key: value` lines, keys that no field has or that occur
            twice.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeyLoader)  # noqa: S506
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read: {error.strerror}") from error
    # a day like 2026-13-45, and more brackets than the reader can count, are no YAMLError
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"--config {path} is not YAML: {error}") from error

    # an empty file, or comments alone
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(
            f"--config {path} must hold `key: value` lines, not a {type(values).__name__}"
        )

    known = [item.name for item in fields(config_class)]
    given = by_field(values)
    if len(given) < len(values):
        raise UsageError(f"--config {path}: a key occurs twice, with _ and with -")
    unknown = [
        f"unknown key `{key}`{did_you_mean(key, known)}" for key in given if key not in known
    ]
    if unknown:
        raise UsageError(
            f"--config {path}: {'; '.join(unknown)}",
            hint=f"{config_class.help_hint()} for the keys",
        )
    return given
