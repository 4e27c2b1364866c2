"""``prefpipe study``: arms by seeds over one pool and one held-out set, by a plan."""

import os

import typer

from prefpipe.cli.signals import stop_request
from prefpipe.configs.study import StudyConfig


def study(config: StudyConfig) -> None:
    """Run the plan's steps, or print them as a script."""
    from prefpipe.cli import stderr, stdout
    from prefpipe.wiring.open_study import open_study

    opened = open_study(config)
    if config.dry_run:
        from prefpipe.wiring.study_script import script_of

        stdout.pipe_exactly(script_of(opened))
        return

    from prefpipe.wiring.study import run_study

    ending = run_study(opened, stop_request, stderr.log, os.environ)
    if ending is not None:
        stderr.show_error(ending.error)
        raise typer.Exit(ending.exit_code)
    stdout.pipe(str(config.output))
