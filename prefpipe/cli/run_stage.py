"""One stage from its config to its summary: what every stage's command does."""

import json
import sys
from typing import TYPE_CHECKING

from prefpipe.artifacts.storage.location import Url
from prefpipe.cli.launched_processes import speaks_for_the_run
from prefpipe.cli.signals import stop_request
from prefpipe.configs.stage import StageConfig
from prefpipe.errors import ErrorRateError, PrefpipeError

if TYPE_CHECKING:
    from prefpipe.stages.shared.partwise import Summary


def run_stage(config: StageConfig, as_json: bool) -> None:
    """Run a stage in this process, and print what it did.

    Args:
        config: what was given.
        as_json: print the summary as JSON to stdout.

    Raises:
        ErrorRateError: the stage finished with too many failed rows; its summary is printed.
        PrefpipeError: the stage failed.
    """
    from prefpipe.cli import stderr
    from prefpipe.wiring import stages
    from prefpipe.wiring.open_settings import settled
    from prefpipe.wiring.surroundings import runtime_for

    speaks = speaks_for_the_run(config.stage)
    log = stderr.log if speaks else lambda _line: None
    stop_request.live_height = lambda: stderr.live_view.height
    config = settled(config, log)
    runtime = runtime_for(config, log=log, stop=stop_request, view=stderr.live_view, argv=sys.argv)
    try:
        summary = stages.run_stage(config, runtime)
    except ErrorRateError as error:
        # what is good is on disk and finished: its summary is shown, and the exit code is 3
        if speaks and error.summary is not None:
            _show(error.summary, as_json)
        raise
    except Exception as error:
        named = _naming_the_output(error, config)
        if named is None:
            raise
        raise named from error
    if speaks:
        _show(summary, as_json)


def _show(summary: "Summary", as_json: bool) -> None:
    """Print what a finished stage did; stdout carries what a script reads, whatever the code."""
    from prefpipe.artifacts.finite_json import finite_values
    from prefpipe.cli import stderr, stdout

    with stop_request.finishing():  # the stage is done, and its exit code known
        stderr.show_summary(summary)
        if as_json:
            stdout.pipe(json.dumps(finite_values(summary.to_json())))
        else:
            stdout.pipe(str(summary.path))


def _naming_the_output(error: Exception, config: StageConfig) -> PrefpipeError | None:
    """Return an error that names the output, for a disk that failed a library, else None.

    What torch or transformers write, into checkpoints above all, fails without the name of a file.
    """
    from prefpipe.artifacts.atomic import disk_error, disk_failure

    if isinstance(error, PrefpipeError):
        return None
    failure = disk_failure(error)
    if failure is None or failure.filename is not None or isinstance(config.output, Url):
        return None
    return disk_error(config.output, failure)
