"""A process that has imported prefpipe and forks a child for every command, so that killing costs milliseconds.

The children run `prefpipe.cli.main.main` as the console script does: same signals, same exit codes, same streams.
"""

import ctypes
import gc
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

from prefpipe.artifacts import claims
from support.forked_steps import StepForks, use_in_this_process

TESTS = Path(__file__).resolve().parent.parent
STEPS = "PREFPIPE_TEST_STEPS"
"""Variable with the place where the server listens for steps."""


@dataclass
class Command:
    """One command to run in a child of its own.

    ``signal_after_s``: send ``signal`` so long after the start. ``die_at_event``: SIGKILL itself just before the n-th time
    (from 0) that a file below ``watched`` is opened, linked, renamed or removed. ``powerless``: root obeys permissions.
    ``max_file_bytes``: no file may grow beyond. ``limit_s``: SIGKILL after so long. ``start_after_s``: begin later than
    the others. ``paused_s``: from when to when the process is stopped by SIGSTOP. ``machine``: another one than the
    others' for claims, so that nobody sees whether the process lives. ``signal_when_said``: send ``signal`` when this stands
    in what the command has written to stderr, and ``signal_after_s`` later where that is given. ``starts_again``: how
    often it is started again when SIGKILL has ended it, as a machine that was lent comes back.
    """

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "."
    signal_after_s: float | None = None
    signal: int = signal.SIGKILL
    die_at_event: int | None = None
    watched: str = ""
    powerless: bool = False
    max_file_bytes: int | None = None
    limit_s: float | None = None
    start_after_s: float = 0.0
    paused_s: tuple[float, float] | None = None
    machine: str = ""
    signal_when_said: str = ""
    starts_again: int = 0


@dataclass
class Outcome:
    """``code`` as subprocess gives it: negative for a signal."""

    code: int
    stdout: str
    stderr: str
    elapsed_s: float


