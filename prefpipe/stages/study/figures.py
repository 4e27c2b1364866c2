"""The figures of a study: each arm, and the declared contrasts, at each budget.

Reads: ``study.json``, ``results.parquet`` and ``runs.parquet`` of a study's folder, or of the copy
of these three under ``docs/evidence/``.

Promises: all figures of a measure at a budget are over the same prompts, those that have a value
in every run; a contrast is paired by prompt and seed, over the seeds that both arms have; no arm
and no run is left out: those that failed or wait are counted beside the figures.

What `prefpipe.stages.study.results.figures_of` returns, NaN where a number is not known::

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
            base                    FIGURE of the base, or None where it has none
            arms        one entry an arm that has a value: arm, seeds, FIGURE's keys, by_seed
                        (values in the order of seeds), to_base (FIGURE and by_seed of the paired
                        difference to the base) or None
            contrasts   one entry a contrast, declared ones first, in the plan's order:
                first, second       arms: the difference is first - second
                declared            True: before the first run was judged
                seeds               that both arms have; [] where there is nothing to compare, and
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

A FIGURE is {mean, se, low, high, df}: low and high are ends of the two-level bootstrap interval.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from prefpipe.configs.study_measures import StudyMeasure
from prefpipe.errors import InputError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.detectable import detectable_difference, error_found
from prefpipe.maths.statistics.holm import holm
from prefpipe.maths.statistics.t_tests import equivalence, p_of_difference
from prefpipe.maths.statistics.two_level import TwoLevelMean
from prefpipe.maths.statistics.two_level_figures import (
    SeedFigures,
    length_controlled_figures,
    lowest_share_figures,
    ratio_figures,
    two_level_figure,
)
from prefpipe.stages.study.sentences import sentence_of

MOST_RESAMPLED_DECILES, MOST_FITS = 2_000, 1_000
"""Resamples, at most, of figures that are made anew in each: a sort, or a fit of its own."""
SAME_BASE = 1e-9
"""By how much the base's reward of a prompt may differ from run to run: rounding."""
FIGURE = ("mean", "se", "low", "high", "df")
OF_RUNS = ("step", "prompts", "response_tokens", "trained_tokens", "seconds")


class Contrast(NamedTuple):
    """Two arms that are compared; ``declared`` before the first run was judged."""

    first: str
    second: str
    declared: bool = True


class StudyDesign(NamedTuple):
    """What of a study's record the figures need; the names are those of the plan."""

    study: str
    model: str
    target: str
    arms: Sequence[str]
    seeds: Sequence[int]
    judged_at: Sequence[str]
    measures: Mapping[str, StudyMeasure]
    measure: str
    contrasts: Sequence[Contrast] = ()
    worst_below: float | None = None
    equivalence: float | None = None
    notes: Sequence[str] = ()


