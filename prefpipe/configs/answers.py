"""Flags that many commands share whose answer is text to read."""

from typing import Any

from prefpipe.configs.options import option


def json_option(help_text: str = "print JSON to stdout") -> Any:
    """Declare ``--json``."""
    return option(False, flag="--json", help=help_text)


def strict_option() -> Any:
    """Declare ``--strict``."""
    return option(
        False,
        help="refuse artifacts that are not done in `prefpipe status`, instead of marking the "
        "results",
    )
