"""Import and export killed with SIGKILL at random moments: whole parts, whole files, the same rows in the end."""

import random
import signal
from pathlib import Path

import pytest
from support.interchange_files import lines
from support.pipelines import assert_same_artifact, identities_of
from support.stage_server import StageServer

pytestmark = pytest.mark.slow

N_PROMPTS, KILLS = 60, 12


@pytest.fixture(scope="module")
def source(fast_root: Path) -> str:
    rows = [
        {
            "prompt": f"question {i}",
            "responses": [f"answer {i} {j} " + "word " * 50 for j in range(6)],
            "rewards": list(range(6)),
        }
        for i in range(N_PROMPTS)
    ]
    return lines(fast_root / "source.jsonl", *rows)


def words(source: str, out: Path) -> list[str]:
    return ["import", source, "-o", str(out), "--format", "online-rlhf", "--part-size", "4"]


def test_an_import_killed_again_and_again_ends_as_an_undisturbed_one(
    stages: StageServer, source: str, folder: Path
) -> None:
    undisturbed = stages.run(*words(source, folder / "expected"))
    assert undisturbed.code == 0, undisturbed.stderr
    moments, n_kills, episode = random.Random(0), 0, 0
    while n_kills < KILLS:
        out, seen, killed = folder / f"run{episode}", {}, True
        while killed:
            outcome = stages.run(
                *words(source, out), signal_after_s=moments.uniform(0, undisturbed.elapsed_s)
            )
            killed = outcome.code == -signal.SIGKILL
            n_kills += killed
            parts = {name: identities_of(out / name) for name in ("candidates", "scores")}
            assert all(seen[name].items() <= parts[name].items() for name in seen)
            seen = parts
        assert outcome.code == 0, outcome.stderr
        for name in ("candidates", "scores"):
            assert_same_artifact(out / name, folder / "expected" / name)
        episode += 1


def test_sigterm_during_an_import_exits_with_75_and_the_same_command_goes_on(
    stages: StageServer, source: str, folder: Path
) -> None:
    undisturbed = stages.run(*words(source, folder / "expected"))
    codes = []
    for tenth in range(10):
        out = folder / f"run{tenth}"
        stopped = stages.run(
            *words(source, out),
            signal_after_s=undisturbed.elapsed_s * tenth / 10,
            signal=signal.SIGTERM,
        )
        codes.append(stopped.code)
        again = stages.run(*words(source, out))
        assert again.code == 0, again.stderr
        assert_same_artifact(out / "scores", folder / "expected" / "scores")
    assert set(codes) <= {0, 75, -signal.SIGTERM}  # the last before the command has begun to listen
    assert 75 in codes


@pytest.mark.parametrize(("kind", "name"), [("trl", "out.parquet"), ("axolotl", "out")])
def test_a_killed_export_leaves_a_whole_file_or_none(
    stages: StageServer, source: str, folder: Path, kind: str, name: str
) -> None:
    run = folder / "run"
    for command in (
        words(source, run),
        [
            "select",
            run / "candidates",
            "--scores",
            run / "scores",
            "-o",
            run / "groups",
            "--strategy",
            "bottom-k",
            "--k",
            5,
        ],
    ):
        outcome = stages.run(*command)
        assert outcome.code == 0, outcome.stderr

    def export(place: Path) -> list[object]:
        return ["export", run / "groups", "-o", place / name, "--format", kind]

    undisturbed = stages.run(*export(folder / "expected"))
    assert undisturbed.code == 0, undisturbed.stderr

    def content(place: Path) -> dict[str, bytes]:
        files = [path for path in place.rglob("*") if path.is_file() and path.suffix != ".tmp"]
        return {
            str(path.relative_to(place)): path.read_bytes()
            for path in files
            if path.name != "axolotl.yaml"
        }

    expected, moments, n_kills, episode = content(folder / "expected"), random.Random(1), 0, 0
    while n_kills < KILLS:
        place = folder / f"export{episode}"
        outcome = stages.run(
            *export(place), signal_after_s=moments.uniform(0, undisturbed.elapsed_s)
        )
        if outcome.code == -signal.SIGKILL:
            n_kills += 1
            assert content(place) in ({}, expected)
            outcome = stages.run(*export(place))
            if outcome.code == 2:  # killed between the rename and the end
                assert "--overwrite" in outcome.stderr
        assert outcome.code in (0, 2), outcome.stderr
        assert content(place) == expected
        assert outcome.code == 2 or not list(place.rglob(".*.tmp"))
        episode += 1
