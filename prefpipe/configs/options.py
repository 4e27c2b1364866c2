"""How a config declares a field, and what every config can do.

A field has a type, a default or none (then it is required), a help sentence with its unit, and
``identity=False`` if it cannot change the answer.
"""

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import yaml

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.tables.locations import scheme_problem
from prefpipe.errors import UsageError
from prefpipe.spelling import did_you_mean

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Number format of a model that is run; ``auto``: as it is stored, or as the device computes best."""


def option(
    default: Any = MISSING,
    *,
    help: str,  # noqa: A002 - typer's and argparse's word
    identity: bool = True,
    choices: Sequence[str] = (),
    positional: bool = False,
    short: str | None = None,
    metavar: str | None = None,
) -> Any:
    """Declare a config field.

    Args:
        default: the value when neither flag nor YAML gives one; without it the field is required.
        help: one sentence, with the unit.
        identity: whether the value can change the rows, so that it belongs in the fingerprint.
        choices: the only values allowed.
        positional: an argument of the command rather than a flag.
        short: a one-letter flag, ``o``.
        metavar: what stands for the value in ``--help``.
    """
    metadata = {
        "help": help,
        "identity": identity,
        "choices": tuple(choices),
        "positional": positional,
        "short": short,
        "metavar": metavar,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What all stages share."""

    stage: ClassVar[str]
    VERSION: ClassVar[int]

    output: Path = option(
        help="folder of the artifact to write", identity=False, short="o", metavar="DIR"
    )
    overwrite: Overwrite = option(
        Overwrite.NO,
        identity=False,
        choices=tuple(Overwrite),
        help="throw away what the output folder holds and start again; --overwrite=stale: only where it is of another "
        "configuration, and keep what is finished of this one",
    )

    def __post_init__(self) -> None:
        problems = _type_problems(self) or [
            *_place_problems(self),
            *_choice_problems(self),
            *self.problems(),
        ]
        if problems:
            raise UsageError("; ".join(problems), hint=f"run `prefpipe {self.stage} --help`")

    def problems(self) -> list[str]:
        """Return everything wrong with the values, in sentences; a subclass adds its own."""
        return []

    def identity(self) -> dict[str, Any]:
        """Return the fields that can change the answer, as JSON values."""
        return {
            item.name: _plain(getattr(self, item.name))
            for item in fields(self)
            if item.metadata["identity"]
        }

    @classmethod
    def from_sources(cls, flags: Mapping[str, Any], yaml_path: Path | None) -> Self:
        """Make the config: flag beats YAML beats default.

        Raises:
            UsageError: unknown YAML keys (with the nearest spelling), missing required values, bad values; all at once.
        """
        given = {**_read_yaml(yaml_path, cls), **flags}
        missing = [
            item for item in fields(cls) if item.default is MISSING and item.name not in given
        ]
        if missing:
            words = ", ".join(
                item.name.upper() if item.metadata["positional"] else flag_of(item)
                for item in missing
            )
            raise UsageError(
                f"`prefpipe {cls.stage}` needs {words}", hint=f"run `prefpipe {cls.stage} --help`"
            )
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class ErrorRateConfig(StageConfig):
    """What the stages share whose rows can fail one by one."""

    max_error_rate: float = option(
        0.05,
        identity=False,
        help="share of failed rows above which the command exits with 3, after everything good is on disk",
    )

    def problems(self) -> list[str]:
        found = super().problems()
        return (
            found
            if 0 <= self.max_error_rate <= 1
            else [*found, "--max-error-rate must be within 0 and 1"]
        )


@dataclass(frozen=True, kw_only=True)
class ShardedConfig(StageConfig):
    """What the stages share whose parts can be divided among workers."""

    shard_index: int | None = option(
        None,
        identity=False,
        help="this worker's number, from 0; default this task's place in a Slurm array",
    )
    num_shards: int | None = option(
        None, identity=False, help="number of workers; default the tasks of a Slurm array"
    )
    shards: bool = option(
        True,
        identity=False,
        help="take the shard from the variables of a Slurm array; --no-shards makes all parts in each task",
    )

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.shards and (self.shard_index is not None or self.num_shards is not None):
            found.append("--no-shards excludes --shard-index and --num-shards")
        if (self.shard_index is None) != (self.num_shards is None):
            found.append("--shard-index and --num-shards go together")
        elif self.num_shards is not None and self.shard_index is not None:
            if self.num_shards < 1:
                found.append(f"--num-shards must be 1 or more, not {self.num_shards}")
            elif not 0 <= self.shard_index < self.num_shards:
                found.append(
                    f"--shard-index must be within 0 and {self.num_shards - 1}, not {self.shard_index}"
                )
        return found


@dataclass(frozen=True, kw_only=True)
class PartwiseConfig(ShardedConfig):
    """What the stages share that make each part from one part of an earlier artifact."""

    allow_partial: bool = option(
        False, identity=False, help="work on the input parts that are there instead of refusing"
    )


