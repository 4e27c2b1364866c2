"""Shell completion: bash completes commands, flags, values and paths; each shell has a script."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from prefpipe.cli.main import run
from prefpipe.maths.selection.registry import STRATEGIES

BIN = Path(sys.executable).parent


@pytest.fixture
def script(tmp_path: Path, capsys) -> Path:
    assert run(["--show-completion", "bash"]) == 0
    path = tmp_path / "completion.bash"
    path.write_text(capsys.readouterr().out)
    return path


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(home)}


def completed(script: Path, *words: str) -> list[str]:
    """What bash's own completion function offers for the last word."""
    quoted = " ".join(f"'{word}'" for word in words)
    lines = f"""
        source {script}
        COMP_WORDS=({quoted})
        COMP_CWORD={len(words) - 1}
        _prefpipe_completion prefpipe
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", lines],
        capture_output=True,
        text=True,
        env=environment(script.parent),
        check=True,
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_bash_completes_commands_flags_and_values(script: Path) -> None:
    assert completed(script, "prefpipe", "se") == ["select"]
    assert completed(script, "prefpipe", "eval", "r") == ["rewardbench"]
    assert completed(script, "prefpipe", "select", "--stra") == ["--strategy"]
    assert completed(script, "prefpipe", "select", "c", "--strategy", "") == list(STRATEGIES)
    assert completed(script, "prefpipe", "train", "--objective", "sim") == ["simpo"]
    # a rare flag, which `--help` does not show
    assert completed(script, "prefpipe", "generate", "--tensor") == ["--tensor-parallel-size"]


@pytest.mark.slow
def test_bash_completes_paths_where_a_value_is_one(script: Path, tmp_path: Path) -> None:
    """A shell at a terminal: the TAB turns the beginning of a folder's name into all of it."""
    (tmp_path / "unmistakable-candidates").mkdir()
    assert completed(script, "prefpipe", "select", "unmis") == []

    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execve("/bin/bash", ["bash", "--norc", "-i"], environment(tmp_path))
    try:
        os.write(terminal, f"source {script}\n".encode())
        os.write(terminal, b"prefpipe select --scores unmis\t")
        said = b""
        while b"unmistakable-candidates/" not in said:
            said += os.read(terminal, 1024)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(terminal)


@pytest.mark.parametrize(
    ("shell", "begins", "place"),
    [
        ("bash", "_prefpipe_completion()", ".bash_completions/prefpipe.sh"),
        ("zsh", "#compdef prefpipe", ".zfunc/_prefpipe"),
        ("fish", "complete --command prefpipe", ".config/fish/completions/prefpipe.fish"),
    ],
)
def test_each_shell_has_a_script_that_can_be_installed(
    shell: str, begins: str, place: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(["--show-completion", shell]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(begins)
    assert "_PREFPIPE_COMPLETE" in shown

    assert run(["--install-completion", shell]) == 0
    assert capsys.readouterr().out == f"{tmp_path / place}\n"
    assert (tmp_path / place).read_text().strip() == shown.strip()


@pytest.mark.parametrize(
    ("instruction", "offered"),
    [("complete_zsh", '"opt-select"'), ("complete_fish", "opt-select")],
)
def test_zsh_and_fish_get_an_answer(instruction: str, offered: str, monkeypatch, capsys) -> None:
    monkeypatch.setenv("_PREFPIPE_COMPLETE", instruction)
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "prefpipe select c --strategy opt")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    with pytest.raises(SystemExit):
        run([])
    assert offered in capsys.readouterr().out


def test_a_shell_without_completion_is_named(capsys) -> None:
    assert run(["--install-completion", "xonsh"]) == 2
    said = capsys.readouterr().err
    assert "error: --install-completion does not support xonsh" in said
    assert "hint: name your shell: prefpipe --install-completion bash" in said
