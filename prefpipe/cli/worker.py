"""``prefpipe worker``: what ``--workers`` starts; nobody types it."""

import typer

from prefpipe.cli.signals import stop_request


def worker() -> None:
    """Make the parts that the driver at the other end of an inherited socket hands out."""
    from prefpipe.execution.processes import channel_to_driver, end_this_session
    from prefpipe.wiring.worker import work

    code = work(channel_to_driver(), stop_request, end_this_session)
    raise typer.Exit(code)
