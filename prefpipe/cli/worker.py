"""``prefpipe worker``: what ``--workers`` starts; nobody types it."""

import os

import typer

from prefpipe.cli.signals import stop_request
from prefpipe.errors import UsageError


def worker() -> None:
    """Make the parts that the driver at the other end of an inherited socket hands out."""
    from prefpipe.execution.processes import (
        CHANNEL_VARIABLE,
        channel_to_driver,
        end_this_session,
    )
    from prefpipe.wiring.worker import work

    if CHANNEL_VARIABLE not in os.environ:
        raise UsageError(
            "`prefpipe worker` is started by other commands",
            hint="run a stage with --workers N",
        )
    code = work(channel_to_driver(), stop_request, end_this_session)
    raise typer.Exit(code)
