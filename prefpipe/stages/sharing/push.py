"""Push: what belongs to a folder goes to a bucket or the hub, and a manifest after it.

A second call copies only what is missing or differs. Nothing there is removed or replaced by
something else without ``--overwrite``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from prefpipe.artifacts import run_record
from prefpipe.artifacts.file_hashes import hash_file
from prefpipe.artifacts.storage.protocol import CountBytes
from prefpipe.artifacts.summary_file import SUMMARY_FILE
from prefpipe.errors import InputError, UsageError
from prefpipe.execution.runtime import Runtime
from prefpipe.models.files import CONFIG_FILES
from prefpipe.stages.sharing.belongings import SharedFile
from prefpipe.stages.sharing.copying import CopyJob, run_jobs
from prefpipe.stages.sharing.manifest import Manifest, ManifestEntry
from prefpipe.stages.sharing.places import Checked, HashedFile, SharedPlace, Stored
from prefpipe.text.numbers import counted

LAST_FILES = {*CONFIG_FILES, run_record.FILE_NAME, SUMMARY_FILE}
"""They make a folder an artifact or a model, and are copied when all else is there."""
SHOWN = 3


class Source(NamedTuple):
    """What is pushed: files of a folder, and what they are, see `contents_of`."""

    folder: Path
    files: Sequence[SharedFile]
    contents: Mapping[str, str]


class PushResult(NamedTuple):
    """What a push did.

    ``kept``: files that are there and no longer in the folder.
    """

    n_files: int
    n_bytes: int
    n_copied: int
    n_bytes_copied: int
    kept: Sequence[str]
    removed: Sequence[str]
    checked: Checked
    is_verified: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "files": self.n_files,
            "bytes": self.n_bytes,
            "copied": self.n_copied,
            "bytes_copied": self.n_bytes_copied,
            "kept_there": list(self.kept),
            "removed_there": list(self.removed),
            "checked_by_digest": self.checked.n_by_digest,
            "checked_by_size": self.checked.n_by_size,
            "read_back": self.is_verified,
        }


def push(
    source: Source,
    place: SharedPlace,
    runtime: Runtime,
    *,
    overwrite: bool = False,
    verify: bool = False,
    card: Callable[[Stored], Mapping[str, Path | None]] | None = None,
) -> PushResult:
    """Copy what is missing or differs, compare, and write the manifest.

    Args:
        source: what to push.
        place: where to.
        runtime: see `Runtime`.
        overwrite: replace something else, and remove there what is no longer here.
        verify: read every file back and compare it.
        card: returns files that describe the rest, by name, given what is there. They take the
            place of those of the folder; None: the one of that name is not pushed.

    Raises:
        UsageError: something else is there.
        InputError: a file cannot be read or was changed meanwhile; something else arrived.
        PrefpipeError: it cannot be written there.
        StoppedEarly: a stop was requested; whole files are kept.
    """
    try:
        stored = place.look()
    except OSError as error:
        raise unreadable(str(place), error) from error
    refuse_others(source, stored, place, overwrite=overwrite)
    described = {} if card is None else card(stored)
    files = _hashed(source, described, runtime)
    not_pushed = {name for name, path in described.items() if path is None}
    manifest = _manifest_of(source, files, stored, not_pushed, overwrite=overwrite)

    before = {} if stored.manifest is None else stored.manifest.files
    names = {file.name for file in files}
    gone = sorted((before.keys() & stored.sizes.keys()) - names - not_pushed)
    removed = gone if overwrite else []
    to_copy = [file for file in files if not place.holds(file)]
    is_same = stored.manifest is not None and _says_the_same(stored.manifest, manifest)

    checked = Checked(0, 0)
    if to_copy or removed or not is_same:
        # until the end, whoever pulls sees that something is under way
        place.begin(_begun(manifest, before, to_copy))
        n_bytes_kept = sum(file.n_bytes for file in files if file not in set(to_copy))
        run_jobs(
            [_upload_job(place, batch) for batch in place.batches(to_copy)],
            runtime,
            stage="push",
            place=str(place),
            n_bytes_kept=n_bytes_kept,
        )
        checked = place.finish(manifest, removed)
    if verify:
        read_back(manifest, place, runtime)
    return PushResult(
        n_files=len(files),
        n_bytes=sum(file.n_bytes for file in files),
        n_copied=len(to_copy),
        n_bytes_copied=sum(file.n_bytes for file in to_copy),
        kept=[] if overwrite else gone,
        removed=removed,
        checked=checked,
        is_verified=verify,
    )


def refuse_others(source: Source, stored: Stored, place: SharedPlace, *, overwrite: bool) -> None:
    """Refuse a place that holds something else.

    Raises:
        UsageError: naming it.
    """
    known = set() if stored.manifest is None else stored.manifest.files.keys()
    strangers = sorted(stored.sizes.keys() - known - {file.name for file in source.files})
    if stored.manifest is None:
        strangers = sorted(stored.sizes)
    if strangers and not (place.keeps_strangers and stored.manifest is not None):
        shown = ", ".join(strangers[:SHOWN]) + (", ..." if len(strangers) > SHOWN else "")
        raise UsageError(
            f"{place} already holds {counted(len(strangers), 'file')} that no push wrote: {shown}",
            hint="choose another place for this folder",
        )
    if stored.manifest is None or overwrite:
        return

    others = _differences(stored.manifest.contents, source.contents)
    if others:
        raise UsageError(
            f"{place} holds something else: {'; '.join(others[:SHOWN])}",
            hint="choose another place, or pass --overwrite to replace it",
        )


def _differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return in words which artifacts and models are others there."""
    common = there.keys() & here.keys()
    if there and here and not common:
        return [", ".join(sorted(there))]
    return [
        f"{'it' if name == '.' else name} is {there[name][:12]} there and {here[name][:12]} here"
        for name in sorted(common)
        if there[name] != here[name]
    ]


