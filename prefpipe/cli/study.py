"""``prefpipe study``: arms by seeds over one pool and one held-out set, by a plan."""

import os
from pathlib import Path

import typer

from prefpipe.cli.signals import stop_request
from prefpipe.configs.study import StudyConfig
from prefpipe.configs.trust import trust_warnings_of_plan


def study(config: StudyConfig) -> None:
    """Run the plan's steps, or print them as a script."""
    from prefpipe.wiring.extras import require_extras

    require_extras(config)

    from prefpipe.cli import stderr, stdout
    from prefpipe.wiring.open_study import open_study

    opened = open_study(config)
    for line in trust_warnings_of_plan(config.plan, opened.plan.values):
        stderr.log(line)
    if config.dry_run:
        from prefpipe.wiring.study_script import script_of

        stdout.pipe_exactly(script_of(opened))
        return

    from prefpipe.artifacts.step_ledger import STOPPED_CODES
    from prefpipe.wiring.study import run_study

    ending = run_study(opened, stop_request, stderr.log, os.environ)
    if ending is None or ending.exit_code not in STOPPED_CODES:
        _show_figures(config.output)
    if ending is not None:
        stderr.show_error(ending.error)
        raise typer.Exit(ending.exit_code)
    stdout.pipe(str(config.output))


def _show_figures(folder: Path) -> None:
    """Print the tables of what is done to stderr, as ``prefpipe eval study`` does to stdout."""
    from prefpipe.artifacts.study_tables import RESULTS_FILE
    from prefpipe.cli import stderr
    from prefpipe.errors import PrefpipeError
    from prefpipe.pages.study import study_page
    from prefpipe.stages.study.figures import figures_of

    if not (folder / RESULTS_FILE).exists():
        return
    try:
        stderr.show_page(study_page(figures_of(folder)))
    except PrefpipeError as error:
        # how the study ended is said in any case
        stderr.log(f"warning: {error.message}")
