"""The live view of commands: at a pseudo-terminal, and what stages say where there is none."""

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.model_shells import write_model_shell
from support.pipelines import write_prompts
from support.terminal import AtTerminal

from prefpipe.cli.main import run

Start = Callable[..., AtTerminal]

PLAN = """\
rounds: 2
prompts: many.jsonl
model: "fake:delay_s=0.5"
prompt_use: reuse
generate: {backend: fake, n: 2, part_size: 2}
score: {scorer: fake}
embed: {model: nowhere}
select: {strategy: best-worst}
train: {max_steps: 1, report_to: none}
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts commands in a folder with prompts, and ends them."""
    write_prompts(tmp_path / "prompts.jsonl", 8)
    write_prompts(tmp_path / "many.jsonl", 200)
    (tmp_path / "plan.yaml").write_text(PLAN)
    for name in ("nowhere", "fake:delay_s=0.5"):
        write_model_shell(tmp_path / name)
    started: list[AtTerminal] = []

    def start_one(*words: str, **settings: str) -> AtTerminal:
        started.append(AtTerminal(words, tmp_path, **settings))
        return started[-1]

    yield start_one
    for each in started:
        each.close()


def generate(model: str, prompts: str = "prompts.jsonl") -> list[str]:
    flags = ["--backend", "fake", "--n", "2", "--part-size", "2"]
    return ["generate", prompts, "-o", "candidates", "--model", model, *flags]


def test_a_run_at_a_terminal_shows_its_parts_and_leaves_the_summary(start: Start) -> None:
    command = start(*generate("fake"))
    assert command.finish() == 0
    assert "━ 4 of 4 parts  100%" in re.sub(r"\x1b\[[0-9;]*m", "", command.text)
    said = "\n".join(command.screen.lines)
    assert said.startswith("8 prompts x 2 responses in 4 parts of 2 prompts\n")
    assert "generate: 16 rows in candidates" in said
    assert "━" not in said
    assert command.screen.is_cursor_seen


@pytest.mark.slow
def test_ctrl_c_leaves_the_terminal_as_it_was(start: Start) -> None:
    command = start(*generate("fake:delay_s=600"))
    command.read_until("loading fake")
    # the second one from here on is drawn while nothing else is printed
    n_before = command.text.count("0 of 4")
    command.read_until("0 of 4", n_more_than=n_before + 1)
    command.process.send_signal(signal.SIGINT)
    assert command.finish() == 130
    lines = command.screen.lines
    assert lines[-1] == "interrupted: finished parts are kept; run the same command again to go on"
    assert not any("of 4 parts" in line and "━" in line for line in lines)
    assert command.screen.is_cursor_seen


@pytest.mark.slow
def test_the_first_signal_is_answered_above_the_view(start: Start) -> None:
    """The view is drawn again below the answer, and not over it."""
    command = start(*generate("fake:delay_s=1", prompts="many.jsonl"))
    command.read_until("1 of 100")  # so that there are parts to finish
    command.process.send_signal(signal.SIGUSR1)
    command.read_until("a second signal stops at once")
    n_before = command.text.count("of 100 parts")
    command.read_until("of 100 parts", n_more_than=n_before)
    lines = command.screen.lines
    answer = next(number for number, line in enumerate(lines) if line.startswith("SIGUSR1: "))
    assert not any("generate  candidates" in line for line in lines[:answer])

    command.process.send_signal(signal.SIGTERM)
    assert command.finish() == 75
    assert any(line.startswith("SIGUSR1: ") for line in command.screen.lines)


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"TTY_COMPATIBLE": "0"}])
def test_a_terminal_that_cannot_be_drawn_on_has_lines(
    start: Start, variables: dict[str, str]
) -> None:
    command = start(*generate("fake"), **variables)
    assert command.finish() == 0
    assert "\x1b" not in command.text
    assert "generate: 4 of 4 parts done, 16 rows: 16 ok, " in command.text


@pytest.mark.slow
def test_a_step_of_a_plan_says_which_it_is_and_an_interrupt_leaves_nothing(start: Start) -> None:
    """The view is of the step's process, and the interrupt comes to the plan's."""
    command = start("rounds", "plan.yaml", "-o", "run")
    command.read_until("1 of 100 parts")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", command.text)
    assert "round 1 of 2, step 1 of 10\r\ngenerate  run/round-01/candidates\r\n" in shown

    command.process.send_signal(signal.SIGINT)
    assert command.finish() == 130
    lines = command.screen.lines
    assert not any(line.startswith("generate  run") for line in lines)
    assert lines[-1] == "interrupted: finished parts are kept; run the same command again to go on"
    assert command.screen.is_cursor_seen


@pytest.mark.slow
def test_one_view_is_over_all_workers(start: Start) -> None:
    command = start(*generate("fake"), "--workers", "2")
    assert command.finish() == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", command.text)
    assert {
        line for line in shown.splitlines() if " of 4 parts" in line and "worker" in line
    } == set()
    said = "\n".join(command.screen.lines)
    assert "generate: 16 rows in candidates" in said
    assert "━" not in said


STEPS = {
    "generate": generate("fake"),
    "score": ["score", "candidates", "-o", "scores", "--scorer", "fake"],
    "embed": ["embed", "candidates", "-o", "embeddings", "--model", "fake"],
    "select": [
        *("select", "candidates", "--scores", "scores", "--embeddings", "embeddings"),
        *("-o", "groups", "--strategy", "best-worst"),
    ],
    "export": ["export", "groups", "-o", "pairs.jsonl", "--format", "trl"],
    "import": [
        *("import", "pairs.jsonl", "-o", "imported", "--format", "trl"),
    ],
    "judge": ["judge", "candidates", "candidates", "-o", "verdicts", "--judge", "fake"],
}


def test_every_stage_ends_its_progress_with_a_line_that_says_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_prompts(tmp_path / "prompts.jsonl", 8)
    for stage, words in STEPS.items():
        assert run(words) == 0, stage
        said = capsys.readouterr().err
        assert "\x1b" not in said
        last = [line for line in said.splitlines() if " done, " in line][-1]
        assert re.match(r"[\w, ]+: (\d+) of \1 parts? done, ", last), last
        # what a file of another tool has is counted by no status
        assert stage == "export" or re.search(r"\d+ rows?: \d+ [a-z_]+", last), last
