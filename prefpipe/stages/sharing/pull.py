"""Pull: what a push has put into a bucket or the hub comes to a folder, every file compared.

A second call copies only what is missing. A file of the folder that differs is replaced with
``--overwrite`` alone.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prefpipe.artifacts import atomic, parts, run_record
from prefpipe.artifacts.file_hashes import hash_file
from prefpipe.artifacts.parts import PART_PATTERN
from prefpipe.artifacts.storage.protocol import CountBytes, OtherBytesError
from prefpipe.artifacts.storage.retries import call_again
from prefpipe.errors import (
    CorruptPartError,
    IncompleteInputError,
    InputError,
    PrefpipeError,
    UsageError,
)
from prefpipe.execution.runtime import Runtime
from prefpipe.stages.sharing.copying import CopyJob, run_jobs
from prefpipe.stages.sharing.manifest import ManifestEntry
from prefpipe.stages.sharing.places import SharedPlace, Stored
from prefpipe.stages.sharing.push import LAST_FILES, SHOWN, unreadable
from prefpipe.text.numbers import byte_size, counted

TRIES = 3
"""Of a file that arrives with other bytes than were sent."""


class PullResult(NamedTuple):
    """What a pull did. ``has_digests``: every file was compared with the digest of the push."""

    n_files: int
    n_bytes: int
    n_copied: int
    n_bytes_copied: int
    n_parts: int
    has_digests: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "files": self.n_files,
            "bytes": self.n_bytes,
            "copied": self.n_copied,
            "bytes_copied": self.n_bytes_copied,
            "parts_verified": self.n_parts,
            "compared_with_manifest": self.has_digests,
        }


def pull(
    place: SharedPlace,
    folder: Path,
    runtime: Runtime,
    *,
    overwrite: bool = False,
    allow_partial: bool = False,
) -> PullResult:
    """Copy what is missing, compare every file, and each part with its own digest.

    Raises:
        UsageError: the folder holds something else.
        InputError: nothing is there, or it cannot be read, or arrives with other bytes.
        IncompleteInputError: a push has not ended, or files are missing.
        CorruptPartError: a part was damaged before it was pushed.
        StoppedEarly: a stop was requested; whole files are kept.
    """
    try:
        stored = place.look()
    except OSError as error:
        raise unreadable(str(place), error) from error
    entries = _entries_of(stored, place, allow_partial=allow_partial)
    contents = {} if stored.manifest is None else stored.manifest.contents
    to_copy = _missing(entries, place, folder, runtime, contents=contents, overwrite=overwrite)
    _require_room(folder, sum(entries[name].n_bytes for name in to_copy))
    _sweep(entries, folder)

    is_under_way = stored.manifest is not None and not stored.manifest.is_complete
    left_out: set[str] = set()

    def leave_out(name: str) -> bool:
        """Take note of a file that is the one of before, while a push is under way."""
        if is_under_way:
            left_out.add(name)
        return is_under_way

    # what makes a folder an artifact or a model comes when all else is there
    first = [name for name in to_copy if name.rpartition("/")[2] not in LAST_FILES]
    last = [name for name in to_copy if name.rpartition("/")[2] in LAST_FILES]
    n_bytes_kept = sum(entry.n_bytes for name, entry in entries.items() if name not in to_copy)
    for names in (first, last):
        run_jobs(
            [_download_job(place, name, entries[name], folder, leave_out) for name in names],
            runtime,
            stage="pull",
            place=str(folder),
            n_bytes_kept=n_bytes_kept if names is first else 0,
        )

    place.close()
    if left_out:
        runtime.log(
            f"warning: left out {counted(len(left_out), 'file')} under way to {place}: "
            f"{', '.join(sorted(left_out)[:SHOWN])}"
        )
        entries = {name: entry for name, entry in entries.items() if name not in left_out}
        to_copy = [name for name in to_copy if name not in left_out]
    n_parts = sum(1 for name in entries if _is_part(name))
    return PullResult(
        n_files=len(entries),
        n_bytes=sum(entry.n_bytes for entry in entries.values()),
        n_copied=len(to_copy),
        n_bytes_copied=sum(entries[name].n_bytes for name in to_copy),
        n_parts=n_parts,
        has_digests=all(entry.sha256 for entry in entries.values()),
    )


def _entries_of(
    stored: Stored, place: SharedPlace, *, allow_partial: bool
) -> dict[str, ManifestEntry]:
    """Return the files to have, by name."""
    if not stored.sizes:
        raise InputError(
            f"there is nothing at {place}",
            hint="check the spelling; a private repository of the hub needs `hf auth login`",
        )
    if stored.manifest is None:
        return {name: place.entry_of(name) for name in stored.sizes}

    manifest = stored.manifest
    if not manifest.is_complete and not allow_partial:
        raise IncompleteInputError(
            f"a push to {place} has not ended",
            hint="run the same `prefpipe push` again, or pass --allow-partial to have the files "
            "that are there",
        )
    missing = sorted(manifest.files.keys() - stored.sizes.keys())
    if missing and not allow_partial:
        raise IncompleteInputError(
            f"{place} lacks {counted(len(missing), 'file')} that a push wrote, first {missing[0]}",
            hint="push again, or pass --allow-partial to have the files that are there",
        )
    entries = {}
    for name, entry in manifest.files.items():
        if name not in stored.sizes:
            continue
        if stored.sizes[name] != entry.n_bytes:
            # of a push that has not ended it may be the file of before
            if not manifest.is_complete:
                continue
            raise InputError(
                f"{place}/{name} has {stored.sizes[name]:,} bytes, and {entry.n_bytes:,} were "
                "pushed",
                hint="somebody has changed it since: push again",
            )
        entries[name] = entry
    return entries


def _missing(
    entries: Mapping[str, ManifestEntry],
    place: SharedPlace,
    folder: Path,
    runtime: Runtime,
    *,
    contents: Mapping[str, str],
    overwrite: bool,
) -> list[str]:
    """Return the files that are not in the folder.

    Raises:
        UsageError: it holds other files of these names, which ``overwrite`` does not allow to be
            replaced, or another artifact.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", hint="choose a folder")

    missing: list[str] = []
    others: list[str] = []

    def job_of(name: str, entry: ManifestEntry, path: Path) -> CopyJob:
        def compare(count: CountBytes) -> None:
            if not _is_same(path, name, entry, place):
                others.append(name)
            count(entry.n_bytes)

        return CopyJob(1, entry.n_bytes, compare)

    jobs = []
    for name, entry in entries.items():
        path = folder / name
        if path.is_file():
            jobs.append(job_of(name, entry, path))
        elif path.exists():
            raise UsageError(f"{path} is a folder", hint="choose another folder")
        else:
            missing.append(name)
    try:
        run_jobs(jobs, runtime, stage="compare", place=str(folder))
    except OSError as error:
        raise unreadable(str(folder), error) from error

    records = [name for name in others if name.rpartition("/")[2] == run_record.FILE_NAME]
    if others and not overwrite:
        shown = ", ".join(sorted(others)[:SHOWN]) + (", ..." if len(others) > SHOWN else "")
        raise UsageError(
            f"{folder} holds other files under {counted(len(others), 'name')}: {shown}",
            hint="choose another folder, or pass --overwrite to replace them",
        )
    for name in records:
        inner = name.rpartition("/")[0]
        _refuse_other_artifact(folder / inner, contents.get(inner or "."))
    return sorted([*missing, *others])


