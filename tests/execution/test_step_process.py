"""A command in a process of its own: what it inherits, what it is sent, and how its end is told."""

import fcntl
import os
import signal
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from support.pipelines import write_prompts

from prefpipe.execution.step_process import run_step

pytestmark = pytest.mark.slow


class Signals:
    """Those that this process is sent."""

    number: int | None = None

    def finishing(self, *, however_long: bool = False) -> AbstractContextManager[None]:
        assert however_long
        return nullcontext()


def generate(folder: Path) -> list[str]:
    """Return a command of a quarter of a minute."""
    prompts = write_prompts(folder / "prompts.jsonl", 40)
    words = ["generate", str(prompts), "-o", str(folder / "out"), "--backend", "fake"]
    return [*words, "--model", "fake:delay_s=0.1", "--n", "4", "--part-size", "2"]


def test_a_step_holds_what_it_inherits_and_ends_by_the_signal_that_came(tmp_path: Path) -> None:
    """The lock of a folder is on while the step runs, also when whoever took it has let go of it."""
    (tmp_path / "run").mkdir()
    lock = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    signals = Signals()
    codes: list[int] = []

    def run() -> None:
        code = run_step(
            generate(tmp_path),
            environment=os.environ,
            signals=signals,
            kept_open=[lock],
        )
        codes.append(code)

    thread = threading.Thread(target=run)
    thread.start()
    gives_up_at = time.monotonic() + 60
    while not list(tmp_path.glob("out/part-*.parquet")):
        assert time.monotonic() < gives_up_at
        time.sleep(0.02)
    os.close(lock)
    other = os.open(tmp_path / "run", os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    signals.number = signal.SIGUSR1
    thread.join()
    assert codes == [75]
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    assert len(list(tmp_path.glob("out/part-*.parquet"))) < 20


def test_an_exception_here_ends_the_step(tmp_path: Path) -> None:
    """Ctrl-C or a second signal raises while the step is waited for: it is sent on, and the step's end awaited."""

    class Interrupted(BaseException):
        pass

    class Interrupting(Signals):
        was_sent = False

        @property
        def number(self) -> int | None:  # type: ignore[override]
            if not self.was_sent and list(tmp_path.glob("out/part-*.parquet")):
                self.was_sent = True
                raise Interrupted
            return signal.SIGINT if self.was_sent else None

    with pytest.raises(Interrupted):
        run_step(generate(tmp_path), environment=os.environ, signals=Interrupting())
    n_parts = len(list(tmp_path.glob("out/part-*.parquet")))
    time.sleep(0.5)
    assert len(list(tmp_path.glob("out/part-*.parquet"))) == n_parts < 20
