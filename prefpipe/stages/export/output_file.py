"""The rules for the output of every export.

It never replaces a file unasked, is written part by part, and is never empty.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from shlex import quote

from prefpipe.artifacts.interchange.row_writers import RowWriter
from prefpipe.configs.export import ExportConfig
from prefpipe.errors import InputError, StoppedEarly, UsageError
from prefpipe.execution.runtime import Runtime, Task
from prefpipe.stages.shared.candidate_rows import Row


def refuse_existing_file(config: ExportConfig) -> None:
    """Refuse to replace a folder, or a file without ``--overwrite``.

    Raises:
        UsageError: naming it.
    """
    path = config.output
    if path.is_dir():
        raise UsageError(
            f"output {path} is a folder, and {config.format} writes a file",
            hint="choose another name with -o",
        )
    if path.exists() and not config.overwrite:
        raise UsageError(
            f"output {path} exists",
            hint="choose another name with -o, or replace it with --overwrite",
        )


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
