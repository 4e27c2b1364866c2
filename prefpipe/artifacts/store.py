"""Folders of parts: open an input, open an output, know which parts are still to be made.

Resuming has no flag: an output's finished parts are kept when they carry the fingerprint of this
run and were made from the parent parts that are on disk now; everything else is made again.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple, Self

import pyarrow as pa

from prefpipe.artifacts import atomic, parts, run_record
from prefpipe.artifacts.claims import has_worker
from prefpipe.artifacts.fingerprint import field_differences
from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.parts import PartFooter, part_name
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import READABLE, column_types, same_type
from prefpipe.artifacts.summary_file import SUMMARY_FILE
from prefpipe.artifacts.tool_calls import TEMPLATE_INPUT
from prefpipe.artifacts.training_folders import CHECKPOINT_PREFIX, kept_step_folders
from prefpipe.errors import (
    CorruptPartError,
    FingerprintError,
    IncompleteInputError,
    InputError,
    UsageError,
)

MAX_SHOWN = 8
"""How many missing parts a message names."""
PART_PATTERN = re.compile(r"part-(\d{5,})-of-(\d{5,})\.parquet")


@dataclass(frozen=True)
class Shard:
    """A worker's share of the parts: those with ``index % count == shard index``."""

    index: int = 0
    count: int = 1

    def parts(self, n_parts: int) -> list[int]:
        """Return the numbers of this shard's parts; empty when there are more shards than parts."""
        return list(range(self.index, n_parts, self.count))


