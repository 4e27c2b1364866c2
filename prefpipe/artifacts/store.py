"""Folders of parts: open an input, open an output, know which parts are still to be made.

Resuming has no flag: an output's finished parts are kept when they carry the fingerprint of this
run and were made from the parent parts that are on disk now; everything else is made again.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, Self

import pyarrow as pa

from prefpipe.artifacts import atomic, bucket_footers, claims, parts, run_record
from prefpipe.artifacts.bucket_footers import BucketFooters, KeptFooters
from prefpipe.artifacts.claims import has_worker
from prefpipe.artifacts.fingerprint import field_differences
from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.parts import PART_PATTERN, PartFooter, part_name
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import READABLE, column_types, same_type
from prefpipe.artifacts.storage import ahead, files
from prefpipe.artifacts.storage.location import Location, Url, is_within, local_path
from prefpipe.artifacts.storage.protocol import FileVersion
from prefpipe.artifacts.storage.unreadable import unreadable
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

MOST_AHEAD = 4
"""Parts of a bucket that are in memory before they are asked for."""
MAX_SHOWN = 8
"""How many missing parts a message names."""


@dataclass(frozen=True)
class Shard:
    """A worker's share of the parts: those with ``index % count == shard index``."""

    index: int = 0
    count: int = 1

    def parts(self, n_parts: int) -> list[int]:
        """Return the numbers of this shard's parts; empty when there are more shards than parts."""
        return list(range(self.index, n_parts, self.count))


@dataclass(frozen=True)
class Artifact:
    """An artifact that is read: its folder and its run record.

    ``read_footer`` reads a part's footer, or has cached it (`SeenFooters`).
    """

    path: Location
    record: RunRecord
    read_footer: Callable[[Location], PartFooter] = field(
        default=parts.read_footer, kw_only=True, compare=False, repr=False
    )

    @classmethod
    def open(cls, path: Location) -> Self:
        """Return the artifact of a folder.

        Raises:
            InputError: as `run_record.read_run_record`.
        """
        return cls(path, run_record.read_run_record(path), read_footer=footer_reader(path))

    @property
    def folder(self) -> Path:
        """Its folder on a disk, for models and logs, which are read and written by libraries.

        Raises:
            UsageError: it is in a bucket.
        """
        return local_path(self.path, "the model in")

    @property
    def n_parts(self) -> int:
        """The number of parts of the whole artifact."""
        return self.record.n_parts

    def part_path(self, index: int) -> Location:
        """Return where a part is."""
        return self.path / self._name(index)

    def _name(self, index: int) -> str:
        return part_name(index, self.n_parts)

    def footer(self, index: int) -> PartFooter:
        """Return a part's footer, checked against the run.

        Raises:
            CorruptPartError: missing, damaged, or made by another run than ``run.json`` describes.
        """
        footer = self.read_footer(self.part_path(index))
        self._check(footer, index)
        return footer

    def footers(self, indices: Iterable[int]) -> list[PartFooter]:
        """Return the footers of parts as they are now; in a bucket several are read at a time.

        Raises:
            CorruptPartError: as `footer`.
        """
        if isinstance(self.path, Path):
            return [self.footer(index) for index in indices]
        found = []
        read = footer_reader(self.path)
        for index in indices:
            footer = read(self.part_path(index))
            self._check(footer, index)
            found.append(footer)
        return found

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

    def in_turn(self, indices: Sequence[int]) -> Iterator[int]:
        """Yield the numbers of parts to read; the next ones are fetched from a bucket meanwhile."""
        if isinstance(self.path, Path):
            yield from indices
            return
        try:
            for place, index in enumerate(indices):
                for coming in indices[place : place + MOST_AHEAD]:
                    files.read_ahead(self.part_path(coming))
                yield index
        finally:
            files.forget_ahead()

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
        parts.require_own_name(footer, path)
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
        matches = filter(None, map(PART_PATTERN.fullmatch, _names_in(self.path)))
        return {int(match[1]) for match in matches if int(match[2]) == self.n_parts}

    def file_version(self, index: int) -> "FileVersion | None":
        """Return which file a part is; None if it is not on disk.

        Raises:
            InputError: a bucket does not say.
        """
        path = self.part_path(index)
        try:
            return files.version_of(path)
        except OSError as error:
            raise unreadable(path, error) from error

    def file_versions(self, indices: Iterable[int]) -> dict[int, FileVersion | None]:
        """Return `file_version` of several parts; in a bucket from one listing.

        Raises:
            InputError: a bucket cannot be listed.
        """
        if isinstance(self.path, Path):
            return {index: self.file_version(index) for index in indices}
        try:
            listing = files.list_folder(self.path)
        except FileNotFoundError:
            listing = {}
        except OSError as error:
            raise unreadable(self.path, error) from error
        return {index: listing.get(self._name(index)) for index in indices}

    def missing(self, indices: Sequence[int] | None = None) -> list[int]:
        """Return the parts (of ``indices``, or of all) that are not on disk."""
        wanted = range(self.n_parts) if indices is None else indices
        if isinstance(self.path, Path):
            return [index for index in wanted if not (self.path / self._name(index)).exists()]
        # one listing, and not a request for each part
        on_disk = self.on_disk()
        return [index for index in wanted if index not in on_disk]

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

        tables = [self.read(index, columns)[0] for index in self.in_turn(present)]
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


