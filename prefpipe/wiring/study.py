"""Run a study: one process after another makes its steps, and its ledger records which are made.

Any number of copies of the command share a study. One copy makes what all runs need, and the others
wait for it; then each copy takes an arm and seed that no other copy holds.
"""

import shlex
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from prefpipe.artifacts.atomic import make_folder
from prefpipe.artifacts.holders import Held, Holder
from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.step_ledger import STOPPED_CODES, StepEntry, StepLedger
from prefpipe.configs.study_record import write_study_record
from prefpipe.configs.study_steps import TRAINER, StudyStep, judged_folders
from prefpipe.errors import PrefpipeError, UsageError
from prefpipe.execution.step_process import STEP_VARIABLE, SignalSource, run_foreign, run_step
from prefpipe.models.files import holds_config
from prefpipe.stages.study.locks import RESULTS, SHARED, lock_of, lock_of_run
from prefpipe.stages.study.progress import RunProgress, StudyProgress, fingerprint_on_disk
from prefpipe.stages.study.prompts import refuse_different_prompts, refuse_leaked_prompts
from prefpipe.stages.study.results import write_results
from prefpipe.stages.study.run_rows import rows_of_runs
from prefpipe.stages.study.step_tokens import tokens_of
from prefpipe.stages.study.weights import WEIGHT_FILES, has_weights, remove_weights
from prefpipe.wiring.open_study import Study, command_of
from prefpipe.wiring.step_ends import (
    ABOVE,
    INTERRUPTED,
    STOPPED,
    environment_of_steps,
    error_of_step,
    settled_code,
    what_code_says,
)

POLL_S = 0.5
LONGEST_WAIT_S = 600.0
"""For a step that outlived its `prefpipe study`, which finishes what it has begun."""
NOT_FOUND = 127
"""Exit code of a trainer that cannot be run, as shells have it."""
NO_MODEL = 1
"""Exit code that counts for a trainer that says it is done and left nothing to judge."""
MOST_NAMED = 5
"""Runs that a message names."""


class Ending(NamedTuple):
    """The message at the end of an unfinished study, and the exit code."""

    error: PrefpipeError
    exit_code: int


class _Stopped(Exception):  # noqa: N818 - it is no error
    """A stop was requested; nothing more is run."""

    def __init__(self, ending: Ending) -> None:
        super().__init__()
        self.ending = ending


def run_study(
    study: Study,
    signals: SignalSource,
    log: Callable[[str], None],
    environment: Mapping[str, str],
) -> Ending | None:
    """Run the steps of a study that are not finished; return why it is not done, None if it is.

    A failed run does not end others: it is counted, and the next call tries it again.

    Args:
        study: of `open_study`.
        signals: those that this process is sent.
        log: what is run.
        environment: variables of the steps.

    Raises:
        UsageError: arms whose groups are of different prompts.
        PrefpipeError: the disk is full, or the folder cannot be written to.
    """
    make_folder(study.config.output)
    running = _RunningStudy(study, signals, log, environment)
    try:
        ending = running.prepare()
        if ending is None:
            running.run_all()
            ending = running.ending()
    except _Stopped as stopped:
        return stopped.ending
    return ending


