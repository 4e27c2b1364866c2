"""A signal at any moment: the exit code is 75 or 130 or that of a finished run, nothing hangs, and a rerun completes."""

import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.judge_server import running_judge
from support.judged_sides import judge_command, two_sides, verdicts_of
from support.pipelines import digests_of
from support.signalled import (
    SIGNALS,
    Case,
    assert_well_ended,
    assert_whole,
    cases,
    is_ready,
    make_inputs,
    nothing,
    run_undisturbed,
    start,
    strike,
    strike_and_go_on,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]
CASES = {case.name: case for case in cases()}
HEAVY = ("check", "report", "logprobs", "merge", "train")
"""They import torch: seconds a try."""


@pytest.fixture(scope="module")
def inputs(fast_root: Path) -> Iterator[Path]:
    folder = fast_root / "signalled"
    folder.mkdir()

    def run(*words: object) -> None:
        process = start([str(word) for word in words], folder)
        assert process.wait() == 0, process.stderr.read()

    make_inputs(folder, run)
    return folder


@pytest.fixture(scope="module")
def undisturbed(inputs: Path) -> Callable[[str], Case]:
    """Return a function that runs a case to its end, once."""

    def run(name: str) -> Case:
        if CASES[name].elapsed_s == 0:
            run_undisturbed(CASES[name], inputs, f"straight-{name}")
        return CASES[name]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in HEAVY])
def test_a_signal_at_any_moment_loses_nothing(
    inputs: Path, undisturbed: Callable[[str], Case], name: str
) -> None:
    """Each signal once, from the first instant to beyond the end."""
    case, moments = undisturbed(name), random.Random(name)
    for number in SIGNALS:
        strike_and_go_on(case, inputs, number, moments.uniform(0, 1.2 * case.elapsed_s))


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_a_signal_at_any_moment_loses_nothing_of_what_takes_long(
    inputs: Path, undisturbed: Callable[[str], Case], name: str
) -> None:
    """Two signals each: what takes seconds a try is tried more often by ``PYTHONPATH=tests python -m support.signalled``."""
    case, moments = undisturbed(name), random.Random(name)
    for number in moments.sample(SIGNALS, 2):
        moment_s = moments.uniform(0, case.elapsed_s)
        struck = strike(case.words(f"struck-{name}"), inputs, number, moment_s)
        assert_well_ended(case, number, struck)
        assert_whole(inputs / f"struck-{name}")
    if CASES[name].identity is not nothing:
        again = start(case.words(f"struck-{name}"), inputs)
        stderr = again.communicate()[1]
        assert again.returncode in ((0, 2) if name == "merge" else (0,)), (
            stderr
        )  # a merged model is not overwritten
        assert case.identity(inputs / f"struck-{name}") == case.expected


def listening(words: list[str], folder: Path, line: str, **variables: str) -> subprocess.Popen[str]:
    """Start a command and wait until it has logged a line."""
    process = start(words, folder, **variables)
    assert process.stderr is not None
    assert any(line in text for text in process.stderr), f"it never said {line!r}"
    return process