@dataclass(frozen=True, kw_only=True)
class TemplatedConfig(StageConfig):
    """What the stages share that write conversations with a model's chat template."""

    template_date: str | None = option(
        None,
        help="the day that a chat template is told which reads the clock (strftime_now), YYYY-MM-DD; default the day on which "
        "this run, or else the candidates' run, began",
    )

    def problems(self) -> list[str]:
        found = super().problems()
        if self.template_date is not None:
            try:
                is_day = date.fromisoformat(self.template_date).isoformat() == self.template_date
            except ValueError:
                is_day = False
            if not is_day:
                found.append(
                    f"--template-date must be a day, YYYY-MM-DD, not {self.template_date!r}"
                )
        return found

    def identity(self) -> dict[str, Any]:
        """Return what can change the rows; the day stands with each model whose template reads the clock, and nowhere else."""
        return {
            name: value for name, value in super().identity().items() if name != "template_date"
        }


def flag_of(item: "Field[Any]") -> str:
    """Return a field's long flag, ``--max-tokens``."""
    return "--" + item.name.replace("_", "-")


def resolved_types(cls: type) -> dict[str, Any]:
    """Return each field's type with annotations evaluated."""
    return typing.get_type_hints(cls)


def is_list(kind: Any) -> bool:
    """Return whether a field takes several values (``tuple[X, ...]``)."""
    return typing.get_origin(kind) is tuple


def scalar_type(kind: Any) -> type:
    """Return the type of one value: ``int`` for ``int | None`` and ``tuple[int, ...]``."""
    if isinstance(kind, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if is_list(kind):
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        return str
    assert isinstance(kind, type)
    return kind


def _type_problems(config: StageConfig) -> list[str]:
    found, kinds = [], resolved_types(type(config))
    for item in fields(config):
        value, kind = getattr(config, item.name), kinds[item.name]
        if value is None and isinstance(kind, types.UnionType):
            continue
        try:
            clean = _converted(value, kind)
        except (TypeError, ValueError):
            found.append(f"{flag_of(item)} takes {_words(kind)}, not {value!r}")
            continue
        object.__setattr__(
            config, item.name, clean
        )  # YAML gives lists and texts where the field says tuple and Path
    return found


def _place_problems(config: StageConfig) -> list[str]:
    """Return the paths that are addresses: from YAML and from Python they come here without the command line's check."""
    found = []
    for item in fields(config):
        value = getattr(config, item.name)
        for path in value if isinstance(value, tuple) else (value,):
            problem = scheme_problem(path) if isinstance(path, Path) else None
            if problem is not None:
                found.append(f"{flag_of(item)} {problem}")
    return found


def _choice_problems(config: StageConfig) -> list[str]:
    found = []
    for item in fields(config):
        value = getattr(config, item.name)
        choices = item.metadata["choices"]
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        bad = [each for each in values if choices and each not in choices]
        if bad:
            found.append(
                f"{flag_of(item)} must be one of {', '.join(choices)}, not {bad[0]!r}{did_you_mean(bad[0], choices)}"
            )
    return found


def _converted(value: Any, kind: Any) -> Any:
    if is_list(kind):
        values = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_converted(v, scalar_type(kind)) for v in values)
    target = scalar_type(kind)
    if target is Overwrite:
        return Overwrite.of(value) if isinstance(value, bool) else Overwrite(str(value))
    if target is bool or isinstance(value, bool):
        if not isinstance(value, bool) or target is not bool:
            raise TypeError
        return value
    if target is float and isinstance(value, (int, float, str)):
        if not isfinite(float(value)):
            raise ValueError
        return float(value)
    if target is int and isinstance(value, float):
        raise TypeError
    if target is Path and isinstance(value, (str, Path)):
        return _at_home(Path(value))
    if target is str and isinstance(value, (str, int, float)):
        return str(value)
    if target is int and isinstance(value, (int, str)):
        return int(value)
    raise TypeError


def _at_home(path: Path) -> Path:
    """Return a path with its ``~`` written out, which no shell has done in a YAML file; nobody wants a folder called ``~``."""
    try:
        return path.expanduser()
    except RuntimeError:  # of nobody who is known here
        return path


def _words(kind: Any) -> str:
    if scalar_type(kind) is Overwrite:
        return "no, stale or all"
    names = {int: "whole number", float: "finite number", str: "text", Path: "path"}
    scalar = scalar_type(kind)
    if scalar is bool:
        return "true or false"
    return f"{names[scalar]}s" if is_list(kind) else f"a {names[scalar]}"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _read_yaml(path: Path | None, cls: type[StageConfig]) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(
            f"--config {path} must hold `key: value` lines, not a {type(values).__name__}"
        )
    known = [item.name for item in fields(cls)]
    given = {str(key).replace("-", "_"): value for key, value in values.items()}
    unknown = [key for key in given if key not in known]
    if unknown:
        words = "; ".join(f"unknown key `{key}`{did_you_mean(key, known)}" for key in unknown)
        raise UsageError(
            f"--config {path}: {words}", hint=f"run `prefpipe {cls.stage} --help` for the keys"
        )
    return given
