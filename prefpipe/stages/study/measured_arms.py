"""The tables of a study as values by seed and prompt, and a measure of all arms made of them.

Axes: R runs, S seeds, P prompts.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from prefpipe.configs.study_keys import PROMPTS
from prefpipe.configs.study_measures import StudyMeasure
from prefpipe.errors import InputError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.two_level_figures import (
    SeedFigures,
    length_controlled_figures,
    lowest_share_figures,
    ratio_figures,
)
from prefpipe.stages.study.design import StudyDesign, arm_and_budget

MOST_RESAMPLED_DECILES, MOST_FITS = 2_000, 1_000
"""Resamples, at most, of figures that are computed again in each: a sort or a fit."""
SAME_BASE = 1e-9
"""By how much the base's reward of a prompt may differ from run to run: rounding."""
OF_RUNS = ("step", "prompts", "response_tokens", "trained_tokens", "seconds")


class BudgetTable:
    """The rows of a study at one budget, as values by seed and prompt.

    ``prompts``: of all runs, sorted, by which intervals draw them. ``seeds``: by arm, those of its
    finished runs. ``notes``: what a reader of this budget must know.
    """

    def __init__(
        self, design: StudyDesign, budget: str, results: pl.DataFrame, runs: pl.DataFrame
    ) -> None:
        self.design, self.budget = design, budget
        self.notes: list[str] = []
        self._results, self._all_runs = results, runs
        self._others: dict[str, BudgetTable] = {}
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

        # the last step of an epoch is short, and the shorter the larger an arm's steps are
        seen = done["prompts"].drop_nulls().unique().sort().to_list()
        if budget == PROMPTS and len(seen) > 1:
            self.notes.append(f"at {budget}: runs were trained on {seen[0]:,} to {seen[-1]:,}")

    def _check(self, done_runs: set[tuple[str, int]]) -> None:
        """Refuse tables that do not agree.

        Raises:
            InputError: naming the first run that is in one of them alone, or has a prompt twice.
        """
        hint = "run the `prefpipe study` command of this folder again to rewrite both tables"
        for arm, seed in sorted(done_runs ^ set(self._frames)):
            there = "runs.parquet" if (arm, seed) in done_runs else "results.parquet"
            raise InputError(
                f"{there} alone has a finished run of {arm}, seed {seed}, at {self.budget}",
                hint=hint,
            )
        for (arm, seed), frame in self._frames.items():
            if frame["prompt_id"].n_unique() < len(frame):
                raise InputError(
                    f"results.parquet has the same prompt twice for {arm}, seed {seed}, at "
                    f"{self.budget}",
                    hint=hint,
                )

    def values(self, arm: str, seeds: Sequence[int], column: str) -> np.ndarray:
        """Return a column by seed and prompt (S, P), NaN if there is no value.

        The arm may be one at another epoch, ``bt@2``.
        """
        name, budget = arm_and_budget(arm)
        table = self._at(budget)
        if table is self:
            return np.stack([self._of_run(name, seed, column) for seed in seeds])

        places = {prompt: place for place, prompt in enumerate(table.prompts)}
        # a prompt without a row there has row -1, which is the NaN at the end
        rows = [places.get(prompt, -1) for prompt in self.prompts]
        values_SP = table.values(name, seeds, column)
        return np.pad(values_SP, ((0, 0), (0, 1)), constant_values=np.nan)[:, rows]

    def seeds_of(self, arm: str) -> list[int]:
        """Return the seeds of an arm's finished runs; the arm may be one at another epoch.

        None of an arm that was declared in a contrast, and that the plan has no more.
        """
        name, budget = arm_and_budget(arm)
        return self._at(budget).seeds.get(name, [])

    def _at(self, budget: str | None) -> "BudgetTable":
        if budget in (None, self.budget):
            return self
        assert budget is not None
        if budget not in self._others:
            self._others[budget] = BudgetTable(self.design, budget, self._results, self._all_runs)
        return self._others[budget]

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
                    f"the base's reward of prompt {self.prompts[prompt]} differs in the run of "
                    f"{arm}, seed {seed}, so its evaluation had another baseline",
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

    def notes_of_runs(self) -> Iterator[str]:
        """Yield the runs of two seeds that are one."""
        for arm, seeds in self.seeds.items():
            frames = {seed: self._frames[arm, seed].sort("prompt_id") for seed in seeds}
            for place, seed in enumerate(seeds):
                twin = next(
                    (one for one in seeds[:place] if frames[one].equals(frames[seed])), None
                )
                if twin is not None:
                    yield (
                        f"at {self.budget}: {arm} has the same values for every prompt with the "
                        f"seeds {twin} and {seed}, which count as two seeds: check that no run "
                        "was copied and that the trainer uses its seed"
                    )

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


class MeasuredArms:
    """One measure of all arms at a budget, over the prompts that have a value in every run.

    ``seeds``: by arm, of the runs that have a value at all; with the sides of contrasts that are
    arms at an epoch. ``n_prompts`` count, ``n_missing`` lack a value in one of these runs.
    """

    def __init__(self, table: BudgetTable, measure: StudyMeasure, bootstrap: Bootstrap) -> None:
        self._table, self._measure, self._bootstrap = table, measure, bootstrap
        self._columns = [measure.column]
        if measure.below is not None:
            self._columns.append(measure.below)
        if measure.kind == "length_controlled":
            self._columns += ["length_chars", "base_length_chars"]

        sides = [
            side
            for contrast in table.design.contrasts_at(table.budget)
            for side in (contrast.first, contrast.second)
        ]
        self.seeds: dict[str, list[int]] = {}
        is_common_P = np.ones(len(table.prompts), dtype=bool)
        for arm in dict.fromkeys([*table.seeds, *sides]):
            seeds = table.seeds_of(arm)
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

    def shared_seeds(self, first: str, second: str) -> list[int]:
        """Return the seeds that have a value of both arms; none of an arm that the plan lacks."""
        of_second = self.seeds.get(second, [])
        return [seed for seed in self.seeds.get(first, []) if seed in of_second]

    def base_figures(self, n_seeds: int) -> SeedFigures:
        """Return the figure of the base, the same for each of so many seeds."""
        names = list(self._base)
        columns = [self._base[name][None, self._is_common_P] for name in names]
        one = self._of_columns(columns)
        return one.of_seeds(np.zeros(n_seeds, dtype=np.int64))

    def by_seed(self, arm: str, seeds: Sequence[int]) -> np.ndarray:
        """Return the figure of each single seed, (S,)."""
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
