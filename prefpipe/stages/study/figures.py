"""The figures of a study: each arm, and the declared contrasts, at each budget.

Reads: ``study.json``, ``results.parquet`` and ``runs.parquet`` of a study's folder, or of the copy
of these three under ``docs/evidence/``.

Promises: all figures of a measure at a budget are over the same prompts, those that have a value
in every run; a contrast is paired by prompt and seed, over the seeds that both arms have; no arm
and no run is left out: those that failed or wait are counted beside the figures.

What `figures_of` returns, NaN where a number is not known::

    study, model, target                as in the plan
    confidence, bootstrap_draws, bootstrap_seed
    measure                             key of the measure that contrasts are tested on
    worst_below, equivalence            of the plan, or None
    seeds, arms                         of the plan, in its order
    runs      planned, done, failed, waiting: counts of arms by seeds (a run is done when it is
              judged at all budgets)
              not_done: [{arm, seed, budget, status, failed_step, exit_code}]
    budgets   one entry a budget or epoch, in the plan's order:
        budget          "prompts", "response_tokens", "epoch-2"
        arms            one entry an arm: arm, n_planned, n_done, n_failed, n_waiting, seeds (done),
                        step, prompts, response_tokens, trained_tokens, seconds: means over the done
                        runs, or None
        measures        by key (`prefpipe.configs.study_measures`), in the order of the tables; a
                        measure without a value is left out:
            label, form, better
            n_prompts, n_missing    prompts that count, and those that lack a value in some run
            base                    FIGURE of the base, or None if it has none
            arms        one entry an arm that has a value: arm, seeds, FIGURE's keys, by_seed
                        (values in the order of seeds), to_base (FIGURE and by_seed of the paired
                        difference to the base) or None
            contrasts   one entry a contrast, declared ones first, in the plan's order:
                first, second       arms: the difference is first - second; an arm at an epoch,
                                    ``bt@6``, is compared at the epoch of the first
                declared            True: before the first run was judged
                seeds               that both arms have; [] if there is nothing to compare, and
                                    then the numbers below are None
                FIGURE's keys, by_seed
                detectable          difference found with power 0.8 by this test alone
                detectable_holm     the same at Holm's first step over the declared contrasts; of a
                                    contrast that was added later the same as `detectable`
                p, p_holm           two-sided, of the measure that is tested; else None. p_holm is
                                    None of one that was added later: it is not corrected
                equivalence         {margin, low, high, p, p_holm, is_equivalent} or None
                verdict             "higher", "lower": first against second; "not_separable";
                                    "unknown" without an error; "untested" of other measures
                sentence            the same in words
    notes     [text]

A FIGURE is {mean, se, low, high, se_seeds, se_prompts}: low and high are ends of the two-level
bootstrap interval, and se is made of what seeds and what prompts differ by (se_seeds is NaN of one
seed).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prefpipe.artifacts.study_tables import (
    PAIR_RESULTS,
    RESULTS,
    RESULTS_FILE,
    RUNS,
    RUNS_FILE,
    read_study_table,
)
from prefpipe.configs.study_measures import StudyMeasure
from prefpipe.configs.study_record import read_study_record
from prefpipe.errors import InputError
from prefpipe.maths.statistics.bootstrap import BOOTSTRAP, Bootstrap
from prefpipe.maths.statistics.detectable import detectable_difference, error_found
from prefpipe.maths.statistics.holm import holm
from prefpipe.maths.statistics.t_tests import equivalence, p_of_difference
from prefpipe.maths.statistics.two_level_figures import (
    SeedFigures,
    TwoLevelFigure,
    two_level_figure,
)
from prefpipe.stages.study.design import Contrast, StudyDesign, design_of
from prefpipe.stages.study.measured_arms import BudgetTable, MeasuredArms
from prefpipe.stages.study.sentences import sentence_of

MOST_NAMED = 5
"""Runs that a note names."""
FIGURE = ("mean", "se", "low", "high", "se_seeds", "se_prompts")


def figures_of(folder: Path, bootstrap: Bootstrap = BOOTSTRAP) -> dict[str, Any]:
    """Return the figures of a study's folder, or of a copy of its record and tables.

    The keys stand at the top of the module.

    Raises:
        InputError: no study, a table that is not there or cannot be read, or tables that do not
            agree.
    """
    return study_figures(*_read(folder), bootstrap)


def declared_differences(folder: Path) -> Iterator[np.ndarray]:
    """Yield the differences of each declared contrast, by seed and prompt, at each budget.

    Those of which two seeds or more are done, in the measure that is tested.

    Raises:
        InputError: as in `figures_of`.
    """
    design, results, runs = _read(folder)
    for budget in design.judged_at:
        table = BudgetTable(design, budget, results, runs)
        arms = MeasuredArms(table, design.measures[design.measure], BOOTSTRAP)
        for contrast in design.contrasts_at(budget):
            seeds = arms.shared_seeds(contrast.first, contrast.second)
            if contrast.declared and len(seeds) > 1 and arms.n_prompts > 1:
                first, second = (
                    arms.figures(arm, seeds) for arm in (contrast.first, contrast.second)
                )
                yield first.minus(second).contributions


def _read(folder: Path) -> tuple[StudyDesign, pl.DataFrame, pl.DataFrame]:
    record = read_study_record(folder)
    if record is None:
        raise InputError(
            f"{folder} holds no study.json",
            hint="pass the folder that `prefpipe study PLAN -o FOLDER` wrote, or a copy of its "
            f"study.json, {RESULTS_FILE} and {RUNS_FILE}",
        )
    results = pl.DataFrame(read_study_table(folder / RESULTS_FILE, (RESULTS, PAIR_RESULTS)))
    runs = pl.DataFrame(read_study_table(folder / RUNS_FILE, (RUNS,)))
    return design_of(record), results, runs


def study_figures(
    design: StudyDesign, results: pl.DataFrame, runs: pl.DataFrame, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return the figures of a study's two tables; the keys stand at the top of the module.

    Raises:
        InputError: tables that do not agree: a finished run without rows, rows of no finished run,
            a row twice, or a base whose rewards differ from run to run.
    """
    budgets, notes = [], [*design.notes, *_notes_of_others(design, runs)]
    for budget in design.judged_at:
        table = BudgetTable(design, budget, results, runs)
        measures = {}
        for key, measure in design.measures.items():
            figures = _measure_figures(table, key, measure, bootstrap)
            if figures is not None:
                measures[key] = figures
        budgets.append({"budget": budget, "arms": table.runs_of_arms(), "measures": measures})
        notes += [*table.notes, *table.notes_of_runs()]
    has_divergence = any("kl_per_token" in entry["measures"] for entry in budgets)
    if has_divergence and design.sampled_otherwise is not None:
        notes.append(f"KL is biased: responses were sampled at {design.sampled_otherwise}")

    return {
        "study": design.study,
        "model": design.model,
        "target": design.target,
        "confidence": bootstrap.level,
        "bootstrap_draws": bootstrap.n_draws,
        "bootstrap_seed": bootstrap.seed,
        "measure": design.measure,
        "worst_below": design.worst_below,
        "equivalence": design.equivalence,
        "seeds": list(design.seeds),
        "arms": list(design.arms),
        "runs": _counted_runs(design, runs),
        "budgets": budgets,
        "notes": notes,
    }


