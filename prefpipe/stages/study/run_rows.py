"""The outcome of each run at each budget, as rows of ``runs.parquet``."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_steps import StudyStep
from prefpipe.errors import PrefpipeError
from prefpipe.stages.study.places import seen_after, trained_tokens
from prefpipe.stages.study.progress import RunProgress
from prefpipe.stages.study.results import StudyRun


def rows_of_runs(plan: StudyPlan, folder: Path, runs: Sequence[RunProgress]) -> list[StudyRun]:
    """Return one row per run and budget: a run judged at a budget is done at that budget.

    Args:
        plan: of the study.
        folder: of the study.
        runs: all of the plan.
    """
    rows = []
    for run in runs:
        by_budget = {budget: place.step for place in run.places for budget in place.budgets}
        judged = {step.judged_at: step for step, _ in run.steps if step.name in run.finished}
        for budget in plan.judged_at:
            step = by_budget.get(budget)
            rows.append(_row(plan, folder, run, budget, step, judged.get(step)))
    return rows


def _row(
    plan: StudyPlan,
    folder: Path,
    run: RunProgress,
    budget: str,
    step: int | None,
    judged: StudyStep | None,
) -> StudyRun:
    prompts: int | None = None
    tokens: int | None = None
    computed: int | None = None
    if step is not None:
        n_steps = max(place.step for place in run.places)
        with suppress(PrefpipeError):
            prompts, tokens = seen_after(plan, folder, run.arm, run.seed, step)
            computed = trained_tokens(plan, folder, run.arm, run.seed, n_steps)

    status = "done" if judged is not None else run.state
    failed = run.failed if status == "failed" else None
    return StudyRun(
        arm=run.arm,
        seed=run.seed,
        budget=budget,
        status=status,
        evaluation=None if judged is None else judged.output,
        step=step,
        prompts=prompts,
        response_tokens=tokens,
        trained_tokens=computed,
        seconds=run.seconds if run.steps else None,
        failed_step=None if failed is None else failed.name,
        exit_code=None if failed is None else failed.exit_code,
    )
