"""The rules for the output of every export.

It never replaces a file unasked, is written part by part, and is never empty.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import TypeVar

from prefpipe.artifacts.atomic import make_folder, sweep_temporary_files
from prefpipe.artifacts.interchange.row_writers import RowWriter
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.storage.unreadable import unreadable
from prefpipe.configs.export import ExportConfig
from prefpipe.errors import InputError, StoppedEarly, UsageError
from prefpipe.execution.runtime import Runtime, Task
from prefpipe.stages.shared.candidate_rows import Row

Answer = TypeVar("Answer")


def refuse_existing_file(config: ExportConfig) -> None:
    """Refuse to replace a folder, or a file without ``--overwrite``.

    Raises:
        UsageError: naming it.
    """
    place = config.output
    if look(files.is_folder, place):
        raise UsageError(
            f"output {place} is a folder, and {config.format} writes a file",
            hint="choose another name with -o",
        )
    if look(files.is_file, place) and not config.overwrite:
        raise UsageError(
            f"output {place} exists",
            hint="choose another name with -o, or replace it with --overwrite",
        )


def look(ask: Callable[[Location], Answer], place: Location) -> Answer:
    """Return what there is at a place, as a function of `files` tells.

    Raises:
        InputError: a bucket does not say.
    """
    try:
        return ask(place)
    except OSError as error:
        raise unreadable(place, error) from error


def sweep_beside(place: Location) -> None:
    """Remove what an export that was killed has left beside its file; a bucket has nothing."""
    if isinstance(place, Path):
        make_folder(place.parent)
        sweep_temporary_files(place.parent, place.name)


def write_parts(
    config: ExportConfig,
    writer: RowWriter,
    rows_of_part: Callable[[int], list[Row]],
    indices: Sequence[int],
    runtime: Runtime,
) -> None:
    """Write the rows of parts, one part after another.

    Raises:
        StoppedEarly: a stop was requested; the file takes its name at the end alone, so that there
            is none yet.
    """
    task = Task(config.stage, "part", len(indices), output=str(config.output))
    with runtime.progress(task) as advance:
        for index in indices:
            if runtime.should_stop():
                raise StoppedEarly(
                    "export stopped on request; nothing was written",
                    hint="run the same command again",
                )
            writer.write(rows_of_part(index))
            advance(1)


def refuse_no_rows(config: ExportConfig, left_out: Counter[str], looking_for: str = "") -> None:
    """Refuse to write a file without rows: a trainer would fail on it, and later.

    Args:
        config: the stage's knobs.
        left_out: how many prompts were left out, by reason.
        looking_for: end of the hint: what `inspect` shows.

    Raises:
        InputError: with the reasons.
    """
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
    raise InputError(
        f"{config.groups} holds nothing to export: {reasons or 'it has no prompts'}",
        hint=f"run `prefpipe inspect {quote(str(config.groups))}`{looking_for}",
    )
