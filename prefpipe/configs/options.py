"""How a field of a command's dataclass is declared, and how its value is checked.

A field is the flag, the YAML key and the line of the reference page. It has a type, a default or
none (then it is required), a help sentence with its unit, and what its values may be: choices, or
bounds. `field_problems` is the one place that holds a value against its declaration.
"""

import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.storage.location import Url, parse_location, url_in
from prefpipe.errors import UsageError
from prefpipe.spelling import did_you_mean
from prefpipe.text.server_address import address_with_secret

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Number format of a model that is run; ``auto``: as it is stored, or as suits the device."""


class Bounds(NamedTuple):
    """Least and greatest values, themselves allowed, and limits that are not; None for no limit."""

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Return whether a value keeps them all."""
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """Return them in words that follow ``must be``."""
        minimum, maximum, above, below = (
            f"{limit:g}" if isinstance(limit, float) else str(limit) for limit in self
        )
        if self.minimum is not None and self.maximum is not None:
            return f"within {minimum} and {maximum}"
        if self.minimum is not None and self.below is None:
            return f"{minimum} or more"

        words = []
        if self.minimum is not None:
            words.append(f"at least {minimum}")
        if self.above is not None:
            words.append(f"above {above}")
        if self.maximum is not None:
            words.append(f"at most {maximum}")
        if self.below is not None:
            words.append(f"below {below}")
        return " and ".join(words)


class Limits(TypedDict, total=False):
    """The bounds of a field, as `option` takes them."""

    minimum: float
    maximum: float
    above: float
    below: float


def option(
    default: Any = MISSING,
    *,
    help: str,  # noqa: A002 - typer's and argparse's word
    identity: bool = True,
    common: bool = False,
    choices: Sequence[str] = (),
    positional: bool = False,
    flag: str | None = None,
    metavar: str | None = None,
    **limits: Unpack[Limits],
) -> Any:
    """Declare a field.

    Args:
        default: the value when neither flag nor YAML gives one; without it the field is required.
        help: one sentence, with the unit.
        identity: whether the value can change the rows, so that it belongs in the fingerprint.
        common: whether ``--help`` shows it; ``--help-all`` shows every field.
        choices: the only values allowed.
        positional: an argument of the command rather than a flag.
        flag: ``-o``, a letter beside the flag that is the field's name; ``--json``, in its place.
        metavar: what stands for the value in ``--help``.
        limits: ``minimum`` and ``maximum``, themselves allowed, ``above`` and ``below``, which are
            not; of a list, for each of its values.
    """
    metadata = {
        "help": help,
        "identity": identity,
        "common": common,
        "choices": tuple(choices),
        "bounds": Bounds(**limits),
        "positional": positional,
        "flag": flag,
        "metavar": metavar,
    }
    return field(default=default, metadata=metadata)


def flag_of(item: "Field[Any]") -> str:
    """Return a field's long flag, ``--max-tokens``."""
    flag = item.metadata["flag"]
    if flag is not None and flag.startswith("--"):
        return str(flag)
    return flag_named(item.name)


def flag_named(name: str) -> str:
    """Return the long flag of a field's name: ``--max-tokens`` of ``max_tokens``."""
    return "--" + name.replace("_", "-")


def shown_name(item: "Field[Any]") -> str:
    """Return how a user gives a field: ``--output``, or ``GROUPS`` for an argument."""
    if not item.metadata["positional"]:
        return flag_of(item)
    return str(item.metadata["metavar"] or item.name.upper()).rstrip(".").strip("[]")


def short_flag_of(item: "Field[Any]") -> str | None:
    """Return a field's flag of one letter, ``-o``, None where it has none."""
    flag = item.metadata["flag"]
    return None if flag is None or flag.startswith("--") else flag


def resolved_types(cls: type) -> dict[str, Any]:
    """Return each field's type with annotations evaluated."""
    return typing.get_type_hints(cls)


def is_list(kind: Any) -> bool:
    """Return whether a field takes several values (``tuple[X, ...]``)."""
    return typing.get_origin(kind) is tuple