def _counted_runs(design: StudyDesign, runs: pl.DataFrame) -> dict[str, Any]:
    """Return how many runs are done at all budgets, failed at one, or wait; and those not done."""
    of_run: dict[tuple[str, int], set[str]] = {
        (arm, seed): set() for arm in design.arms for seed in design.seeds
    }
    for row in runs.iter_rows(named=True):
        key = (row["arm"], row["seed"])
        if key in of_run and row["budget"] in design.judged_at:
            of_run[key].add(row["status"])

    counts = {"done": 0, "failed": 0, "waiting": 0}
    for states in of_run.values():
        if "failed" in states:
            counts["failed"] += 1
        elif states == {"done"}:
            counts["done"] += 1
        else:
            counts["waiting"] += 1
    names = ("arm", "seed", "budget", "status", "failed_step", "exit_code")
    is_of_plan = pl.col("arm").is_in(list(design.arms)) & (pl.col("status") != "done")
    not_done = runs.filter(is_of_plan).select(names).to_dicts()
    return {"planned": len(of_run), **counts, "not_done": not_done}


def _notes_of_others(design: StudyDesign, runs: pl.DataFrame) -> Iterator[str]:
    """Yield the runs of the table that the plan does not have: they are in no figure."""
    others = sorted(
        {
            f"{row['arm']}, seed {row['seed']}"
            for row in runs.iter_rows(named=True)
            if row["arm"] not in design.arms or row["seed"] not in design.seeds
        }
    )
    if others:
        named = "; ".join(others[:MOST_NAMED]) + ("; ..." if len(others) > MOST_NAMED else "")
        yield f"{RUNS_FILE} has runs that are not in the plan and are left out: {named}"