class FileVersion(NamedTuple):
    """Distinguishes a part's file from one that replaced it."""

    inode: int
    changed_at_ns: int
    n_bytes: int

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Return the version of the file at a path; None if there is none."""
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(status.st_ino, status.st_mtime_ns, status.st_size)


@dataclass(frozen=True)
class Artifact:
    """An artifact that is read: its folder and its run record.

    ``read_footer`` reads a part's footer, or has cached it (`SeenFooters`).
    """

    path: Path
    record: RunRecord
    read_footer: Callable[[Path], PartFooter] = field(
        default=parts.read_footer, kw_only=True, compare=False, repr=False
    )

    @property
    def n_parts(self) -> int:
        """The number of parts of the whole artifact."""
        return self.record.n_parts

    def part_path(self, index: int) -> Path:
        """Return where a part is."""
        return self.path / part_name(index, self.n_parts)

    def footer(self, index: int) -> PartFooter:
        """Return a part's footer, checked against the run.

        Raises:
            CorruptPartError: missing, damaged, or made by another run than ``run.json`` describes.
        """
        footer = self.read_footer(self.part_path(index))
        self._check(footer, index)
        return footer

    def footer_made_from(self, index: int, parent: "Artifact", digest: str) -> PartFooter:
        """Return a part's footer, after checking that it was made from the current parent part.

        Args:
            index: of the part, in both.
            parent: candidates or groups; the footer has their digest under this name.
            digest: of the parent's part.

        Raises:
            CorruptPartError: as `footer`.
            InputError: it was made from another version of it.
        """
        footer = self.footer(index)
        if footer.parents.get(parent.record.kind) != digest:
            raise InputError(
                f"{self.part_path(index)} was made from another version of "
                f"{parent.part_path(index)}",
                hint=f"run the `prefpipe {self.record.stage}` command again: it makes this part "
                "again",
            )
        return footer

    def read(self, index: int, columns: Sequence[str] | None = None) -> tuple[pa.Table, PartFooter]:
        """Return a part's table and footer, every byte verified.

        ``messages`` also reads `TEMPLATE_INPUT` if the artifact has it, for
        `prefpipe.artifacts.tool_calls.rows_of`.

        Raises:
            CorruptPartError: as ``footer``, or a column of another type than its schema gives it.
            InputError: a column that was requested is not there.
        """
        beside = (TEMPLATE_INPUT,) if "messages" in (columns or ()) else ()
        table, footer = parts.read_part(self.part_path(index), columns, if_there=beside)
        self._check(footer, index)
        self._check_types(table, index)
        return table, footer

    def schema_of(self, index: int) -> pa.Schema:
        """Return the columns of a part as its file describes them, their bytes not verified.

        Raises:
            CorruptPartError: it cannot be read as Parquet.
        """
        return parts.read_columns(self.part_path(index))

    def _check_types(self, table: pa.Table, index: int) -> None:
        types = column_types(self.record.schema)
        for column in table.schema:
            expected = types.get(column.name)
            if expected is not None and not same_type(column.type, expected):
                raise CorruptPartError(
                    f"{self.part_path(index)}: its column `{column.name}` is {column.type}, "
                    f"and {self.record.schema} has {expected}",
                    hint=parts.HINT,
                )

    def _check(self, footer: PartFooter, index: int) -> None:
        path = self.part_path(index)
        if footer.name != path.name:
            raise CorruptPartError(
                f"{path} is {footer.name} under a different name", hint=parts.HINT
            )
        if footer.fingerprint != self.record.fingerprint:
            raise CorruptPartError(
                f"{path} was not made by the run that its {run_record.FILE_NAME} describes",
                hint="run the command that made it again to finish it, or start again with "
                "--overwrite",
            )
        if footer.schema != self.record.schema:
            raise InputError(
                f"{path} has schema {footer.schema}, its artifact says {self.record.schema}",
                hint="rerun the stage that made it with --overwrite",
            )

    def on_disk(self) -> set[int]:
        """Return the parts that have a file, complete or not, from one listing of the folder.

        Over NFS a listing is fresh, while the lookup of a missing name may be a minute old.
        """
        names = {path.name for path in self.path.iterdir()}
        matches = filter(None, map(PART_PATTERN.fullmatch, names))
        return {int(match[1]) for match in matches if int(match[2]) == self.n_parts}

    def file_version(self, index: int) -> "FileVersion | None":
        """Return which file a part is; None if it is not on disk."""
        return FileVersion.of(self.part_path(index))

    def missing(self, indices: Sequence[int] | None = None) -> list[int]:
        """Return the parts (of ``indices``, or of all) that are not on disk."""
        wanted = range(self.n_parts) if indices is None else indices
        return [index for index in wanted if not self.part_path(index).exists()]

    def read_all(
        self, columns: Sequence[str] | None = None, *, allow_partial: bool = False
    ) -> pa.Table:
        """Return all parts as one table.

        Raises:
            IncompleteInputError: parts are missing and ``allow_partial`` is False, or all are.
            InputError: a part has other columns or types than the first.
        """
        present = self.present(range(self.n_parts), allow_partial=allow_partial)
        if not present:
            raise IncompleteInputError(
                f"{self.path} has no parts yet",
                hint=f"run `prefpipe status {quote(str(self.path))}`",
            )

        tables = [self.read(index, columns)[0] for index in present]
        # Arrow would refuse them too, and without the part's name
        for index, table in zip(present, tables, strict=True):
            if table.schema != tables[0].schema:
                first = self.part_path(present[0]).name
                raise InputError(
                    f"{self.part_path(index)} differs from {first} in columns or types",
                    hint="rerun the stage that made it with --overwrite",
                )
        return pa.concat_tables(tables)

    def present(self, indices: Sequence[int], *, allow_partial: bool) -> list[int]:
        """Return the parts of ``indices`` that are on disk; refuse when some are missing.

        Raises:
            IncompleteInputError: parts are missing and ``allow_partial`` is False.
        """
        missing = set(self.missing(indices))
        if missing and not allow_partial:
            shown = ", ".join(map(str, sorted(missing)[:MAX_SHOWN]))
            if len(missing) > MAX_SHOWN:
                shown += ", ..."
            raise IncompleteInputError(
                f"{self.path} is incomplete: {len(missing)} of {self.n_parts} parts are missing "
                f"(part {shown})",
                hint=f"run `prefpipe status {quote(str(self.path))}`, finish that stage, or pass "
                "--allow-partial where the command takes it",
            )
        return [index for index in indices if index not in missing]

    def digest(self, indices: Sequence[int] | None = None) -> str:
        """Return one digest over the digests of all parts, or of ``indices``.

        Raises:
            IncompleteInputError: one of them is missing.
        """
        wanted = range(self.n_parts) if indices is None else indices
        present = self.present(wanted, allow_partial=False)
        digests = "".join(self.footer(index).data_sha256 for index in present)
        return hashlib.sha256(digests.encode()).hexdigest()

    def tally(self, indices: Sequence[int] | None = None) -> dict[str, float]:
        """Return the sums that the parts on disk (of ``indices``, or all) recorded."""
        wanted = range(self.n_parts) if indices is None else indices
        present = self.present(wanted, allow_partial=True)
        return add_tallies(self.footer(index).tally for index in present)

    def counts(self) -> Counter[str]:
        """Return rows by status over the parts on disk."""
        # the footers have them: polars would have the rows to read
        total: Counter[str] = Counter()
        for index in self.present(range(self.n_parts), allow_partial=True):
            total.update(self.footer(index).counts)
        return total


def add_tallies(tallies: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sum of figures by name; a name that one part lacks counts 0 there."""
    total: dict[str, float] = {}
    for tally in tallies:
        for name, value in tally.items():
            total[name] = total.get(name, 0) + value
    return total


