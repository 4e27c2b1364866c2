"""``prefpipe.read``: an artifact as a polars frame, with a warning if it is incomplete or stale."""

import warnings
from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from prefpipe.artifacts.schemas import ALIKE_EVERYWHERE
from prefpipe.artifacts.storage.location import Location, parse_location
from prefpipe.artifacts.store import Artifact
from prefpipe.errors import IncompleteInputError, InputError, PrefpipeWarning
from prefpipe.status.checker import standing_of
from prefpipe.status.folders import open_artifact


def read(
    path: str | Location, *, columns: str | Sequence[str] | None = None, strict: bool = False
) -> pl.DataFrame:
    """Return the rows of an artifact, those of all its parts in their order.

    Every byte is compared with its checksum. Parts that are missing are left out, and a warning
    says so, as it does of an artifact that is stale: ``prefpipe status`` has the reasons.

    Args:
        path: the folder that a stage wrote with ``-o``.
        columns: those to read, or the name of one; default all.
        strict: raise instead of warning.

    Raises:
        InputError: no artifact, or one without such a column; with ``strict`` one that is stale.
        IncompleteInputError: with ``strict``, parts are missing.
        CorruptPartError: a part is damaged.
    """
    if isinstance(columns, str):
        columns = [columns]
    artifact = open_artifact(parse_location(str(path)), verb="read")
    missing = artifact.missing()
    standing = standing_of(artifact.path)

    if missing and strict:
        # raises, and names the parts
        artifact.present(range(artifact.n_parts), allow_partial=False)
    if not standing.is_done:
        n_read = artifact.n_parts - len(missing)
        shown = f"{standing.line}; these are the rows of {n_read} of {artifact.n_parts} parts"
        if strict and standing.state == "partial":
            raise IncompleteInputError(shown, hint=standing.command)
        if strict and standing.state == "stale":
            raise InputError(shown, hint=standing.command)
        warnings.warn(shown, PrefpipeWarning, stacklevel=2)

    if len(missing) == artifact.n_parts:
        return _without_rows(artifact, columns)
    return _frame_of(artifact.read_all(columns, allow_partial=True))


def _frame_of(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _without_rows(artifact: Artifact, columns: Sequence[str] | None) -> pl.DataFrame:
    """Return a frame without rows.

    Of embeddings and policies it has no columns either: only a part tells which they are.
    """
    tag = artifact.record.schema
    schema = next((schema for schema in ALIKE_EVERYWHERE if schema.tag == tag), None)
    if schema is None:
        return pl.DataFrame()

    frame = _frame_of(schema.arrow().empty_table())
    if columns is None:
        return frame
    unknown = [name for name in columns if name not in frame.columns]
    if unknown:
        raise InputError(
            f"{artifact.path} has no column `{unknown[0]}`; it has: {', '.join(frame.columns)}"
        )
    return frame.select(list(columns))
