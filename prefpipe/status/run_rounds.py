"""A run of several rounds as a table: a row a round, a column a step."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

from prefpipe.artifacts import run_record
from prefpipe.artifacts.rounds import round_of, sampler_round_of
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.artifacts.store import Artifact
from prefpipe.configs.plan_sections import SECTIONS
from prefpipe.configs.recorded_commands import RecordedCommand
from prefpipe.configs.round_steps import number_of_folder, output_of
from prefpipe.configs.rounds_record import FILE_NAME as RECORD_NAME
from prefpipe.errors import PrefpipeError
from prefpipe.status.artifact_status import ArtifactStatus, State
from prefpipe.status.checker import StatusChecker
from prefpipe.status.origins import locate_parent
from prefpipe.status.run_plan import RunPlan, as_seen_from_here, run_of

CellState = State | Literal["missing", "-"]
GRAVITY: tuple[CellState, ...] = ("-", "done", "missing", "partial", "stale", "corrupt")
"""The states in the table, the least severe first."""


@dataclass(frozen=True)
class StepState:
    """The progress of a step of a round.

    ``state``: of its artifact; ``missing`` if the plan has the step and it has not begun, ``-``
    if there is no such step. ``detail``: how many parts there are of a partial one, or why it is
    stale. ``paths``: its artifacts, usually one.
    """

    state: CellState
    detail: str = ""
    paths: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"state": self.state, "detail": self.detail, "paths": list(self.paths)}


@dataclass(frozen=True)
class RoundRow:
    """One round: its steps by stage, the policy's learning rate, and what the plan changes here."""

    number: int
    steps: Mapping[str, StepState]
    learning_rate: float | None
    changes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "round": self.number,
            "steps": {stage: step.to_json() for stage, step in self.steps.items()},
            "learning_rate": self.learning_rate,
            "changes": list(self.changes),
        }


