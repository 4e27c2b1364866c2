"""A typer command from a dataclass: for commands with more flags than a function should have arguments."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

Flags = TypeVar("Flags")


def command_from(flags_class: type[Flags], handler: Callable[[Flags], None]) -> Callable[..., None]:
    """Return a function that typer can register: a parameter for each field, annotated as typer's parameters are.

    Args:
        flags_class: a dataclass; the fields' defaults are the flags'.
        handler: called with what was given; its docstring is the command's help.
    """

    def command(**values: Any) -> None:
        handler(flags_class(**values))

    kinds = get_type_hints(flags_class, include_extras=True)
    parameters = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=kinds[item.name],
            default=inspect.Parameter.empty if item.default is MISSING else item.default,
        )
        for item in fields(flags_class)  # type: ignore[arg-type]
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = handler.__doc__
    return command
