"""Reads the parameters of a check from a mapping into the fields of its dataclass, reporting every problem."""

import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, Union

from prefpipe.spelling import did_you_mean

READERS: dict[Any, Callable[[Any], Any]] = {}
"""How a value is read, by the annotation of the field; filled at the end of this file."""


def read_whole_number(value: Any) -> int:
    """Return an integer; ``3.0`` counts as one because tables keep integers beside blanks as floats."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError(f"must be a whole number, got {value!r}")
    return int(value)


def read_number(value: Any) -> float:
    """Return a finite float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"must be a finite number, got {value!r}")
    return float(value)


def read_text(value: Any) -> str:
    """Return a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a text that is not empty, got {value!r}")
    return value


def read_texts(value: Any) -> tuple[str, ...]:
    """Return one or several strings as a tuple; one string stands for a list of one."""
    if isinstance(value, str):
        return (read_text(value),)
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise ValueError(f"must be a text or a list of texts, got {value!r}")  # noqa: TRY004 - reported, not raised
    return tuple(read_text(item) for item in value)


def read_switch(value: Any) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, got {value!r}")  # noqa: TRY004 - reported, not raised
    return value


def read_parameters(check_class: type, given: Mapping[str, Any], problems: list[str]) -> Any:
    """Return an instance of ``check_class``, or None after adding to ``problems`` everything that is wrong.

    A parameter whose value is null counts as absent: a Parquet column of structs gives every check the keys of
    all others, filled with nulls.
    """
    known = {field.name: field for field in fields(check_class)}
    annotations = typing.get_type_hints(check_class)
    n_before = len(problems)
    values = {}
    for name, value in given.items():
        if value is None:
            continue
        if name not in known:
            guess = did_you_mean(name, known, quote="'")
            problems.append(f"unknown parameter {name!r}{guess}; it takes {', '.join(known)}")
            continue
        try:
            values[name] = _read(annotations[name], value)
        except ValueError as error:
            problems.append(f"{name!r} {error}")
    for name, field in known.items():
        required = field.default is MISSING and field.default_factory is MISSING
        if required and given.get(name) is None:
            problems.append(f"parameter {name!r} is missing")
    if len(problems) > n_before:
        return None
    try:
        return check_class(**values)
    except ValueError as error:
        problems.append(str(error))
        return None


def _read(annotation: Any, value: Any) -> Any:
    if typing.get_origin(annotation) in {types.UnionType, Union}:  # an optional parameter
        annotation = next(
            kind for kind in typing.get_args(annotation) if kind is not types.NoneType
        )
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(map(repr, choices))}, got {value!r}")
        return value
    return READERS[annotation](value)


READERS |= {int: read_whole_number, float: read_number, str: read_text, bool: read_switch}
READERS[tuple[str, ...]] = read_texts
