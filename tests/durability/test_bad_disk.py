"""Full disks, read-only folders and unreadable files: a clear error, and what was finished is kept."""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pipelines import (
    assert_only_parts,
    assert_same_artifact,
    identities_of,
    write_json_lines,
    write_prompts,
)
from support.small_disk import grow, small_disk
from support.stage_server import StageServer

pytestmark = pytest.mark.slow

FAKE = ("--backend", "fake", "--model", "fake")


def generate(prompts: Path, output: Path, *more: object) -> list[str]:
    return [
        str(word)
        for word in ("generate", prompts, *FAKE, "--n", 3, "--part-size", 2, "-o", output, *more)
    ]


@pytest.fixture
def candidates(stages: StageServer, folder: Path) -> Path:
    """Six prompts of three responses in three parts."""
    write_prompts(folder / "prompts.jsonl", 6)
    assert stages.run(*generate(folder / "prompts.jsonl", folder / "candidates")).code == 0
    return folder / "candidates"


@pytest.fixture
def disk(folder: Path) -> Iterator[Path]:
    """A disk of 96 KiB, where this user may mount one; else the file size's limit is tested alone."""
    with small_disk(folder / "disk", 96) as path:
        yield path


def test_a_full_disk_keeps_the_finished_parts_and_a_rerun_completes(
    stages: StageServer, folder: Path, disk: Path
) -> None:
    write_prompts(folder / "prompts.jsonl", 40)
    words = generate(folder / "prompts.jsonl", disk / "parts")
    full = stages.run(*words)
    assert full.code == 1
    assert "no space left on the disk" in full.stderr
    assert "free some space and run the same command again; finished parts are kept" in full.stderr
    kept = identities_of(disk / "parts")
    assert 0 < len(kept) < 20
    assert not list((disk / "parts").glob(".*"))
    grow(disk, mib=4)
    assert stages.run(*words).code == 0
    assert kept.items() <= identities_of(disk / "parts").items()
    assert stages.run(*generate(folder / "prompts.jsonl", folder / "straight")).code == 0
    assert_same_artifact(disk / "parts", folder / "straight")


def test_a_file_that_may_not_grow_fails_the_same_way(stages: StageServer, folder: Path) -> None:
    """A limit on file sizes stands for a full disk or quota where nothing can be mounted: the second part is too large."""
    long = random.Random(0).randbytes(15_000).hex()  # compresses to half
    write_json_lines(
        folder / "prompts.jsonl", [{"prompt": f"{i} {long if i > 1 else ''}"} for i in range(4)]
    )
    words = generate(folder / "prompts.jsonl", folder / "parts")
    words[words.index("--model") + 1] = "fake:max_model_len=99999"
    outcome = stages.run(*words, max_file_bytes=12_000)
    assert outcome.code == 1, outcome.stderr
    assert "File too large" in outcome.stderr
    kept = identities_of(folder / "parts")
    assert list(kept) == ["part-00000-of-00002.parquet"]
    assert not list((folder / "parts").glob(".*"))
    assert stages.run(*words).code == 0
    assert kept.items() <= identities_of(folder / "parts").items()
    assert_only_parts(folder / "parts")


def test_a_read_only_folder_is_named(stages: StageServer, folder: Path) -> None:
    write_prompts(folder / "prompts.jsonl", 4)
    output = folder / "readonly"
    output.mkdir(mode=0o555)
    for target in (output, output / "below"):
        outcome = stages.run(*generate(folder / "prompts.jsonl", target), powerless=True)
        assert outcome.code == 1, outcome.stderr
        assert f"error: cannot write {target}" in outcome.stderr
        assert "the folder cannot be written to" in outcome.stderr
        assert "choose another folder with -o, or change its permissions" in outcome.stderr


def test_a_file_that_may_not_be_read_is_named(
    stages: StageServer, candidates: Path, folder: Path
) -> None:
    words = ["score", candidates, "--scorer", "fake", "-o", folder / "scores"]
    (candidates / "part-00001-of-00003.parquet").chmod(0)
    outcome = stages.run(*words, powerless=True)
    assert outcome.code == 1
    assert "part-00001-of-00003.parquet cannot be read: Permission denied" in outcome.stderr
    (candidates / "run.json").chmod(0)
    outcome = stages.run(*words, powerless=True)
    assert outcome.code == 1
    assert f"{candidates / 'run.json'} cannot be read" in outcome.stderr
    candidates.chmod(0)
    outcome = stages.run(*words, powerless=True)
    assert outcome.code == 1
    assert f"{candidates / 'run.json'} cannot be read: Permission denied" in outcome.stderr
    (folder / "prompts.jsonl").chmod(0)
    outcome = stages.run(*generate(folder / "prompts.jsonl", folder / "new"), powerless=True)
    assert outcome.code == 1
    assert "prompts.jsonl cannot be read: Permission denied" in outcome.stderr


def test_a_finished_artifact_on_a_read_only_disk_is_finished(
    stages: StageServer, folder: Path
) -> None:
    write_prompts(folder / "prompts.jsonl", 4)
    words = generate(folder / "prompts.jsonl", folder / "disk" / "parts")
    assert stages.run(*words).code == 0
    mounted = subprocess.run(
        ["mount", "--bind", "-o", "ro", folder / "disk", folder / "disk"],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("this user may not mount")
    try:
        subprocess.run(
            ["mount", "-o", "remount,bind,ro", folder / "disk"], check=True, capture_output=True
        )
        outcome = stages.run(*words)
        assert outcome.code == 0, outcome.stderr
        assert "2 of 2 parts are finished and kept" in outcome.stderr
        new = stages.run(*words[:-1], folder / "disk" / "new")
        assert new.code == 1
        assert (
            f"cannot write {folder / 'disk' / 'new'}: the folder cannot be written to" in new.stderr
        )
    finally:
        subprocess.run(["umount", folder / "disk"], check=True)