def _is_same(path: Path, name: str, entry: ManifestEntry, place: SharedPlace) -> bool:
    if path.stat().st_size != entry.n_bytes:
        return False
    if entry.sha256:
        return hash_file(path) == entry.sha256
    return place.has_bytes_of(path, name)


def _refuse_other_artifact(folder: Path, fingerprint: str | None) -> None:
    """Refuse to mix the parts of two runs: those of the one here would stay beside the others."""
    if not any(PART_PATTERN.fullmatch(file.name) for file in folder.iterdir()):
        return
    try:
        is_same = run_record.read_run_record(folder).fingerprint == fingerprint
    except PrefpipeError:
        is_same = False
    if not is_same:
        raise UsageError(
            f"{folder} holds another artifact, whose parts would be mixed with these",
            hint="choose another folder",
        )


def _require_room(folder: Path, n_bytes: int) -> None:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if n_bytes > free:
        raise PrefpipeError(
            f"{byte_size(n_bytes)} are to be copied to {folder}, and its disk has "
            f"{byte_size(free)} free",
            hint="free some space, or choose a folder on another disk",
        )


def _sweep(entries: Mapping[str, ManifestEntry], folder: Path) -> None:
    """Remove what a killed pull has left half written."""
    for place in {(folder / name).parent for name in entries}:
        if place.is_dir():
            atomic.sweep_temporary_files(place)


def _download_job(
    place: SharedPlace,
    name: str,
    entry: ManifestEntry,
    folder: Path,
    leave_out: Callable[[str], bool],
) -> CopyJob:
    def copy(count: CountBytes) -> None:
        target = folder / name
        digest = entry.sha256 or None
        try:
            call_again(
                lambda: place.download(name, target, count, sha256=digest),
                lambda error: isinstance(error, OtherBytesError),
                tries=TRIES,
            )
        except OtherBytesError as error:
            if leave_out(name):
                return
            raise InputError(
                f"{place}/{name} arrives with other bytes than were pushed, {TRIES} times in a "
                f"row ({error})",
                hint="it was changed or damaged there: push it again",
            ) from error
        except OSError as error:
            raise unreadable(f"{place}/{name}", error) from error
        if _is_part(name):
            _verify_part(target, place, name)

    return CopyJob(1, entry.n_bytes, copy)


def _verify_part(path: Path, place: SharedPlace, name: str) -> None:
    try:
        parts.require_own_name(parts.verify_part(path), path)
    except CorruptPartError as error:
        raise CorruptPartError(
            f"{place}/{name} is damaged there: {error.message}",
            hint="make the part again where it came from, and push again",
        ) from error


def _is_part(name: str) -> bool:
    return PART_PATTERN.fullmatch(name.rpartition("/")[2]) is not None
