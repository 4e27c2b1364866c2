"""Evaluations of pairs killed with SIGKILL, anywhere and again and again, end with the rows and figures of an undisturbed run."""

import json
import random
import signal
from pathlib import Path

import pytest
from support.pair_files import pairs_file, some_pairs
from support.pipelines import assert_same_artifact, identities_of
from support.stage_server import StageServer

pytestmark = pytest.mark.slow

N_KILLS = 8


def command(name: str, pairs: str, output: Path) -> list[str]:
    words = [
        "eval",
        name,
        "--pairs",
        pairs,
        "-o",
        str(output),
        "--model",
        "fake",
        "--reward-model",
        "--part-size",
        "3",
    ]
    return [*words, "--bootstrap-draws", "100"]


def figures_of(folder: Path) -> dict[str, object]:
    """Read ``summary.json`` and take it away, so that parts alone are left to compare."""
    found: dict[str, object] = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").unlink()
    return found | {"command": None, "recipe": None}


def test_kills_change_no_row_no_figure_and_repeat_no_part(
    stages: StageServer, folder: Path
) -> None:
    """Either command goes on where either was killed."""
    pairs = pairs_file(folder, some_pairs(30))
    straight = stages.run(*command("rewardbench", pairs, folder / "straight"))
    assert straight.code == 0, straight.stderr
    expected = figures_of(folder / "straight")
    moments, n_kills, episode = random.Random(0), 0, 0
    while n_kills < N_KILLS:
        output, seen, killed = folder / f"episode{episode}", {}, True
        while killed:
            name = moments.choice(["rewardbench", "calibration"])
            outcome = stages.run(
                *command(name, pairs, output),
                signal_after_s=moments.uniform(0.0, straight.elapsed_s),
            )
            killed = outcome.code == -signal.SIGKILL
            n_kills += killed
            parts = identities_of(output)
            assert seen.items() <= parts.items()
            seen = parts
        assert outcome.code == 0, outcome.stderr
        assert figures_of(output) == expected
        assert_same_artifact(output, folder / "straight")
        episode += 1


@pytest.mark.parametrize("name", ["rewardbench", "calibration"])
def test_kill_before_every_single_file_operation(
    stages: StageServer, folder: Path, name: str
) -> None:
    pairs = pairs_file(folder, some_pairs(5))
    assert stages.run(*command(name, pairs, folder / "straight")).code == 0
    expected = figures_of(folder / "straight")
    died_at = 0
    while True:
        output = folder / f"died{died_at}"
        outcome = stages.run(
            *command(name, pairs, output), die_at_event=died_at, watched=str(output)
        )
        if outcome.code == 0:
            break
        assert outcome.code == -signal.SIGKILL
        assert stages.run(*command(name, pairs, output)).code == 0
        assert figures_of(output) == expected
        assert_same_artifact(output, folder / "straight")
        died_at += 1
    assert died_at >= 3 + 2 * 2 + 2  # run.json, two parts, summary.json


def test_a_damaged_part_is_made_again_and_the_others_kept(
    stages: StageServer, folder: Path
) -> None:
    pairs, output = pairs_file(folder, some_pairs(9)), folder / "out"
    assert stages.run(*command("rewardbench", pairs, output)).code == 0
    before = identities_of(output)
    part = output / "part-00001-of-00003.parquet"
    data = bytearray(part.read_bytes())
    data[40] ^= 1
    part.write_bytes(data)
    outcome = stages.run(*command("rewardbench", pairs, output))
    assert outcome.code == 0
    assert "2 of 3 parts are finished and kept" in outcome.stderr
    after = identities_of(output)
    assert {name for name in before if before[name] == after[name]} == set(before) - {part.name}


def test_a_stop_keeps_what_is_done_and_exits_with_75(stages: StageServer, folder: Path) -> None:
    pairs = pairs_file(folder, some_pairs(400))
    outcome = stages.run(
        *command("rewardbench", pairs, folder / "out"), signal_after_s=0.3, signal=signal.SIGTERM
    )
    if outcome.code != 0:  # a fast machine has finished
        assert outcome.code == 75
        assert "run the same command again" in outcome.stderr
        assert not (folder / "out" / "summary.json").exists()
    assert stages.run(*command("rewardbench", pairs, folder / "out")).code == 0
