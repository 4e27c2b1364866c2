"""Stages killed with SIGKILL, anywhere and again and again, end with the rows of an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from support.pipelines import assert_same_artifact, identities_of, rows_of, write_prompts
from support.stage_server import StageServer

from prefpipe.artifacts.run_record import read_run_record

pytestmark = pytest.mark.slow

N_PROMPTS = 24
KILLS_A_STAGE = 14
STAGES = ("generate", "score", "embed", "select")


class Chain(NamedTuple):
    """Undisturbed artifacts of all stages, and how long each took."""

    folder: Path
    elapsed_s: dict[str, float]


def command(stage: str, inputs: Path, output: Path) -> list[str]:
    generate = [
        "generate",
        inputs / "prompts.jsonl",
        "--backend",
        "fake",
        "--model",
        "fake:delay_s=0.001",
        "--n",
        4,
        "--part-size",
        2,
        "-o",
        output,
    ]
    candidates = inputs / "generate"
    words = {
        "generate": generate,
        "score": ["score", candidates, "--scorer", "fake", "-o", output],
        "embed": ["embed", candidates, "--model", "fake", "-o", output],
        "select": [
            "select",
            candidates,
            "--scores",
            inputs / "score",
            "--embeddings",
            inputs / "embed",
            "--k",
            2,
            "-o",
            output,
        ],
    }
    return [str(word) for word in words[stage]]


@pytest.fixture(scope="module")
def chain(stages: StageServer, fast_root: Path) -> Chain:
    folder = fast_root / "chain"
    folder.mkdir()
    write_prompts(folder / "prompts.jsonl", N_PROMPTS)
    elapsed_s = {}
    for stage in STAGES:
        outcome = stages.run(*command(stage, folder, folder / stage))
        assert outcome.code == 0, outcome.stderr
        elapsed_s[stage] = outcome.elapsed_s
    return Chain(folder, elapsed_s)


@pytest.mark.parametrize("stage", STAGES)
def test_kills_at_random_moments_change_no_row_and_repeat_no_part(
    stages: StageServer, chain: Chain, folder: Path, stage: str
) -> None:
    """At least 14 kills for each of 4 stages: 56. Parts that were there after a kill are still the same files at the end."""
    moments = random.Random(stage)
    n_kills, episode = 0, 0
    while n_kills < KILLS_A_STAGE:
        output = folder / f"episode{episode}"
        seen: dict[str, tuple[int, int]] = {}
        killed = True
        while killed:
            moment_s = moments.uniform(0.0, chain.elapsed_s[stage])
            outcome = stages.run(*command(stage, chain.folder, output), signal_after_s=moment_s)
            killed = outcome.code == -signal.SIGKILL
            n_kills += killed
            parts = identities_of(output)
            assert seen.items() <= parts.items()
            seen = parts
        assert outcome.code == 0, outcome.stderr
        assert_same_artifact(output, chain.folder / stage)
        episode += 1


@pytest.mark.parametrize("stage", ["generate", "select"])
def test_kill_before_every_single_file_operation(
    stages: StageServer, chain: Chain, folder: Path, stage: str
) -> None:
    """Crash points are walked one by one: temporary file, link, removal, and for each part temporary file and rename."""
    inputs = folder / "inputs"
    inputs.mkdir()
    write_prompts(inputs / "prompts.jsonl", 4)
    for each in STAGES:
        assert stages.run(*command(each, inputs, inputs / each)).code == 0
    died_at = 0
    while True:
        output = folder / f"died{died_at}"
        outcome = stages.run(
            *command(stage, inputs, output), die_at_event=died_at, watched=str(output)
        )
        if outcome.code == 0:
            break
        assert outcome.code == -signal.SIGKILL
        assert stages.run(*command(stage, inputs, output)).code == 0
        assert_same_artifact(output, inputs / stage)
        died_at += 1
    assert died_at >= 3 + 2 * 2  # three operations for run.json, two for each of two parts


def extended(inputs: Path, output: Path, n: int, *more: str) -> list[str]:
    words = command("generate", inputs, output)
    words[words.index("--n") + 1] = str(n)
    return [*words, *more]


@pytest.mark.parametrize(
    "flag_again", [True, False], ids=["with the flag again", "without the flag"]
)
def test_an_extension_killed_in_the_middle_equals_a_straight_run(
    stages: StageServer, chain: Chain, folder: Path, flag_again: bool
) -> None:
    """n = 2 grown to n = 4, killed at least three times, holds what n = 4 from the start holds."""
    moments = random.Random(flag_again)
    n_kills, episode = 0, 0
    small = folder / "small"
    assert stages.run(*extended(chain.folder, small, 2)).code == 0
    before = rows_of(small)
    while n_kills < 3:
        output = folder / f"grown{episode}"
        shutil.copytree(small, output)
        moment_s = moments.uniform(0.3, 1.0) * chain.elapsed_s["generate"]
        outcome = stages.run(
            *extended(chain.folder, output, 4, "--extend"), signal_after_s=moment_s
        )
        n_kills += outcome.code == -signal.SIGKILL
        started = read_run_record(output).identity["n"] == 4
        again = ["--extend"] if flag_again or not started else []
        assert stages.run(*extended(chain.folder, output, 4, *again)).code == 0
        assert_same_artifact(output, chain.folder / "generate")
        assert [
            row | {"duplicate_of": None} for row in rows_of(output) if row["sample_idx"] < 2
        ] == before
        [step] = read_run_record(output).history
        assert (step["operation"], step["n_before"], step["n"]) == ("extend", 2, 4)
        episode += 1


def test_an_overwrite_killed_before_every_file_operation_leaves_no_mixture(
    stages: StageServer, chain: Chain, folder: Path
) -> None:
    """Whatever the moment, the command without --overwrite either finishes the new run or refuses the old one."""
    died_at, n_refused = 0, 0
    inputs = folder / "inputs"
    inputs.mkdir()
    write_prompts(inputs / "prompts.jsonl", 4)
    assert stages.run(*extended(inputs, folder / "wanted", 3)).code == 0
    assert stages.run(*extended(inputs, folder / "old", 2)).code == 0
    while True:
        output = folder / f"died{died_at}"
        shutil.copytree(folder / "old", output)
        outcome = stages.run(
            *extended(inputs, output, 3, "--overwrite"), die_at_event=died_at, watched=str(output)
        )
        if outcome.code == 0:
            break
        rerun = stages.run(*extended(inputs, output, 3))
        if rerun.code == 2:
            assert "n: 2 on disk, 3 requested" in rerun.stderr
            n_refused += 1
            assert stages.run(*extended(inputs, output, 3, "--overwrite")).code == 0
        assert_same_artifact(output, folder / "wanted")
        died_at += 1
    assert 0 < n_refused < died_at


def test_the_real_command_line_killed_with_sigkill_goes_on_where_it_was(
    folder: Path, stages: StageServer
) -> None:
    """The console script in a process of its own, killed once the first parts are there, three times."""
    write_prompts(folder / "prompts.jsonl", 8)
    words = [
        word.replace("delay_s=0.001", "delay_s=0.05")
        for word in command("generate", folder, folder / "killed")
    ]
    n_parts_before, n_kills = 0, 0
    while n_kills < 3:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefpipe", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ,
        )
        while process.poll() is None and len(identities_of(folder / "killed")) <= n_parts_before:
            time.sleep(0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        n_kills += 1
        seen = identities_of(folder / "killed")
        assert len(seen) == n_parts_before + 1
        n_parts_before = len(seen)
    finish = subprocess.run(
        [sys.executable, "-m", "prefpipe", *words], capture_output=True, text=True, check=False
    )
    assert finish.returncode == 0, finish.stderr
    assert "3 of 4 parts are finished and kept" in finish.stderr
    assert seen.items() <= identities_of(folder / "killed").items()
    assert stages.run(*command("generate", folder, folder / "straight")).code == 0
    assert_same_artifact(folder / "killed", folder / "straight")