def at_its_first_part(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start a command of `slow_parts` and wait until it samples."""
    process = listening(words, folder, "loading fake")
    time.sleep(0.4)
    return process


def ended(process: subprocess.Popen[str], within_s: float) -> tuple[int, str, float]:
    started = time.monotonic()
    stderr = process.communicate(timeout=within_s)[1]
    return process.returncode, stderr, time.monotonic() - started


def slow_parts(output: str, delay_s: float = 0.5) -> list[str]:
    """Return a command whose parts take four times the delay."""
    return [
        "generate",
        "prompts.jsonl",
        "--backend",
        "fake",
        "--model",
        f"fake:delay_s={delay_s}",
        "--n",
        "2",
        "--part-size",
        "2",
        "-o",
        output,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_an_interrupt_while_the_loops_are_compiled_ends_at_once(
    inputs: Path, folder: Path, number: signal.Signals
) -> None:
    """In the main thread, with numba's cache empty: in a worker thread such an interrupt hung the process for ever."""
    words = CASES["select"].words(str(folder / "groups"))
    process = listening(
        words, inputs, "compiling the selection loops", NUMBA_CACHE_DIR=str(folder / "numba")
    )
    time.sleep(0.4)
    process.send_signal(number)
    code, stderr, elapsed_s = ended(process, 120)
    assert code == (130 if number == signal.SIGINT else 75)
    assert "Traceback" not in stderr
    assert elapsed_s < 60
    assert not list((folder / "groups").glob("part-*"))


@pytest.mark.slow
def test_a_part_is_finished_after_sigterm_and_what_is_finished_stays(
    inputs: Path, folder: Path
) -> None:
    process = at_its_first_part(slow_parts(str(folder / "out")), inputs)
    process.send_signal(signal.SIGTERM)
    code, stderr, _ = ended(process, 120)
    assert code == 75
    assert (
        "SIGTERM: finishing what is begun within 20 s, then stopping; a second signal stops at once"
        in stderr
    )
    made = sorted(path.name for path in (folder / "out").glob("part-*"))
    # One part was at its answers, and the next one may have been open beside it.
    assert made == [f"part-0000{number}-of-00020.parquet" for number in range(len(made))]
    assert 1 <= len(made) <= 2
    line = (
        f"stopped: generate stopped on request: {len(made)} parts made now, {20 - len(made)} left"
    )
    assert line in stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grace", "number", "is_finished", "line"),
    [
        ("0", signal.SIGTERM, False, "stopped by SIGTERM: with --grace-seconds 0 nothing is"),
        ("0", signal.SIGHUP, False, "stopped by SIGHUP: with --grace-seconds 0 nothing is"),
        ("0", signal.SIGUSR1, True, "SIGUSR1: finishing what is begun, then stopping"),
        ("0.7", signal.SIGTERM, False, "what was begun took longer than 0.7 s from the signal"),
        ("0.7", signal.SIGUSR1, True, "SIGUSR1: finishing what is begun, then stopping"),
        ("60", signal.SIGTERM, True, "SIGTERM: finishing what is begun within 60 s, then stopping"),
    ],
)
def test_grace_seconds_is_how_long_open_parts_may_take_after_sigterm(
    inputs: Path, folder: Path, grace: str, number: signal.Signals, is_finished: bool, line: str
) -> None:
    """A part takes 2 s here."""
    words = [*slow_parts(str(folder / "out")), "--grace-seconds", grace]
    process = at_its_first_part(words, inputs)
    process.send_signal(number)
    code, stderr, elapsed_s = ended(process, 120)
    assert code == 75
    assert line in stderr
    if is_finished:
        assert list((folder / "out").glob("part-*"))
    else:
        assert {path.name for path in (folder / "out").iterdir()} == {"run.json"}, stderr
        assert elapsed_s < 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "repeated", [signal.SIGUSR1, signal.SIGHUP], ids=lambda number: number.name
)
def test_what_batch_systems_and_terminals_send_twice_counts_once(
    inputs: Path, folder: Path, repeated: signal.Signals
) -> None:
    process = at_its_first_part(slow_parts(str(folder / "out")), inputs)
    for _ in range(3):
        process.send_signal(repeated)
        time.sleep(0.2)
    code, stderr, _ = ended(process, 120)
    assert code == 75
    # The next part may have been open beside the one that was at its answers.
    assert "1 parts made now" in stderr or "2 parts made now" in stderr


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_second_signal_does_not_wait_for_the_part(
    inputs: Path, folder: Path, second: signal.Signals
) -> None:
    process = at_its_first_part(slow_parts(str(folder / "out"), delay_s=3), inputs)
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    process.send_signal(second)
    code, stderr, elapsed_s = ended(process, 120)
    assert code == (130 if second == signal.SIGINT else 75)
    assert elapsed_s < 9, "four times 3 s, of which few are over"
    assert {path.name for path in (folder / "out").iterdir()} == {"run.json"}, stderr


STUCK = """
import ctypes, sys, threading
from prefpipe.cli import signals
signals.UNWIND_S = 1.0

def command():
    sys.stderr.write("ready\\n")
    sys.stderr.flush()
    {body}

signals.stop_request.run(command)
"""
BODIES = {
    "a call into C that never comes back": "ctypes.PyDLL(None).sleep; ctypes.CDLL(None).pause() or ctypes.CDLL(None).pause()",
    "a lock that nobody releases": """
    try:
        (lock := threading.Lock()).acquire(); lock.acquire()
    finally:
        lock.acquire()""",
    "a thread that the interpreter waits for": """
    threading.Thread(target=threading.Event().wait).start()
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return 0""",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_second_signal_ends_what_is_stuck(body: str, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK.format(body=body)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(number)
    time.sleep(0.2)
    process.send_signal(number)
    code, stderr, elapsed_s = ended(process, 120)
    assert code in (0, 130 if number == signal.SIGINT else 75)
    assert elapsed_s < 60
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr


def test_an_interrupt_that_a_finalizer_would_swallow_is_raised_again() -> None:
    body = """
    class Slow:
        def __del__(self):
            import time
            time.sleep(1.0)
    thing = Slow()
    del thing
    threading.Event().wait()"""
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK.format(body=body)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    code, stderr, elapsed_s = ended(process, 120)
    assert code == 130
    assert "Exception ignored" not in stderr
    assert elapsed_s < 60


LONG = """
import sys, time
from prefpipe.cli import signals
from prefpipe.cli.signals import stop_request
signals.UNWIND_S = {unwind_s}
stop_request.grace_s = {grace_s}

def command():
    sys.stderr.write("ready\\n")
    sys.stderr.flush()
    try:
        with stop_request.finishing(however_long={however_long}):
            time.sleep({seconds})
    finally:
        time.sleep({closing_s})
        sys.stderr.write("closed\\n")
    return 75 if stop_request() else 0

stop_request.run(command)
"""


def run_long(
    seconds: float,
    *numbers: signal.Signals,
    however_long: bool = False,
    grace_s: float = 1.0,
    closing_s: float = 0.0,
    **variables: str,
) -> tuple[int, str, float]:
    """Send signals, a moment apart, to what finishes something for so long, with a grace of 1 s."""
    script = LONG.format(
        seconds=seconds,
        however_long=however_long,
        grace_s=grace_s,
        closing_s=closing_s,
        unwind_s=closing_s + 1,
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    time.sleep(0.1)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.1)
    return ended(process, 120)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_what_is_begun_is_left_when_the_grace_is_over(number: signal.Signals) -> None:
    code, stderr, elapsed_s = run_long(30, number)
    assert code == 75
    assert (
        "stopped: what was begun took longer than 1 s from the signal; finished parts are kept"
        in stderr
    )
    assert 0.8 < elapsed_s < 25


@pytest.mark.parametrize("grace_s", [0.0, 1.0])
def test_sigusr1_waits_for_as_long_as_it_takes_and_so_does_a_checkpoint(grace_s: float) -> None:
    for number, however_long in ((signal.SIGUSR1, False), (signal.SIGTERM, True)):
        code, _, elapsed_s = run_long(2, number, however_long=however_long, grace_s=grace_s)
        assert code == 75
        assert elapsed_s > 1.5


@pytest.mark.parametrize("grace_s", [0.0, 0.2])
def test_a_short_grace_does_not_cut_off_the_closing_of_engines(grace_s: float) -> None:
    code, stderr, elapsed_s = run_long(30, signal.SIGTERM, grace_s=grace_s, closing_s=1.5)
    assert code == 75
    assert "closed" in stderr
    assert 1 < elapsed_s < 25


@pytest.mark.parametrize(
    "variables", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "none"}]
)
def test_under_a_launcher_every_signal_is_the_same_request_but_an_interrupt(
    variables: dict[str, str],
) -> None:
    """Batch systems signal the launcher and its processes, and the launcher passes it on."""
    code, stderr, elapsed_s = run_long(
        3, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1, **variables
    )
    assert code == 75
    assert elapsed_s > 2
    assert "second" not in stderr
    code, _, elapsed_s = run_long(30, signal.SIGTERM, signal.SIGINT, **variables)
    assert code == 130
    assert elapsed_s < 25


