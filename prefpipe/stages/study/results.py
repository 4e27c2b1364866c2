"""The two tables of a study, made from the results of its finished runs.

Reads: the evaluation of each finished run, and the scores that it was made from; with ``truth``,
the scores of its held-out pairs (`prefpipe.stages.study.pair_results`).
Writes: ``results.parquet``, ``runs.parquet`` and ``summary.json``, each as a whole.

Promises: every run that the plan asks for has its rows in ``runs.parquet``, whatever its outcome;
evaluations by another recipe, or against another base, are refused and never mixed.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefpipe.artifacts.fingerprint import FieldDifference, field_differences
from prefpipe.artifacts.store import Artifact, open_input
from prefpipe.artifacts.study_tables import (
    PAIR_RESULTS,
    RESULTS,
    RESULTS_FILE,
    RUN_STATES,
    RUNS,
    RUNS_FILE,
    write_study_table,
)
from prefpipe.artifacts.summary_file import write_summary
from prefpipe.configs.study_keys import REWARD
from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_steps import (
    heldout_candidates_folder,
    heldout_logprobs_folder,
    heldout_scores_folder,
    policy_folder,
)
from prefpipe.errors import FingerprintError, InputError, UsageError
from prefpipe.maths.selection.rewards import parse_reward
from prefpipe.stages.evaluate.by_round import recipe_of_figures
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.stages.shared.pool_index import rewards_by_key
from prefpipe.stages.study.figures import figures_of
from prefpipe.stages.study.pair_results import (
    judge_policy,
    judge_reward_model,
    read_heldout_pairs,
)

OF_A_SIDE = (
    "reward",
    "n_tokens",
    "length_chars",
    "repetition",
    "self_bleu",
    "distinct_2",
    "embedding_diversity",
)
"""Columns of an evaluation that the results have of both sides."""


class StudyRun(NamedTuple):
    """The outcome of an arm and seed at one budget.

    Attributes:
        arm: its name.
        seed: of the training.
        budget: one of the plan's ``judged_at``.
        status: ``done``, ``failed`` or ``waiting``.
        evaluation: the folder that ``eval`` wrote, with ``truth`` that of ``score`` or
            ``logprobs``; of a run that is done.
        step: optimizer step that was judged.
        prompts: trained on until then.
        response_tokens: trained on until then.
        trained_tokens: computed by the whole training, prompts included.
        seconds: of the run's finished steps.
        failed_step: name of the step that failed.
        exit_code: its exit code.
    """

    arm: str
    seed: int
    budget: str
    status: str
    evaluation: Path | None = None
    step: int | None = None
    prompts: int | None = None
    response_tokens: int | None = None
    trained_tokens: int | None = None
    seconds: float | None = None
    failed_step: str | None = None
    exit_code: int | None = None


def write_results(plan: StudyPlan, folder: Path, runs: Sequence[StudyRun]) -> dict[str, Any]:
    """Write the tables of a study as it is now, and its figures; return these.

    Args:
        plan: of the study; ``study.json`` is written already.
        folder: of the study.
        runs: of every arm, seed and budget of the plan, each once.

    Raises:
        InputError: an evaluation that is not whole, or whose scores are other ones by now.
        FingerprintError: evaluations by several recipes, or against several bases.
        UsageError: runs that are not those of the plan.
        PrefpipeError: the disk is full, or the folder cannot be written to.
    """
    _check_runs(plan, runs)
    done = [run for run in runs if run.status == "done"]
    if plan.truth is None:
        rows = _policy_rows(done, plan.worst_below)
        write_study_table(folder / RESULTS_FILE, RESULTS, rows)
    else:
        rows = _pair_rows(plan, folder, done)
        write_study_table(folder / RESULTS_FILE, PAIR_RESULTS, rows)
    described = [
        {name: value for name, value in run._asdict().items() if name != "evaluation"}
        for run in runs
    ]
    write_study_table(folder / RUNS_FILE, RUNS, described)
    figures = figures_of(folder)
    write_summary(folder, figures)
    return figures


def _check_runs(plan: StudyPlan, runs: Sequence[StudyRun]) -> None:
    """Refuse runs that are not exactly those of the plan.

    Raises:
        UsageError: naming the first that is missing, twice, of no plan, or in no known state.
    """
    expected = {
        (arm, seed, budget) for arm in plan.arms for seed in plan.seeds for budget in plan.judged_at
    }
    seen: set[tuple[str, int, str]] = set()
    for run in runs:
        key = (run.arm, run.seed, run.budget)
        if key not in expected or key in seen:
            what = "occurs twice" if key in seen else "is not in the plan"
            raise UsageError(f"the run of {run.arm}, seed {run.seed}, at {run.budget} {what}")
        if run.status not in RUN_STATES:
            raise UsageError(f"a run is {', '.join(RUN_STATES)}, not {run.status!r}")
        if run.status == "done" and run.evaluation is None:
            raise UsageError(
                f"the run of {run.arm}, seed {run.seed}, is done and has no evaluation"
            )
        seen.add(key)
    for arm, seed, budget in sorted(expected - seen):
        raise UsageError(f"the run of {arm}, seed {seed}, at {budget} is left out")


def _pair_rows(plan: StudyPlan, folder: Path, runs: Sequence[StudyRun]) -> list[Row]:
    """Return the rows of finished runs, each judged by pairs of held-out responses."""
    assert plan.truth is not None
    if not runs:
        return []
    heldout = read_heldout_pairs(
        heldout_candidates_folder(plan, folder),
        heldout_scores_folder(plan, folder),
        reward=plan.truth.reward,
        gamma=plan.truth.gamma,
    )
    reference = heldout_logprobs_folder(folder)

    rows: list[Row] = []
    for run in runs:
        assert run.evaluation is not None
        if plan.target == REWARD:
            found = judge_reward_model(heldout, run.evaluation)
        else:
            policy = policy_folder(plan, folder, run.arm, run.seed)
            found = judge_policy(heldout, run.evaluation, reference, policy)
        key = {"arm": run.arm, "seed": run.seed, "budget": run.budget}
        rows += ({**key, **row} for row in found.by_prompt.fill_nan(None).to_dicts())
    return rows


def _policy_rows(runs: Sequence[StudyRun], worst_below: float | None) -> list[Row]:
    """Return the rows of finished runs, each judged by an evaluation."""
    rows: list[Row] = []
    opened: dict[Path, Artifact] = {}
    for run in runs:
        assert run.evaluation is not None
        if run.evaluation not in opened:
            evaluation = open_input(run.evaluation, schema="evaluation", name="evaluation")
            opened[run.evaluation] = evaluation
            _check_recipe(next(iter(opened.values())), evaluation)
        key = {"arm": run.arm, "seed": run.seed, "budget": run.budget}
        rows += ({**key, **row} for row in _rows_of(opened[run.evaluation], worst_below))
    return rows


def _rows_of(evaluation: Artifact, worst_below: float | None) -> Iterator[Row]:
    """Yield what an evaluation says of each prompt."""
    expression = str(evaluation.record.identity["reward"])
    of_policy = _rewards_by_prompt(evaluation, "policy", expression)
    of_base = _rewards_by_prompt(evaluation, "baseline", expression)
    for row in evaluation.read_all().to_pylist():
        prompt_id = row["prompt_id"]
        yield {
            "prompt_id": prompt_id,
            "preference": row["preference"],
            "log_ratio": row["policy_log_ratio"],
            "log_ratio_tokens": row["policy_log_ratio_tokens"],
            **{name: row[f"policy_{name}"] for name in OF_A_SIDE},
            **{f"base_{name}": row[f"baseline_{name}"] for name in OF_A_SIDE},
            **_of_samples("", of_policy.get(prompt_id, []), worst_below),
            **_of_samples("base_", of_base.get(prompt_id, []), worst_below),
        }


def _of_samples(prefix: str, rewards: Sequence[float], worst_below: float | None) -> Row:
    """Return what a mean over a prompt's samples does not show."""
    n_worst = None
    if worst_below is not None:
        n_worst = sum(reward < worst_below for reward in rewards)
    return {
        f"{prefix}n_rated": len(rewards),
        f"{prefix}n_worst": n_worst,
        f"{prefix}lowest_reward": min(rewards, default=None),
    }


