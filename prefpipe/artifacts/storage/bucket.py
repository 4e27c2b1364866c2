"""Storage in a bucket, by fsspec: one PUT a file, exclusive creation by a condition.

A bucket has no rename and needs none: an object appears whole when its PUT, or the last request of
its multipart upload, succeeds. fsspec's caches of listings are off, for other workers write, too.
The retries of the libraries below are off as well, for their waits multiply: `Patience` retries.
"""

import base64
import binascii
import errno
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from prefpipe.artifacts.storage.google import NO_GENERATION, open_google, put_over
from prefpipe.artifacts.storage.location import Url
from prefpipe.artifacts.storage.pieces import (
    SourceFile,
    in_order,
    md5,
    md5_of,
    md5_of_pieces,
    piece_bytes_of,
)
from prefpipe.artifacts.storage.protocol import (
    Copied,
    CountBytes,
    FileVersion,
    StoredFile,
    count_nothing,
)
from prefpipe.artifacts.storage.retries import (
    MAX_TRIES,
    Patience,
    ShortReadError,
    chain_of,
    code_of,
    may_pass,
    status_of,
)
from prefpipe.artifacts.storage.s3_upload import content_md5, upload_in_pieces
from prefpipe.artifacts.storage.unreadable import check_of_bucket
from prefpipe.errors import MissingExtraError, PrefpipeError, PrefpipeWarning, UsageError

Result = TypeVar("Result")

EXTRAS = {
    "s3": ("s3", "s3fs"),
    "s3a": ("s3", "s3fs"),
    "gs": ("gcs", "gcsfs"),
    "gcs": ("gcs", "gcsfs"),
}
"""The extra of prefpipe that brings what reads a scheme, and its package."""
STAMPS = ("ETag", "generation", "etag", "md5Hash", "crc32c", "mtime", "LastModified", "created")
"""Entries of a listing that change when a file is replaced, the surest first."""
ONE_PUT_BYTES = 2 * 2**30
"""S3 takes 5 GiB in one request, and a part has some 50 MB. A larger file is sent in pieces."""
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
LEAST_SECRET = 8
"""Characters of what is a secret wherever it occurs."""
PRECONDITION_FAILED = 412
NO_ETAG = '"00000000000000000000000000000000"'
"""No file's."""
LOOKS_FOR_A_FILE, LOOK_AGAIN_S = 4, 0.2
GONE = "the bucket does not exist"
BUSY = "the storage did not answer as it should, {tries} times in a row: "


class UnconditionalWritesWarning(PrefpipeWarning):
    """The store writes over a file that a condition should have kept."""