class _RunningStudy:
    """One running copy of the command in a study's folder."""

    def __init__(
        self,
        study: Study,
        signals: SignalSource,
        log: Callable[[str], None],
        environment: Mapping[str, str],
    ) -> None:
        self._plan, self._config = study.plan, study.config
        self._arms, self._seeds = study.arms, study.seeds
        self._folder = study.config.output
        self._signals, self._log = signals, log
        self._environment = environment_of_steps(environment)
        self._ledger = StepLedger(self._folder)
        self._n_before = len(self._ledger.read())
        """Entries of the ledger when this copy began: later ones are of now."""
        self._refused: dict[str, Sequence[str]] = {}
        """Runs that were made otherwise, and in what."""
        self._held: dict[str, Holder] = {}
        """Runs that other copies are at."""
        self._gives_up_at: float | None = None
        self._results_error: PrefpipeError | None = None
        self._has_warned = False

    def prepare(self) -> Ending | None:
        """Make the steps that all runs need: the pool, the held-out responses and the selections.

        Returns:
            Why no run can begin; None if they can. A selection that fails is its arm's alone.

        Raises:
            UsageError: arms whose groups are of different prompts, or held-out prompts that are in
                the pool.
        """
        with self._waited_for(SHARED, "making the steps that all arms share") as held:
            self._write_record()
            progress = self._progress()
            for step, key in progress.shared():
                code = self._unless_finished(progress, step, key, held)
                if code != 0:
                    return self._ending_of(step, code)

            refuse_leaked_prompts(self._plan, self._folder)

            progress = self._progress()
            for step, key in progress.selections(self._selected_arms(), self._seeds):
                # groups of another configuration are for `--overwrite=stale`, as are their runs
                if self._config.overwrite or not progress.changes_of_groups(step, key):
                    self._unless_finished(progress, step, key, held)
        refuse_different_prompts(self._plan, self._folder, self._compared_arms(), self._seeds)
        return None

    def run_all(self) -> None:
        """Make all runs that no other copy makes: seed by seed over the arms.

        So the table is complete after each seed.
        """
        # where others have seen as many tokens is known when the rounds of that arm have run
        like = self._plan.budgets.like
        in_order = sorted(self._arms, key=lambda arm: arm != like)
        left = [(arm, seed) for seed in self._seeds for arm in in_order]
        while left:
            self._held = {}
            taken = [run for run in left if self._take(*run)]
            left = [run for run in left if run not in taken]
            # what another copy left behind is free in a moment, and runs of other copies are left
            # to them
            if not taken and not self._are_left_behind():
                break
        self._write_results()

    def ending(self) -> Ending | None:
        """Log what is done; return why this copy did not finish."""
        runs = self._progress().runs()
        done = {run.name for run in runs if run.state == "done"}
        self._log(f"\n{len(done)} of {len(runs)} runs are done")
        self._held = {name: who for name, who in self._held.items() if name not in done}
        if self._held:
            held = [f"{name} ({who.line})" for name, who in self._held.items()]
            self._log(f"other copies of this command are running: {_listed(held)}")
        if self._results_error is not None:
            return Ending(self._results_error, self._results_error.exit_code)

        chosen = [run for run in runs if run.arm in self._arms and run.seed in self._seeds]
        here = [run for run in chosen if run.state != "done" and run.name not in self._held]
        failed = [run for run in here if run.name not in self._refused]
        if failed:
            lines = [_failure_line(run) for run in failed]
            error = PrefpipeError(
                f"{len(failed)} of {len(chosen)} runs failed: {_listed(lines)}",
                hint=f"the figures cover the others; to try again, run: {command_of(self._config)}",
            )
            return Ending(error, error.exit_code)
        if self._refused:
            return self._refusal(len(chosen))
        return None

    def _take(self, arm: str, seed: int) -> bool:
        """Make a run unless another copy makes it; return whether nothing is left to do here."""
        name = f"{arm}, seed {seed}"
        like = f"{self._plan.budgets.like}, seed {seed}"
        if like in self._held and not self._progress().run(arm, seed).steps:
            # how many tokens it may see is known when that run is done
            self._held[name] = self._held[like]
            return False
        lock = lock_of_run(self._folder, arm, seed)
        with lock.tried() as held:
            if held is None:
                self._held[name] = lock.holder()
                return False
            self._warn_if_unsure(held)
            self._run(arm, seed, held)
        return True

    def _run(self, arm: str, seed: int, held: Held) -> None:
        """Make the unfinished steps of a run."""
        run = self._progress().run(arm, seed)
        if run.state == "done":
            self._remove_weights(run)
            return
        if self._has_failed_just_now(run):
            return  # another copy has tried it meanwhile
        if run.changes and not self._config.overwrite:
            self._refused[run.name] = run.changes
            return

        for step, key in run.steps:
            if step.name not in run.finished and self._run_step(step, key, held) != 0:
                self._write_results()
                return
        if run.steps:
            self._write_results()
            self._remove_weights(self._progress().run(arm, seed))

    def _run_step(self, step: StudyStep, key: str, held: Held | None) -> int:
        """Run a step to its end and record how it ended; return its exit code.

        Raises:
            _Stopped: a stop was requested.
        """
        if step.stage == TRAINER:
            if _holds_model(step.output) and self._progress().is_finished(step, key):
                return 0
            _clear(step.output)

        words = list(step.words)
        if self._config.overwrite and step.stage != TRAINER:
            words.append(f"--overwrite={self._config.overwrite}")
        shown = words if step.stage == TRAINER else ["prefpipe", *words]
        self._log(f"\n{step.name}\n$ {shlex.join(shown)}")

        is_new = not step.output.exists()
        began = time.monotonic()
        code = self._end_of(step, words, [] if held is None else [held.descriptor])
        seconds = time.monotonic() - began
        asked = self._signals.number
        stop_code = INTERRUPTED if asked == signal.SIGINT else STOPPED
        if step.stage == TRAINER:
            code = self._code_of_trainer(step, code, stop_code if asked is not None else None)
        code = settled_code(code, self._signals, is_last=True)

        n_tokens = tokens_of(step.stage, step.output) if is_new and code == 0 else None
        self._ledger.add(
            StepEntry(
                key=key,
                name=step.name,
                stage=step.stage,
                words=tuple(step.words),
                exit_code=code,
                seconds=round(seconds, 3),
                ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
                host=socket.gethostname(),
                n_tokens=n_tokens,
                arm=step.arm,
                seed=step.seed,
                judged_at=step.judged_at,
                fingerprint=fingerprint_on_disk(step.output) if code == 0 else None,
                keeps_weights=step.judged_at is not None and self._config.keep_policies,
            )
        )
        if code in STOPPED_CODES:
            raise _Stopped(self._ending_of(step, code))
        if asked is not None:
            if step.judged_at is not None and code == 0:
                self._write_results()  # of a run that may be done by it
            raise _Stopped(self._ending_of(step, stop_code))
        # the study ends with what all arms share, and says it then
        if code != 0 and step.arm is not None:
            self._log(f"{step.name}: {what_code_says(code)}")
        return code

    def _code_of_trainer(self, step: StudyStep, code: int, stop_code: int | None) -> int:
        """Return the meaning of another trainer's exit code.

        Args:
            step: that ended.
            code: with which it ended.
            stop_code: of a requested stop, None if none was.
        """
        if code != 0:
            return code if stop_code is None else stop_code  # it has no code for a stop
        if _holds_model(step.output):
            return code
        self._log(f"the trainer of {step.arm} wrote no model weights to {step.output}")
        return NO_MODEL

    def _end_of(self, step: StudyStep, words: Sequence[str], kept_open: Sequence[int]) -> int:
        """Run a command to its end and return its exit code."""
        run = run_foreign if step.stage == TRAINER else run_step
        try:
            return run(
                words,
                environment={**self._environment, STEP_VARIABLE: self._which(step)},
                signals=self._signals,
                kept_open=kept_open,
            )
        except KeyboardInterrupt:  # Ctrl-C, or a second signal; the process says the rest
            self._log(f"{step.name}: to continue, run: {command_of(self._config)}")
            raise
        except OSError as error:
            # a trainer that is not there
            self._log(f"{words[0]} cannot be run: {error.strerror or error}")
            return NOT_FOUND

    def _which(self, step: StudyStep) -> str:
        """Return the line that names a step, its run, and the number of runs."""
        runs = [(arm, seed) for seed in self._seeds for arm in self._arms]
        for number, run in enumerate(runs, start=1):
            if run == (step.arm, step.seed):
                return f"run {number} of {len(runs)}: {step.name}"
        return step.name

    def _unless_finished(
        self, progress: StudyProgress, step: StudyStep, key: str, held: Held | None
    ) -> int:
        if progress.is_finished(step, key):
            return 0
        return self._run_step(step, key, held)

    def _ending_of(self, step: StudyStep, code: int) -> Ending:
        """Return the message for a step that ends the study."""
        error, exit_code = error_of_step(
            step.name,
            code,
            go_on=command_of(self._config),
            stage=step.stage,
            output=step.output,
            may_be_stale=not self._config.overwrite,
        )
        return Ending(error, exit_code)

    def _refusal(self, n_chosen: int) -> Ending:
        """Return the error for runs whose settings differ from the plan."""
        lines = [f"{name}: {', '.join(changes)}" for name, changes in self._refused.items()]
        again = command_of(replace(self._config, overwrite=Overwrite.STALE))
        error = UsageError(
            f"{len(self._refused)} of {n_chosen} runs were made with other settings than those "
            f"in the plan: {_listed(lines)}",
            hint=f"if you changed the plan on purpose, run: {again}; until then their figures "
            "are left out",
        )
        return Ending(error, error.exit_code)

    def _remove_weights(self, run: RunProgress) -> None:
        """Remove the weights of a judged run, unless the plan keeps or kept them."""
        steps = [step for step, _ in run.steps]
        if run.state != "done" or run.keeps_weights or self._config.keep_policies:
            return
        if has_weights(steps):
            n_bytes = remove_weights(steps)
            self._log(f"{run.name}: judged; its weights are removed, {n_bytes / 1e6:,.0f} MB")

    def _write_results(self) -> None:
        """Write the tables of all finished runs; a problem with them does not end a run."""
        with self._waited_for(RESULTS, "another copy is writing the results"):
            runs = self._progress().runs()
            try:
                write_results(
                    self._plan, self._folder, rows_of_runs(self._plan, self._folder, runs)
                )
            except PrefpipeError as error:
                self._log(f"warning: the results could not be written: {error.message}")
                self._results_error = error
            else:
                self._results_error = None

    def _write_record(self) -> None:
        # what was judged may have been seen, also where somebody has removed the ledger
        has_results = any(
            entry.is_done and entry.judged_at is not None for entry in self._ledger.read()
        ) or any(map(fingerprint_on_disk, judged_folders(self._folder)))
        write_study_record(self._folder, self._config.plan, self._plan, has_results=has_results)

    def _progress(self) -> StudyProgress:
        return StudyProgress(self._plan, self._folder, self._ledger.read())

    def _has_failed_just_now(self, run: RunProgress) -> bool:
        return any(
            entry.has_failed and (entry.arm, entry.seed) == (run.arm, run.seed)
            for entry in self._ledger.read()[self._n_before :]
        )

    def _selected_arms(self) -> list[str]:
        """Return the arms whose groups are needed: those to run, and the one of the budget."""
        like = self._plan.budgets.like
        return list(dict.fromkeys([*self._arms, *([] if like is None else [like])]))

    def _compared_arms(self) -> list[str]:
        """Return the arms to run, and those selected by an earlier call."""
        progress = self._progress()
        arms = []
        for arm in self._plan.arms:
            selections = progress.selections([arm], self._seeds)
            if arm in self._arms or all(progress.is_finished(*each) for each in selections):
                arms.append(arm)
        return arms

    @contextmanager
    def _waited_for(self, name: str, what: str) -> Iterator[Held | None]:
        """Take a lock, after waiting for another copy that has it."""
        lock = lock_of(self._folder, name)
        has_said = False
        while True:
            with lock.tried() as held:
                if held is not None:
                    self._warn_if_unsure(held)
                    yield held
                    return
            if not has_said:
                self._log(f"{what} ({lock.holder().line}): waiting for it")
                has_said = True
            time.sleep(POLL_S)

    def _are_left_behind(self) -> bool:
        """Wait for the last step of a run whose copy is gone; return whether there is one.

        A step that outlives its command keeps the lock, so no other copy continues the run.
        """
        gone = [name for name, holder in self._held.items() if holder.is_gone]
        if not gone:
            return False
        if self._gives_up_at is None:
            self._gives_up_at = time.monotonic() + LONGEST_WAIT_S
            self._log(
                f"waiting for a step that is still running without its command: {_listed(gone)}"
            )
        time.sleep(POLL_S)
        return time.monotonic() < self._gives_up_at

    def _warn_if_unsure(self, held: Held) -> None:
        if held.is_sure or self._has_warned:
            return
        self._has_warned = True
        self._log(
            f"warning: the file system of {self._folder} has no locks, so two copies of this "
            "command would train the same arm: run only one"
        )


def _clear(folder: Path) -> None:
    """Clear the folder for another trainer, which could read half-written files as complete."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder.parent)


def _holds_model(folder: Path) -> bool:
    return holds_config(folder) and any(any(folder.glob(pattern)) for pattern in WEIGHT_FILES)


def _failure_line(run: RunProgress) -> str:
    """Return why a run is not done."""
    if run.failed is None:
        return f"{run.name}: {run.problem or 'it is not finished'}"
    name, code = run.failed.name, run.failed.exit_code
    # a selection is of all seeds, and the run of one
    whose = name if name.startswith(run.name) else f"{run.name}, for {name}"
    said = what_code_says(code).removesuffix(ABOVE)
    return f"{whose}: {said}" if code >= 0 else f"{whose} {said}"


def _listed(lines: Sequence[str]) -> str:
    """Return the first lines, and how many more there are."""
    shown = list(lines[:MOST_NAMED])
    if len(lines) > MOST_NAMED:
        shown.append(f"and {len(lines) - MOST_NAMED} more")
    return "; ".join(shown)
