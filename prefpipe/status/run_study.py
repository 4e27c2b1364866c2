"""A study as a table: a row an arm, a column a seed."""

from collections.abc import Iterator, Mapping
from contextlib import chdir, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.step_ledger import StepLedger
from prefpipe.artifacts.study_tables import RUNS, RUNS_FILE, read_study_table
from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_record import StudyRecord, read_study_record
from prefpipe.configs.study_steps import ARMS
from prefpipe.errors import UsageError
from prefpipe.stages.study.locks import SHARED, lock_of, lock_of_run
from prefpipe.stages.study.progress import RunProgress, StudyProgress
from prefpipe.stages.study.wording import ending, failure
from prefpipe.status.artifact_status import State
from prefpipe.status.run_plan import as_seen_from_here

RunCell = Literal["done", "running", "failed", "stale", "waiting"]


@dataclass(frozen=True)
class RunState:
    """The state of an arm with a seed, with details for the reader."""

    arm: str
    seed: int
    state: RunCell
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "arm": self.arm,
            "seed": self.seed,
            "state": self.state,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class StudyStatus:
    """The runs of a study.

    Attributes:
        folder: of the study.
        study: its name.
        plan: the path of its plan; None of a copy of record and results, where nothing is run.
        arms: of the plan, in its order.
        seeds: of the plan.
        runs: all of them, arm by arm.
        shared: what all runs need and is not made: names of steps, how one failed, or who is at it.
        notes: what could not be checked.
        again: the command that continues it, as its words; [] if there is none to say or to do.
    """

    folder: Path
    study: str
    plan: str | None
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[RunState, ...]
    shared: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    again: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many runs are in each state, those states that there are."""
        counts: dict[str, int] = {}
        for run in self.runs:
            counts[run.state] = counts.get(run.state, 0) + 1
        return counts

    @property
    def state(self) -> State:
        """``stale`` if a run is, ``partial`` if one is not done, for the exit code."""
        if "stale" in self.counts:
            return "stale"
        return "done" if set(self.counts) <= {"done"} and not self.shared else "partial"

    @property
    def reasons(self) -> list[str]:
        """Why runs are stale, a line each; ``coreset, seed 1: train --k 5 now, 3 then``."""
        return [
            f"{run.arm}, seed {run.seed}: {run.detail}" for run in self.runs if run.state == "stale"
        ]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, among those of artifacts."""
        return {
            "path": str(self.folder),
            "stage": "study",
            "state": self.state,
            "study": self.study,
            "plan": self.plan,
            "arms": list(self.arms),
            "seeds": list(self.seeds),
            "counts": self.counts,
            "runs": [run.to_json() for run in self.runs],
            "shared": list(self.shared),
            "reasons": self.reasons,
            "notes": list(self.notes),
            "again": [list(self.again)] if self.again else [],
        }


def status_of_study(folder: Path) -> StudyStatus:
    """Return the runs of a study, by its plan as it is now.

    For a copy of record and results, where no steps run, they come from ``runs.parquet``.

    Raises:
        InputError: a record, a ledger or a table that cannot be read.
    """
    record = read_study_record(folder)
    assert record is not None
    entries = StepLedger(folder).read()
    if not entries and (folder / RUNS_FILE).exists():
        return _of_tables(folder, record)

    plan, notes = _plan_of(record)
    # paths of the plan are relative to where it was run
    home = Path(record.folder)
    if not home.is_dir():
        notes.append(
            f"{home}, where the study was run, is not here: paths of the plan may be wrong"
        )
    elif home.resolve() != Path.cwd():
        notes.append(f"paths of the plan are relative to {home}: run the command there")
    with chdir(home) if home.is_dir() else nullcontext():
        place = as_seen_from_here(folder.resolve())
        progress = StudyProgress(plan, place, entries)
        shared = tuple(_shared_steps(progress, place))
        runs = [
            _run_state(progress.run(arm, seed), place, has_shared=not shared)
            for arm in plan.arms
            for seed in plan.seeds
        ]

    others = _other_arms(folder, plan)
    if others:
        notes.append(
            f"folders in {ARMS}/ that are not arms of the plan and are in no table: "
            f"{', '.join(others)}"
        )
    again: list[str] = []
    states = {run.state for run in runs}
    if shared or states - {"done"}:
        again = _command(folder, record, replaces_other_runs="stale" in states)
    return StudyStatus(
        folder,
        plan.study,
        str(as_seen_from_here(record.path)),
        tuple(plan.arms),
        plan.seeds,
        tuple(runs),
        shared,
        tuple(notes),
        tuple(again),
    )