def test_a_signal_after_the_work_is_done_changes_nothing() -> None:
    """While threads end and functions of `atexit` run: both take 1 s here."""
    body = """
    import atexit, time
    atexit.register(time.sleep, 1)
    threading.Thread(target=time.sleep, args=(1,)).start()
    return 3"""
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK.format(body=body)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    for _ in range(3):
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
    code, stderr, _ = ended(process, 120)
    assert code == 3
    assert stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_judge_stops_and_goes_on(folder: Path, number: signal.Signals) -> None:
    """With a server whose answers take 0.1 s: 12 pairs in 2 orders, 4 at once."""
    a, b = two_sides(folder, 12)
    with running_judge(delay_s=0.1) as server:
        words = judge_command(a, b, folder / "out", server.url)
        struck = strike(words, folder, number, random.Random(int(number)).uniform(0.3, 2.5))
        assert_well_ended(Case("judge", lambda _: words), number, struck)
        assert_whole(folder / "out")
        again = start(words, folder)
        stderr = again.communicate(timeout=60)[1]
        assert again.returncode == 0, stderr
        verdicts = verdicts_of(folder / "out")
        assert {verdict["status"] for verdict in verdicts.values()} == {"ok"}
        assert len(verdicts) == 12
        assert len(server.bodies) <= 24 + 4  # at most what was in flight is asked twice


@pytest.mark.slow
def test_nohup_and_a_scripts_background_stay_ignored(inputs: Path, folder: Path) -> None:
    script = f"trap '' HUP INT; exec {sys.executable} -m prefpipe {' '.join(slow_parts(str(folder / 'out'), delay_s=0.05))}"
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=inputs, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert any("loading" in line for line in process.stderr)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    assert ended(process, 60)[0] == 0
    assert len(digests_of(folder / "out")) == 20


@pytest.mark.slow
def test_a_closed_terminal_stops_after_the_part(inputs: Path, folder: Path) -> None:
    """The terminal is gone when SIGHUP comes: to print is an error then, which must not become another exit code."""
    master, slave = pty.openpty()
    code = f"import sys; from prefpipe.__main__ import main; sys.argv = ['prefpipe', *{slow_parts(str(folder / 'out'))!r}]; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=inputs, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    seen = b""
    while b"loading fake" not in seen:
        seen += os.read(master, 1000)
    time.sleep(0.4)
    os.close(master)
    process.send_signal(signal.SIGHUP)
    assert process.wait(120) == 75
    assert 1 <= len(list((folder / "out").glob("part-*"))) <= 2


def test_handlers_stand_before_anything_is_imported(inputs: Path) -> None:
    """Measured in processor time: within 150 ms, most of it the interpreter's own start (30 to 60 ms)."""
    process = start(["status", "run"], inputs)
    while not is_ready(process.pid):
        assert process.poll() is None
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    busy_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    modules = Path(f"/proc/{process.pid}/maps").read_text()
    process.kill()
    process.communicate()
    assert busy_s < 0.15
    assert "pyarrow" not in modules