def _rewards_by_prompt(evaluation: Artifact, side: str, expression: str) -> dict[str, list[float]]:
    """Return the rewards of a side's rated responses by prompt.

    Raises:
        InputError: the scores are gone, or other ones than the evaluation was made from.
    """
    parent = f"{side}_scores"
    folder = evaluation.folder / side / "scores"
    if not folder.exists():
        folder = Path(evaluation.record.parents[parent])
    scores = open_input(folder, schema="scores", name=f"scores of the {side}")
    made_from = evaluation.footer(0).parents.get(parent)
    if made_from != scores.digest():
        raise InputError(
            f"{evaluation.path} was not made from the scores that {folder} holds now",
            hint="run the evaluation again; `prefpipe status` prints the command",
        )

    return rewards_by_prompt(scores, expression)


def rewards_by_prompt(scores: Artifact, expression: str) -> dict[str, list[float]]:
    """Return the rewards of the responses of each prompt that have one.

    Args:
        scores: of the responses.
        expression: the reward, over the scorers.
    """
    rewards: dict[str, list[float]] = {}
    table = scores.read_all()
    keys = sorted(
        set(zip(table["prompt_id"].to_pylist(), table["sample_idx"].to_pylist(), strict=True))
    )
    for (prompt_id, _), reward in rewards_by_key(table, parse_reward(expression), keys).items():
        of_prompt = rewards.setdefault(prompt_id, [])
        if not np.isnan(reward):
            of_prompt.append(reward)
    return rewards


def _check_recipe(first: Artifact, other: Artifact) -> None:
    """Refuse evaluations whose figures do not compare.

    Raises:
        FingerprintError: naming what differs.
    """
    differences = field_differences(recipe_of_figures(first), recipe_of_figures(other))
    if not differences:
        differences = _differences_of_base(first, other)
    if differences:
        lines = [each.worded(f"in {first.path}", f"in {other.path}") for each in differences]
        raise FingerprintError(
            "the arms were not evaluated with the same settings:\n  " + "\n  ".join(lines),
            hint="evaluate all arms with one recipe against one held-out folder: prefpipe study "
            "PLAN --overwrite=stale",
        )


def _differences_of_base(first: Artifact, other: Artifact) -> list[FieldDifference]:
    parents = ("baseline_candidates", "baseline_scores")
    of_first, of_other = (
        {name: each.record.identity.get(name) for name in parents} for each in (first, other)
    )
    return list(field_differences(of_first, of_other))
