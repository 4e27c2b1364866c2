"""``prefpipe rounds``: several rounds of the pipeline, by a plan."""

import os

import typer

from prefpipe.cli.signals import stop_request
from prefpipe.configs.rounds import RoundsConfig
from prefpipe.configs.trust import trust_warnings_of_plan


def rounds(config: RoundsConfig) -> None:
    """Run the plan's steps, or print them as a script."""
    from prefpipe.cli import stderr, stdout
    from prefpipe.wiring.rounds import open_rounds, run_rounds, script_of

    opened = open_rounds(config)
    for line in trust_warnings_of_plan(config.plan, opened.plan.to_values()):
        stderr.log(line)
    if config.dry_run:
        stdout.pipe_exactly(script_of(opened))
        return

    failure = run_rounds(opened, stop_request, stderr.log, os.environ)
    if failure is not None:
        stderr.show_error(failure.error)
        raise typer.Exit(failure.exit_code)
    stdout.pipe(str(config.output))
