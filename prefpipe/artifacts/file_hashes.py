"""Hashes of big files, computed once: a cache keyed by path, size, modification time and inode."""

import json
import os
import re
import time
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from prefpipe.artifacts.atomic import atomic_write, make_folder
from prefpipe.errors import PrefpipeError

CHUNK_BYTES = 1 << 22
RACY_NS = 2_000_000_000
"""A file changed less than this ago is not cached.

A second change may leave the same size and time stamp.
"""


def cache_folder() -> Path:
    """Return the folder of cached files: ``PREFPIPE_CACHE`` or ``~/.cache/prefpipe``."""
    return Path(os.environ.get("PREFPIPE_CACHE") or "~/.cache/prefpipe").expanduser()


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, from the cache when the file has not changed since."""
    real = path.resolve()
    # before the bytes: a file that changes while it is read has another key next time
    stat = real.stat()
    # the inode tells a file from one that took its place with the same size and time
    key = json.dumps([str(real), stat.st_size, stat.st_mtime_ns, stat.st_ino])
    entry = cache_folder() / "hashes" / sha256(key.encode()).hexdigest()
    known = _read_cached_hash(entry)
    if known is not None:
        return known

    digest = sha256()
    with real.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)

    if time.time_ns() - stat.st_mtime_ns > RACY_NS:
        _write_cached_hash(entry, digest.hexdigest())
    return digest.hexdigest()


def hash_files(folder: Path, files: Iterable[Path]) -> str:
    """Return the sha256 of the names (relative to ``folder``) and contents of files, sorted."""
    digest = sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(folder).as_posix()} {hash_file(path)}\n".encode())
    return digest.hexdigest()


def _read_cached_hash(entry: Path) -> str | None:
    try:
        text = entry.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else None


def _write_cached_hash(entry: Path, digest: str) -> None:
    try:
        make_folder(entry.parent)
        with atomic_write(entry) as file:
            file.write(digest.encode())
    except PrefpipeError:
        return  # a cache that cannot be written costs time, never the run