def open_input(path: Path, *, schema: str, name: str) -> Artifact:
    """Open an artifact to read.

    Args:
        path: the artifact's folder.
        schema: the schema's name that is needed, ``candidates`` for the version of it that this
            release reads.
        name: the flag or argument it was given as, for messages.

    Raises:
        InputError: not an artifact, an artifact of another stage, or of another version of the
            schema.
    """
    record = run_record.read_run_record(path)
    kind = record.kind
    if kind != schema:
        raise InputError(
            f"{name}: {path} holds {kind} (made by `prefpipe {record.stage}`), not {schema}",
            hint=f"pass the folder of {schema}",
        )

    readable = [f"{schema}/{version}" for version in READABLE[schema]]
    if record.schema not in readable:
        raise InputError(
            f"{name}: {path} has schema {record.schema}, and this release reads "
            f"{' and '.join(readable)}",
            hint="use the release of prefpipe that made it, or run `prefpipe "
            f"{record.stage}` again",
        )
    return Artifact(path, record)


@dataclass(frozen=True)
class Output(Artifact):
    """An artifact that this run is making."""

    shard: Shard = Shard()
    _written: dict[int, tuple[FileVersion | None, PartFooter]] = field(
        default_factory=dict, compare=False, repr=False
    )
    """Footers of the parts that this process wrote, each with its file."""

    def footer(self, index: int) -> PartFooter:
        """Return a part's footer; one written here is not read again while its file is unchanged.

        Raises:
            CorruptPartError: as `Artifact.footer`.
        """
        version, footer = self._written.get(index, (None, None))
        if footer is not None and version == self.file_version(index):
            return footer
        return super().footer(index)

    def is_done(self, index: int, parents: Mapping[str, str]) -> bool:
        """Return whether a part is finished.

        That is, every byte is intact, and it was made by this run from the parents on disk now.
        """
        try:
            footer = parts.verify_part(self.part_path(index))
            self._check(footer, index)
        except CorruptPartError:
            # an InputError passes: a part that a newer release wrote must not be made again
            return False
        return dict(footer.parents) == dict(parents)

    def footer_fits(self, index: int, parents: Mapping[str, str]) -> bool:
        """Return `is_done` from the footer only: for a part that was just written."""
        try:
            footer = self.footer(index)
        except CorruptPartError:
            return False
        return dict(footer.parents) == dict(parents)

    def with_step(self, step: Mapping[str, Any]) -> "Output":
        """Record an operation on the artifact (such as a retry) in ``run.json``."""
        return replace(self, record=run_record.add_step(self.path, step))

    def record_once(self, step: Mapping[str, Any]) -> None:
        """Record in ``run.json`` a fact about the whole run, unless it is already there.

        Any number of threads and processes may do so at once.
        """
        run_record.add_step(self.path, step, once=True)

    def write(
        self,
        index: int,
        table: pa.Table,
        *,
        counts: Mapping[str, int],
        parents: Mapping[str, str],
        tally: Mapping[str, float] | None = None,
        engines: Collection[str] = (),
    ) -> PartFooter:
        """Write one part atomically."""
        footer = parts.write_part(
            self.part_path(index),
            table,
            fingerprint=self.record.fingerprint,
            schema=self.record.schema,
            counts=counts,
            parents=parents,
            tally=tally or {},
            engines=engines,
        )
        self._written[index] = self.file_version(index), footer
        return footer

    def sweep(self) -> None:
        """Remove half-written files of dead processes from the folder."""
        atomic.sweep_temporary_files(self.path)


