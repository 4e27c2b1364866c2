"""What the stages' dataclasses share: output, shards, error rates, templates, and a YAML file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option
from prefpipe.errors import UsageError
from prefpipe.spelling import did_you_mean

MOST_GRACE_S = 86_400
"""A day: a longer grace is no grace."""


@dataclass(frozen=True, kw_only=True)
class StageConfig(CommandConfig):
    """What all stages share."""

    stage: ClassVar[str]
    """The stage's name, which is its command's."""
    VERSION: ClassVar[int]
    """Grows when an unchanged configuration gives other rows."""

    output: Path = option(
        help="folder of the artifact to write", identity=False, flag="-o", metavar="DIR"
    )
    overwrite: Overwrite = option(
        Overwrite.NO,
        identity=False,
        choices=tuple(Overwrite),
        help="throw away what the output folder holds and start again; --overwrite=stale: only "
        "where it is of another configuration, and keep what is finished of this one",
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

    max_error_rate: float = option(
        0.05,
        identity=False,
        minimum=0,
        maximum=1,
        help="share of failed rows above which the command exits with 3, after everything good is "
        "on disk",
    )


@dataclass(frozen=True, kw_only=True)
class GraceConfig(StageConfig):
    """What the stages share that finish the parts that are open when they are asked to stop."""

    grace_seconds: float = option(
        20,
        identity=False,
        minimum=0,
        maximum=MOST_GRACE_S,
        help="seconds after SIGTERM or SIGHUP in which open parts, and answers that are paid for, "
        "are still finished; 0 gives them up at once. Closing engines takes up to 6 s more, and "
        "Slurm sends SIGKILL after 30 s",
    )


@dataclass(frozen=True, kw_only=True)
class ShardedConfig(GraceConfig):
    """What the stages share whose parts can be divided among workers."""

    shard_index: int | None = option(
        None,
        identity=False,
        minimum=0,
        help="this worker's number, from 0; default this task's place in a Slurm array",
    )
    num_shards: int | None = option(
        None,
        identity=False,
        minimum=1,
        help="number of workers; default the tasks of a Slurm array",
    )
    shards: bool = option(
        True,
        identity=False,
        help="take the shard from the variables of a Slurm array; --no-shards makes all parts in "
        "each task",
    )

    claim: bool = option(
        False,
        identity=False,
        help="take parts as they are free, in place of a fixed share: any number of copies of the "
        "command share the output, and each ends when all parts are on disk",
    )
    lease_seconds: float = option(
        120.0,
        identity=False,
        minimum=1,
        maximum=86_400,
        help="seconds without a sign of life after which a part that another copy has claimed is "
        "made here; a copy gives three in that time",
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

    allow_partial: bool = option(
        False, identity=False, help="work on the input parts that are there instead of refusing"
    )


PART_SIZE = 32
"""Prompts a part of a run that is not on disk yet."""
PART_SIZE_HELP = (
    f"prompts a part; default that of the run on disk, else {PART_SIZE}. A crash costs the parts "
    "that are open"
)


class SizedParts(StageConfig):
    """What the stages share that read prompts and divide them into parts.

    A run that is on disk keeps its part size: that the default was another one in an earlier
    release must not make another run of it. So the flag has no default here, and `wiring` looks.
    """

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

    template_date: str | None = option(
        None,
        help="the day that a chat template is told which reads the clock (strftime_now), "
        "YYYY-MM-DD; default the day on which this run, or else the candidates' run, began",
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
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _read_yaml(path: Path, config_class: type[StageConfig]) -> dict[str, Any]:
    """Return the values of a file of ``--config`` by field.

    Raises:
        UsageError: no file, no YAML, no `key: value` lines, or keys that no field has.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
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
    given = {str(key).replace("-", "_"): value for key, value in values.items()}
    unknown = [
        f"unknown key `{key}`{did_you_mean(key, known)}" for key in given if key not in known
    ]
    if unknown:
        raise UsageError(
            f"--config {path}: {'; '.join(unknown)}",
            hint=f"{config_class.help_hint()} for the keys",
        )
    return given