def _measure_figures(
    table: BudgetTable, key: str, measure: StudyMeasure, bootstrap: Bootstrap
) -> dict[str, Any] | None:
    """Return a measure of all arms, None if no run has a value."""
    arms = MeasuredArms(table, measure, bootstrap)
    if not any(arms.seeds[arm] for arm in table.seeds):
        return None
    label, place = measure.label, f"at {table.budget}"
    for arm, seeds in table.seeds.items():
        for seed in sorted(set(seeds) - set(arms.seeds[arm])):
            table.notes.append(f"{label}, {place}: {arm}, seed {seed}, has no value")
    if not arms.n_prompts:
        table.notes.append(f"{label}, {place}: no prompt has a value in every run")
        return None

    judged = [arm for arm in table.seeds if arms.seeds[arm]]
    try:
        entries = [_arm_entry(arms, arm, measure, bootstrap) for arm in judged]
    except InputError as error:
        table.notes.append(f"no {label}, {place}: {error.message}")
        return None
    base = None
    if arms.has_base:
        base = _of_an_arm(two_level_figure(arms.base_figures(1), bootstrap), measure, bootstrap)
    return {
        "label": label,
        "form": measure.form,
        "better": measure.better,
        "n_prompts": arms.n_prompts,
        "n_missing": arms.n_missing,
        "base": base,
        "arms": entries,
        "contrasts": _contrast_entries(table, key, arms, measure, bootstrap),
    }


def _arm_entry(
    arms: MeasuredArms, arm: str, measure: StudyMeasure, bootstrap: Bootstrap
) -> dict[str, Any]:
    seeds = arms.seeds[arm]
    figures = arms.figures(arm, seeds)
    by_seed = arms.by_seed(arm, seeds)
    to_base = None
    if arms.has_base:
        base = arms.base_figures(len(seeds))
        difference = _difference(figures.minus(base), measure, bootstrap)
        to_base = {**_figure(difference), "by_seed": (by_seed - base.by_seed).tolist()}
    return {
        "arm": arm,
        "seeds": list(seeds),
        **_of_an_arm(two_level_figure(figures, bootstrap), measure, bootstrap),
        "by_seed": by_seed.tolist(),
        "to_base": to_base,
    }


def _contrast_entries(
    table: BudgetTable,
    key: str,
    arms: MeasuredArms,
    measure: StudyMeasure,
    bootstrap: Bootstrap,
) -> list[dict[str, Any]]:
    """Return the contrasts of a measure, declared ones first; Holm over these."""
    design = table.design
    contrasts = design.contrasts_at(table.budget)
    ordered = sorted(contrasts, key=lambda contrast: not contrast.declared)
    n_declared = sum(contrast.declared for contrast in ordered)
    is_tested, alpha = key == design.measure, 1.0 - bootstrap.level
    entries = []
    for contrast in ordered:
        n_tests = n_declared if contrast.declared else 1
        entry, difference = _contrast_entry(contrast, arms, measure, n_tests, bootstrap)
        if is_tested and difference is not None:
            entry["p"] = p_of_difference(difference.mean, difference.errors)
            if design.equivalence is not None:
                test = equivalence(
                    difference.mean, difference.errors, design.equivalence, alpha=alpha
                )
                entry["equivalence"] = {**test._asdict(), "p_holm": None}
        entries.append(entry)
    _correct(entries[:n_declared])
    for entry in entries:
        test = entry["equivalence"]
        if test is not None:
            p = test["p"] if test["p_holm"] is None else test["p_holm"]
            test["is_equivalent"] = bool(p <= alpha)
        entry["verdict"] = _verdict(entry, alpha, is_tested=is_tested)
        entry["sentence"] = sentence_of(entry, label=measure.label, form=measure.form)
    return entries