def open_output(
    path: Path,
    record: RunRecord,
    *,
    shard: Shard,
    overwrite: Overwrite | bool,
    extends: bool = False,
) -> Output:
    """Open the output of a run: make the folder and ``run.json``, or check existing ones.

    Args:
        path: the folder.
        record: what this run is.
        shard: this worker's share.
        overwrite: whether to throw away the parts of another run first; of the same run, this
            shard's parts.
        extends: the difference to the run on disk has been checked by the caller and is recorded in
            ``record``.

    Raises:
        FingerprintError: the folder holds another run; the message lists every field that differs.
        InputError: the folder holds files that no prefpipe run made.
    """
    overwrite = Overwrite.of(overwrite)
    has_lost_others = _refuse_foreign_folder(path, record, is_replaced=bool(overwrite))
    atomic.make_folder(path)
    atomic.sweep_temporary_files(path)

    # of several workers that start at once, one writes the record, and the others find it
    if record.write_if_absent(path):
        # parts without their record may lie here: those of this run are kept
        if overwrite.replaces_this_run or has_lost_others:
            _remove_parts(path, record.n_parts, shard)
        return Output(path, record, shard)

    # a damaged record stops a run, unless it is to be thrown away
    on_disk = _read_or_none(path) if overwrite else run_record.read_run_record(path)
    if on_disk is not None and on_disk.fingerprint == record.fingerprint:
        if overwrite.replaces_this_run:
            _remove_parts(path, record.n_parts, shard)
        # the command that made the parts stays on record, and not the one that came back to them
        record = replace(record, history=on_disk.history, context=on_disk.context)
        return Output(path, record, shard)

    if on_disk is not None and not extends and not overwrite:
        # an attempt that failed before its first part must not block the corrected one; of several
        # workers one that has no part yet may be at work
        is_failed_attempt = shard.count == 1 and _holds_nothing(path)
        if not is_failed_attempt:
            _refuse_difference(path, on_disk, record)
    record.replace_in(path)
    if overwrite and not extends:
        _remove_parts(path, record.n_parts, shard)
    return Output(path, record, shard)


def join_output(path: Path, record: RunRecord) -> Output:
    """Open the output of a run that another process, its driver, has opened.

    Raises:
        FingerprintError: this process would make something else; the message lists every field
            that differs.
        InputError: there is no run.
    """
    on_disk = run_record.read_run_record(path)
    if on_disk.fingerprint != record.fingerprint:
        _refuse_difference(path, on_disk, record)
    return Output(path, on_disk, Shard())


def _read_or_none(path: Path) -> RunRecord | None:
    try:
        return run_record.read_run_record(path)
    except InputError:
        return None


