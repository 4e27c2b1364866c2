"""Files piece by piece: read once and hashed on the way, so that none has to fit into memory."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from prefpipe.artifacts import atomic
from prefpipe.artifacts.storage.protocol import Copied, CountBytes, OtherBytesError
from prefpipe.errors import InputError

PIECE_BYTES = 16 * 2**20
"""A request of this size takes a tenth of a second or more, beside which its overhead is small."""
MOST_PIECES = 10_000
"""S3 takes no more of one object."""
PIECES_AT_ONCE = 4
"""On their way at once, of one file; so many are in memory."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def piece_bytes_of(n_bytes: int) -> int:
    """Return the size of the pieces of a file: of each but the last."""
    least = -(-n_bytes // MOST_PIECES)
    n_units = -(-least // PIECE_BYTES)
    return PIECE_BYTES * max(1, n_units)


def in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield what ``work`` returns for each item, in their order, `PIECES_AT_ONCE` at once.

    Raises:
        Exception: from ``work``, of the first item that has one.
    """
    # not waited for where the command is stopped: threads that only send or read end with it
    pool = ThreadPoolExecutor(PIECES_AT_ONCE)
    on_their_way: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(on_their_way) == PIECES_AT_ONCE:
                yield on_their_way.popleft().result()
            on_their_way.append(pool.submit(work, item))
        while on_their_way:
            yield on_their_way.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class SourceFile:
    """A file of this disk that is copied: read once, and hashed on the way.

    Raises:
        InputError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise _unreadable(path, error) from error
        self._before = os.fstat(self._file.fileno())

    @property
    def n_bytes(self) -> int:
        """How many it had when it was opened."""
        return self._before.st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def pieces(self, n_bytes: int) -> Iterator[bytes]:
        """Yield all bytes, ``n_bytes`` at a time.

        Raises:
            InputError: the disk fails, or somebody writes to the file.
        """
        n_left = self.n_bytes
        while n_left:
            try:
                piece = self._file.read(min(n_bytes, n_left))
            except OSError as error:
                raise _unreadable(self._path, error) from error
            if not piece:
                raise self._changed()
            self._digest.update(piece)
            n_left -= len(piece)
            yield piece

    def copied(self) -> Copied:
        """Return what was read, after the last piece.

        Raises:
            InputError: somebody wrote to the file meanwhile.
        """
        after = os.fstat(self._file.fileno())
        if (after.st_size, after.st_mtime_ns) != (self.n_bytes, self._before.st_mtime_ns):
            raise self._changed()
        return Copied(self.n_bytes, self._digest.hexdigest())

    def _changed(self) -> InputError:
        return InputError(
            f"{self._path} was written to while it was copied",
            hint="wait until the command that writes it has ended, then run the same command again",
        )


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot read {path}: {error.strerror or error}",
        hint="check the disk and the permissions of the file, then run the same command again",
    )


class _NotReadError(Exception):
    """Carries an `OSError` of what is read past code that means its own by one."""

    def __init__(self, why: OSError) -> None:
        super().__init__(str(why))
        self.why = why


def write_pieces(
    target: Path, pieces: Iterator[bytes], count: CountBytes, *, sha256: str | None = None
) -> Copied:
    """Write a file of this disk whole or not at all, and hash it on the way.

    Args:
        target: the file; its folder is made.
        pieces: its bytes.
        count: see `CountBytes`.
        sha256: of the bytes as they should be, None where nobody knows.

    Raises:
        OSError: from ``pieces``.
        OtherBytesError: they are others.
        PrefpipeError: the disk is full, the folder is read-only.
    """
    atomic.make_folder(target.parent)
    try:
        with atomic.atomic_write(target) as file:
            copied = hash_pieces(_naming_the_source(pieces), count, file.write)
            _require_digest(copied, sha256, count)
    except _NotReadError as error:
        raise error.why from error.why.__cause__
    return copied


def _require_digest(copied: Copied, sha256: str | None, count: CountBytes) -> None:
    if sha256 not in (None, copied.sha256):
        # they are sent again, if at all
        count(-copied.n_bytes)
        raise _NotReadError(OtherBytesError(f"sha256 {copied.sha256}, not {sha256}"))


def hash_pieces(
    pieces: Iterator[bytes], count: CountBytes, write: Callable[[bytes], object] = len
) -> Copied:
    """Hash what is read piece by piece, and hand it on.

    Raises:
        OSError: from ``pieces`` or ``write``.
    """
    digest, n_bytes = hashlib.sha256(), 0
    for piece in pieces:
        write(piece)
        digest.update(piece)
        n_bytes += len(piece)
        count(len(piece))
    return Copied(n_bytes, digest.hexdigest())


def _naming_the_source(pieces: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from pieces
    except OSError as error:
        raise _NotReadError(error) from error


def md5_of(path: Path) -> str:
    """Return the MD5 of a file in hex: what stores tell of theirs.

    Raises:
        InputError: it cannot be read.
    """
    digest = md5()
    with SourceFile(path) as source:
        for piece in source.pieces(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def md5_of_pieces(path: Path) -> str:
    """Return what S3 tells of a file that was sent in the pieces of `piece_bytes_of`.

    Raises:
        InputError: it cannot be read.
    """
    with SourceFile(path) as source:
        pieces = source.pieces(piece_bytes_of(source.n_bytes))
        digests = [md5(piece).digest() for piece in pieces]
    return f"{md5(b''.join(digests)).hexdigest()}-{len(digests)}"


def md5(data: bytes = b"") -> "hashlib._Hash":
    """Return the digest that stores know, also where it is barred from cryptography."""
    return hashlib.md5(data, usedforsecurity=False)
