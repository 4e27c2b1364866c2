"""Signals that meet several open parts: SIGTERM finishes them within the grace, SIGKILL leaves whole parts only.

The commands are real processes with fake back-ends that take their time.
"""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.pipelines import assert_same_artifact, identities_of, write_prompts
from support.stage_server import StageServer

pytestmark = pytest.mark.slow

N_PARTS = 12
N_KILLS = 20
SLOW_FAKES = """
import sys
from prefpipe.backends import fake
delay_s = float(sys.argv.pop(1))
fake.FakeScorer.__init__.__kwdefaults__["delay_s"] = delay_s
fake.FakeEmbedder.__init__.__kwdefaults__["delay_s"] = delay_s
from prefpipe.__main__ import main
sys.exit(main())
"""
"""prefpipe, with so many seconds more for each row."""


@pytest.fixture(scope="module")
def candidates(stages: StageServer, fast_root: Path) -> Path:
    """Twelve parts of four rows."""
    folder = fast_root / "open-parts"
    folder.mkdir()
    prompts = write_prompts(folder / "prompts.jsonl", 2 * N_PARTS)
    words = ["generate", prompts, "--backend", "fake", "--model", "fake", "--n", 2]
    outcome = stages.run(*words, "--part-size", 2, "-o", folder / "candidates")
    assert outcome.code == 0, outcome.stderr
    return folder / "candidates"


def words_of(stage: str, candidates: Path, output: Path, *more: object) -> list[str]:
    words = {
        "score": ["score", candidates, "--scorer", "fake"],
        "embed": ["embed", candidates, "--model", "fake"],
    }
    return [str(word) for word in (*words[stage], "-o", output, *more)]


def start(words: list[str], delay_s: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SLOW_FAKES, str(delay_s), *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_until_loaded(process: "subprocess.Popen[str]") -> None:
    assert process.stderr is not None
    assert any("loading" in line for line in process.stderr)


@pytest.mark.parametrize("stage", ["score", "embed"])
def test_sigterm_finishes_the_open_parts_and_the_next_run_makes_the_rest(
    stage: str, stages: StageServer, candidates: Path, folder: Path
) -> None:
    """Three parts of 1.2 seconds are open, side by side."""
    assert stages.run(*words_of(stage, candidates, folder / "straight")).code == 0
    output = folder / "stopped"
    process = start(words_of(stage, candidates, output), 0.3)
    while not identities_of(output):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    n_before = len(identities_of(output))
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 75, told

    n_made = len(identities_of(output))
    assert n_before + 2 <= n_made <= n_before + 3
    stopped = f"{stage} stopped on request: {n_made} parts made now, {N_PARTS - n_made} left"
    assert stopped in told
    kept = identities_of(output)
    again = stages.run(*words_of(stage, candidates, output))
    assert again.code == 0
    assert f"{n_made} of {N_PARTS} parts are finished and kept" in again.stderr
    assert kept.items() <= identities_of(output).items()
    assert_same_artifact(output, folder / "straight")


def test_sigterm_gives_open_parts_up_when_the_grace_is_over(
    stages: StageServer, candidates: Path, folder: Path
) -> None:
    """Three parts of a minute are open, and one second is left for them."""
    output = folder / "stopped"
    process = start(words_of("score", candidates, output, "--grace-seconds", 1), 15)
    wait_until_loaded(process)
    time.sleep(0.5)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 75, told
    assert time.monotonic() - started < 40
    assert {path.name for path in output.iterdir()} == {"run.json"}

    assert stages.run(*words_of("score", candidates, output)).code == 0
    assert stages.run(*words_of("score", candidates, folder / "straight")).code == 0
    assert_same_artifact(output, folder / "straight")


@pytest.mark.parametrize("stage", ["score", "embed"])
def test_kills_with_several_parts_open_leave_whole_parts(
    stage: str, stages: StageServer, candidates: Path, folder: Path
) -> None:
    """20 SIGKILLs for each of 2 stages: 40. The artifact is that of a straight run, byte for byte."""
    straight_s = []
    for attempt in ("straight", "again", "and-again"):
        straight = stages.run(*words_of(stage, candidates, folder / attempt))
        assert straight.code == 0, straight.stderr
        straight_s.append(straight.elapsed_s)
    dice = random.Random(stage)
    n_kills = n_episodes = 0
    while n_kills < N_KILLS:
        output = folder / f"episode{n_episodes}"
        seen: dict[str, tuple[int, int]] = {}
        is_killed = True
        while is_killed:
            outcome = stages.run(
                *words_of(stage, candidates, output),
                limit_s=dice.uniform(0.2, 1.0) * min(straight_s),
            )
            is_killed = outcome.code == -signal.SIGKILL
            n_kills += is_killed
            parts = identities_of(output)
            assert seen.items() <= parts.items()
            seen = parts
        assert outcome.code == 0, outcome.stderr
        assert_same_artifact(output, folder / "straight")
        n_episodes += 1
    print(f"{stage}: {n_kills} kills in {n_episodes} runs")