@dataclass(frozen=True)
class RunRounds:
    """The rounds of a run.

    Attributes:
        run: the folder.
        plan: the path of its plan, None of a run without one.
        stages: the columns, in order.
        rows: a round each.
        notes: what could not be checked.
        again: the command that continues it, as its words; [] if there is none to say or to do.
    """

    run: Path
    plan: str | None
    stages: tuple[str, ...]
    rows: tuple[RoundRow, ...]
    notes: tuple[str, ...] = ()
    again: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        """The most severe state of a step; a step that has not begun makes the run partial."""
        states = {step.state for row in self.rows for step in row.steps.values()}
        gravest = max(states, key=GRAVITY.index, default="done")
        if gravest in ("-", "done"):
            return "done"
        return "partial" if gravest == "missing" else gravest  # type: ignore[return-value]

    @property
    def reasons(self) -> list[str]:
        """Why steps are stale or corrupt, a line each: ``round 2, select: the plan says ...``."""
        lines = []
        for row in self.rows:
            for stage, step in row.steps.items():
                if step.state in ("stale", "corrupt"):
                    lines.append(f"round {row.number}, {stage}: {step.detail.rstrip(':')}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, among those of artifacts."""
        return {
            "path": str(self.run),
            "stage": "rounds",
            "state": self.state,
            "plan": self.plan,
            "stages": list(self.stages),
            "rounds": [row.to_json() for row in self.rows],
            "reasons": self.reasons,
            "notes": list(self.notes),
            "again": [list(self.again)] if self.again else [],
        }


def runs_in(path: Location, artifacts: Sequence[Location]) -> list[Path]:
    """Return the folders that hold rounds: ``path`` itself, or folders in it.

    Args:
        path: a folder.
        artifacts: that are in it.
    """
    # rounds are run on a disk
    if isinstance(path, Url):
        return []
    runs = [path] if (path / RECORD_NAME).exists() else []
    for artifact in filter(_is_on_disk, artifacts):
        run = artifact.parent.parent
        if run_of(artifact) is not None and (run == path or run.is_relative_to(path)):
            runs.append(run)
    return list(dict.fromkeys(runs))


def rounds_of_run(
    run: Path, artifacts: Sequence[Location], checker: StatusChecker, *, quick: bool
) -> RunRounds:
    """Return the rounds of a folder.

    If a plan is recorded there, each step's artifact is in the folder that the plan gives it. Else
    the lineage of an artifact gives its round.

    Args:
        run: the folder.
        artifacts: that are in it.
        checker: looks at each once.
        quick: look at the footers of parts alone, and not at every byte.
    """
    plan, notes = None, []
    try:
        plan = checker.plan_of_run(run)
    except PrefpipeError as error:
        notes.append(error.message)
    if plan is not None and plan.note is not None:
        notes.append(plan.note)

    statuses: dict[tuple[int, str], list[ArtifactStatus]] = {}
    for number, stage, path in _placed(run, artifacts, has_plan=plan is not None):
        status = checker.check(path, quick=quick)
        statuses.setdefault((number, stage), []).append(status)

    numbers = {number for number, _ in statuses}
    stages = {stage for _, stage in statuses}
    if plan is not None:
        numbers |= set(range(1, plan.plan.rounds + 1))
        stages |= set(plan.plan.stages)

    rows = []
    columns = [stage for stage in SECTIONS if stage in stages]
    for number in sorted(numbers):
        steps = {
            stage: _step(statuses.get((number, stage), []), plan, number, stage)
            for stage in columns
        }
        rate = _learning_rate(statuses.get((number, "train"), []))
        rows.append(RoundRow(number, steps, rate, tuple(_changes(plan, number))))

    again: list[str] = []
    states = {step.state for row in rows for step in row.steps.values()}
    if plan is not None and states - {"done", "-"}:
        again = plan.command(replaces_other_runs="stale" in states)
    return RunRounds(
        run,
        None if plan is None else str(as_seen_from_here(plan.record.path)),
        tuple(columns),
        tuple(rows),
        tuple(notes),
        tuple(again),
    )


def _placed(
    run: Path, artifacts: Sequence[Location], *, has_plan: bool
) -> Iterator[tuple[int, str, Path]]:
    """Yield the round and the stage of each artifact that is a step of a round."""
    for path in filter(_is_on_disk, artifacts):
        if not path.is_relative_to(run):
            continue
        try:
            artifact = Artifact.open(path)
        except PrefpipeError:
            # a record that cannot be read: its folder says what it is
            number = _round_by_folder(run, path)
            for stage in SECTIONS:
                if number is not None and output_of(run, number, stage) == path:
                    yield number, stage, path
            continue

        record = artifact.record
        if record.stage not in SECTIONS or not _is_output(record):
            continue
        number = None if has_plan else _round_by_lineage(artifact)
        if number is None:
            number = _round_by_folder(run, path)
        if number is not None:
            yield number, record.stage, path


def _is_on_disk(place: Location) -> TypeGuard[Path]:
    return isinstance(place, Path)


def _is_output(record: RunRecord) -> bool:
    """Whether an artifact is a command's own output, and not a side of an evaluation."""
    try:
        return RecordedCommand(record.command).stage == record.stage
    except ValueError:
        return True


def _round_by_lineage(artifact: Artifact) -> int | None:
    """Return the round that an artifact is part of, None if not known."""
    if artifact.record.stage in ("train", "eval"):
        return round_of(artifact.record)
    sampled_by = sampler_round_of([artifact.record])
    if sampled_by is not None:
        return sampled_by + 1

    # scores and embeddings are of the round of their candidates
    parent = locate_parent(artifact, "candidates")
    try:
        record = None if parent is None else run_record.read_run_record(parent)
    except PrefpipeError:
        record = None
    sampled_by = None if record is None else sampler_round_of([record])
    return None if sampled_by is None else sampled_by + 1


def _round_by_folder(run: Path, path: Path) -> int | None:
    """Return the round in whose folder an artifact is, None if it is in none."""
    if not path.is_relative_to(run):
        return None
    for name in path.relative_to(run).parts[:-1]:
        number = number_of_folder(name)
        if number is not None:
            return number
    return None


def _step(
    statuses: Sequence[ArtifactStatus], plan: RunPlan | None, number: int, stage: str
) -> StepState:
    """Return the progress of a step: the most severe state of its artifacts."""
    if not statuses:
        is_planned = plan is not None and number <= plan.plan.rounds and stage in plan.plan.stages
        return StepState("missing" if is_planned else "-")

    status = max(statuses, key=lambda each: GRAVITY.index(each.state))
    detail = ""
    if status.state == "partial" and status.missing:
        detail = f"{status.n_parts - len(status.missing)} of {status.n_parts}"
    elif status.state != "done" and status.reasons:
        detail = status.reasons[0]
    return StepState(status.state, detail, tuple(str(each.path) for each in statuses))


def _learning_rate(statuses: Sequence[ArtifactStatus]) -> float | None:
    """Return the learning rate of a round's policy, None if there is none or there are two."""
    rates = set()
    for status in statuses:
        try:
            identity = run_record.read_run_record(status.path).identity
        except PrefpipeError:
            continue
        rates.add(identity.get("learning_rate"))
    [rate] = rates if len(rates) == 1 else [None]
    return rate


def _changes(plan: RunPlan | None, number: int) -> Iterator[str]:
    """Yield the settings that the plan changes from a round on: ``train.learning_rate 2e-5``."""
    if plan is None:
        return
    if number > plan.plan.rounds:
        yield "not in the plan"  # which had more rounds once
    for stage, section in plan.plan.changes.get(number, {}).items():
        for key, value in section.items():
            yield f"{stage}.{key} {value}"
