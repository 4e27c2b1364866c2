"""Paid answers, cached by the content of the question: one small file each.

The key is the sha256 of the request's canonical JSON: model, messages and every setting that is
sent, but not the server's address. So a server that moves to another port is the same judge, and
two judges with one name share answers.

A file is written before its answer is used. Any number of threads and processes may share a folder.
There are no locks: two processes that ask the same question at the same moment both pay, and the
later answer stays.

A file takes its name first and goes to the disk afterwards: a process can be killed while the disk
is slow, and the answer still exists. A file that a power loss damaged is not read as an answer,
because each file carries the hash of its content.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefpipe.artifacts.atomic import (
    atomic_write,
    make_folder,
    sweep_temporary_files,
    write_and_settle,
)
from prefpipe.artifacts.file_hashes import cache_folder
from prefpipe.artifacts.fingerprint import canonical_json
from prefpipe.artifacts.storage.location import Location
from prefpipe.errors import PrefpipeError, UsageError

FOLDER_NAME = "answers"
"""Where a stage keeps them inside its output, unless another folder is given."""
Body = Mapping[str, Any]


def answers_folder(output: Location) -> Path:
    """Return where a stage keeps paid answers unless another folder is given.

    That is inside its output; of one in a bucket on this machine, in the folder of cached files:
    one small request each would take longer than asking.
    """
    if isinstance(output, Path):
        return output / FOLDER_NAME
    return cache_folder() / FOLDER_NAME / hashlib.sha256(str(output).encode()).hexdigest()[:16]


def request_key(request: Body) -> str:
    """Return the sha256 of a request's canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(request).encode()).hexdigest()


class AnswerCache:
    """A folder of answers, ``DIR/3f/3fa9...json``.

    Each file holds the request, the answer and the answer's sha256.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, request: Body) -> dict[str, Any] | None:
        """Return the answer to a request, None if there is none or the file is damaged."""
        path = self._path(request_key(request))
        # as the file holds it: JSON makes lists of tuples
        asked = json.loads(canonical_json(request))
        try:
            entry = json.loads(path.read_bytes())
            answer: dict[str, Any] = entry["answer"]
            # what a loss of power left of it may still be JSON
            is_whole = entry["sha256"] == request_key(answer) and entry["request"] == asked
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return answer if is_whole else None

    def put(self, request: Body, answer: Body) -> None:
        """Store an answer, replacing an earlier one.

        Raises:
            PrefpipeError: the disk is full or the folder cannot be written to.
        """
        path = self._path(request_key(request))
        make_folder(path.parent)
        entry = {"request": request, "answer": answer, "sha256": request_key(answer)}
        # on one line: indented, it would be written by Python and not by C, at four times the price
        text = json.dumps(entry, ensure_ascii=False) + "\n"
        # halves of characters, which `json` reads back
        write_and_settle(path, text.encode("utf-8", "surrogatepass"))

    def remove(self) -> None:
        """Remove all answers: their results are on disk."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def require_writable(self) -> None:
        """Refuse a folder that cannot be written, before paying for answers.

        Raises:
            UsageError: it cannot be made or written to.
        """
        try:
            make_folder(self.folder)
            with atomic_write(self.folder / "writable") as file:
                file.write(b"")
            (self.folder / "writable").unlink(missing_ok=True)
        except PrefpipeError as error:
            raise UsageError(
                f"answers cannot be cached in {self.folder}: {error.message}",
                hint="choose another folder with --cache",
            ) from error

    def sweep(self) -> None:
        """Remove half-written files of killed processes."""
        if self.folder.is_dir():
            for folder in self.folder.iterdir():
                if folder.is_dir():
                    sweep_temporary_files(folder)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
