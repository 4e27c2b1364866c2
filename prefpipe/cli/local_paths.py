"""Commands that refuse an address such as ``s3://bucket/x`` wherever they take a path.

pathlib reads it as ``s3:/bucket/x``, a folder ``s3:`` in the current one. The rule holds for every argument and option that
is a path, because commands are registered here and not with typer itself.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import typer

from prefpipe.artifacts.tables.locations import refuse_scheme

Function = TypeVar("Function", bound=Callable[..., Any])


class Commands(typer.Typer):
    """A group of commands whose paths are of this machine."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:
        """Return what registers a function as a command."""
        register = super().command(name, **settings)
        return lambda function: register(with_local_paths(function))


def with_local_paths(function: Function) -> Function:
    """Return the function with its paths checked before it is called."""

    @functools.wraps(function)
    def checked(*args: Any, **values: Any) -> Any:
        for name, path in _paths(values):
            refuse_scheme(path, _shown(function, name))
        return function(*args, **values)

    return checked  # type: ignore[return-value]


def _paths(values: dict[str, Any]) -> Iterable[tuple[str, Path]]:
    for name, value in values.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, Path):
                yield name, item


def _shown(function: Callable[..., Any], name: str) -> str:
    """Return how a user gives a parameter: ``--output``, or ``GROUPS`` for an argument."""
    annotation = inspect.signature(function).parameters[name].annotation
    for info in getattr(annotation, "__metadata__", ()):
        if type(info).__name__ == "ArgumentInfo":
            return str(info.metavar or name.upper()).rstrip(".")
    return "--" + name.replace("_", "-")
