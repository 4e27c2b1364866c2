"""``prefpipe.run``: a stage from Python, as the command line runs it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from html import escape as html_escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.storage.unreadable import failure_of_bucket
from prefpipe.configs.plan_sections import words_of
from prefpipe.configs.stage import StageConfig
from prefpipe.configs.stages import EVALUATIONS, STAGES
from prefpipe.errors import PrefpipeError, UsageError
from prefpipe.spelling import did_you_mean
from prefpipe.surrogates import has_lone_surrogates

if TYPE_CHECKING:
    import polars as pl

    from prefpipe.execution.runtime import Advance, Task
    from prefpipe.stages.shared.partwise import Summary
    from prefpipe.wiring.surroundings import View


@dataclass(frozen=True)
class StageRun:
    """What a stage did.

    ``counts`` is rows by status, of all parts that this call is responsible for. ``n_parts_made``
    of them were made now, and ``n_parts_kept`` were finished before. ``facts`` is what
    ``--json`` prints beside these, and ``notes`` are the lines that the command prints at its end.
    """

    stage: str
    path: Location
    counts: Mapping[str, int]
    n_parts_made: int
    n_parts_kept: int
    facts: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    @property
    def n_rows(self) -> int:
        """Rows of any status."""
        return sum(self.counts.values())

    def read(self) -> "pl.DataFrame":
        """Return the rows that the stage wrote; see `prefpipe.read`.

        Raises:
            InputError: the stage writes no artifact of rows: ``export``, or ``train``.
        """
        from prefpipe.frames import read

        return read(self.path)

    def _repr_html_(self) -> str:
        """Return a table of rows by status, for notebooks."""
        rows = "".join(
            f"<tr><td>{html_escape(status)}</td><td style='text-align:right'>{count:,}</td></tr>"
            for status, count in sorted(self.counts.items())
        )
        title = f"<b>{html_escape(self.stage)}</b>: {self.n_rows:,} rows in "
        title += f"<code>{html_escape(str(self.path))}</code>, "
        title += f"{self.n_parts_made:,} parts made, {self.n_parts_kept:,} kept"
        notes = "".join(f"<br>{html_escape(note)}" for note in self.notes)
        table = f"<table><tr><th>status</th><th>rows</th></tr>{rows}</table>" if rows else ""
        return f"<div>{title}{table}{notes}</div>"


def run(stage: str, *inputs: str | Path, quiet: bool = False, **values: Any) -> StageRun:
    """Run a stage and return what it did.

    The same as the command: ``prefpipe.run("select", "run/candidates", scores="run/scores",
    output="run/groups", k=7)`` is ``prefpipe select run/candidates --scores run/scores -o
    run/groups --k 7``. What is finished is kept; the run record holds the command, so that
    ``prefpipe status`` names it.

    Signals are the caller's: KeyboardInterrupt ends the call, and finished parts stay.

    Args:
        stage: ``generate``, ``score``, ``embed``, ``select``, ``train``, ``eval``, ``judge``,
            ``logprobs``, ``import``, ``export``, ``eval rewardbench`` or ``eval calibration``.
        inputs: the command's arguments, in order.
        quiet: print nothing and show no progress.
        values: the command's flags, with ``_`` for ``-``; a list for a flag that may be repeated.

    Raises:
        UsageError: no such stage, an unknown or missing value, one that cannot be used; all at
            once.
        ErrorRateError: the stage finished, and too many rows failed.
        PrefpipeError: whatever else the command would end with.
    """
    try:
        return _run(stage, inputs, values, is_quiet=quiet)
    except PrefpipeError as error:
        error.show_hint()
        raise
    except OSError as error:
        unread = failure_of_bucket(error)
        if unread is None:
            raise
        unread.show_hint()
        raise unread from error


def _run(
    stage: str, inputs: Sequence[str | Path], values: Mapping[str, Any], *, is_quiet: bool
) -> StageRun:
    arguments = [str(each) for each in inputs]
    _require_recordable([*arguments, *values.values()])
    # None is what a flag that was not given is
    values = {name: _as_of_yaml(value) for name, value in values.items() if value is not None}
    config = _config_of(stage, arguments, values)

    from prefpipe.execution.library_output import library_output
    from prefpipe.wiring.open_settings import settled
    from prefpipe.wiring.stages import run_stage
    from prefpipe.wiring.surroundings import runtime_for

    log, view = _surroundings(is_quiet=is_quiet)
    given = {**_positional(type(config), arguments), **values}
    words = [word for each in words_of(type(config), given) for word in each.words()]
    argv = ["prefpipe", *config.stage.split(), *words]
    with library_output(log):
        config = settled(config, log)
        runtime = runtime_for(config, log=log, stop=_NeverStops(), view=view, argv=argv)
        return _result_of(run_stage(config, runtime))


def _config_of(stage: str, inputs: Sequence[str], values: Mapping[str, Any]) -> StageConfig:
    by_name = {config_class.stage: config_class for config_class in (*STAGES, *EVALUATIONS)}
    config_class = by_name.get(stage) if isinstance(stage, str) else None
    if config_class is None:
        raise UsageError(
            f"no stage is called {stage!r}{did_you_mean(str(stage), by_name)}",
            hint=f"stages are {', '.join(by_name)}; other commands run in a shell",
        )

    arguments = _positional(config_class, inputs)
    names = [item.name for item in fields(config_class)]
    problems = [
        f"unknown value `{name}`{did_you_mean(name, names)}" for name in values if name not in names
    ]
    problems += [f"`{name}` is given twice" for name in arguments if name in values]
    if problems:
        raise UsageError(
            f"prefpipe.run({stage!r}): {'; '.join(problems)}", hint=config_class.help_hint()
        )
    return config_class.from_values({**arguments, **values})


def _require_recordable(values: Sequence[Any]) -> None:
    """Check that run.json, a page and a command line can hold each text.

    Raises:
        UsageError: a text has half a character, or the character NUL.
    """
    for value in values:
        if isinstance(value, list | tuple):
            _require_recordable(value)
        elif isinstance(value, str | Path):
            text = str(value)
            name = text.encode(errors="backslashreplace").decode()
            if has_lone_surrogates(text):
                raise UsageError(f"{name} is not UTF-8", hint="rename the file or folder")
            if "\0" in text:
                raise UsageError(
                    f"{name!r} holds the character NUL", hint="no path or flag can hold it"
                )


def _as_of_yaml(value: Any) -> Any:
    """Return a value as a YAML file would give it: paths as texts, a NumPy number as Python's."""
    if isinstance(value, list | tuple):
        return [_as_of_yaml(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if getattr(value, "shape", None) == ():
        return value.item()
    return value


def _positional(config_class: type[StageConfig], inputs: Sequence[str]) -> dict[str, str]:
    """Return the arguments by field.

    Raises:
        UsageError: there are more than the command takes.
    """
    names = [item.name for item in fields(config_class) if item.metadata["positional"]]
    if len(inputs) > len(names):
        takes = ", ".join(names) or "none"
        raise UsageError(
            f"prefpipe.run({config_class.stage!r}) takes {len(names)} arguments ({takes}), "
            f"not {len(inputs)}",
            hint="give everything else by name: output=..., scores=...",
        )
    return dict(zip(names, inputs, strict=False))


class _NeverStops:
    """No signal is handled: the process is the caller's; see `StopSource`."""

    grace_s = 20.0

    def __call__(self) -> bool:
        return False

    def when_asked(self) -> float | None:
        return None

    def is_hurried(self) -> bool:
        return False

    def finishing(self, *, however_long: bool = False) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()

    def interruptible(self) -> AbstractContextManager[None]:
        return nullcontext()


class _NoView:
    """Shows no progress; see `View`."""

    def progress(self, task: "Task", /) -> AbstractContextManager["Advance"]:
        from prefpipe.execution.runtime import no_progress

        return no_progress(task)

    def loading(self) -> AbstractContextManager[None]:
        return nullcontext()


def _surroundings(*, is_quiet: bool) -> tuple[Callable[[str], None], "View"]:
    """Return where lines go, and what shows progress: a notebook's output, or stderr."""
    if is_quiet:
        return (lambda _line: None), _NoView()

    from rich.text import Text

    from prefpipe.pages.live_view import LiveView
    from prefpipe.pages.notebook_view import NotebookView
    from prefpipe.pages.stderr_console import StderrConsole

    show = _notebook_display()
    if show is not None:
        return print, NotebookView(show)
    console = StderrConsole()
    return (lambda line: console.print(Text(line))), LiveView(console)


def _notebook_display() -> Callable[[str], Callable[[str], None]] | None:
    """Return what `NotebookView` shows texts with; None where Python runs in no notebook."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return None
    shell: Any = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None

    def show(text: str) -> Callable[[str], None]:
        area: Any = display(  # type: ignore[no-untyped-call]
            _plain(text), raw=True, display_id=True
        )

        def update(text: str) -> None:
            area.update(_plain(text), raw=True)

        return update

    return show


def _plain(text: str) -> dict[str, str]:
    return {"text/plain": text}


def _result_of(summary: "Summary") -> StageRun:
    return StageRun(
        stage=summary.stage,
        path=summary.path,
        counts=dict(summary.counts),
        n_parts_made=summary.n_parts_made,
        n_parts_kept=summary.n_parts_kept,
        facts=dict(summary.facts),
        notes=tuple(summary.notes),
    )
