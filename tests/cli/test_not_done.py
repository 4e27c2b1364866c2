"""Commands that look at what ``prefpipe status`` calls not done: said first, marked at every table, refused with --strict."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.finished_run import N_PARTS, command, copy_to
from support.tiny_models import make_tiny_causal_lm

from prefpipe.artifacts.parts import part_name, read_footer
from prefpipe.cli.main import run

COMMANDS = {
    "inspect": ["inspect", "{groups}"],
    "inspect a prompt": ["inspect", "{groups}", "--prompt-id", "p0"],
    "inspect a map": ["inspect", "{groups}", "--prompt-id", "p0", "--map"],
    "savings": ["savings", "{groups}", "--model", "8B", "--gpu", "h100"],
    "check": ["check", "{groups}", "--model", "{model}"],
}


def delete_a_part(groups: Path) -> None:
    (groups / part_name(1, N_PARTS)).unlink()


def put_a_part_of_another_run_there(groups: Path) -> None:
    """The same selection with one negative instead of two, of which one part is copied over."""
    other = groups.parent / "other"
    folder = groups.parent
    words = [
        "select",
        folder / "candidates",
        "--scores",
        folder / "scores",
        "-o",
        other,
        "--strategy",
        "bottom-k",
    ]
    command([str(word) for word in (*words, "--k", 1, "--reward", "fake")])
    shutil.copy(other / part_name(1, N_PARTS), groups / part_name(1, N_PARTS))
    shutil.rmtree(other)


def score_again(groups: Path) -> None:
    """The scores that the groups were selected by are others now."""
    folder = groups.parent
    words = [
        "score",
        folder / "candidates",
        "-o",
        folder / "scores",
        "--scorer",
        "fake",
        "--overwrite",
    ]
    command([str(word) for word in words])


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a part deleted": (delete_a_part, "partial"),
    "a part of another run": (put_a_part_of_another_run_there, "stale"),
    "scored again": (score_again, "stale"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_causal_lm(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_not_done_is_said_first_marked_and_refused_with_strict(
    name: str, damage: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = copy_to(tmp_path) / "groups"
    words = [word.format(groups=groups, model=model) for word in COMMANDS[name]]
    assert run(words) == 0
    whole = capsys.readouterr()
    assert "NOT DONE" not in whole.out
    assert "warning: " not in whole.err

    make, state = DAMAGES[damage]
    make(groups)
    capsys.readouterr()

    assert run([*words, "--strict"]) == 1
    refused = capsys.readouterr()
    assert f"--strict: {groups} is {state}" in refused.err
    assert not refused.out

    code = run(words)
    outcome = capsys.readouterr()
    assert outcome.err.startswith(f"warning: {groups} is {state}: ")
    assert f"see prefpipe status {groups}" in outcome.err
    if (
        code == 0
    ):  # a part of another run is no error of `inspect` alone where it lies in another prompt's part
        first_line = outcome.out.splitlines()[0]
        assert first_line.startswith(f"NOT DONE: from {groups}, which is {state}")
        if name in ("inspect", "savings", "check"):
            assert f"(from {groups}, which is {state}" in outcome.out

        run([*words, "--json"])
        listed = json.loads(capsys.readouterr().out)["not_done"]
        assert {"path": str(groups), "state": state}.items() <= listed[0].items()
        assert listed[0]["reasons"]
    else:
        assert "error: " in outcome.err
        assert not outcome.out


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "{groups}"],
        ["savings", "{groups}", "--model", "8B", "--gpu", "h100"],
        ["report", "{run}", "-o", "{page}"],
    ],
)
def test_strict_sees_a_byte_that_changed_inside_a_part(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its footer is whole: only reading every byte shows it."""
    run_folder = copy_to(tmp_path)
    groups = run_folder / "groups"
    part = groups / part_name(1, N_PARTS)
    data = bytearray(part.read_bytes())
    data[read_footer(part).data_bytes // 2] ^= 1
    part.write_bytes(data)
    page = tmp_path / "report.html"
    capsys.readouterr()

    line = [word.format(groups=groups, run=run_folder, page=page) for word in words]
    assert run([*line, "--strict"]) == 1
    outcome = capsys.readouterr()
    assert "groups is corrupt: " in outcome.err
    assert not outcome.out
    assert not page.exists()