def study_figures(
    design: StudyDesign, results: pl.DataFrame, runs: pl.DataFrame, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return the figures of a study's two tables; the keys stand at the top of the module.

    Raises:
        InputError: tables that do not agree: a finished run without rows, rows of no finished run,
            a row twice, or a base whose rewards differ from run to run.
    """
    budgets, notes = [], list(design.notes)
    for budget in design.judged_at:
        table = _BudgetTable(design, budget, results, runs)
        measures = {}
        for key, measure in design.measures.items():
            figures = _measure_figures(table, key, measure, bootstrap)
            if figures is not None:
                measures[key] = figures
        budgets.append({"budget": budget, "arms": table.runs_of_arms(), "measures": measures})
        notes += table.notes

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


class _BudgetTable:
    """The rows of a study at one budget, as values by seed and prompt.

    ``prompts``: of all runs, sorted, by which intervals draw them. ``seeds``: by arm, those of its
    finished runs. ``notes``: what a reader of this budget must know.
    """

    def __init__(
        self, design: StudyDesign, budget: str, results: pl.DataFrame, runs: pl.DataFrame
    ) -> None:
        self.design, self.budget = design, budget
        self.notes: list[str] = []
        self._runs = runs.filter(pl.col("budget") == budget)
        rows = results.filter(pl.col("budget") == budget)
        self.prompts = sorted(rows["prompt_id"].unique())
        self._frames = {
            (arm, seed): frame.drop("arm", "seed", "budget")
            for (arm, seed), frame in rows.partition_by("arm", "seed", as_dict=True).items()
        }
        done = self._runs.filter(pl.col("status") == "done")
        done_runs = set(zip(done["arm"], done["seed"], strict=True))
        self._check(done_runs)
        self.seeds = {
            arm: [seed for seed in design.seeds if (arm, seed) in done_runs] for arm in design.arms
        }
        self._values: dict[tuple[str, int, str], np.ndarray] = {}

    def _check(self, done_runs: set[tuple[str, int]]) -> None:
        """Refuse tables that do not agree.

        Raises:
            InputError: naming the first run that is in one of them alone, or has a prompt twice.
        """
        hint = "run the `prefpipe study` command of this folder again: it writes both tables anew"
        for arm, seed in sorted(done_runs ^ set(self._frames)):
            there = "runs.parquet" if (arm, seed) in done_runs else "results.parquet"
            raise InputError(
                f"{there} alone has a finished run of {arm}, seed {seed}, at {self.budget}",
                hint=hint,
            )
        for (arm, seed), frame in self._frames.items():
            if frame["prompt_id"].n_unique() < len(frame):
                raise InputError(
                    f"results.parquet has a prompt twice for {arm}, seed {seed}, at {self.budget}",
                    hint=hint,
                )

    def values(self, arm: str, seeds: Sequence[int], column: str) -> np.ndarray:
        """Return a column by seed and prompt (S, P), NaN where there is no value."""
        return np.stack([self._of_run(arm, seed, column) for seed in seeds])

    def base(self, column: str) -> np.ndarray:
        """Return a column of the base by prompt (P,): the mean over all runs that have one.

        Raises:
            InputError: rewards that differ from run to run: of another base, or rated otherwise.
        """
        runs = [(arm, seed) for arm, seeds in self.seeds.items() for seed in seeds]
        values_RP = np.stack([self._of_run(arm, seed, column) for arm, seed in runs])
        is_known_RP = ~np.isnan(values_RP)
        sums_P = np.where(is_known_RP, values_RP, 0.0).sum(axis=0)
        with np.errstate(invalid="ignore"):
            means_P = sums_P / is_known_RP.sum(axis=0)
        if column == "base_reward":
            with np.errstate(invalid="ignore"):
                is_other_RP = np.abs(values_RP - means_P) > SAME_BASE * (1.0 + np.abs(means_P))
            if is_other_RP.any():
                place, prompt = np.argwhere(is_other_RP)[0]
                arm, seed = runs[place]
                raise InputError(
                    f"the base's reward of prompt {self.prompts[prompt]} is another one in the run "
                    f"of {arm}, seed {seed}: its evaluation had another baseline",
                    hint="judge all arms against the same held-out folder",
                )
        return np.asarray(means_P)

    def _of_run(self, arm: str, seed: int, column: str) -> np.ndarray:
        key = (arm, seed, column)
        if key not in self._values:
            frame = self._frames[arm, seed]
            if column not in frame.columns:
                return np.full(len(self.prompts), np.nan)
            there = dict(zip(frame["prompt_id"], frame[column].cast(pl.Float64), strict=True))
            known = [there.get(prompt) for prompt in self.prompts]
            self._values[key] = np.array([np.nan if each is None else each for each in known])
        return self._values[key]

    def runs_of_arms(self) -> list[dict[str, Any]]:
        """Return the runs of each arm: how many, and the means of what the done ones took."""
        entries = []
        for arm in self.design.arms:
            rows = self._runs.filter(pl.col("arm") == arm)
            done = rows.filter(pl.col("status") == "done")
            n_failed = int((rows["status"] == "failed").sum())
            entries.append(
                {
                    "arm": arm,
                    "n_planned": len(self.design.seeds),
                    "n_done": len(done),
                    "n_failed": n_failed,
                    "n_waiting": len(self.design.seeds) - len(done) - n_failed,
                    "seeds": self.seeds[arm],
                    **{name: done[name].mean() for name in OF_RUNS},
                }
            )
        return entries


class _MeasuredArms:
    """One measure of all arms at a budget, over the prompts that have a value in every run.

    ``seeds``: by arm, of the runs that have a value at all. ``n_prompts`` count, ``n_missing`` lack
    a value in one of them.
    """

    def __init__(self, table: _BudgetTable, measure: StudyMeasure, bootstrap: Bootstrap) -> None:
        self._table, self._measure, self._bootstrap = table, measure, bootstrap
        self.label, self.form = measure.label, measure.form
        self._columns = [measure.column]
        if measure.below is not None:
            self._columns.append(measure.below)
        if measure.kind == "length_controlled":
            self._columns += ["length_chars", "base_length_chars"]

        self.seeds: dict[str, list[int]] = {}
        is_common_P = np.ones(len(table.prompts), dtype=bool)
        for arm, seeds in table.seeds.items():
            self.seeds[arm] = []
            for seed in seeds:
                is_known_P = self._is_known(arm, seed)
                if is_known_P.any():
                    self.seeds[arm].append(seed)
                    is_common_P &= is_known_P
        self._base: dict[str, np.ndarray] = {}
        if any(self.seeds.values()) and measure.of_base is not None:
            names = [measure.of_base, *filter(None, [measure.below_of_base])]
            columns = {name: table.base(name) for name in names}
            is_known_P = ~np.isnan(np.stack(list(columns.values()))).any(axis=0)
            if is_known_P.any():
                self._base = columns
                is_common_P &= is_known_P
        self._is_common_P = is_common_P
        self.n_prompts = int(is_common_P.sum())
        self.n_missing = len(is_common_P) - self.n_prompts
        self._figures: dict[str, SeedFigures] = {}

    def _is_known(self, arm: str, seed: int) -> np.ndarray:
        values_KP = np.stack(
            [self._table.values(arm, [seed], column)[0] for column in self._columns]
        )
        return np.asarray(~np.isnan(values_KP).any(axis=0))

    @property
    def has_base(self) -> bool:
        """Whether the base has the measure too."""
        return bool(self._base)

    def figures(self, arm: str, seeds: Sequence[int]) -> SeedFigures:
        """Return the figure of an arm's seeds.

        Raises:
            InputError: what cannot be fitted at equal lengths, or a ratio to nothing.
        """
        # a ratio is over all its seeds; other figures are of each seed alone, and made once
        if self._measure.kind in ("mean", "ratio"):
            return self._made(arm, seeds)
        if arm not in self._figures:
            self._figures[arm] = self._made(arm, self.seeds[arm])
        places = [self.seeds[arm].index(seed) for seed in seeds]
        return self._figures[arm].of_seeds(np.array(places))

    def base_figures(self, n_seeds: int) -> SeedFigures:
        """Return the figure of the base, the same for each of so many seeds."""
        names = list(self._base)
        columns = [self._base[name][None, self._is_common_P] for name in names]
        one = self._of_columns(columns)
        return one.of_seeds(np.zeros(n_seeds, dtype=np.int64))

    def by_seed(self, arm: str, seeds: Sequence[int]) -> np.ndarray:
        """Return the figure of each seed by itself, (S,)."""
        if self._measure.kind == "ratio":
            return np.array([self._made(arm, [seed]).by_seed[0] for seed in seeds])
        return self.figures(arm, seeds).by_seed

    def _made(self, arm: str, seeds: Sequence[int]) -> SeedFigures:
        return self._of_columns(
            [
                self._table.values(arm, seeds, column)[:, self._is_common_P]
                for column in self._columns
            ]
        )

    def _of_columns(self, columns: Sequence[np.ndarray]) -> SeedFigures:
        n_draws = self._bootstrap.n_draws
        if self._measure.kind == "ratio":
            return ratio_figures(columns[0], columns[1])
        if self._measure.kind == "lowest_decile":
            sorts = self._bootstrap._replace(n_draws=min(n_draws, MOST_RESAMPLED_DECILES))
            return lowest_share_figures(columns[0], bootstrap=sorts)
        if self._measure.kind == "length_controlled":
            fits = self._bootstrap._replace(n_draws=min(n_draws, MOST_FITS))
            return length_controlled_figures(columns[0], columns[1], columns[2], fits)
        return SeedFigures(columns[0])


def _measure_figures(
    table: _BudgetTable, key: str, measure: StudyMeasure, bootstrap: Bootstrap
) -> dict[str, Any] | None:
    """Return a measure of all arms, None where no run has a value."""
    arms = _MeasuredArms(table, measure, bootstrap)
    if not any(arms.seeds.values()):
        return None
    label, place = measure.label, f"at {table.budget}"
    for arm, seeds in table.seeds.items():
        for seed in sorted(set(seeds) - set(arms.seeds[arm])):
            table.notes.append(f"{label}, {place}: {arm}, seed {seed}, has no value")
    if not arms.n_prompts:
        table.notes.append(f"{label}, {place}: no prompt has a value in every run")
        return None

    entries = []
    try:
        for arm, seeds in arms.seeds.items():
            if seeds:
                entries.append(_arm_entry(arms, arm, seeds, bootstrap))
    except InputError as error:
        table.notes.append(f"no {label}, {place}: {error.message}")
        return None
    base = None
    if arms.has_base:
        base = _figure(two_level_figure(arms.base_figures(1), bootstrap))
    return {
        "label": label,
        "form": measure.form,
        "better": measure.better,
        "n_prompts": arms.n_prompts,
        "n_missing": arms.n_missing,
        "base": base,
        "arms": entries,
        "contrasts": _contrast_entries(table.design, key, arms, bootstrap),
    }


def _arm_entry(
    arms: _MeasuredArms, arm: str, seeds: Sequence[int], bootstrap: Bootstrap
) -> dict[str, Any]:
    figures = arms.figures(arm, seeds)
    by_seed = arms.by_seed(arm, seeds)
    to_base = None
    if arms.has_base:
        base = arms.base_figures(len(seeds))
        difference = two_level_figure(figures.minus(base), bootstrap)
        to_base = {**_figure(difference), "by_seed": (by_seed - base.by_seed).tolist()}
    return {
        "arm": arm,
        "seeds": list(seeds),
        **_figure(two_level_figure(figures, bootstrap)),
        "by_seed": by_seed.tolist(),
        "to_base": to_base,
    }


def _contrast_entries(
    design: StudyDesign, key: str, arms: _MeasuredArms, bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """Return the contrasts of a measure, declared ones first; Holm over these."""
    ordered = sorted(design.contrasts, key=lambda contrast: not contrast.declared)
    n_declared = sum(contrast.declared for contrast in ordered)
    is_tested, alpha = key == design.measure, 1.0 - bootstrap.level
    margin = design.equivalence if is_tested else None
    entries = [
        _contrast_entry(contrast, arms, bootstrap, n_declared, is_tested=is_tested, margin=margin)
        for contrast in ordered
    ]
    if is_tested:
        _correct(entries[:n_declared], alpha)
    for entry in entries:
        test = entry["equivalence"]
        if test is not None:
            p = test["p"] if test["p_holm"] is None else test["p_holm"]
            test["is_equivalent"] = bool(p <= alpha)
        entry["verdict"] = _verdict(entry, alpha, is_tested=is_tested)
        entry["sentence"] = sentence_of(entry, label=arms.label, form=arms.form)
    return entries


def _contrast_entry(
    contrast: Contrast,
    arms: _MeasuredArms,
    bootstrap: Bootstrap,
    n_declared: int,
    *,
    is_tested: bool,
    margin: float | None,
) -> dict[str, Any]:
    first, second = contrast.first, contrast.second
    # an arm that was declared, and that the plan has no more, has no seeds
    of_second = arms.seeds.get(second, [])
    seeds = [seed for seed in arms.seeds.get(first, []) if seed in of_second]
    entry: dict[str, Any] = {
        "first": first,
        "second": second,
        "declared": contrast.declared,
        "seeds": seeds,
        **dict.fromkeys((*FIGURE, "detectable", "detectable_holm", "p")),
        "by_seed": [],
        "p_holm": None,
        "equivalence": None,
    }
    if not seeds:
        return entry

    figures = arms.figures(first, seeds).minus(arms.figures(second, seeds))
    difference = two_level_figure(figures, bootstrap)
    alpha = 1.0 - bootstrap.level
    entry |= _figure(difference)
    entry["by_seed"] = (arms.by_seed(first, seeds) - arms.by_seed(second, seeds)).tolist()
    if arms.n_prompts > 1:
        error = error_found(figures.contributions)
        n_tests = n_declared if contrast.declared else 1
        entry["detectable"] = detectable_difference(error, alpha=alpha)
        entry["detectable_holm"] = detectable_difference(error, n_tests=n_tests, alpha=alpha)
    if is_tested:
        entry["p"] = p_of_difference(difference)
    if margin is not None:
        entry["equivalence"] = {
            **equivalence(difference, margin, alpha=alpha)._asdict(),
            "p_holm": None,
        }
    return entry


def _correct(declared: Sequence[dict[str, Any]], alpha: float) -> None:
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


def _figure(figure: TwoLevelMean) -> dict[str, float]:
    return {name: float(getattr(figure, name)) for name in FIGURE}