def _hashed(
    source: Source, described: Mapping[str, Path | None], runtime: Runtime
) -> list[HashedFile]:
    """Return the files with their digests, in the order in which they are copied."""
    paths: dict[str, Path | None] = {file.name: file.path for file in source.files}
    paths |= described
    hashed: dict[str, HashedFile] = {}

    def job_of(name: str, path: Path) -> CopyJob:
        def hash_it(count: CountBytes) -> None:
            hashed[name] = _hash(name, path)
            count(n_bytes)

        n_bytes = path.stat().st_size
        return CopyJob(1, n_bytes, hash_it)

    try:
        jobs = [job_of(name, path) for name, path in sorted(paths.items()) if path is not None]
        run_jobs(jobs, runtime, stage="read", place=str(source.folder))
    except OSError as error:
        raise InputError(
            f"cannot read {error.filename or source.folder}: {error.strerror or error}",
            hint="check the disk and the permissions, then run the same command again",
        ) from error
    return sorted(hashed.values(), key=_in_order)


def _hash(name: str, path: Path) -> HashedFile:
    status = path.stat()
    return HashedFile(name, path, status.st_size, hash_file(path), status.st_mtime_ns)


def _in_order(file: HashedFile) -> tuple[bool, int, str]:
    # large files first: the last one to end should be a small one
    return file.path.name in LAST_FILES, -file.n_bytes, file.name


def _manifest_of(
    source: Source,
    files: Sequence[HashedFile],
    stored: Stored,
    not_pushed: Collection[str],
    *,
    overwrite: bool,
) -> Manifest:
    entries = {file.name: ManifestEntry(file.n_bytes, file.sha256) for file in files}
    contents = dict(source.contents)
    if stored.manifest is not None and not overwrite:
        before = stored.manifest.files.items()
        kept = {
            name: entry for name, entry in before if name in stored.sizes and name not in not_pushed
        }
        entries = kept | entries
        contents = dict(stored.manifest.contents) | contents
    return Manifest(contents, entries, is_complete=True)


def _begun(
    manifest: Manifest, before: Mapping[str, ManifestEntry], to_copy: Sequence[HashedFile]
) -> Manifest:
    """Return the manifest of a push that has not ended, with all that may be there meanwhile."""
    changed = {file.name for file in to_copy}
    unchanged = {name: entry for name, entry in before.items() if name not in changed}
    return replace(manifest, files={**manifest.files, **unchanged}, is_complete=False)


def _says_the_same(there: Manifest, here: Manifest) -> bool:
    """Return whether a manifest need not be written again; stamps are the store's."""

    def bare(manifest: Manifest) -> Manifest:
        files = {name: entry._replace(stamp="") for name, entry in manifest.files.items()}
        return replace(manifest, files=files)

    return bare(there) == bare(here)


def _upload_job(place: SharedPlace, batch: Sequence[HashedFile]) -> CopyJob:
    n_bytes = sum(file.n_bytes for file in batch)
    return CopyJob(len(batch), n_bytes, lambda count: place.upload(batch, count))


def read_back(manifest: Manifest, place: SharedPlace, runtime: Runtime) -> None:
    """Read every file of a manifest, and compare its digest.

    Raises:
        InputError: one differs.
    """

    def job_of(name: str, entry: ManifestEntry) -> CopyJob:
        def read(count: CountBytes) -> None:
            try:
                found = place.digest(name, count)
            except OSError as error:
                raise unreadable(f"{place}/{name}", error) from error
            if found.sha256 != entry.sha256:
                raise InputError(
                    f"{place}/{name} was read back with other bytes than were sent (sha256 "
                    f"{found.sha256[:12]}, not {entry.sha256[:12]})",
                    hint="remove it there, then run the same command again",
                )

        return CopyJob(1, entry.n_bytes, read)

    jobs = [job_of(name, entry) for name, entry in sorted(manifest.files.items())]
    run_jobs(jobs, runtime, stage="verify", place=str(place))


def unreadable(place: str, error: OSError) -> InputError:
    """Return the error of a place that cannot be read."""
    return InputError(
        f"cannot read {place}: {error.strerror or error}",
        hint="check the name, your credentials and their permissions, and the endpoint "
        "(AWS_ENDPOINT_URL, HF_ENDPOINT), then run the same command again",
    )