def footer_reader(path: Location) -> Callable[[Location], PartFooter]:
    """Return what reads the footers of a folder's parts: in a bucket several at a time."""
    return parts.read_footer if isinstance(path, Path) else BucketFooters(path).read


def open_input(path: Location, *, schema: str, name: str) -> Artifact:
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
    return Artifact(path, record, read_footer=footer_reader(path))


@dataclass(frozen=True)
class Output(Artifact):
    """An artifact that this run is making."""

    shard: Shard = Shard()
    _written: dict[int, tuple[FileVersion | None, PartFooter]] = field(
        default_factory=dict, compare=False, repr=False
    )
    """Footers of the parts that this process wrote, each with its file."""
    kept: KeptFooters | None = field(default=None, kw_only=True, compare=False, repr=False)
    """Where those of a bucket are listed for its readers."""

    def footer(self, index: int) -> PartFooter:
        """Return a part's footer; one written here is not read again while its file is unchanged.

        Raises:
            CorruptPartError: as `Artifact.footer`.
        """
        version, footer = self._written.get(index, (None, None))
        if footer is not None and version == self.file_version(index):
            return footer
        return super().footer(index)

    def footer_as_written(self, index: int) -> PartFooter:
        """Return a part's footer, without another look at one that this process wrote.

        Raises:
            CorruptPartError: as `Artifact.footer`.
        """
        written = self._written.get(index)
        return self.footer(index) if written is None else written[1]

    def part_verifier(self) -> Callable[[Location], PartFooter]:
        """Return what proves the parts that are there now; in a bucket it has listed them once."""
        return parts.verify_part if isinstance(self.path, Path) else BucketFooters(self.path).verify

    def is_done(
        self,
        index: int,
        parents: Mapping[str, str],
        verify: Callable[[Location], PartFooter] = parts.verify_part,
    ) -> bool:
        """Return whether a part is finished.

        That is, every byte is intact, and it was made by this run from the parents on disk now.

        Args:
            index: of the part.
            parents: digests of the parent parts that it should be made from.
            verify: proves its bytes, see `part_verifier`.
        """
        try:
            footer = verify(self.part_path(index))
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
        footer, version = parts.write_part(
            self.part_path(index),
            table,
            fingerprint=self.record.fingerprint,
            schema=self.record.schema,
            counts=counts,
            parents=parents,
            tally=tally or {},
            engines=engines,
        )
        if self.kept is not None and version is not None:
            self.kept.add(version, footer)
        self._written[index] = version or self.file_version(index), footer
        return footer

    def keep_footers(self) -> None:
        """List the footers of the parts that were written here for readers of the bucket."""
        if self.kept is not None:
            self.kept.save()

    def sweep(self) -> None:
        """Remove half-written files of dead processes from the folder."""
        # a bucket shows no file that is half written
        if isinstance(self.path, Path):
            atomic.sweep_temporary_files(self.path)


