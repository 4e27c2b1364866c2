"""Rows of users' files that a stage leaves out with ``--skip-bad-rows``.

They are counted by reason, and kept in a file.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.tables.bad_rows import (
    BadRow,
    BadRowsError,
    count_by_reason,
    read_without_bad_rows,
)
from prefpipe.configs.tables import TablesConfig
from prefpipe.stages.shared.partwise import Summary

FLAG = "--skip-bad-rows"
CONTEXT_KEY = "skipped_rows"
"""Under which ``run.json`` and the summary hold the counts."""
Read = TypeVar("Read")


def read_users_rows(config: TablesConfig, read: Callable[[], Read]) -> tuple[Read, list[BadRow]]:
    """Read a user's files: strictly, or without the rows that cannot be used.

    Args:
        config: the stage's knobs.
        read: reads the files.

    Returns:
        What was read, and the rows that were left out.

    Raises:
        BadRowsError: rows that cannot be used, and ``--skip-bad-rows`` is not given.
        InputError: a fault of a whole file, or no row can be used.
    """
    if config.skip_bad_rows:
        return read_without_bad_rows(read)
    try:
        return read(), []
    except BadRowsError as error:
        error.hint = f"{error.hint}; or pass {FLAG} to leave them out"
        raise


def file_of_skipped_rows(output: Location) -> Location:
    """Return the file that lists the rows that a run left out.

    It is beside the output, which holds only parts.
    """
    return output.parent / f"{output.name}.skipped-rows.jsonl"


def report_skipped_rows(config: TablesConfig, rows: Sequence[BadRow], summary: Summary) -> None:
    """Write the rows that were left out beside the output and count them in the summary.

    Args:
        config: the stage's knobs.
        rows: what was left out.
        summary: gets a note and the counts.
    """
    if not config.skip_bad_rows:
        return
    path = file_of_skipped_rows(config.output)
    summary.facts[CONTEXT_KEY] = {
        "n": len(rows),
        "file": str(path) if rows else None,
        "by_reason": dict(count_by_reason(rows)),
    }
    if not rows:
        files.delete(path)  # of an earlier run under this name
        return

    lines = []
    for row in rows:
        line = {
            "file": row.source,
            "place": row.place,
            "reason": row.reason,
            "row": row.content,
        }
        lines.append(f"{json.dumps(line, default=repr)}\n".encode())
    files.write(path, b"".join(lines))

    number = f"{len(rows):,} rows cannot be used and are"
    if len(rows) == 1:
        number = "1 row cannot be used and is"
    summary.notes.append(f"{number} left out, see {path}:")
    for reason, count in count_by_reason(rows).items():
        summary.notes.append(f"  {count:,} {reason}")


def context_of_skipped_rows(rows: Sequence[BadRow]) -> dict[str, Any]:
    """Return the entry of ``run.json`` on the rows that were left out, {} if none were."""
    return {CONTEXT_KEY: dict(count_by_reason(rows))} if rows else {}
