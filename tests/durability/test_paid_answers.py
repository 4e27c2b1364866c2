"""Answers of a server are paid for: killed, interrupted or stopped, a run pays again for nothing that had come back."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.judged_sides import write_side
from support.paid_server import PaidServer, running_paid_server
from support.pipelines import rows_of, write_prompts
from support.stage_server import StageServer

pytestmark = pytest.mark.slow

N_KILLS, N_STOPS = 20, 7
STOPPED = 75
N_PROMPTS = 32
IN_THE_SOCKET_S = 0.2
"""An answer that left the server so shortly before a kill may not have been read yet, where the machine is busy."""
COMMANDS = ("generate", "judge", "score")


@pytest.fixture(scope="module")
def servers_of_stages(fast_root: Path) -> Iterator[StageServer]:
    """Runs prefpipe commands that ask servers in forked processes."""
    scratch = fast_root / "served-streams"
    scratch.mkdir()
    modules = [
        "openai",
        "prefpipe.backends.generators.openai_server",
        "prefpipe.backends.judges.llm_judge",
        "prefpipe.stages.judge.run",
    ]
    server = StageServer(scratch, modules)
    yield server
    server.stop()


def words_of(command: str, folder: Path, server: PaidServer) -> list[str]:
    """A command but for its output: eight parts of 4 prompts, 64 questions (score: 32), several parts open at a time."""
    if command == "generate":
        prompts = write_prompts(folder / "prompts.jsonl", N_PROMPTS)
        words = [
            "generate",
            prompts,
            "--backend",
            "openai",
            "--model",
            "m",
            "--n",
            2,
            "--part-size",
            4,
            "--batch-size",
            8,
        ]
    else:
        texts = {
            side: {f"p{i}": f"answer {side} {i}" + "x" * (side == "a") for i in range(N_PROMPTS)}
            for side in "ab"
        }
        a, b = (write_side(folder, side, texts[side], part_size=4) for side in "ab")
        words = (
            ["judge", a, b, "--judge", "openai:m"]
            if command == "judge"
            else ["score", a, "--scorer", "judge:openai:m"]
        )
        words += ["--concurrency", 8]
    return [str(word) for word in (*words, "--base-url", server.url)]


@pytest.mark.parametrize("command", COMMANDS)
def test_kills_at_random_moments_pay_twice_for_nothing_that_had_come_back(
    command: str, folder: Path, servers_of_stages: StageServer
) -> None:
    """20 SIGKILLs each. What is asked again was on its way when the process died, and the rows are those of a straight run."""
    dice = random.Random(command)
    with running_paid_server(0.15) as server:
        words = words_of(command, folder, server)
        straight = servers_of_stages.run(*words, "-o", folder / "straight")
        assert straight.code == 0, straight.stderr
        n_questions = len(server.questions)
        assert n_questions == len({question.key for question in server.questions})

        n_kills, episode = 0, 0
        while n_kills < N_KILLS:
            episode += 1
            output = folder / f"killed{episode}"
            first_of_episode, n_on_the_way = len(server.questions), 0
            come_back: set[tuple[str, object]] = set()
            code = -signal.SIGKILL
            while code == -signal.SIGKILL:
                first, started = len(server.questions), time.monotonic()
                limit_s = dice.uniform(0.3, 0.9) * straight.elapsed_s if n_kills < N_KILLS else None
                outcome = servers_of_stages.run(*words, "-o", output, limit_s=limit_s)
                code, killed_at = outcome.code, started + outcome.elapsed_s
                time.sleep(0.2)  # the server writes what was on its way
                asked = {question.key: question.written for question in server.questions[first:]}
                assert not come_back & asked.keys(), (
                    "an answer that had come back is asked for again"
                )
                if code == -signal.SIGKILL:
                    n_kills += 1
                    arrived = {
                        key
                        for key, written in asked.items()
                        if written and written < killed_at - IN_THE_SOCKET_S
                    }
                    n_on_the_way += len(asked) - len(arrived)
                    come_back |= arrived

            assert code == 0, outcome.stderr
            assert rows_of(output) == rows_of(folder / "straight")
            paid = [question.key for question in server.questions[first_of_episode:]]
            assert len(set(paid)) == n_questions
            assert len(paid) - n_questions <= n_on_the_way
            assert not list(output.rglob("*.tmp"))
    if command == "generate":
        assert not list(folder.glob("killed*/answers")), (
            "answers whose part is written are not kept twice"
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_sigterm_at_random_moments_pays_for_nothing_twice(
    command: str, folder: Path, servers_of_stages: StageServer
) -> None:
    """7 SIGTERMs each. Answers on their way are waited for, parts that become whole are written, and each question is
    asked once."""
    dice = random.Random(command)
    with running_paid_server(0.15) as server:
        words = words_of(command, folder, server)
        straight = servers_of_stages.run(*words, "-o", folder / "straight")
        n_questions = len(server.questions)
        n_stops, episode = 0, 0
        while n_stops < N_STOPS:
            episode += 1
            output, first_of_episode = folder / f"stopped{episode}", len(server.questions)
            code = STOPPED
            while code == STOPPED:
                how = {}
                if n_stops < N_STOPS:
                    after_s = dice.uniform(0.3, 0.9) * straight.elapsed_s
                    how = {"signal": signal.SIGTERM, "signal_after_s": after_s}
                outcome = servers_of_stages.run(*words, "-o", output, **how)
                code = outcome.code
                n_stops += code == STOPPED
                assert server.n_on_the_way == 0, "nothing is on its way when the process ends"
            assert code == 0, outcome.stderr
            assert rows_of(output) == rows_of(folder / "straight")
            assert len(server.questions) - first_of_episode == n_questions


def started_and_asked(
    words: list[str], output: Path, server: PaidServer
) -> "subprocess.Popen[str]":
    """Start a command in a process of its own and wait until eight questions are on their way."""
    argv = [sys.executable, "-m", "prefpipe", *words, "-o", str(output)]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while server.n_on_the_way < 8 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    assert server.n_on_the_way == 8
    return process


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_waits_for_what_is_paid_and_sends_nothing_more(
    command: str, number: signal.Signals, code: int, folder: Path, servers_of_stages: StageServer
) -> None:
    with running_paid_server(1.5, shortest_s=1.0) as server:
        words = words_of(command, folder, server)
        process = started_and_asked(words, folder / "out", server)
        n_asked = len(server.questions)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == code, stderr
        assert (
            "waiting for 8 pending answers, which are paid for; a second signal drops them"
            in stderr
        )
        assert number == signal.SIGINT or "hint: run the same command again to go on" in stderr
        assert "Exception ignored" not in stderr
        assert "Traceback" not in stderr
        assert len(server.questions) == n_asked, "nothing is sent after the signal"

        server.delay_s = lambda: 0.0
        again = servers_of_stages.run(*words, "-o", folder / "out")
        assert again.code == 0, again.stderr
        keys = [question.key for question in server.questions]
        assert len(keys) == len(set(keys)), "nothing is paid twice"
    assert {row["status"] for row in rows_of(folder / "out")} == {"ok"}


@pytest.mark.parametrize("command", ["generate", "judge"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_second_signal_ends_the_wait_for_a_server_that_hangs(
    command: str, number: signal.Signals, folder: Path
) -> None:
    with running_paid_server(60.0, shortest_s=59.0) as server:
        server.delay_s = iter(
            [0.0, *[60.0] * 100]
        ).__next__  # the first question finds the server there
        process = started_and_asked(words_of(command, folder, server), folder / "out", server)
        started = time.monotonic()
        process.send_signal(number)
        time.sleep(1.0)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=120)
    assert time.monotonic() - started < 40
    assert process.returncode in (75, 130)
    assert "Exception ignored" not in stderr
    assert "Traceback" not in stderr