def scalar_type(kind: Any) -> type:
    """Return the type of one value: ``int`` for ``int | None`` and ``tuple[int, ...]``.

    `Url` stands for a `Location`: a field that takes a URL takes a path, too.
    """
    if is_list(kind):
        kind = typing.get_args(kind)[0]
    if isinstance(kind, types.UnionType) and Url in typing.get_args(kind):
        return Url
    if isinstance(kind, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if typing.get_origin(kind) is Literal:
        return str
    assert isinstance(kind, type)
    return kind


def convert_fields(config: Any) -> list[str]:
    """Turn each value into its field's type: YAML gives lists and texts for tuples and paths.

    Returns:
        A sentence for each value that cannot be of its field's type.
    """
    problems = []
    kinds = resolved_types(type(config))
    for item in fields(config):
        value, kind = getattr(config, item.name), kinds[item.name]
        is_optional = type(None) in typing.get_args(kind)
        if value is None and is_optional:
            continue
        try:
            converted = _converted(value, kind)
        except (TypeError, ValueError):
            problems.append(f"{shown_name(item)} takes {_type_words(kind)}, not {value!r}")
            continue
        except UsageError as error:
            problems.append(f"{shown_name(item)} {error.message}: {error.hint}")
            continue
        # the dataclass is frozen, and still being made
        object.__setattr__(config, item.name, converted)
    return problems


def field_problems(config: Any) -> list[str]:
    """Return everything wrong with values of the right type, each held against its own field."""
    # three passes, so that what is said first is what explains the rest
    return [*_address_problems(config), *_choice_problems(config), *_bounds_problems(config)]


def _values(config: Any) -> Iterator[tuple["Field[Any]", tuple[Any, ...]]]:
    """Yield each field with its values: several of a list, none where nothing was given."""
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, tuple):
            yield item, value
        elif value is not None:
            yield item, (value,)


def _address_problems(config: Any) -> Iterator[str]:
    """Yield the URLs of fields that take paths of this machine alone."""
    for item, values in _values(config):
        if item.name.endswith("base_url"):
            yield from _secret_problems(item, values)
        for path in values:
            url = url_in(path) if isinstance(path, Path) else None
            if url is not None:
                problem, advice = problem_of_url(config, item, url)
                yield f"{shown_name(item)} {problem}: {advice}"


def problem_of_url(config: Any, item: "Field[Any]", url: str) -> tuple[str, str]:
    """Return what is wrong with a URL where only this machine's disks are taken, and what to do."""
    command = config.command_name()
    if item.name == "output":
        push = "pass a path of this machine"
        if item.metadata["metavar"] in ("DIR", "OUT"):
            push = f"use -o FOLDER, then `prefpipe push FOLDER {url}`"
        return f"{url}: {command} writes to a disk", push
    pull = f"copy it with `prefpipe pull {url} FOLDER`, and pass FOLDER"
    return f"{url}: {command} reads this from a disk", pull


def _secret_problems(item: "Field[Any]", values: Sequence[str]) -> Iterator[str]:
    """Yield servers' addresses that hold a secret: ``run.json`` would hold it, too."""
    for value in values:
        shown = address_with_secret(value)
        if shown is not None:
            yield (
                f"{flag_of(item)} {shown} holds a user, a password or a query, which would be "
                "recorded: set OPENAI_API_KEY instead"
            )


def _choice_problems(config: Any) -> Iterator[str]:
    for item, values in _values(config):
        choices = item.metadata["choices"]
        others = [value for value in values if choices and value not in choices]
        if others:
            guess = did_you_mean(others[0], choices)
            yield (
                f"{shown_name(item)} must be one of {', '.join(choices)}, not {others[0]!r}{guess}"
            )


def _bounds_problems(config: Any) -> Iterator[str]:
    for item, values in _values(config):
        bounds = item.metadata["bounds"]
        outside = [value for value in values if not bounds.hold(value)]
        if outside:
            yield f"{flag_of(item)} must be {bounds}, not {outside[0]}"


_WRITTEN_AS: dict[type, tuple[type, ...]] = {
    Path: (str, Path),
    Url: (str, Path, Url),
    str: (str, int, float),
    int: (int, str),
    float: (int, float, str),
}
"""What a value of each type may be given as; a whole number is never a rounded one."""


def _converted(value: Any, kind: Any) -> Any:
    """Return a value as its field's type.

    Raises:
        TypeError: it is of another type, one that means something else.
        ValueError: it is written as that type, and is none.
    """
    target = scalar_type(kind)
    if is_list(kind):
        values = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_converted(each, target) for each in values)

    if target is Overwrite:
        return Overwrite.of(value) if isinstance(value, bool) else Overwrite(str(value))
    # Python counts True as 1, and a user who writes `n: true` does not
    if isinstance(value, bool) != (target is bool):
        raise TypeError
    if target is bool:
        return value

    if not isinstance(value, _WRITTEN_AS[target]):
        raise TypeError
    if target is Path:
        return _at_home(Path(str(value)))
    if target is Url:
        place = parse_location(str(value))
        return _at_home(place) if isinstance(place, Path) else place
    converted = target(value)
    if target is float and not isfinite(converted):
        raise ValueError
    return converted


def _at_home(path: Path) -> Path:
    """Return a path with its ``~`` written out, as no shell has done it for a YAML file."""
    try:
        return path.expanduser()
    except RuntimeError:  # the home of nobody who is known here
        return path


def _type_words(kind: Any) -> str:
    """Return what a field takes, in words."""
    scalar = scalar_type(kind)
    if scalar is Overwrite:
        return "no, stale or all"
    if scalar is bool:
        return "true or false"
    names = {int: "whole number", float: "finite number", str: "text", Path: "path", Url: "path"}
    return f"{names[scalar]}s" if is_list(kind) else f"a {names[scalar]}"
