"""Paid answers of one part, kept until the part is written: one line each, in one file.

Each process has its own file, so any number of them may keep answers of one part. A line begins
with the sha256 of its content, so a line that a kill or a power loss cut off is not read as an
answer.

An answer is appended before it is used. It is synced to disk afterwards, together with answers that
arrived meanwhile: a process can be killed while the disk is slow, and its answers still exist.
`AnswerCache` keeps answers permanently, one file each; here, making and removing that many files
would take longer than asking again.
"""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from prefpipe.artifacts.answer_cache import request_key
from prefpipe.artifacts.atomic import MACHINE, disk_error, make_folder, sync_folder
from prefpipe.artifacts.fingerprint import canonical_json

Body = Mapping[str, Any]


class AnswerLog:
    """A folder for the answers of one part.

    Any number of threads may put answers into one log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: BinaryIO | None = None
        self._appending = threading.Lock()
        self._settling = threading.Lock()
        self._n_appended, self._n_settled = 0, 0

    def read(self) -> dict[str, dict[str, Any]]:
        """Return all answers by `request_key`; the latest one if there are several."""
        answers: dict[str, dict[str, Any]] = {}
        for content in self._files():
            for line in content.split(b"\n"):
                checksum, _, text = line.partition(b" ")
                if text and checksum == _checksum(text):
                    entry = json.loads(text)
                    answers[entry["key"]] = entry["answer"]
        return answers

    def put(self, request: Body, answer: Body) -> None:
        """Store an answer.

        Raises:
            PrefpipeError: the disk is full or the folder cannot be written to.
        """
        text = canonical_json({"key": request_key(request), "answer": answer}).encode()
        # behind a line that was cut off, this one begins again
        line = b"\n" + _checksum(text) + b" " + text
        try:
            with self._appending:
                file = self._opened()
                file.write(line)
                file.flush()
                self._n_appended += 1
                n_appended = self._n_appended
            self._settle(file, n_appended)
        except OSError as error:
            raise disk_error(self.folder, error) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """Remove all answers: their results are on disk."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[bytes]:
        """Return what all processes have written, the latest last."""
        written: list[tuple[int, bytes]] = []
        for path in self.folder.glob("*.jsonl"):
            # another worker may have written the part and removed its answers meanwhile
            with suppress(FileNotFoundError):
                written.append((path.stat().st_mtime_ns, path.read_bytes()))
        return [content for _, content in sorted(written)]

    def _opened(self) -> BinaryIO:
        if self._file is None:
            make_folder(self.folder)
            self._file = (self.folder / f"{MACHINE}.{os.getpid()}.jsonl").open("ab")
            sync_folder(self.folder)
        return self._file

    def _settle(self, file: BinaryIO, n_appended: int) -> None:
        """Sync the first ``n_appended`` lines to disk, with those appended meanwhile."""
        with self._settling:
            if self._n_settled >= n_appended:
                return
            n_going = self._n_appended
            os.fsync(file.fileno())
            self._n_settled = n_going


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()
