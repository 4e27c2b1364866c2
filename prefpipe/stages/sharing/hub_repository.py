"""A model or a dataset of the Hugging Face hub that is pushed to and pulled from.

The requests are those of huggingface_hub. Large files go first, each under the sha256 of its bytes,
so that a second call sends only those that the hub does not have. One commit then names them all: a
reader sees the repository of before or the new one.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils import tqdm as hub_tqdm

from prefpipe.artifacts import atomic
from prefpipe.artifacts.file_hashes import hash_file
from prefpipe.artifacts.storage.pieces import PIECE_BYTES, SourceFile, hash_pieces
from prefpipe.artifacts.storage.protocol import Copied, CountBytes, OtherBytesError, count_nothing
from prefpipe.artifacts.storage.retries import BUSY_STATUSES, call_again, chain_of
from prefpipe.configs.push import HubName
from prefpipe.errors import InputError, PrefpipeError, UsageError
from prefpipe.stages.sharing.belongings import MANIFEST_FILE
from prefpipe.stages.sharing.bucket_folder import changed_since
from prefpipe.stages.sharing.manifest import Manifest, ManifestEntry, require_safe_names
from prefpipe.stages.sharing.places import Checked, HashedFile, Stored

Result = TypeVar("Result")

TRIES = 4
"""huggingface_hub tries each request a few times itself."""
BATCH_FILES, BATCH_BYTES = 50, 512 * 2**20
"""Of one call: the hub is asked about several files at a time."""
OF_THE_HUB = (".gitattributes", ".gitignore", "README.md", "LICENSE*")
"""Files of a repository that no push needs to have written."""
PULL_FOLDER = ".prefpipe-pull"
"""Where files are until they have been compared; huggingface_hub goes on with half ones there."""
LOGIN_HINT = (
    "run `hf auth login` or set HF_TOKEN, with a token that may write there; prefpipe never stores "
    "it"
)


class _Blob(NamedTuple):
    n_bytes: int
    sha256: str | None
    git_sha1: str


class HubRepository:
    """A repository; see `SharedPlace`.

    Args:
        name: which; its revision is the branch to push to, or what to pull.
        is_private: make a new one private, and refuse one that is public.
    """

    keeps_strangers = True

    def __init__(self, name: HubName, *, is_private: bool) -> None:
        self._name, self._revision, self._is_private = name, name.revision, is_private
        self._api = HfApi(library_name="prefpipe")
        self._type = "dataset" if name.is_dataset else "model"
        self._head: str | None = None
        self._blobs: dict[str, _Blob] = {}
        self._additions: dict[str, CommitOperationAdd] = {}
        self._staging: Path | None = None
        # its bars would be drawn over the progress of the command
        disable_progress_bars()

    def __str__(self) -> str:
        return str(self._name)

    def look(self) -> Stored:
        """List the repository at one commit, and read its manifest.

        Raises:
            OSError: it cannot be read.
        """
        try:
            info = self._asking(
                lambda: self._api.repo_info(
                    self._name.repo_id, repo_type=self._type, revision=self._revision
                )
            )
        except RevisionNotFoundError:
            return Stored({}, None)
        except RepositoryNotFoundError:
            return Stored({}, None)
        except Exception as error:
            raise OSError(self._reason(error)) from error
        self._require_private(bool(info.private))
        self._head = str(info.sha)
        self._blobs = self._listed(self._head)

        manifest = None
        if MANIFEST_FILE in self._blobs:
            data = self._read(MANIFEST_FILE)
            manifest = Manifest.from_bytes(data, f"{self}/{MANIFEST_FILE}")
        require_safe_names(self._blobs, str(self))
        sizes = {
            name: blob.n_bytes
            for name, blob in self._blobs.items()
            if name != MANIFEST_FILE and (manifest is not None or not _is_of_the_hub(name))
        }
        return Stored(sizes, manifest)

    def holds(self, file: HashedFile) -> bool:
        """Compare with the digest that the repository keeps."""
        blob = self._blobs.get(file.name)
        if blob is None or blob.n_bytes != file.n_bytes:
            return False
        if blob.sha256 is not None:
            return blob.sha256 == file.sha256
        return blob.git_sha1 == git_sha1_of(file.path)

    def digest_of(self, name: str) -> str | None:
        """Return the sha256 of a file there, None where there is no such file; it may be read."""
        blob = self._blobs.get(name)
        if blob is None:
            return None
        return blob.sha256 or hashlib.sha256(self._read(name)).hexdigest()

    def begin(self, manifest: Manifest) -> None:  # noqa: ARG002 - a commit is whole or none
        """Make the repository and the branch.

        Raises:
            PrefpipeError: that is not allowed.
        """

        def create() -> None:
            self._api.create_repo(
                self._name.repo_id, repo_type=self._type, private=self._is_private, exist_ok=True
            )
            if self._revision is not None:
                self._api.create_branch(
                    self._name.repo_id,
                    repo_type=self._type,
                    branch=self._revision,
                    exist_ok=True,
                )

        self._writing(create)

    def batches(self, files: Sequence[HashedFile]) -> Iterator[Sequence[HashedFile]]:
        """Yield files together as far as they are small."""
        batch: list[HashedFile] = []
        n_bytes = 0
        for file in files:
            if batch and (len(batch) == BATCH_FILES or n_bytes + file.n_bytes > BATCH_BYTES):
                yield batch
                batch, n_bytes = [], 0
            batch.append(file)
            n_bytes += file.n_bytes
        if batch:
            yield batch

    def upload(self, files: Sequence[HashedFile], count: CountBytes) -> None:
        """Send what is large; small files go with the commit.

        Raises:
            InputError: a file was changed since it was hashed.
            PrefpipeError: it cannot be written.
        """
        additions = []
        for file in files:
            addition = CommitOperationAdd(file.name, file.path)
            addition.upload_info.sha256 = bytes.fromhex(file.sha256)
            additions.append(addition)
        self._writing(
            lambda: self._api.preupload_lfs_files(
                self._name.repo_id,
                additions,
                repo_type=self._type,
                revision=self._revision,
                free_memory=False,
            )
        )
        for file, addition in zip(files, additions, strict=True):
            status = file.path.stat()
            if (status.st_size, status.st_mtime_ns) != (file.n_bytes, file.changed_at_ns):
                raise changed_since(file)
            self._additions[file.name] = addition
            count(file.n_bytes)

    def finish(self, manifest: Manifest, removed: Collection[str]) -> Checked:
        """Commit, and compare what the hub lists.

        Raises:
            InputError: something else is there than was sent.
            PrefpipeError: it cannot be written.
        """
        self._commit(manifest, removed)
        n_by_digest = 0
        for name, entry in manifest.files.items():
            blob = self._blobs.get(name)
            if blob is None:
                raise self._not_what_was_sent(name, "is not there")
            if blob.n_bytes != entry.n_bytes:
                raise self._not_what_was_sent(name, f"has {blob.n_bytes:,} bytes")
            if blob.sha256 not in (None, entry.sha256):
                raise self._not_what_was_sent(name, "has another sha256")
            is_sent = name in self._additions
            n_by_digest += is_sent and blob.sha256 is not None
        return Checked(n_by_digest, len(self._additions) - n_by_digest)

    def entry_of(self, name: str) -> ManifestEntry:
        """Return the size, and the sha256 of a large file."""
        blob = self._blobs[name]
        return ManifestEntry(blob.n_bytes, blob.sha256 or "", blob.git_sha1)

    def has_bytes_of(self, path: Path, name: str) -> bool:
        """Compare with the digest that the repository keeps."""
        blob = self._blobs[name]
        if blob.sha256 is not None:
            return blob.sha256 == hash_file(path)
        return blob.git_sha1 == git_sha1_of(path)

    def download(self, name: str, target: Path, count: CountBytes, *, sha256: str | None) -> Copied:
        """Copy a file by way of a hidden folder, in which a half one stays for the next call."""
        staging = self._staging_of(name, target)
        atomic.make_folder(staging)
        path = self._downloaded(name, staging, count)
        with SourceFile(path) as file:
            copied = hash_pieces(file.pieces(PIECE_BYTES), count_nothing)
        if sha256 not in (None, copied.sha256) or not self._is_blob(name, path, copied):
            path.unlink(missing_ok=True)
            count(-copied.n_bytes)
            raise OtherBytesError(f"sha256 {copied.sha256}")

        atomic.make_folder(target.parent)
        try:
            atomic.settle_file(path)
            path.replace(target)
            atomic.sync_folder(target.parent)
        except OSError as error:
            raise atomic.disk_error(target, error) from error
        return copied

    def digest(self, name: str, count: CountBytes) -> Copied:
        """Download a file to a temporary folder, and return its digest."""
        with tempfile.TemporaryDirectory(prefix="prefpipe-verify-") as folder:
            path = self._downloaded(name, Path(folder), count)
            with SourceFile(path) as file:
                return hash_pieces(file.pieces(PIECE_BYTES), count_nothing)

    def close(self) -> None:
        """Remove the hidden folder of a pull that has ended well."""
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)

    def _staging_of(self, name: str, target: Path) -> Path:
        folder = target
        for _ in name.split("/"):
            folder = folder.parent
        self._staging = folder / PULL_FOLDER
        return self._staging

    def _is_blob(self, name: str, path: Path, copied: Copied) -> bool:
        blob = self._blobs[name]
        if blob.sha256 is not None:
            return blob.sha256 == copied.sha256
        return blob.git_sha1 == git_sha1_of(path)

    def _commit(self, manifest: Manifest, removed: Collection[str]) -> None:
        data = manifest.to_bytes()

        def commit() -> None:
            operations: list[Any] = [
                *self._additions.values(),
                *(CommitOperationDelete(name) for name in sorted(removed)),
                CommitOperationAdd(MANIFEST_FILE, data),
            ]
            self._api.create_commit(
                self._name.repo_id,
                operations,
                commit_message="Push by prefpipe",
                repo_type=self._type,
                revision=self._revision,
                # nobody else's commit in between is undone
                parent_commit=self._head,
            )

        def commit_once() -> None:
            try:
                commit()
            except Exception as error:
                # a try before this one may have succeeded, and its answer was lost
                may_be_there = _may_pass(error) or _status_of(error) == 412
                if not (may_be_there and self._has(data)):
                    raise

        # what the push began with may be a repository that was only just made
        if self._head is None:
            self._head = self._writing(self._head_now)
        self._writing(commit_once)
        self._head = self._writing(self._head_now)
        try:
            self._blobs = self._listed(self._head)
        except OSError as error:
            raise self._write_error(error) from error

    def _has(self, manifest: bytes) -> bool:
        """Return whether the manifest there is this one."""
        try:
            self._head = self._head_now()
            self._blobs = self._listed(self._head)
            return MANIFEST_FILE in self._blobs and self._read(MANIFEST_FILE) == manifest
        except (OSError, HfHubHTTPError):
            return False

    def _head_now(self) -> str:
        info = self._api.repo_info(
            self._name.repo_id, repo_type=self._type, revision=self._revision
        )
        return str(info.sha)

    def _listed(self, commit: str) -> dict[str, _Blob]:
        def list_once() -> dict[str, _Blob]:
            tree = self._api.list_repo_tree(
                self._name.repo_id, recursive=True, repo_type=self._type, revision=commit
            )
            return {
                entry.path: _Blob(
                    entry.size, None if entry.lfs is None else entry.lfs.sha256, entry.blob_id
                )
                for entry in tree
                if isinstance(entry, huggingface_hub.RepoFile)
            }

        try:
            return self._asking(list_once)
        except EntryNotFoundError:
            return {}
        except Exception as error:
            raise OSError(self._reason(error)) from error

    def _read(self, name: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="prefpipe-manifest-") as folder:
            return self._downloaded(name, Path(folder), count_nothing).read_bytes()

    def _downloaded(self, name: str, folder: Path, count: CountBytes) -> Path:
        """Return a file of the listed commit in a folder, to which it is downloaded.

        Raises:
            OSError: it cannot be read.
        """
        n_counted = 0

        class Bar(hub_tqdm):  # type: ignore[misc]
            """Tells what arrives, and draws nothing."""

            def __init__(self, *arguments: Any, **settings: Any) -> None:
                super().__init__(*arguments, **settings | {"disable": True})
                self.update(settings.get("initial") or 0)

            def update(self, n: float | None = 1) -> None:
                nonlocal n_counted
                n_counted += int(n or 0)
                count(int(n or 0))

        def download_once() -> Path:
            nonlocal n_counted
            count(-n_counted)
            n_counted = 0
            path = self._api.hf_hub_download(
                self._name.repo_id,
                name,
                repo_type=self._type,
                revision=self._head,
                local_dir=folder,
                tqdm_class=Bar,
            )
            return Path(path)

        try:
            path = self._asking(download_once)
        except PrefpipeError:
            raise
        except Exception as error:
            raise OSError(self._reason(error)) from error
        # small files come without a bar
        count(path.stat().st_size - n_counted)
        return path

    def _asking(self, ask: Callable[[], Result]) -> Result:
        return call_again(ask, _may_pass, tries=TRIES)

    def _writing(self, write: Callable[[], Result]) -> Result:
        """Return what a writing returns.

        Raises:
            PrefpipeError: in words, without credentials.
        """
        try:
            return self._asking(write)
        except PrefpipeError:
            raise
        except Exception as error:
            raise self._write_error(error) from error

    def _write_error(self, error: BaseException) -> PrefpipeError:
        is_refused = _status_of(error) in (401, 403, 404)
        hint = LOGIN_HINT if is_refused else "run the same command again; what was sent is kept"
        if _status_of(error) == 412:
            hint = "somebody else has committed there meanwhile: run the same command again"
        return PrefpipeError(f"cannot write {self}: {self._reason(error)}", hint=hint)

    def _reason(self, error: BaseException) -> str:
        """Return what went wrong, for people, with no secret in it."""
        if any(isinstance(each, OfflineModeIsEnabled) for each in chain_of(error)):
            return "HF_HUB_OFFLINE is set"
        if isinstance(error, GatedRepoError):
            return "it is gated, and its owner has not given you access"
        status = _status_of(error)
        reason = " ".join(str(error).split()) or type(error).__name__
        if status in (401, 403):
            reason = f"permission denied ({reason})"
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            token = os.environ.get(name)
            if token:
                reason = reason.replace(token, "***")
        return reason

    def _require_private(self, is_private: bool) -> None:
        if self._is_private and not is_private:
            raise UsageError(
                f"{self._name} is public", hint="pass --no-private to push to it all the same"
            )

    def _not_what_was_sent(self, name: str, what: str) -> InputError:
        return InputError(
            f"{self}/{name} {what} after it was sent",
            hint="see that the repository's .gitignore does not name it, then run the same command "
            "again",
        )


def git_sha1_of(path: Path) -> str:
    """Return what git calls a file's content.

    Raises:
        InputError: it cannot be read.
    """
    with SourceFile(path) as file:
        digest = hashlib.sha1(b"blob %d\0" % file.n_bytes, usedforsecurity=False)
        for piece in file.pieces(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _is_of_the_hub(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in OF_THE_HUB)


def _may_pass(error: BaseException) -> bool:
    if any(isinstance(each, PrefpipeError | OfflineModeIsEnabled) for each in chain_of(error)):
        return False
    for each in chain_of(error):
        # by name: releases of huggingface_hub bring httpx under two names
        kinds = {kind.__name__ for kind in type(each).__mro__}
        if "TransportError" in kinds or isinstance(each, ConnectionError | TimeoutError):
            return True
        # the hub could not be reached, which the library says so
        if isinstance(each, LocalEntryNotFoundError) and each.__cause__ is None:
            return True
    return _status_of(error) in BUSY_STATUSES


def _status_of(error: BaseException) -> int | None:
    for each in chain_of(error):
        if isinstance(each, HfHubHTTPError) and each.response is not None:
            return int(each.response.status_code)
    return None
