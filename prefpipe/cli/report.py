"""``prefpipe report``: the story of a run, or of two, as one HTML file."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from prefpipe.artifacts.storage.location import local_path
from prefpipe.configs.report import ReportConfig

if TYPE_CHECKING:
    from prefpipe.configs.study_record import StudyRecord
    from prefpipe.wiring.report import ReportedFolder


def report(config: ReportConfig) -> None:
    """Write the file."""
    from prefpipe.wiring.extras import require_extras

    require_extras(config)

    from prefpipe.cli import stdout
    from prefpipe.configs.study_record import read_study_record
    from prefpipe.report.page import refuse_other_file, write_report

    # before the work, not after it
    refuse_other_file(config.place, overwrite=config.overwrite)
    records = [read_study_record(path) if isinstance(path, Path) else None for path in config.runs]
    if len(config.runs) > 1:
        story, page = _of_two_runs(config, records)
    else:
        story, page = _of_run(config) if records[0] is None else _of_study(config, records[0])
    write_report(config.place, page, overwrite=config.overwrite)
    if config.as_json:
        stdout.pipe_json(story)
    else:
        stdout.pipe(str(config.place))


def _of_run(config: ReportConfig) -> tuple[dict[str, Any], str]:
    """Return the story of a run, and its page."""
    from prefpipe.cli import stderr
    from prefpipe.report.messages import error_lines, with_names
    from prefpipe.report.page import render
    from prefpipe.report.story import tell
    from prefpipe.wiring.report import calculator_model, open_folder

    folder = open_folder(config.workdir, strict=config.strict)
    _warn_of_unfinished(folder, strict=config.strict)

    model = calculator_model(config.model, folder.artifacts)
    story = tell(config.workdir.resolve().name, folder.artifacts, model, n_maps=config.prompts)
    story["not_done"] = [*folder.unreadable, *story["not_done"]]
    for line in error_lines(story):
        stderr.log(line)

    story = with_names(story, folder.artifacts)
    return story, render(story)


def _of_two_runs(
    config: ReportConfig, records: "Sequence[StudyRecord | None]"
) -> tuple[dict[str, Any], str]:
    """Return the story of two runs side by side, and its page.

    Raises:
        UsageError: one of them is a study.
    """
    from prefpipe.cli import stderr
    from prefpipe.errors import UsageError
    from prefpipe.report.messages import with_names
    from prefpipe.report.page import render_pair
    from prefpipe.report.pair import ReportedRun, run_names, tell_pair
    from prefpipe.wiring.report import calculator_model, open_folder

    runs = []
    for path, name, record in zip(config.runs, run_names(config.runs), records, strict=True):
        if record is not None:
            raise UsageError(
                f"{path} is a study, and two runs are compared",
                hint=f"report on the study alone: prefpipe report {quote(str(path))}",
            )
        folder = open_folder(path, strict=config.strict)
        _warn_of_unfinished(folder, strict=config.strict)
        model = calculator_model(config.model, folder.artifacts)
        runs.append(ReportedRun(name, folder.artifacts, model, folder.unreadable))

    story = tell_pair(runs[0], runs[1])
    for run in runs:
        story = with_names(story, run.artifacts)
    for reason in story["reasons"]:
        stderr.log(f"warning: no paired differences: {reason}")
    return story, render_pair(story)


def _of_study(config: ReportConfig, record: "StudyRecord") -> tuple[dict[str, Any], str]:
    """Return the story of a study, and its page.

    Raises:
        UsageError: flags of what a run's report alone has.
        InputError: with ``--strict``, runs that are not done.
    """
    from prefpipe.cli import stderr
    from prefpipe.errors import InputError
    from prefpipe.report.page import render_study
    from prefpipe.report.study import tell_study
    from prefpipe.wiring.report import open_study

    _refuse_flags_of_runs(config)
    study = open_study(local_path(config.workdir, "RUN"), record)
    story = tell_study(config.workdir.resolve().name, study.figures, study.runs, study.record)
    for line in story["unfinished"]:
        if config.strict:
            raise InputError(
                f"--strict: {line}", hint=f"prefpipe status {quote(str(config.workdir))}"
            )
        stderr.log(f"warning: {line}")
    return story, render_study(story)


def _refuse_flags_of_runs(config: ReportConfig) -> None:
    """Refuse flags for maps and the calculator, which a study's report has not.

    Raises:
        UsageError: naming the flag.
    """
    from prefpipe.configs.report import DEFAULT_MAPS
    from prefpipe.errors import UsageError

    given = {"--model": config.model is not None, "--prompts": config.prompts != DEFAULT_MAPS}
    for flag, is_given in given.items():
        if is_given:
            raise UsageError(
                f"{flag} is of a run's report, and {config.workdir} is a study",
                hint=f"leave it out, or report on the runs in it: prefpipe report "
                f"{quote(str(config.workdir / 'pool'))}",
            )


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
