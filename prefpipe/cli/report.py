"""``prefpipe report``: the story of a run as one HTML file."""

from shlex import quote
from typing import TYPE_CHECKING

from prefpipe.configs.report import ReportConfig

if TYPE_CHECKING:
    from prefpipe.wiring.report import ReportedFolder


def report(config: ReportConfig) -> None:
    """Write the file."""
    from prefpipe.cli import stderr, stdout
    from prefpipe.report.messages import error_lines, with_names
    from prefpipe.report.page import refuse_other_file, render, write_report
    from prefpipe.report.story import tell
    from prefpipe.wiring.report import calculator_model, open_folder

    # before the work, not after it
    refuse_other_file(config.output, overwrite=config.overwrite)
    folder = open_folder(config.workdir, strict=config.strict)
    _warn_of_unfinished(folder, strict=config.strict)

    model = calculator_model(config.model, folder.artifacts)
    story = tell(config.workdir.resolve().name, folder.artifacts, model, n_maps=config.prompts)
    story["not_done"] = [*folder.unreadable, *story["not_done"]]
    for line in error_lines(story):
        stderr.log(line)

    story = with_names(story, folder.artifacts)
    write_report(config.output, render(story), overwrite=config.overwrite)
    if config.as_json:
        stdout.pipe_json(story)
    else:
        stdout.pipe(str(config.output))


def _warn_of_unfinished(folder: "ReportedFolder", *, strict: bool) -> None:
    """Say in the first lines whose figures will be marked.

    Raises:
        InputError: with ``strict``, naming the first that is partial, stale or corrupt.
    """
    from prefpipe.cli import stderr
    from prefpipe.errors import InputError

    for entry in folder.unreadable:
        line = f"{entry['name']} is {entry['state']}: {entry['reasons'][0]}"
        if strict:
            raise InputError(f"--strict: {line}", hint="repair it, or move it out of the folder")
        stderr.log(f"warning: {line}; it is left out of the report")

    for item in folder.artifacts:
        if item.state == "done":
            continue
        reason = f": {item.reasons[0].rstrip(':')}" if item.reasons else ""
        line = f"{item.name} is {item.state}{reason}"
        if strict:
            path = quote(str(item.artifact.path))
            raise InputError(f"--strict: {line}", hint=f"prefpipe status {path}")
        stderr.log(f"warning: {line}; its figures are marked")