def open_output(
    path: Location,
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
    if isinstance(path, Path):
        atomic.make_folder(path)
        atomic.sweep_temporary_files(path)

    # of several workers that start at once, one writes the record, and the others find it
    if record.write_if_absent(path):
        # parts without their record may lie here: those of this run are kept
        if overwrite.replaces_this_run or has_lost_others:
            _remove_parts(path, record.n_parts, shard)
        return _output(path, record, shard)

    # a damaged record stops a run, unless it is to be thrown away
    on_disk = _read_or_none(path) if overwrite else run_record.read_run_record(path)
    if on_disk is not None and on_disk.fingerprint == record.fingerprint:
        if overwrite.replaces_this_run:
            _remove_parts(path, record.n_parts, shard)
        # the command that made the parts stays on record, and not the one that came back to them
        record = replace(record, history=on_disk.history, context=on_disk.context)
        return _output(path, record, shard)

    if on_disk is not None and not extends and not overwrite:
        # an attempt that failed before its first part must not block the corrected one; of several
        # workers one that has no part yet may be at work
        is_failed_attempt = shard.count == 1 and _holds_nothing(path)
        if not is_failed_attempt:
            _refuse_difference(path, on_disk, record)
    record.replace_in(path)
    if overwrite and not extends:
        _remove_parts(path, record.n_parts, shard)
    return _output(path, record, shard)


def _output(path: Location, record: RunRecord, shard: Shard) -> Output:
    kept = None if isinstance(path, Path) else KeptFooters(path, record.n_parts)
    return Output(path, record, shard, kept=kept)


def join_output(path: Location, record: RunRecord) -> Output:
    """Open the output of a run that another process, its driver, has opened.

    Raises:
        FingerprintError: this process would make something else; the message lists every field
            that differs.
        InputError: there is no run.
    """
    on_disk = run_record.read_run_record(path)
    if on_disk.fingerprint != record.fingerprint:
        _refuse_difference(path, on_disk, record)
    return _output(path, on_disk, Shard())


def _read_or_none(path: Location) -> RunRecord | None:
    try:
        return run_record.read_run_record(path)
    except InputError:
        return None


def parts_without_record(path: Location) -> dict[Location, PartFooter]:
    """Return the parts of a prefpipe run in a folder whose ``run.json`` was lost.

    {} if it is there. What other tools wrote under such names is none.
    """
    if has_record(path):
        return {}
    proven: dict[Location, PartFooter] = {}
    read_footer = footer_reader(path)
    for name in filter(PART_PATTERN.fullmatch, sorted(_files_in(path))):
        try:
            proven[path / name] = read_footer(path / name)
        except (CorruptPartError, InputError):
            continue
    return proven


def _files_in(path: Location) -> set[str]:
    """Return the files of a folder, hidden ones left out; none if it is not there."""
    if isinstance(path, Path):
        if not path.is_dir():
            return set()
        return {
            file.name for file in path.iterdir() if not file.name.startswith(".") and file.is_file()
        }
    try:
        listing = files.list_folder(path)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise unreadable(path, error) from error
    return {name for name, version in listing.items() if version is not None and name[:1] != "."}


def _names_in(path: Location) -> set[str]:
    """Return the names in a folder.

    Raises:
        InputError: a bucket cannot be listed.
    """
    try:
        return files.names_in(path)
    except OSError as error:
        if isinstance(path, Path):
            raise
        raise unreadable(path, error) from error


def _refuse_foreign_folder(path: Location, record: RunRecord, *, is_replaced: bool) -> bool:
    """Refuse files of the user's.

    Parts whose ``run.json`` was lost are kept if they are this run's, and replaced on request.

    Returns:
        Whether there are such parts of another configuration, which ``is_replaced`` allows to be
        thrown away.
    """
    if _is_file(path):
        raise UsageError(
            f"output {path} is a file, and an artifact is a folder",
            hint="choose another name with -o",
        )
    if has_record(path):
        return False

    lost = parts_without_record(path)
    others = [place for place, footer in lost.items() if footer.fingerprint != record.fingerprint]
    known = {place.name for place in lost}
    # beside parts it is a stage's, alone it may be anybody's
    if lost:
        known.add(SUMMARY_FILE)

    strangers = _files_in(path) - known

    # another worker may have started meanwhile
    if has_record(path):
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


def _refuse_difference(path: Location, on_disk: RunRecord, wanted: RunRecord) -> None:
    differences = field_differences(on_disk.identity, wanted.identity)
    lines = [difference.worded("on disk", "requested") for difference in differences]
    raise FingerprintError(
        f"{path} holds the result of a different configuration:\n  " + "\n  ".join(lines),
        hint="choose another folder with -o, restore the old values, or start again with "
        "--overwrite (in a script use --overwrite=stale, which replaces only results of "
        "another configuration)",
    )


def has_record(path: Location) -> bool:
    """Return whether a folder has a ``run.json``.

    Raises:
        InputError: a bucket does not say.
    """
    return has_file(path, run_record.FILE_NAME)


def has_file(path: Location, name: str) -> bool:
    """Return whether a folder has a file of a name.

    Raises:
        InputError: a bucket does not say.
    """
    return _is_file(path / name)


def _is_file(path: Location) -> bool:
    try:
        return files.is_file(path)
    except OSError as error:
        raise unreadable(path, error) from error


def _is_folder(path: Location) -> bool:
    try:
        return files.is_folder(path)
    except OSError as error:
        raise unreadable(path, error) from error


def _holds_nothing(path: Location) -> bool:
    """Return whether a run left only its record: no part, no model, no worker."""
    if isinstance(path, Url):
        of_run = {run_record.FILE_NAME, bucket_footers.FILE_NAME, claims.FOLDER_NAME}
        return _names_in(path) <= of_run and not has_worker(path)
    has_parts = any(PART_PATTERN.fullmatch(file.name) for file in path.iterdir())
    has_models = any(path.glob(f"**/{CHECKPOINT_PREFIX}*")) or bool(kept_step_folders(path))
    return not (has_parts or has_models or has_worker(path))


def _remove_parts(path: Location, n_parts: int, shard: Shard) -> None:
    """Remove this shard's parts, and those of a run with another number of parts.

    Parts of another run under the names of other shards stay until those shards replace them: new
    ones may already be there.
    """
    places: list[Location] = []
    for name in _names_in(path):
        match = PART_PATTERN.fullmatch(name)
        if match is None:
            continue
        index, n_parts_then = int(match[1]), int(match[2])
        if n_parts_then != n_parts or index % shard.count == shard.index:
            places.append(path / name)

    if isinstance(path, Path):
        for place in places:
            files.delete(place)
    else:
        removed = [ahead.begin(partial(files.delete, place)) for place in places]
        for each in removed:
            each.result()


def refuse_nesting(output: Location, inputs: Mapping[str, Location]) -> None:
    """Refuse an output that is, contains or lies inside one of its inputs' folders.

    Raises:
        UsageError: naming both paths.
    """
    target = output.resolve()
    for name, path in inputs.items():
        source = path.resolve()
        # a file beside which the output's parts are written is not in their way
        holds_source = is_within(source, target) and _is_folder(source)
        if is_within(target, source) or holds_source:
            raise UsageError(
                f"output {output} and input {name} {path} lie inside each other",
                hint="choose a folder for -o outside the input",
            )
