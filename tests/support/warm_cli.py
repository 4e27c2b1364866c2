"""Commands as forks of a process that has imported what they need: each starts in a moment, and can be killed.

The process is started with the variables that its libraries read when they are imported (``HF_ENDPOINT``, ...).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SERVER = """
import json, os, sys
for name in json.loads(sys.argv[1]):
    __import__(name)
from prefpipe.cli.main import run
from prefpipe.cli.signals import stop_request
if len(sys.argv) > 2:
    from prefpipe.artifacts.storage import pieces, retries
    pieces.PIECE_BYTES = int(sys.argv[2])
    retries.FIRST_WAIT_S = 0.01
for line in sys.stdin:
    wanted = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.chdir(wanted["folder"])
        os.environ.update(wanted["environment"])
        for stream, path in ((0, os.devnull), (1, wanted["out"]), (2, wanted["err"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), stream)
        sys.argv = ["prefpipe", *wanted["words"]]
        stop_request.run(lambda: run(wanted["words"]))
    print(json.dumps(pid), flush=True)
    _, status = os.waitpid(pid, 0)
    print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)
"""


class Done(NamedTuple):
    """How a command ended: minus the number of the signal that killed it."""

    code: int
    out: str
    err: str


class WarmCli:
    """Runs one command at a time."""

    def __init__(self, process: subprocess.Popen, scratch: Path) -> None:
        self._process, self._scratch = process, scratch

    def start(self, *words: object, folder: Path, **environment: str) -> int:
        """Begin a command; return its process id."""
        for name in ("out", "err"):
            (self._scratch / name).write_text("", encoding="utf-8")
        request = {
            "words": list(map(str, words)),
            "folder": str(folder),
            "environment": environment,
            **{name: str(self._scratch / name) for name in ("out", "err")},
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def stderr(self) -> str:
        """Return what the command has printed so far."""
        return (self._scratch / "err").read_text(encoding="utf-8")

    def wait(self) -> Done:
        """Return how the command that was begun has ended."""
        code = int(self._process.stdout.readline())
        texts = [(self._scratch / name).read_text(encoding="utf-8") for name in ("out", "err")]
        return Done(code, *texts)

    def run(self, *words: object, folder: Path, **environment: str) -> Done:
        """Run a command to its end."""
        self.start(*words, folder=folder, **environment)
        return self.wait()


@contextlib.contextmanager
def warm_cli(
    modules: Sequence[str], environment: Mapping[str, str], *, piece_bytes: int | None = None
) -> Iterator[WarmCli]:
    """Yield a process that has imported ``modules`` and runs commands."""
    arguments = [json.dumps(list(modules))] + ([str(piece_bytes)] if piece_bytes else [])
    with tempfile.TemporaryDirectory(prefix="prefpipe-warm-") as scratch:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
            start_new_session=True,
        )
        try:
            yield WarmCli(process, Path(scratch))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdin.close()
            process.stdout.close()
