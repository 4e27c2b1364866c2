"""The parameters of a check: types with their bounds, and every problem of a mapping of values.

A check is a pydantic dataclass whose fields have these types. They are strict, because a value of
another type is a mistake in the prompts file.
"""

import functools
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from prefpipe.spelling import did_you_mean


def _whole(value: Any) -> Any:
    """Return 3 for 3.0: tables store whole numbers beside blanks as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _one_or_several(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        raise ValueError("should be a text or a list of texts")  # noqa: TRY004 - pydantic reports it
    return tuple(value)


Switch = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True, min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_one_or_several)]
"""One or several texts; a single text means a list of one."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0)]
Count = Annotated[int, Field(strict=True, ge=0), BeforeValidator(_whole)]


def read_parameters(check_class: type, given: Mapping[str, Any], problems: list[str]) -> Any:
    """Return an instance of ``check_class``, or None after adding all problems.

    A parameter whose value is null counts as absent: a Parquet column of structs gives every check
    the keys of all others, filled with nulls.

    Args:
        check_class: a pydantic dataclass.
        given: values by the names of its fields.
        problems: the list to which problems are added.
    """
    values = {name: value for name, value in given.items() if value is not None}
    known = [field.name for field in fields(check_class)]
    unknown = [name for name in values if name not in known]
    for name in unknown:
        guess = did_you_mean(name, known, quote="'")
        problems.append(f"unknown parameter {name!r}{guess}; it takes {', '.join(known)}")
        del values[name]

    try:
        check = _reader(check_class).validate_python(values)
    except ValidationError as error:
        # Problems of several parameters together, which have no place, come after all are known.
        faults = error.errors(include_url=False)
        problems += [_worded(fault) for fault in faults if fault["loc"] or not unknown]
        return None
    return None if unknown else check


@functools.cache
def _reader(check_class: type) -> TypeAdapter[Any]:
    return TypeAdapter(check_class)


def _worded(fault: Any) -> str:
    """Return a pydantic error as a problem with the parameter's name and value."""
    # A check's own objection arrives as the exception that it raised.
    objection = fault.get("ctx", {}).get("error")
    message: str = fault["msg"] if objection is None else str(objection)
    if not fault["loc"]:
        return message

    name = fault["loc"][0]
    if fault["type"] == "missing":
        return f"parameter {name!r} is missing"
    message = message.removeprefix("Input ")
    return f"{name!r} {message[0].lower()}{message[1:]}, got {fault['input']!r}"
