"""Processes that an engine started: their end is noticed, and none outlives this process."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from prefpipe.backends.generators.engine_processes import EngineProcesses

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="lists processes by /proc")


def sleep_with_a_child():
    """What an engine with several GPUs looks like: a process with workers."""
    subprocess.Popen(["sleep", "100"])
    time.sleep(100)


def start(target=time.sleep, args=(100,)):
    process = multiprocessing.get_context("fork").Process(target=target, args=args, daemon=True)
    process.start()
    return process


def is_alive(pid):
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_only_what_was_started_in_the_block_is_its_own():
    other = start()
    processes = EngineProcesses()
    with processes.started_here():
        mine = start()
    assert processes.pids == [mine.pid]
    processes.stopping()
    processes.close()
    # what the engine left is killed
    wait_until(lambda: not is_alive(mine.pid))
    assert is_alive(other.pid)
    other.kill()


def test_without_processes_there_is_nothing_to_watch_or_to_kill():
    processes = EngineProcesses()
    with processes.started_here():
        pass
    processes.watch(pytest.fail)
    processes.stopping()
    processes.close()
    assert processes.pids == []


@pytest.mark.parametrize(
    ("kill", "said"), [(signal.SIGKILL, "killed by signal 9"), (signal.SIGTERM, "signal 15")]
)
def test_a_death_is_told_with_its_signal(kill, said):
    deaths, noticed = [], threading.Event()
    processes = EngineProcesses()
    with processes.started_here():
        process = start()

    def note(how):
        deaths.append(how)
        noticed.set()

    processes.watch(note)
    os.kill(process.pid, kill)
    assert noticed.wait(60)
    assert said in deaths[0]
    assert str(process.pid) in deaths[0]
    processes.close()


def test_an_end_that_was_asked_for_is_no_death():
    deaths = []
    processes = EngineProcesses()
    with processes.started_here():
        process = start()
    processes.watch(deaths.append)
    processes.stopping()
    process.kill()
    process.join(60)
    processes.close()
    time.sleep(0.1)
    assert deaths == []


def test_children_of_children_end_with_them():
    processes = EngineProcesses()
    with processes.started_here():
        process = start(sleep_with_a_child, ())
        wait_until(lambda: children_of(process.pid))
        (worker,) = children_of(process.pid)
    process.kill()
    process.join(60)
    assert is_alive(worker), "orphaned so far"
    processes.stopping()
    processes.close()
    wait_until(lambda: not is_alive(worker))


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_no_process_outlives_a_parent_that_is_killed(tmp_path, kill, method):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(f"""
        import multiprocessing, signal, subprocess, sys, time
        from prefpipe.backends.generators.engine_processes import EngineProcesses

        def engine(started):
            # as vLLM's does, it takes a signal to its group for its own business
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            worker = subprocess.Popen(["sleep", "100"])
            started.send(worker.pid)
            time.sleep(100)

        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            ours, theirs = context.Pipe()
            processes = EngineProcesses()
            with processes.started_here():
                context.Process(target=engine, args=(theirs,), daemon=False).start()
                worker = ours.recv()
            print(*processes.pids, worker, flush=True)
            time.sleep(100)
        """)
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(is_alive(pid) for pid in pids)

    os.kill(parent.pid, kill)
    parent.wait(60)

    wait_until(lambda: not any(is_alive(pid) for pid in pids))
