"""Steps of a plan as forks of a process that has imported everything: a training of a tiny model takes a tenth of a second.

`prefpipe study` starts each step as a process of its own, which takes seconds to import. In a test of many steps it asks
the `support.stage_server.StageServer` that forked itself for one instead: the same words, variables, folder, streams and inherited locks, signals and exit codes. A step
is asked to stop when whoever asked for it is gone, as the system does it for real ones.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

MOST_BYTES = 1 << 20


class ForkedStep:
    """Looks like the `subprocess.Popen` of a step."""

    def __init__(
        self,
        place: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        pass_fds: Sequence[int],
        **_how: object,
    ) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(place)
        words = list(command[list(command).index("prefpipe") + 1 :])
        request = {"words": words, "env": dict(env), "cwd": str(Path.cwd())}
        socket.send_fds(self._socket, [json.dumps(request).encode()], [2, *pass_fds])
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code when the step has ended."""
        if self._code is None:
            if not select.select([self._socket], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("step", timeout or 0)
            self._code = json.loads(self._socket.recv(MOST_BYTES))
        return self._code

    def send_signal(self, number: int) -> None:
        """Send a signal to the step."""
        if self._code is None:
            self._socket.send(bytes([number]))


def use_in_this_process(place: str) -> None:
    """Have steps of ours forked by the server at ``place``; other commands are processes as ever."""
    from prefpipe.execution import step_process

    def start(command: Sequence[str], **how: object) -> object:
        is_ours = "-m" in command and "prefpipe" in command
        return ForkedStep(place, command, **how) if is_ours else subprocess.Popen(command, **how)  # type: ignore[arg-type, call-overload]

    step_process.subprocess = SimpleNamespace(  # type: ignore[attr-defined]
        Popen=start, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )


class StepForks:
    """The server's side: forks a step for each connection, as often as it is asked to look."""

    def __init__(self, place: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(place)
        self._listener.listen()
        self._steps: dict[socket.socket, int] = {}
        self._left_behind: list[int] = []

    def look(self) -> None:
        """Begin steps, hand signals on, and answer for those that have ended."""
        readable = select.select([self._listener, *self._steps], [], [], 0)[0]
        if self._listener in readable:
            connection, _ = self._listener.accept()
            self._steps[connection] = _fork(connection)
        for connection in [each for each in self._steps if each in readable]:
            number = connection.recv(1)
            with suppress(ProcessLookupError):
                os.kill(self._steps[connection], number[0] if number else signal.SIGTERM)
            if not number:  # whoever asked for the step is gone
                self._left_behind.append(self._steps.pop(connection))
                connection.close()
        self._answer()
        self._left_behind = [pid for pid in self._left_behind if not os.waitpid(pid, os.WNOHANG)[0]]

    def _answer(self) -> None:
        for connection, pid in list(self._steps.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del self._steps[connection]
                with suppress(OSError):
                    connection.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
                connection.close()


def _fork(connection: socket.socket) -> int:
    """Fork the step that a connection asks for; return its process."""
    message, descriptors, _, _ = socket.recv_fds(connection, MOST_BYTES, 16)
    pid = os.fork()
    if pid == 0:
        _be_step(json.loads(message), descriptors)
    # what it inherits is its own: a lock goes with it
    for descriptor in descriptors:
        os.close(descriptor)
    return pid


def _be_step(request: Mapping[str, object], descriptors: Sequence[int]) -> None:
    code = 70
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for target, descriptor in ((0, nowhere), (1, nowhere), (2, descriptors[0])):
            os.dup2(descriptor, target)
        os.environ.clear()
        os.environ.update(request["env"])  # type: ignore[call-overload]
        os.chdir(str(request["cwd"]))
        sys.argv = ["prefpipe", *request["words"]]  # type: ignore[misc]
        from prefpipe.cli.main import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