def parts_without_record(path: Path) -> dict[Path, PartFooter]:
    """Return the parts of a prefpipe run in a folder whose ``run.json`` was lost.

    {} if it is there. What other tools wrote under such names is none.
    """
    if not path.is_dir() or (path / run_record.FILE_NAME).exists():
        return {}
    proven: dict[Path, PartFooter] = {}
    for file in sorted(path.iterdir()):
        if not PART_PATTERN.fullmatch(file.name) or not file.is_file():
            continue
        try:
            proven[file] = parts.read_footer(file)
        except (CorruptPartError, InputError):
            continue
    return proven


def _refuse_foreign_folder(path: Path, record: RunRecord, *, is_replaced: bool) -> bool:
    """Refuse files of the user's.

    Parts whose ``run.json`` was lost are kept if they are this run's, and replaced on request.

    Returns:
        Whether there are such parts of another configuration, which ``is_replaced`` allows to be
        thrown away.
    """
    if path.is_file():
        raise UsageError(
            f"output {path} is a file, and an artifact is a folder",
            hint="choose another name with -o",
        )
    if not path.exists() or (path / run_record.FILE_NAME).exists():
        return False

    lost = parts_without_record(path)
    others = [file for file, footer in lost.items() if footer.fingerprint != record.fingerprint]
    known = {file.name for file in lost}
    # beside parts it is a stage's, alone it may be anybody's
    if lost:
        known.add(SUMMARY_FILE)

    strangers = []
    for file in path.iterdir():
        is_hidden = file.name.startswith(".")
        if file.is_file() and not is_hidden and file.name not in known:
            strangers.append(file.name)

    # another worker may have started meanwhile
    if (path / run_record.FILE_NAME).exists():
        return False
    if strangers:
        raise UsageError(
            f"output {path} already holds files that no prefpipe run wrote (no "
            f"{run_record.FILE_NAME}): {min(strangers)}",
            hint="choose an empty or new folder with -o",
        )
    if others and not is_replaced:
        raise UsageError(
            f"{path} has lost its {run_record.FILE_NAME}, and {others[0].name} was made with "
            "another configuration",
            hint="restore the file, choose another folder with -o, or start again with --overwrite",
        )
    return bool(others)


def _refuse_difference(path: Path, on_disk: RunRecord, wanted: RunRecord) -> None:
    differences = field_differences(on_disk.identity, wanted.identity)
    lines = [difference.worded("on disk", "requested") for difference in differences]
    raise FingerprintError(
        f"{path} holds the result of a different configuration:\n  " + "\n  ".join(lines),
        hint="choose another folder with -o, restore the old values, or start again with "
        "--overwrite (in a script use --overwrite=stale, which replaces only results of "
        "another configuration)",
    )


def _holds_nothing(path: Path) -> bool:
    """Return whether a run left only its record: no part, no model, no worker."""
    has_parts = any(PART_PATTERN.fullmatch(file.name) for file in path.iterdir())
    has_models = any(path.glob(f"**/{CHECKPOINT_PREFIX}*")) or bool(kept_step_folders(path))
    return not (has_parts or has_models or has_worker(path))


def _remove_parts(path: Path, n_parts: int, shard: Shard) -> None:
    """Remove this shard's parts, and those of a run with another number of parts.

    Parts of another run under the names of other shards stay until those shards replace them: new
    ones may already be there.
    """
    for file in path.iterdir():
        match = PART_PATTERN.fullmatch(file.name)
        if match is None:
            continue
        index, n_parts_then = int(match[1]), int(match[2])
        if n_parts_then != n_parts or index % shard.count == shard.index:
            file.unlink(missing_ok=True)


def refuse_nesting(output: Path, inputs: Mapping[str, Path]) -> None:
    """Refuse an output that is, contains or lies inside one of its inputs' folders.

    Raises:
        UsageError: naming both paths.
    """
    target = output.resolve()
    for name, path in inputs.items():
        source = path.resolve()
        # a file beside which the output's parts are written is not in their way
        holds_source = source.is_relative_to(target) and source.is_dir()
        if target.is_relative_to(source) or holds_source:
            raise UsageError(
                f"output {output} and input {name} {path} lie inside each other",
                hint="choose a folder for -o outside the input",
            )
