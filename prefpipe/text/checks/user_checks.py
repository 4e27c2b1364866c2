"""The check that calls a user's own Python function."""

import functools
import importlib
import importlib.metadata
import math
from collections.abc import Callable
from typing import Any, Final

from pydantic.dataclasses import dataclass

from prefpipe.errors import InputError
from prefpipe.spelling import did_you_mean
from prefpipe.text.checks.grading import CheckedResponse, Grade
from prefpipe.text.checks.parameters import Text
from prefpipe.text.tool_turns import TOOLS, for_template

ENTRY_POINT_GROUP: Final = "prefpipe.checks"

UserFunction = Callable[[str, list[dict[str, Any]], dict[str, Any]], Any]
"""``(response, messages, columns) -> float in [0, 1] or bool``.

The prompt's tools are in ``tools`` of its last turn.
"""


@functools.cache
def load_function(name: str) -> UserFunction:
    """Return a user's function.

    Args:
        name: ``package.module:function``, or an entry point of ``prefpipe.checks``.

    Raises:
        ValueError: no such entry point, a failing import, no such attribute, not callable.
    """
    # Not an installed entry point, but imported and resolved in the same way.
    if ":" in name:
        reference = importlib.metadata.EntryPoint(name, name, ENTRY_POINT_GROUP)
    else:
        installed = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
        if name not in installed.names:
            names = ", ".join(sorted(installed.names)) or "none"
            guess = did_you_mean(name, installed.names, quote="'")
            raise ValueError(
                f"'function' {name!r} is not an entry point of the group "
                f"{ENTRY_POINT_GROUP!r}{guess}; installed: {names}; "
                "write a module's function as 'package.module:function'"
            )
        reference = installed[name]

    try:
        function = reference.load()
    except Exception as error:
        raise ValueError(
            f"'function' {name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        kind = type(function).__name__
        raise ValueError(f"'function' {name!r} is a {kind}, not a function")  # noqa: TRY004 - reported
    loaded: UserFunction = function
    return loaded


@dataclass(frozen=True, kw_only=True)
class PythonCheck:
    """A user's own function.

    ``function(response, messages, columns)`` returns a score in [0, 1] or a bool.
    """

    function: Text

    def __post_init__(self) -> None:
        """Refuse a function that cannot be loaded."""
        load_function(self.function)

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return the function's score.

        Raises:
            InputError: the function raised, or did not return a score.
        """
        messages, tools = for_template(candidate.messages)
        if tools is not None:
            messages[-1][TOOLS] = tools

        try:
            function = load_function(self.function)
            returned = function(candidate.response, messages, dict(candidate.columns))
        except Exception as error:
            raise InputError(
                f"check function {self.function!r} raised {type(error).__name__}: {error}",
                hint=f"call {self.function!r} on this response by hand, or make it return 0 for "
                "responses that it cannot judge",
            ) from error

        score = _read_score(returned)
        if score is None:
            raise InputError(
                f"check function {self.function!r} returned {returned!r}, not a number in [0, 1] "
                "or a bool",
                hint="return a float between 0 and 1, True or False",
            )
        return Grade(score, f"returned {score:g}")


def _read_score(returned: Any) -> float | None:
    """Return a number in [0, 1], whichever library it comes from, or None."""
    if returned is None or isinstance(returned, str | bytes):
        return None
    try:
        score = float(returned)
    except (TypeError, ValueError):
        return None
    return score if math.isfinite(score) and 0.0 <= score <= 1.0 else None