def _of_tables(folder: Path, record: StudyRecord) -> StudyStatus:
    """Return the runs of a copied record with its results."""
    plan = record.plan_then()
    at_budgets: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in read_study_table(folder / RUNS_FILE, [RUNS]).to_pylist():
        at_budgets.setdefault((row["arm"], row["seed"]), []).append(row)

    runs = []
    for arm in plan.arms:
        for seed in plan.seeds:
            rows = at_budgets.get((arm, seed), [])
            failed = [row for row in rows if row["status"] == "failed"]
            if failed:
                runs.append(RunState(arm, seed, "failed", failure(failed[0])))
            elif rows and all(row["status"] == "done" for row in rows):
                runs.append(RunState(arm, seed, "done"))
            else:
                runs.append(RunState(arm, seed, "waiting"))
    note = "this is a copy of the study's record and results; no steps run here"
    return StudyStatus(
        folder, plan.study, None, tuple(plan.arms), plan.seeds, tuple(runs), notes=(note,)
    )


def _plan_of(record: StudyRecord) -> tuple[StudyPlan, list[str]]:
    """Return the current plan, or else the recorded one with the reason."""
    try:
        return record.plan_now(), []
    except UsageError as error:
        return record.plan_then(), [f"the recorded plan is used: {error.message}"]


def _other_arms(folder: Path, plan: StudyPlan) -> list[str]:
    """Return the folders of arms that are not in the plan, or have another name there."""
    arms = folder / ARMS
    if not arms.is_dir():
        return []
    return sorted(
        each.name for each in arms.iterdir() if each.is_dir() and each.name not in plan.arms
    )


def _shared_steps(progress: StudyProgress, study: Path) -> Iterator[str]:
    """Yield the missing steps that all runs need, and who is making them."""
    lock = lock_of(study, SHARED)
    is_held = lock.is_held()
    missing: list[str] = []
    for step, key in progress.shared():
        if progress.is_finished(step, key):
            continue
        failed = progress.last_failure([(step, key)])
        if failed is None or is_held:
            missing.append(step.name)
        else:
            yield f"failed: {ending(failed.name, failed.exit_code)}"
    if missing:
        made_by = f" ({lock.holder().line} is making it)" if is_held else ""
        yield f"not made yet: {'; '.join(missing)}{made_by}"


def _run_state(run: RunProgress, study: Path, *, has_shared: bool) -> RunState:
    """Return the state of a run; a running process counts before the last result.

    Until the shared steps are made again, it is unknown whether runs are made from them.
    """
    if run.state == "done":
        return RunState(run.arm, run.seed, "done")
    lock = lock_of_run(study, run.arm, run.seed)
    if lock.is_held():
        return RunState(run.arm, run.seed, "running", lock.holder().line)
    if run.changes and has_shared:
        return RunState(run.arm, run.seed, "stale", "; ".join(run.changes))
    if run.failed is not None:
        row = {"arm": run.arm, "seed": run.seed, "failed_step": run.failed.name}
        return RunState(
            run.arm, run.seed, "failed", failure(row | {"exit_code": run.failed.exit_code})
        )

    detail = f"{len(run.finished)} of {len(run.places)} judged" if run.finished else ""
    return RunState(run.arm, run.seed, "waiting", detail)


def _command(folder: Path, record: StudyRecord, *, replaces_other_runs: bool) -> list[str]:
    """Return the command that continues it, ready to paste."""
    plan = str(as_seen_from_here(record.path))
    # `Path` forgets the ./ by which it is no flag
    words = ["prefpipe", "study", f"./{plan}" if plan.startswith("-") else plan]
    words += ["-o", str(as_seen_from_here(folder))]
    if replaces_other_runs:
        words.append(f"--overwrite={Overwrite.STALE}")
    return words
