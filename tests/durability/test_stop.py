"""SIGTERM and SIGUSR1 finish the part, exit with 75, and a rerun completes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.pipelines import (
    assert_same_artifact,
    identities_of,
    write_prompts,
)
from support.stage_server import StageServer

pytestmark = pytest.mark.slow

FAKE = ("--backend", "fake", "--model", "fake")


def generate(prompts: Path, output: Path, *more: object) -> list[str]:
    return [
        str(word)
        for word in ("generate", prompts, *FAKE, "--n", 3, "--part-size", 2, "-o", output, *more)
    ]


@pytest.mark.parametrize(
    "stop_signal", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"]
)
@pytest.mark.parametrize("stage", ["generate", "score", "embed", "select"])
def test_a_stop_signal_finishes_the_part_exits_with_75_and_a_rerun_completes(
    stages: StageServer, folder: Path, stage: str, stop_signal: signal.Signals
) -> None:
    """Sent at several moments of the run, until one run was stopped with parts made and parts left."""
    write_prompts(folder / "prompts.jsonl", 40)
    candidates = folder / "candidates"
    commands = {
        "generate": [*generate(folder / "prompts.jsonl", folder / "straight")],
        "score": ["score", candidates, "--scorer", "fake", "-o", folder / "straight"],
        "embed": ["embed", candidates, "--model", "fake", "-o", folder / "straight"],
        "select": [
            "select",
            candidates,
            "--scores",
            folder / "scores",
            "--strategy",
            "all",
            "-o",
            folder / "straight",
        ],
    }
    if stage != "generate":
        assert stages.run(*generate(folder / "prompts.jsonl", candidates)).code == 0
        assert (
            stages.run("score", candidates, "--scorer", "fake", "-o", folder / "scores").code == 0
        )
    straight = stages.run(*commands[stage])
    assert straight.code == 0, straight.stderr
    for attempt in range(40):
        output = folder / f"stopped{attempt}"
        words = [*commands[stage][:-1], output]
        stopped = stages.run(
            *words,
            signal_after_s=straight.elapsed_s * (0.3 + 0.05 * (attempt % 14)),
            signal=stop_signal,
        )
        n_made = len(identities_of(output))
        if stopped.code == 75 and n_made:
            break
    assert stopped.code == 75
    assert (
        f"stopped: {stage} stopped on request: {n_made} parts made now, {20 - n_made} left"
        in stopped.stderr
    )
    assert "hint: run the same command again to go on" in stopped.stderr
    kept = identities_of(output)
    again = stages.run(*words)
    assert again.code == 0
    assert f"{n_made} of 20 parts are finished and kept" in again.stderr
    assert kept.items() <= identities_of(output).items()
    assert_same_artifact(output, folder / "straight")


def test_two_stop_signals_stop_at_once_and_leave_no_temporary_file(
    folder: Path, stages: StageServer
) -> None:
    """The real command, in the middle of a part of six seconds."""
    write_prompts(folder / "prompts.jsonl", 4)
    words = generate(folder / "prompts.jsonl", folder / "parts")
    words[words.index("--model") + 1] = "fake:delay_s=1"
    process = subprocess.Popen(
        [sys.executable, "-m", "prefpipe", *words], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert any("loading" in line for line in process.stderr)
    time.sleep(0.3)  # what is loading is not waited for
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    assert "stopped at once by a second signal; finished parts are kept" in process.stderr.read()
    assert time.monotonic() - started < 5
    assert {path.name for path in (folder / "parts").iterdir()} == {"run.json"}