class StageServer:
    """The test's side: start, run commands, stop.

    ``modules`` are imported once, beside what every stage needs. ``forks_steps``: of commands that run others, `rounds` and
    `study`, the steps are forks, too (`support.forked_steps`).
    """

    def __init__(
        self,
        scratch: Path,
        modules: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        *,
        forks_steps: bool = False,
    ) -> None:
        self.scratch = scratch
        settings = {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join(
                [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
        }
        if forks_steps:
            settings[STEPS] = str(scratch / "steps")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.stage_server", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | settings | dict(variables or {}),
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def run_at_once(self, commands: list[Command]) -> list[Outcome]:
        """Run several commands that start at the same moment."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {
            "commands": [asdict(command) for command in commands],
            "scratch": str(self.scratch),
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        outcomes = [Outcome(**values) for values in json.loads(self.process.stdout.readline())]
        for outcome in outcomes:
            assert "Traceback" not in outcome.stderr, outcome.stderr
        return outcomes

    def run(self, *argv: object, **how: object) -> Outcome:
        """Run one command to its end."""
        return self.run_at_once([Command([str(word) for word in argv], **how)])[0]  # type: ignore[arg-type]

    def stop(self) -> None:
        """End the server."""
        self.process.communicate(timeout=120)


def serve() -> None:
    """Answer requests from stdin until it is closed."""
    import pyarrow as pa
    import sklearn.cluster  # noqa: F401 - what the stages need, once

    import prefpipe.backends.fake
    import prefpipe.backends.scorers.checks_scorer
    import prefpipe.backends.scorers.ratings
    import prefpipe.cli.main
    import prefpipe.cli.stderr
    import prefpipe.stages.embed
    import prefpipe.stages.generate
    import prefpipe.stages.score
    import prefpipe.stages.select.run
    import prefpipe.wiring.stages

    for module in sys.argv[1:]:
        import_module(module)
    if "torch" in sys.modules:
        # what has begun threads cannot be forked
        sys.modules["torch"].set_num_threads(1)
    pa.array(["imports pandas, where there is one"])
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        prefpipe.cli.main.run(["generate", "--no-such-flag"])  # builds the commands
        prefpipe.cli.main.run(
            ["generate", "none", "--backend", "fake", "--model", "fake", "-o", "none/none"]
        )
    gc.collect()
    gc.freeze()  # children that collect garbage would copy every page
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    forks = StepForks(os.environ[STEPS]) if STEPS in os.environ else None
    for line in sys.stdin:
        request = json.loads(line)
        outcomes = _run_children(
            [Command(**values) for values in request["commands"]], Path(request["scratch"]), forks
        )
        sys.stdout.write(json.dumps([asdict(outcome) for outcome in outcomes]) + "\n")
        sys.stdout.flush()


def _run_children(commands: list[Command], scratch: Path, forks: StepForks | None) -> list[Outcome]:
    gate, opener = os.pipe()
    children = {}
    for number, command in enumerate(commands):
        streams = scratch / f"stdout{number}", scratch / f"stderr{number}"
        for stream in streams:
            stream.write_text("")  # what the last one said is not what this one says
        pid = os.fork()
        if pid == 0:
            os.close(opener)
            os.read(gate, 1)  # ends when the server closes its end: all start at once
            time.sleep(command.start_after_s)
            _be_child(command, *streams)
        children[pid] = number
    os.close(gate)
    started = time.monotonic()
    os.close(opener)
    codes, elapsed = {}, {}
    paused: set[int] = set()
    while children:
        now = time.monotonic() - started
        for pid, number in list(children.items()):
            command = commands[number]
            said = (scratch / f"stderr{number}").read_text() if command.signal_when_said else ""
            if command.signal_when_said and command.signal_when_said in said:
                command.signal_when_said = ""
                command.signal_after_s = now + (command.signal_after_s or 0.0)
            # in the round in which it was said: before a step that is begun then can be answered for
            is_due = command.signal_after_s is not None and now >= command.signal_after_s
            if is_due and not command.signal_when_said:
                os.kill(pid, command.signal)
                command.signal_after_s = None
            if command.paused_s is not None and now >= command.paused_s[0]:
                # once to stop it, and once to let it go on
                is_paused = pid in paused
                os.kill(pid, signal.SIGCONT if is_paused else signal.SIGSTOP)
                command.paused_s = None if is_paused else (command.paused_s[1], 0.0)
                paused.add(pid)
            if command.limit_s is not None and now >= command.limit_s:
                os.kill(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, os.WNOHANG)
            is_killed = done and os.waitstatus_to_exitcode(status) == -signal.SIGKILL
            if is_killed and command.starts_again:
                command.starts_again -= 1
                del children[pid]
                streams = scratch / f"stdout{number}", scratch / f"stderr{number}"
                again = os.fork()
                if again == 0:
                    _be_child(command, *streams)
                children[again] = number
            elif done:
                codes[number], elapsed[number] = (
                    os.waitstatus_to_exitcode(status),
                    time.monotonic() - started,
                )
                del children[pid]
        if forks is not None:
            forks.look()
        time.sleep(0.002)
    return [
        Outcome(
            codes[i],
            *((scratch / f"{name}{i}").read_text() for name in ("stdout", "stderr")),
            elapsed[i],
        )
        for i in range(len(commands))
    ]


def _be_child(command: Command, stdout: Path, stderr: Path) -> None:
    code = 70
    try:
        for descriptor, path in ((1, stdout), (2, stderr)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), descriptor)
        os.environ.update(command.env)
        os.chdir(command.cwd)
        if command.max_file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing fails with EFBIG instead
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (command.max_file_bytes, command.max_file_bytes)
            )
        if command.powerless and os.geteuid() == 0:
            _drop_capabilities()
        if command.die_at_event is not None:
            _die_at(command.die_at_event, command.watched)
        if STEPS in os.environ:
            use_in_this_process(os.environ[STEPS])
        if command.machine:
            claims._machine = lambda: command.machine
        sys.argv = ["prefpipe", *command.argv]
        from prefpipe.cli.main import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _drop_capabilities() -> None:
    """Give up what lets root write into read-only folders; the files it owns still follow their owner's bits."""
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    assert ctypes.CDLL(None, use_errno=True).capset(header, bytes(24)) == 0, os.strerror(
        ctypes.get_errno()
    )


def _die_at(event_number: int, watched: str) -> None:
    left = event_number

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in ("open", "os.link", "os.rename", "os.remove") and str(arguments[0]).startswith(
            watched
        ):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(hook)


if __name__ == "__main__":
    serve()