class BucketStorage:
    """Objects of one bucket; see `Storage`.

    Raises:
        UsageError: there is no such kind of storage, or its package is not installed.
    """

    def __init__(self, bucket: Url) -> None:
        self._bucket = bucket
        self._files = _open_file_system(bucket.scheme)
        self._again = Patience().call_again
        self._lock = Lock()
        self._creates_exclusively: bool | None = None
        """Whether the store obeys the condition of `create`; None before the first one."""
        self._replaces_conditionally: bool | None = None
        """Likewise that of `replace`, ``If-Match``."""

    def read(self, place: Url, n_bytes: int | None = None) -> bytes:
        """Return all bytes of a file; ``n_bytes``, where a listing told them, saves a request."""

        def read_once() -> bytes:
            if n_bytes is None and _is_s3(place.scheme):
                return self._get(place)
            size = self._size_of(place) if n_bytes is None else n_bytes
            return self._read_range(place, 0, size)

        return self._reading(place, read_once)

    def read_tail(self, place: Url, n_bytes: int, n_in_all: int | None = None) -> tuple[bytes, int]:
        """Return the last bytes of a file, and how many it has.

        ``n_in_all``, where a listing told it, saves a request.
        """

        def read_once() -> tuple[bytes, int]:
            # not by a header `Range: bytes=-n`: rclone answers it wrongly of shorter files
            size = self._size_of(place) if n_in_all is None else n_in_all
            return self._read_range(place, max(0, size - n_bytes), size), size

        return self._reading(place, read_once)

    def version(self, place: Url) -> FileVersion:
        """Return the size and the stamp of a file, in one request.

        Raises:
            FileNotFoundError: it is not there.
            IsADirectoryError: it is a folder.
            OSError: it cannot be looked at.
        """
        return self._reading(place, lambda: _version_of(self._entry_of(place)))

    def read_range(self, place: Url, start: int, end: int) -> bytes:
        """Return the bytes of a file from ``start`` to before ``end``.

        Raises:
            FileNotFoundError: it is not there.
            OSError: they cannot be read.
        """
        return self._reading(place, lambda: self._read_range(place, start, end))

    def list(self, folder: Url) -> Mapping[str, FileVersion | None]:
        """Return what lies under a prefix, up to the next slash."""
        key = self._key(folder)
        entries = self._reading(folder, lambda: self._files.ls(key, detail=True, refresh=True))
        found: dict[str, FileVersion | None] = {}
        for entry in entries:
            name = entry["name"].rstrip("/")
            # consoles create an object of no bytes for the folder itself
            if name == key.rstrip("/"):
                if entry["type"] == "file" and len(entries) == 1 and entry["size"]:
                    raise NotADirectoryError(f"{folder} is a file")
                continue
            is_folder = entry["type"] == "directory"
            found[name.rpartition("/")[2]] = None if is_folder else _version_of(entry)
        if not found:
            raise FileNotFoundError(str(folder))
        return found

    def version_of(self, place: Url) -> FileVersion | None:
        """Return which file is there now; None for a folder, and for what is not there."""
        try:
            return self.version(place)
        except (FileNotFoundError, IsADirectoryError):
            return None

    def write(self, place: Url, data: bytes) -> FileVersion | None:
        """Write a file, over one that is there.

        Raises:
            PrefpipeError: no bucket, no permission, or a storage that stays busy.
        """
        try:
            answer = self._again(lambda: self._put(place, data))
        except Exception as error:
            raise self._write_error(place, error) from error
        # of S3: a look afterwards could find what another worker has put in its place
        etag = answer.get("ETag") if isinstance(answer, dict) else None
        return FileVersion(len(data), str(etag)) if etag else None

    def create(self, place: Url, data: bytes) -> bool:
        """Write a file if there is none.

        Raises:
            PrefpipeError: as `write`.
        """
        try:
            # a store that ignores the condition would write over what is there
            if self._creates_exclusively is not True and self._exists(place):
                return False
            is_created = self._create(place, data)
            if self._creates_exclusively is None:
                self._learn_condition(place, data)
            if is_created and not self._creates_exclusively:
                # somebody may have come between look and write: whose bytes are there has won
                return self._has_won(place, data)
        except Exception as error:
            raise self._write_error(place, error) from error
        return is_created

    def replace(self, place: Url, data: bytes, *, expected: bytes) -> bool:
        """Write a file over one that holds ``expected``, unless it holds something else.

        Raises:
            PrefpipeError: as `write`.
        """
        try:
            # the version first: bytes that are those of a later file fail the condition
            version = self.version_of(place)
            if version is None or not self._has_won(place, expected):
                return False
            if not _is_s3(place.scheme) and not _is_google(place.scheme):
                self._warn_of_replacing()
                self._put_again(place, data)
                return self._has_won(place, data)

            is_replaced = self._replace(place, data, version.stamp)
            if is_replaced and self._replaces_conditionally is None:
                self._learn_replacing(place, data)
            if is_replaced and not self._replaces_conditionally:
                return self._has_won(place, data)
        except Exception as error:
            raise self._write_error(place, error) from error
        return is_replaced

    def delete(self, place: Url) -> None:
        """Remove a file.

        Raises:
            PrefpipeError: as `write`.
        """
        try:
            self._again(lambda: self._files.rm_file(self._key(place)))
        except FileNotFoundError as error:
            if _is_bucket_gone(error):
                raise self._write_error(place, error) from error
        except Exception as error:
            raise self._write_error(place, error) from error

    def list_tree(self, folder: Url) -> Mapping[str, StoredFile]:
        """Return every file under a prefix, by one listing of so many pages."""
        key = self._key(folder).rstrip("/")

        def find_once() -> Mapping[str, Any]:
            try:
                return dict(self._files.find(key, detail=True, refresh=True))
            except FileNotFoundError as error:
                if _is_bucket_gone(error):
                    raise
                return {}

        found = {}
        for name, entry in self._reading(folder, find_once).items():
            path = name.removeprefix(f"{key}/")
            # consoles create an object of no bytes for a folder
            if entry["type"] == "file" and path != name and not path.endswith("/"):
                found[path] = StoredFile(_version_of(entry), _md5_in(entry))
        return found

    def upload(self, source: Path, place: Url, count: CountBytes = count_nothing) -> Copied:
        """Write a file with the bytes of one on this disk.

        Raises:
            InputError: the source cannot be read, or is written to meanwhile.
            PrefpipeError: as `write`.
        """
        with SourceFile(source) as file:
            try:
                sent_md5 = self._send(source, file, place, count)
            except PrefpipeError:
                raise
            except Exception as error:
                raise self._write_error(place, error) from error
            return file.copied()._replace(md5=sent_md5)

    def read_pieces(self, place: Url) -> Iterator[bytes]:
        """Yield all bytes of a file, by several range requests at once.

        Raises:
            OSError: they cannot be read, or the file was replaced meanwhile.
        """
        before = self.version(place)
        n_bytes = piece_bytes_of(before.n_bytes)
        starts = range(0, before.n_bytes, n_bytes)

        def read(start: int) -> bytes:
            return self.read_range(place, start, min(start + n_bytes, before.n_bytes))

        yield from in_order(read, starts)
        # pieces of two files are none, nor is the beginning of a longer one
        if starts and self.version(place) != before:
            raise OSError(f"{place} was replaced while it was read")

    def has_bytes_of(self, source: Path, stored: StoredFile) -> bool | None:
        """Compare a file with what the store says of its own."""
        if source.stat().st_size != stored.version.n_bytes:
            return False
        _, _, n_pieces = stored.md5.partition("-")
        if not stored.md5:
            return None
        if not n_pieces:
            # other tools take other pieces, and encrypted objects have no MD5 for an ETag
            return md5_of(source) == stored.md5 or None
        return md5_of_pieces(source) == stored.md5 or None

    def _send(self, source: Path, file: SourceFile, place: Url, count: CountBytes) -> str:
        """Send a file, and return the MD5 that the store will tell of it, "" if none is known."""
        n_bytes = piece_bytes_of(file.n_bytes)
        if file.n_bytes <= n_bytes:
            data = b"".join(file.pieces(n_bytes))
            self._again(lambda: self._put(place, data, is_checked=True))
            count(len(data))
            return md5(data).hexdigest()
        if _is_s3(place.scheme):
            return upload_in_pieces(self._files, self._key(place), file, count)

        # the hash first: fsspec reads the file itself
        for _ in file.pieces(n_bytes):
            pass
        self._again(lambda: self._put_whole(source, place, count))
        file.copied()
        if self._size_of(place) != file.n_bytes:
            raise ShortReadError(f"{self._size_of(place):,} of {file.n_bytes:,} bytes arrived")
        return ""

    def _put_whole(self, source: Path, place: Url, count: CountBytes) -> None:
        from fsspec.callbacks import Callback

        n_sent = 0

        def note(_size: int | None, n_now: int, **_others: Any) -> None:
            nonlocal n_sent
            count(n_now - n_sent)
            n_sent = n_now

        try:
            self._files.put_file(
                str(source), self._key(place), callback=Callback(hooks={"count": note})
            )
        except Exception:
            # all of it is sent again
            count(-n_sent)
            raise

    def _key(self, place: Url) -> str:
        return str(self._files._strip_protocol(str(place)))  # noqa: SLF001 - fsspec's own name for it

    def _size_of(self, place: Url) -> int:
        return int(self._entry_of(place)["size"])

    def _entry_of(self, place: Url) -> Mapping[str, Any]:
        entry: Mapping[str, Any] = self._files.info(self._key(place))
        if entry["type"] == "directory":
            raise IsADirectoryError(f"{place} is a folder")
        return entry

    def _exists(self, place: Url) -> bool:
        try:
            self._reading(place, lambda: self._size_of(place))
        except FileNotFoundError:
            return False
        return True

    def _read_range(self, place: Url, start: int, end: int) -> bytes:
        # a range of no bytes is none to S3
        if start == end:
            return b""
        data = bytes(self._files.cat_file(self._key(place), start=start, end=end))
        if len(data) != end - start:
            raise ShortReadError(f"{len(data):,} of {end - start:,} bytes arrived")
        return data

    def _get(self, place: Url) -> bytes:
        """Return all bytes of a file on S3 in one request, where fsspec makes two.

        They are requested as a range: an answer to that says how many the whole file has.
        """
        from fsspec.asyn import sync

        bucket, key, _ = self._files.split_path(self._key(place))

        async def get() -> tuple[str, bytes]:
            answer = await self._files._call_s3(  # noqa: SLF001 - its synchronous twin cannot read
                "get_object", Bucket=bucket, Key=key, Range="bytes=0-"
            )
            try:
                return answer.get("ContentRange", ""), await answer["Body"].read()
            finally:
                answer["Body"].close()

        try:
            span, data = sync(self._files.loop, get)
            n_bytes = int(span.rpartition("/")[2])
        except (OSError, ValueError) as error:
            # a file of no bytes has no range, and some stores do not know them
            is_lost = isinstance(error, FileNotFoundError | PermissionError) or may_pass(error)
            if is_lost:
                raise
            return self._read_range(place, 0, self._size_of(place))
        if len(data) != n_bytes:
            raise ShortReadError(f"{len(data):,} of {n_bytes:,} bytes arrived")
        return bytes(data)

    def _put_again(self, place: Url, data: bytes) -> None:
        self._again(lambda: self._put(place, data))

    def _put(
        self,
        place: Url,
        data: bytes,
        *,
        is_new: bool = False,
        is_checked: bool = False,
        over: str = "",
    ) -> Any:
        """Send a file, on a condition if one is named, and return the store's answer.

        Raises:
            FileExistsError: the condition does not hold.
        """
        if over and _is_google(place.scheme):
            return put_over(self._files, self._key(place), data, over)
        options: dict[str, Any] = {"mode": "create"} if is_new else {}
        if over:
            options["IfMatch"] = over
        if _is_s3(place.scheme):
            options["chunksize"] = ONE_PUT_BYTES
            if is_checked:
                options["ContentMD5"] = content_md5(data)
        try:
            return self._files.pipe_file(self._key(place), data, **options)
        except OSError as error:
            # s3fs knows the answer of AWS alone
            if any(status_of(cause) == PRECONDITION_FAILED for cause in chain_of(error)):
                raise FileExistsError(str(place)) from error
            raise

    def _create(self, place: Url, data: bytes) -> bool:
        """Write a file on the condition that there is none; return whether its bytes are there."""

        def create_once() -> bool:
            try:
                self._put(place, data, is_new=True)
            except FileExistsError:
                # A try before this one may have written, and its answer was lost. It need not be
                # one of ours: aiohttp sends a PUT again when a connection ends.
                return self._holds(place, data)
            return True

        return self._again(create_once)

    def _replace(self, place: Url, data: bytes, etag: str) -> bool:
        """Write a file on the condition that its stamp, the ETag, is still this one."""

        def replace_once() -> bool:
            try:
                self._put(place, data, over=etag)
            except FileExistsError:
                # as in `_create`: the answer of a try that wrote may have been lost
                return self._holds(place, data)
            except FileNotFoundError:
                # the file was removed meanwhile
                return False
            return True

        return self._again(replace_once)

    def _learn_replacing(self, place: Url, data: bytes) -> None:
        """Find out, on a file just written, whether the store refuses a wrong stamp."""
        with self._lock:
            if self._replaces_conditionally is not None:
                return
            try:
                wrong = NO_GENERATION if _is_google(place.scheme) else NO_ETAG
                self._again(lambda: self._put(place, data, over=wrong))
            except FileExistsError:
                self._replaces_conditionally = True
            else:
                self._warn_of_replacing()

    def _warn_of_replacing(self) -> None:
        """Say once that a file which two replace at the same moment may keep one's bytes alone."""
        if self._replaces_conditionally is False:
            return
        self._replaces_conditionally = False
        warnings.warn(
            f"{self._bucket} does not support conditional replacement (If-Match): of two steps "
            "that workers add to run.json in the same moment one may be missing from its history, "
            "and two workers may take over the same part. Parts and their rows are not affected",
            UnconditionalWritesWarning,
            stacklevel=2,
        )

    def _holds(self, place: Url, data: bytes) -> bool:
        """Return whether a file has these bytes; asked once, for callers that try again."""
        try:
            return self._read_range(place, 0, self._size_of(place)) == data
        except FileNotFoundError:
            # somebody else's, who has removed it since: claims come and go
            return False

    def _has_won(self, place: Url, data: bytes) -> bool:
        """Return whether a file that several may write holds these bytes.

        Stores without conditions may take a file away while another takes its place, so a file that
        is not there is looked for again. One that stays away was removed: claims come and go.

        Raises:
            OSError: as `_reading`.
        """
        for looks_left in reversed(range(LOOKS_FOR_A_FILE)):
            with suppress(FileNotFoundError):
                held = self._reading(
                    place, lambda: self._read_range(place, 0, self._size_of(place))
                )
                return held == data
            if looks_left:
                time.sleep(LOOK_AGAIN_S)
        return False

    def _learn_condition(self, place: Url, data: bytes) -> None:
        """Find out, on a file just written, whether the store refuses to create it again."""
        with self._lock:
            if self._creates_exclusively is not None:
                return
            try:
                self._again(lambda: self._put(place, data, is_new=True))
            except FileExistsError:
                self._creates_exclusively = True
            else:
                self._creates_exclusively = False
                warnings.warn(
                    f"{self._bucket} does not support conditional writes (If-None-Match): two "
                    "workers that start within the same second may both make the same part. Every "
                    "part is still written whole",
                    UnconditionalWritesWarning,
                    stacklevel=2,
                )

    def _reading(self, place: Url, read_once: Callable[[], Result]) -> Result:
        """Return what a reading returns, tried again while its failure may pass.

        Raises:
            OSError: in words, without credentials, its ``filename`` the place; `FileNotFoundError`
                for what is not there.
        """
        try:
            return self._again(read_once)
        except FileNotFoundError as error:
            if _is_bucket_gone(error):
                raise OSError(errno.EIO, GONE, str(place)) from error
            raise FileNotFoundError(str(place)) from error
        except (IsADirectoryError, NotADirectoryError):
            raise
        except Exception as error:
            raise OSError(errno.EIO, self._reason(error), str(place)) from error

    def _write_error(self, place: Url, error: BaseException) -> PrefpipeError:
        reason = self._reason(error)
        # gcsfs says of both alike that they are not there, and what is written need not be
        if _is_google(place.scheme) and isinstance(error, FileNotFoundError):
            reason = GONE
        return PrefpipeError(
            f"cannot write {place}: {reason}",
            hint=f"{check_of_bucket(place)}, then run the same command again; finished parts are "
            "kept",
        )

    def _reason(self, error: BaseException) -> str:
        """Return what went wrong, for people, with no secret in it."""
        if _is_bucket_gone(error):
            return GONE
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, PermissionError):
            reason = f"permission denied ({reason})"
        elif may_pass(error):
            reason = BUSY.format(tries=MAX_TRIES) + reason
        options = self._files.storage_options
        secrets = [
            str(value) for key, value in options.items() if key in {"key", "secret", "token"}
        ]
        secrets += [os.environ.get(name, "") for name in SECRETS]
        for secret in filter(None, secrets):
            # a key of a test server, as short as a word, is not taken out of other words
            ends = "" if len(secret) >= LEAST_SECRET else r"\b"
            reason = re.sub(f"{ends}{re.escape(secret)}{ends}", "***", reason)
        return reason