def _contrast_entry(
    contrast: Contrast,
    arms: MeasuredArms,
    measure: StudyMeasure,
    n_tests: int,
    bootstrap: Bootstrap,
) -> tuple[dict[str, Any], TwoLevelFigure | None]:
    """Return a contrast without its tests, and the difference; None if no seed has both arms."""
    first, second = contrast.first, contrast.second
    seeds = arms.shared_seeds(first, second)
    entry: dict[str, Any] = {
        "first": first,
        "second": second,
        "declared": contrast.declared,
        "seeds": seeds,
        **dict.fromkeys((*FIGURE, "detectable", "detectable_holm", "p", "p_holm", "equivalence")),
        "by_seed": [],
    }
    if not seeds:
        return entry, None

    figures = arms.figures(first, seeds).minus(arms.figures(second, seeds))
    difference = _difference(figures, measure, bootstrap)
    entry |= _figure(difference)
    entry["by_seed"] = (arms.by_seed(first, seeds) - arms.by_seed(second, seeds)).tolist()
    if not np.isnan(difference.se):
        error, alpha = error_found(figures.contributions), 1.0 - bootstrap.level
        entry["detectable"] = detectable_difference(error, alpha=alpha)
        entry["detectable_holm"] = detectable_difference(error, n_tests=n_tests, alpha=alpha)
    return entry, difference


def _correct(declared: Sequence[dict[str, Any]]) -> None:
    """Write Holm's p values into the declared contrasts, and into their tests of equivalence.

    A contrast that has no p value yet counts among them.
    """
    p_values = [np.nan if entry["p"] is None else entry["p"] for entry in declared]
    for entry, corrected in zip(declared, holm(np.array(p_values)), strict=True):
        if entry["p"] is not None:
            entry["p_holm"] = float(corrected)

    tests = [entry["equivalence"] for entry in declared]
    p_values = [np.nan if test is None else test["p"] for test in tests]
    for test, corrected in zip(tests, holm(np.array(p_values)), strict=True):
        if test is not None:
            test["p_holm"] = float(corrected)


def _verdict(entry: Mapping[str, Any], alpha: float, *, is_tested: bool) -> str:
    if not is_tested:
        return "untested"
    p = entry["p_holm"] if entry["declared"] else entry["p"]
    if p is None or np.isnan(p):
        return "unknown"
    if p > alpha:
        return "not_separable"
    return "higher" if entry["mean"] > 0 else "lower"


def _difference(
    figures: SeedFigures, measure: StudyMeasure, bootstrap: Bootstrap
) -> TwoLevelFigure:
    """Return a difference; of shares that are the same for all prompts its error is not known."""
    difference = two_level_figure(figures, bootstrap)
    if measure.is_share and difference.se == 0.0:
        unknown = difference.errors._replace(of_seeds=np.nan, of_prompts=np.nan)
        return TwoLevelFigure(difference.mean, np.nan, np.nan, unknown)
    if measure.is_share:
        return difference._replace(low=max(difference.low, -1.0), high=min(difference.high, 1.0))
    return difference


def _of_an_arm(
    figure: TwoLevelFigure, measure: StudyMeasure, bootstrap: Bootstrap
) -> dict[str, float]:
    """Return the figure of one arm, a share's interval within [0, 1].

    A share that is 0 for all prompts has no spread, and may be above 0 for others: its interval is
    Clopper and Pearson's of none of P prompts, ``[0, 1 - tail^(1/P)]``; of one that is 1 likewise.
    """
    values = _figure(figure)
    if not measure.is_share or np.isnan(values["low"]):
        return values
    values["low"], values["high"] = max(values["low"], 0.0), min(values["high"], 1.0)
    if figure.se == 0.0 and figure.mean in (0.0, 1.0):
        reach = 1.0 - bootstrap.tails[0] ** (1.0 / figure.errors.n_prompts)
        values["low"], values["high"] = (0.0, reach) if figure.mean == 0.0 else (1.0 - reach, 1.0)
    return values


def _figure(figure: TwoLevelFigure) -> dict[str, float]:
    errors = figure.errors
    return {
        "mean": figure.mean,
        "se": figure.se,
        "low": figure.low,
        "high": figure.high,
        "se_seeds": float(np.sqrt(errors.of_seeds)),
        "se_prompts": float(np.sqrt(errors.of_prompts)),
    }
