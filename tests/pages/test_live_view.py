"""The live view, drawn on a terminal of the tests, and its lines where there is no terminal."""

import io
import re
import sys
import threading
import time
from contextlib import ExitStack

import pytest
from rich.console import Console
from support.screen import Screen

from prefpipe.backends.open_calls import Answered
from prefpipe.execution.runtime import Task
from prefpipe.pages import live_view
from prefpipe.pages.live_view import LiveView, draws_over, duration

GENERATE = Task("generate", "part", 16, "run/candidates")


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Shown:
    """A view on a terminal or in a log, and a clock that is set by hand."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        file: io.StringIO,
        width: int = 80,
        step: str = "",
        **variables: str,
    ) -> None:
        for name in ("TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR", "NO_COLOR", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm-256color")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        self.now_s = 0.0
        self.file = file
        self.console = Console(file=file, width=width, highlight=False, soft_wrap=True)
        self.view = LiveView(self.console, step=step, clock=lambda: self.now_s, refreshes_per_s=0)

    @property
    def screen(self) -> Screen:
        return Screen(self.console.width).write(self.file.getvalue())


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Shown:
    return Shown(monkeypatch, Terminal())


def generate_some(shown: Shown, stack: ExitStack) -> None:
    """Five of sixteen parts, behind a model that was loaded for 30 s."""
    advance = stack.enter_context(shown.view.progress(GENERATE))
    with shown.view.loading():
        shown.now_s += 30
    for _ in range(5):
        shown.now_s += 12
        advance(1, {"n_tokens": 5000.0}, rows={"ok": 250, "error": 6})
    shown.view.refresh()


def test_the_view_of_parts(on_terminal: Shown) -> None:
    with ExitStack() as stack:
        generate_some(on_terminal, stack)
        heading, bar, rows, times = on_terminal.screen.lines
        assert heading == "generate  run/candidates"
        assert re.fullmatch(r"[━╸╺]+ 5 of 16 parts   31%", bar)
        assert len(bar) == 79
        assert rows == "1,280 rows: 1,250 ok, 30 error"
        assert times == "about 2 min left   1 min 30 s so far   417 tokens/s"
        assert on_terminal.view.height == 4
    assert on_terminal.screen.lines == []
    assert on_terminal.view.height == 0


def test_a_model_that_is_loaded_is_said(on_terminal: Shown) -> None:
    with on_terminal.view.progress(GENERATE), on_terminal.view.loading():
        on_terminal.now_s += 75
        on_terminal.view.refresh()
        assert on_terminal.screen.lines[-1] == "loading a model   1 min 15 s so far"


def test_the_view_of_a_training_in_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(monkeypatch, Terminal(), step="round 1 of 2, step 5 of 12")
    task = Task("train", "step", 40, "run/policy", n_kept=10, first_is_slow=True)
    with shown.view.progress(task) as advance:
        for _ in range(20):
            shown.now_s += 3
            advance(1)
            advance(0, figures={"loss": "0.412", "margin": "0.830", "tokens/s": "1,203"})
        shown.view.refresh()
        step, heading, bar, figures, times = shown.screen.lines
    assert step == "round 1 of 2, step 5 of 12"
    assert heading == "train  run/policy"
    assert bar.endswith(" 20 of 40 steps (10 more kept)   50%")
    assert figures == "loss 0.412   margin 0.830"
    assert times == "about 60 s left   1 min 00 s so far   1,203 tokens/s"


def test_what_is_printed_meanwhile_stands_above(on_terminal: Shown) -> None:
    """Lines of the log, of any length, and what a library prints to sys.stderr."""
    long_line = "a line that is longer than the terminal is wide, " * 4
    with ExitStack() as stack:
        generate_some(on_terminal, stack)
        on_terminal.console.print("a line of the log")
        on_terminal.console.print(long_line)
        sys.stderr.write("a line of a library\n")
        on_terminal.view.refresh()
        lines = on_terminal.screen.lines
        assert lines[0] == "a line of the log"
        assert lines[4:6] == ["a line of a library", "generate  run/candidates"]
        assert len(lines) == 5 + 4
    assert len(on_terminal.screen.lines) == 5


def test_the_cursor_is_seen_all_the_time(on_terminal: Shown) -> None:
    """A process that is killed could not bring it back."""
    with on_terminal.view.progress(GENERATE):
        assert on_terminal.screen.is_cursor_seen
    assert on_terminal.screen.is_cursor_seen


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_behind_an_interrupt(
    on_terminal: Shown, error: type[BaseException]
) -> None:
    def interrupted() -> None:
        with ExitStack() as stack:
            generate_some(on_terminal, stack)
            raise error

    stderr = sys.stderr
    with pytest.raises(error):
        interrupted()
    assert on_terminal.screen.lines == []
    assert on_terminal.screen.is_cursor_seen
    assert sys.stderr is stderr


@pytest.mark.parametrize("width", [1, 12, 40, 80, 200])
def test_no_line_is_folded(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    shown = Shown(monkeypatch, Terminal(), width=width, step="round 1 of 2, step 5 of 12")
    with ExitStack() as stack:
        generate_some(shown, stack)
        lines = shown.screen.lines
        assert len(lines) == shown.view.height == 5
        assert max(map(len, lines)) < min(width + (width == 1), 80)


def test_a_terminal_of_another_width_is_drawn_over(on_terminal: Shown) -> None:
    with ExitStack() as stack:
        generate_some(on_terminal, stack)
        for width in (100, 200, 90):
            on_terminal.console.width = width
            on_terminal.view.refresh()
            assert len(on_terminal.screen.lines) == 4


def test_without_colours_it_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(monkeypatch, Terminal(), NO_COLOR="1")
    with ExitStack() as stack:
        generate_some(shown, stack)
        assert len(shown.screen.lines) == 4
    colours = [
        number
        for numbers in re.findall(r"\x1b\[([0-9;]*)m", shown.file.getvalue())
        for number in numbers.split(";")
        if number not in ("", "0", "1", "2")
    ]
    assert colours == []


NO_VIEW = {
    "a file": (io.StringIO, {}),
    "a file, with colours wanted": (io.StringIO, {"FORCE_COLOR": "1"}),
    "a dumb terminal": (Terminal, {"TERM": "dumb"}),
    "a terminal that is not to be drawn on": (Terminal, {"TTY_INTERACTIVE": "0"}),
}


@pytest.mark.parametrize(("kind", "variables"), NO_VIEW.values(), ids=NO_VIEW)
def test_elsewhere_there_are_lines(
    monkeypatch: pytest.MonkeyPatch, kind: type[io.StringIO], variables: dict[str, str]
) -> None:
    """One in ten seconds at most, and one at the end, without a control character."""
    shown = Shown(monkeypatch, kind(), **variables)
    assert not draws_over(shown.console)
    with shown.view.progress(Task("generate", "part", 8, "run/candidates")) as advance:
        with shown.view.loading():
            shown.now_s += 30
        for _ in range(8):
            shown.now_s += 6
            advance(1, {"n_tokens": 1200.0}, rows={"ok": 64})
    lines = shown.file.getvalue().splitlines()
    assert [line.partition(" rows: ")[0] for line in lines] == [
        "generate: 1 of 8 parts done, 64",
        "generate: 3 of 8 parts done, 192",
        "generate: 5 of 8 parts done, 320",
        "generate: 7 of 8 parts done, 448",
        "generate: 8 of 8 parts done, 512",
    ]
    assert lines[0].endswith(", about 42 s left, 36 s so far, 200 tokens/s")
    assert lines[-2].endswith(", about 6 s left, 1 min 12 s so far, 200 tokens/s")
    assert lines[-1].endswith(" rows: 512 ok, 1 min 18 s, 200 tokens/s")


def test_the_last_line_has_the_row_behind_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(monkeypatch, io.StringIO())
    with shown.view.progress(Task("train", "step", 2, "run/policy")) as advance:
        for _ in range(2):
            advance(1)
            advance(0, figures={"loss": "0.500"})
    assert shown.file.getvalue() == "train: 2 of 2 steps done, loss 0.500, 0 s\n"


def test_many_statuses_are_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(monkeypatch, io.StringIO())
    counts = {"tie": 3, "ok": 1, "no_reward": 9, "duplicate": 2, "too_few": 1, "other_sampler": 1}
    with shown.view.progress(Task("select", "part", 1, "run/groups")) as advance:
        advance(1, rows=counts)
    assert shown.file.getvalue() == (
        "select: 1 of 1 part done, "
        "17 rows: 1 ok, 9 no_reward, 3 tie, 2 duplicate, 2 of other statuses, 0 s\n"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


SCORE = Task("score", "part", 16, "run/scores", answered=lambda: Answered(12, 1064))


def test_rows_of_open_parts_are_shown_before_the_first_part_ends(on_terminal: Shown) -> None:
    with on_terminal.view.progress(SCORE) as advance:
        on_terminal.now_s += 75
        on_terminal.view.refresh()
        assert on_terminal.screen.lines[1].endswith(" 0 of 16 parts    0%")
        assert on_terminal.screen.lines[2:] == [
            "12 of 1,064 rows in open parts",
            "1 min 15 s so far",
        ]
        advance(1, rows={"ok": 64})
        on_terminal.view.refresh()
        assert on_terminal.screen.lines[2] == "64 rows: 64 ok   12 of 1,064 rows in open parts"


def test_a_log_has_lines_while_no_part_ends_fewer_as_time_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = Shown(monkeypatch, io.StringIO())
    with shown.view.progress(SCORE) as advance:
        for _ in range(3600):
            shown.now_s += 1
            shown.view.refresh()
        lines = shown.file.getvalue().splitlines()
        assert lines[0] == "score: 0 of 16 parts done, 12 of 1,064 rows in open parts, 10 s so far"
        assert [line.split(", ")[-1] for line in lines[1:3]] == ["20 s so far", "30 s so far"]
        assert 30 < len(lines) < 40
        advance(1, rows={"ok": 64})
        # as often as ever, behind a part that has ended
        for _ in range(10):
            shown.now_s += 1
            shown.view.refresh()
        assert len(shown.file.getvalue().splitlines()) == len(lines) + 2


def test_a_log_says_that_a_model_is_loaded_and_how_long_a_stage_without_a_count_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = Shown(monkeypatch, io.StringIO())
    with shown.view.progress(Task("select", "part", 1, "run/groups")) as advance:
        with shown.view.loading():
            shown.now_s += 12
            shown.view.refresh()
        shown.now_s += 12
        shown.view.refresh()
        advance(1)
    assert shown.file.getvalue().splitlines() == [
        "select: 0 of 1 part done, loading a model, 12 s so far",
        "select: 0 of 1 part done, 24 s so far",
        "select: 1 of 1 part done, 24 s",
    ]


def test_lines_come_while_nothing_is_counted_and_end_with_the_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread looks: the line is there before the first unit, however long that takes."""
    shown = Shown(monkeypatch, io.StringIO())
    monkeypatch.setattr(live_view, "LOOK_S", 0.001)
    view = LiveView(shown.console, clock=lambda: shown.now_s)
    with view.progress(SCORE):
        shown.now_s += 10
        gives_up_at = time.monotonic() + 60
        while not shown.file.getvalue():
            assert time.monotonic() < gives_up_at
            time.sleep(0.001)
    assert shown.file.getvalue().count("\n") == 1
    assert "progress lines" not in [thread.name for thread in threading.enumerate()]


def test_bytes_are_shown_in_the_unit_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the time that is left of them, whatever the number of files."""
    shown = Shown(monkeypatch, io.StringIO())
    task = Task("push", "byte", 4_000_000_000, "s3://b/x", n_kept=120_000)
    with shown.view.progress(task) as advance:
        shown.now_s = 10.0
        advance(1_000_000_000, figures={"files": "1 of 9"})
        shown.now_s = 20.0
        advance(1_000_000_000, figures={"files": "2 of 9"})
    assert shown.file.getvalue().splitlines()[-1] == (
        "push: 2.0 GB of 4.0 GB done (120 kB more kept), files 2 of 9, about 20 s left, 20 s so far"
    )