def _open_file_system(scheme: str) -> Any:
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}
    if _is_s3(scheme):
        options["config_kwargs"] = _s3_config(fsspec.config.conf.get("s3", {}))
    try:
        if _is_google(scheme):
            return open_google(options)
        files = fsspec.filesystem(scheme, **options)
    except ImportError as error:
        if scheme in EXTRAS:
            extra, package = EXTRAS[scheme]
            raise MissingExtraError(f"{scheme}://", package, extra) from error
        raise UsageError(
            f"{scheme}:// needs a package that is not installed", hint=f"install it: {error}"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{scheme}:// is no storage that fsspec knows",
            hint="use s3://, gs:// or another of fsspec's protocols",
        ) from error
    if _is_s3(scheme):
        files.retries = 1
    return files


def _is_s3(scheme: str) -> bool:
    return scheme in {"s3", "s3a"}


def _is_google(scheme: str) -> bool:
    return scheme in {"gs", "gcs"}


def _s3_config(user: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of S3's client, the user's first.

    Checksums where the protocol requires them: stores other than AWS return that of the whole
    object with a part of it. The bytes of parts are compared with a digest of our own.
    """
    ours = {
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "response_checksum_validation": "when_required",
        "request_checksum_calculation": "when_required",
        "max_pool_connections": 64,
    }
    return ours | dict(user.get("config_kwargs", {}))


def _version_of(entry: Mapping[str, Any]) -> FileVersion:
    stamps = [str(entry[name]) for name in STAMPS if entry.get(name) is not None]
    return FileVersion(int(entry["size"]), stamps[0] if stamps else "")


def _md5_in(entry: Mapping[str, Any]) -> str:
    """Return the MD5 that a listing gives, in hex, "" where it gives none."""
    tag = str(entry.get("ETag") or "").strip('"')
    if re.fullmatch(r"[0-9a-f]{32}(-\d+)?", tag):
        return tag
    # Google's and Azure's, in base64
    settings = entry.get("content_settings") or {}
    encoded = entry.get("md5Hash") or settings.get("content_md5")
    if isinstance(encoded, str):
        try:
            encoded = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            return ""
    return bytes(encoded).hex() if encoded else ""


def _is_bucket_gone(error: BaseException) -> bool:
    return any(
        code_of(cause) == "NoSuchBucket" or "bucket does not exist" in str(cause).lower()
        for cause in chain_of(error)
    )
