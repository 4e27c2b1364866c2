"""The figures of a study, recomputed with plain polars and numpy from its two tables."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats
from support.study_tables import N_PROMPTS, PLAN, declare_later, write_study

from prefpipe.artifacts.study_tables import RESULTS, RUNS, write_study_table
from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_record import write_study_record
from prefpipe.errors import InputError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.stages.study.figures import figures_of

FEW = Bootstrap(n_draws=300)


def read(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "results.parquet")


def measure(figures: dict[str, Any], name: str = "reward", budget: int = 0) -> dict[str, Any]:
    return figures["budgets"][budget]["measures"][name]


def arm(figures: dict[str, Any], name: str, key: str = "reward", budget: int = 0) -> dict[str, Any]:
    arms = measure(figures, key, budget)["arms"]
    return next(each for each in arms if each["arm"] == name)


def rewrite(folder: Path, frame: pl.DataFrame, name: str = "results.parquet") -> None:
    schema = RESULTS if name.startswith("results") else RUNS
    write_study_table(folder / name, schema, frame.to_dicts())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    return folder


@pytest.fixture(scope="module")
def figures(folder: Path) -> dict[str, Any]:
    return figures_of(folder, FEW)


def test_means_by_arm_are_those_of_the_rows(folder: Path, figures: dict[str, Any]) -> None:
    """As docs/evidence.md says how to recompute them, to 1e-9."""
    means = read(folder).group_by("budget", "arm").agg(pl.col("reward").mean())
    for place, budget in enumerate(("prompts", "response_tokens")):
        for name in ("best", "same", "worse"):
            here = (pl.col("budget") == budget) & (pl.col("arm") == name)
            expected = means.filter(here)["reward"].item()
            assert arm(figures, name, budget=place)["mean"] == pytest.approx(expected, abs=1e-12)


def test_a_contrast_is_paired_by_prompt_and_seed(folder: Path, figures: dict[str, Any]) -> None:
    """Difference, error, p and detectable difference's ingredients, by polars and scipy."""
    rows = read(folder).filter(pl.col("budget") == "response_tokens")
    wide = rows.pivot("arm", index=["prompt_id", "seed"], values="reward")
    wide = wide.with_columns((pl.col("best") - pl.col("worse")).alias("difference"))
    by_seed = wide.group_by("seed").agg(pl.col("difference").mean())["difference"]
    by_prompt = wide.group_by("prompt_id").agg(pl.col("difference").mean())["difference"]
    in_seeds, in_prompts = by_seed.var() / 3, by_prompt.var() / N_PROMPTS

    [contrast] = [
        each for each in measure(figures, budget=1)["contrasts"] if each["second"] == "worse"
    ]
    assert contrast["mean"] == pytest.approx(wide["difference"].mean(), abs=1e-12)
    assert contrast["se"] == pytest.approx(np.sqrt(in_seeds + in_prompts), abs=1e-12)
    assert (contrast["se_seeds"], contrast["se_prompts"]) == pytest.approx(
        (np.sqrt(in_seeds), np.sqrt(in_prompts)), abs=1e-12
    )
    assert sorted(contrast["by_seed"]) == pytest.approx(sorted(by_seed.to_list()), abs=1e-12)
    t_seeds = stats.t.ppf(1 - contrast["p"] / 2, 2)
    t_prompts = stats.t.ppf(1 - contrast["p"] / 2, N_PROMPTS - 1)
    half = np.sqrt(in_seeds * t_seeds**2 + in_prompts * t_prompts**2)
    assert half == pytest.approx(abs(contrast["mean"]), rel=1e-6)


def test_holm_is_over_the_declared_contrasts_of_one_budget(figures: dict[str, Any]) -> None:
    for budget in (0, 1):
        contrasts = measure(figures, budget=budget)["contrasts"]
        low, high = sorted(contrasts, key=lambda each: each["p"])
        assert low["p_holm"] == pytest.approx(min(1.0, 2 * low["p"]))
        assert high["p_holm"] == pytest.approx(max(low["p_holm"], high["p"]))
        assert all(each["detectable_holm"] > each["detectable"] > 0 for each in contrasts)


def test_what_the_verdicts_say(figures: dict[str, Any]) -> None:
    by_second = {each["second"]: each for each in measure(figures)["contrasts"]}
    best, same = by_second["worse"], by_second["same"]
    assert best["verdict"] == "higher"
    assert best["sentence"].startswith("best is higher than worse in mean reward (difference +0.")
    assert same["verdict"] == "not_separable"
    expected = f"best and same: not separable above {same['detectable_holm']:.3f} in mean reward"
    assert same["sentence"].startswith(expected)
    untested = measure(figures, "win_rate")["contrasts"][0]
    assert (untested["verdict"], untested["p"], untested["p_holm"]) == ("untested", None, None)


def test_the_other_figures_are_those_of_the_rows(folder: Path, figures: dict[str, Any]) -> None:
    rows = read(folder).filter((pl.col("budget") == "prompts") & (pl.col("arm") == "best"))
    deciles = [
        frame["reward"].sort().head(N_PROMPTS // 10).mean() for frame in rows.partition_by("seed")
    ]
    assert arm(figures, "best", "lowest_decile")["mean"] == pytest.approx(np.mean(deciles))
    worst = rows["n_worst"].sum() / rows["n_rated"].sum()
    assert arm(figures, "best", "worst_rate")["mean"] == pytest.approx(worst)
    divergence = rows["log_ratio"].sum() / rows["log_ratio_tokens"].sum()
    assert arm(figures, "best", "kl_per_token")["mean"] == pytest.approx(divergence)
    for name, column in (("win_rate", "preference"), ("self_bleu", "self_bleu")):
        assert arm(figures, "best", name)["mean"] == pytest.approx(rows[column].mean())
    base = measure(figures)["base"]
    assert base["mean"] == pytest.approx(rows["base_reward"].mean())
    to_base = arm(figures, "best")["to_base"]
    assert to_base["mean"] == pytest.approx((rows["reward"] - rows["base_reward"]).mean())
    assert "embedding_diversity" not in figures["budgets"][0]["measures"]


def test_failed_and_waiting_runs_are_counted_and_seeds_that_both_have_are_compared(
    tmp_path: Path,
) -> None:
    write_study(tmp_path, failed=[("worse", 1)], waiting=[("same", 2)])
    found = figures_of(tmp_path, FEW)
    counts = {key: found["runs"][key] for key in ("planned", "done", "failed", "waiting")}
    assert counts == {"planned": 9, "done": 7, "failed": 1, "waiting": 1}
    named = {(run["arm"], run["seed"], run["status"]) for run in found["runs"]["not_done"]}
    assert named == {("worse", 1, "failed"), ("same", 2, "waiting")}
    of_arm = {each["arm"]: each for each in found["budgets"][0]["arms"]}
    assert (of_arm["worse"]["n_done"], of_arm["worse"]["n_failed"]) == (2, 1)
    assert (of_arm["same"]["n_done"], of_arm["same"]["n_waiting"]) == (2, 1)

    by_second = {each["second"]: each for each in measure(found)["contrasts"]}
    assert by_second["worse"]["seeds"] == [0, 2]
    assert by_second["same"]["seeds"] == [0, 1]
    rows = read(tmp_path).filter((pl.col("budget") == "prompts") & pl.col("seed").is_in([0, 2]))
    means = dict(rows.group_by("arm").agg(pl.col("reward").mean()).iter_rows())
    expected = means["best"] - means["worse"]
    assert by_second["worse"]["mean"] == pytest.approx(expected, abs=1e-12)


def test_a_contrast_that_no_seed_has_is_there_and_counts_in_holm(tmp_path: Path) -> None:
    write_study(tmp_path, waiting=[("same", 0), ("same", 1), ("same", 2)])
    by_second = {each["second"]: each for each in measure(figures_of(tmp_path, FEW))["contrasts"]}
    waiting, done = by_second["same"], by_second["worse"]
    assert (waiting["seeds"], waiting["mean"], waiting["p_holm"]) == ([], None, None)
    assert waiting["verdict"] == "unknown"
    assert waiting["sentence"] == "best and same: no seed has both"
    assert done["p_holm"] == pytest.approx(2 * done["p"])


def test_a_contrast_that_was_added_later_is_marked_and_not_corrected(tmp_path: Path) -> None:
    write_study(tmp_path)
    before = measure(figures_of(tmp_path, FEW))["contrasts"]
    declare_later(tmp_path, "worse", "same")
    found = figures_of(tmp_path, FEW)
    *declared, later = measure(found)["contrasts"]
    assert [each["p_holm"] for each in declared] == [each["p_holm"] for each in before]
    assert (later["declared"], later["p_holm"]) == (False, None)
    assert later["p"] < 0.05
    assert later["detectable_holm"] == later["detectable"]
    assert "added later and not corrected" in later["sentence"]
    assert any(note.startswith("worse against same was added on") for note in found["notes"])


def test_what_was_declared_and_dropped_still_counts(tmp_path: Path) -> None:
    """Holm's correction is over what was to be looked at, not over what is left of it."""
    write_study(tmp_path)
    before = measure(figures_of(tmp_path, FEW))["contrasts"]
    path = tmp_path / "study.json"
    values = json.loads(path.read_text())
    values["values"]["contrasts"] = [["best", "worse"]]
    path.write_text(json.dumps(values))
    found = figures_of(tmp_path, FEW)
    assert measure(found)["contrasts"] == before
    assert any("is no longer in the plan" in note for note in found["notes"])


def test_equivalence_is_tested_of_the_measure_of_the_contrasts(tmp_path: Path) -> None:
    write_study(tmp_path, {"equivalence": 0.4})
    found = figures_of(tmp_path, FEW)
    for contrast in measure(found)["contrasts"]:
        test = contrast["equivalence"]
        assert test["margin"] == 0.4
        assert test["is_equivalent"] == (test["p_holm"] <= 0.05)
        assert test["p_holm"] >= test["p"]
    same = next(each for each in measure(found)["contrasts"] if each["second"] == "same")
    assert same["equivalence"]["is_equivalent"]
    assert "it lies within +-0.400" in same["sentence"]
    assert measure(found, "win_rate")["contrasts"][0]["equivalence"] is None


def test_a_prompt_that_one_run_lacks_counts_in_none(tmp_path: Path) -> None:
    write_study(tmp_path)
    frame = read(tmp_path)
    is_gap = (
        (pl.col("prompt_id") == "p007")
        & (pl.col("arm") == "same")
        & (pl.col("seed") == 1)
        & (pl.col("budget") == "prompts")
    )
    gap = pl.when(is_gap).then(None).otherwise(pl.col("reward")).alias("reward")
    rewrite(tmp_path, frame.with_columns(gap))
    found = figures_of(tmp_path, FEW)
    assert (measure(found)["n_prompts"], measure(found)["n_missing"]) == (N_PROMPTS - 1, 1)
    assert measure(found, budget=1)["n_missing"] == 0
    kept = frame.filter(
        (pl.col("prompt_id") != "p007")
        & (pl.col("arm") == "best")
        & (pl.col("budget") == "prompts")
    )
    assert arm(found, "best")["mean"] == pytest.approx(kept["reward"].mean(), abs=1e-12)
    # other measures have the prompt
    assert measure(found, "win_rate")["n_missing"] == 0


def test_a_run_without_any_value_is_left_out_of_the_measure_and_named(tmp_path: Path) -> None:
    """As an arm of another trainer has no log-probabilities."""
    write_study(tmp_path)
    is_other = (pl.col("arm") == "same") & (pl.col("seed") == 0)
    gone = pl.when(is_other).then(None).otherwise(pl.col("log_ratio")).alias("log_ratio")
    rewrite(tmp_path, read(tmp_path).with_columns(gone))
    found = figures_of(tmp_path, FEW)
    assert arm(found, "same", "kl_per_token")["seeds"] == [1, 2]
    assert "KL, nats per token, at prompts: same, seed 0, has no value" in found["notes"]
    by_second = {each["second"]: each for each in measure(found, "kl_per_token")["contrasts"]}
    assert by_second["same"]["seeds"] == [1, 2]


def test_arms_that_saw_more_prompts_than_others_are_noted(tmp_path: Path) -> None:
    write_study(tmp_path, {"seeds": [0, 1]})
    runs = pl.read_parquet(tmp_path / "runs.parquet").to_dicts()
    assert not [note for note in figures_of(tmp_path, FEW)["notes"] if "trained on" in note]
    for run in runs:
        run["prompts"] -= 2 * (run["arm"] == "worse" and run["budget"] == "prompts")
    write_study_table(tmp_path / "runs.parquet", RUNS, runs)
    assert "at prompts: runs were trained on 58 to 60" in figures_of(tmp_path, FEW)["notes"]


def test_no_failure_seen_is_not_no_failure(tmp_path: Path) -> None:
    """None of 40 prompts: the interval goes to 1 - 0.025^(1/40), and a difference of nothing has no error."""
    write_study(tmp_path)
    rewrite(tmp_path, read(tmp_path).with_columns(pl.lit(0).alias("n_worst")))
    found = figures_of(tmp_path, FEW)
    best = arm(found, "best", "worst_rate")
    expected = stats.binomtest(0, N_PROMPTS).proportion_ci(0.95, method="exact")
    assert (best["low"], best["high"]) == pytest.approx((0.0, expected.high))
    contrast = measure(found, "worst_rate")["contrasts"][0]
    assert contrast["mean"] == 0.0
    assert np.isnan([contrast["se"], contrast["low"], contrast["high"]]).all()


def test_shares_have_intervals_within_0_and_1(figures: dict[str, Any]) -> None:
    for name in ("worst_rate", "win_rate", "lc_win_rate", "distinct_2"):
        for each in measure(figures, name)["arms"]:
            assert 0.0 <= each["low"] <= each["mean"] <= each["high"] <= 1.0


def test_one_seed_is_compared_over_prompts(tmp_path: Path) -> None:
    write_study(tmp_path, {"seeds": [4]})
    contrast = measure(figures_of(tmp_path, FEW))["contrasts"][0]
    wide = read(tmp_path).filter(pl.col("budget") == "prompts")
    wide = wide.pivot("arm", index="prompt_id", values="reward")
    expected = stats.ttest_rel(wide["best"], wide["worse"])
    assert contrast["p"] == pytest.approx(expected.pvalue, rel=1e-6)
    assert np.isnan(contrast["se_seeds"])
    assert contrast["sentence"].endswith(", of one seed)")


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ({}, "temperature 0.8"),
        ({"temperature": [1, 0.5], "top_k": 5, "min-p": 0.1}, "temperature 1, 0.5, top-k 5, min-p 0.1"),
        ({"temperature": 1}, None),
    ],
)  # fmt: skip
def test_a_note_says_how_responses_were_sampled_where_that_makes_the_divergence_biased(
    sampling: dict[str, Any], words: str | None, tmp_path: Path
) -> None:
    write_study(tmp_path, {"eval": {"scorer": "fake", **sampling}})
    found = [note for note in figures_of(tmp_path, FEW)["notes"] if "KL" in note]
    assert found == ([] if words is None else [f"KL is biased: responses were sampled at {words}"])


def test_figures_do_not_depend_on_the_order_of_rows_or_runs(
    folder: Path, figures: dict[str, Any], tmp_path: Path
) -> None:
    write_study(tmp_path)
    rewrite(tmp_path, read(tmp_path).sample(fraction=1.0, shuffle=True, seed=3))
    runs = pl.read_parquet(tmp_path / "runs.parquet")
    rewrite(tmp_path, runs.reverse(), "runs.parquet")
    # as text: NaN is no NaN
    assert json.dumps(figures_of(tmp_path, FEW)) == json.dumps(figures)


def test_the_runs_of_an_arm_have_their_means(figures: dict[str, Any]) -> None:
    best = figures["budgets"][1]["arms"][0]
    assert (best["arm"], best["step"], best["prompts"]) == ("best", 20.0, 80.0)
    assert best["response_tokens"] == 11_001.0


@pytest.mark.parametrize("broken", ["rows", "run", "twice", "base"])
def test_tables_that_do_not_agree_are_refused(tmp_path: Path, broken: str) -> None:
    write_study(tmp_path)
    frame, runs = read(tmp_path), pl.read_parquet(tmp_path / "runs.parquet")
    is_one = (pl.col("arm") == "same") & (pl.col("seed") == 1) & (pl.col("budget") == "prompts")
    said = {
        "rows": "runs.parquet alone has a finished run of same, seed 1, at prompts",
        "run": "results.parquet alone has a finished run of same, seed 1, at prompts",
        "twice": "the same prompt twice for same, seed 1, at prompts",
        "base": "its evaluation had another baseline",
    }
    if broken == "rows":
        frame = frame.filter(~is_one)
    elif broken == "run":
        failed = pl.when(is_one).then(pl.lit("failed")).otherwise(pl.col("status"))
        rewrite(tmp_path, runs.with_columns(failed.alias("status")), "runs.parquet")
    elif broken == "twice":
        frame = pl.concat([frame, frame.filter(is_one).head(1)])
    else:
        shifted = pl.col("base_reward") + pl.when(is_one).then(0.01).otherwise(0.0)
        frame = frame.with_columns(shifted)
    rewrite(tmp_path, frame)
    with pytest.raises(InputError, match=said[broken]):
        figures_of(tmp_path, FEW)


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no study\.json"):
        figures_of(tmp_path)
    write_study(tmp_path)
    (tmp_path / "results.parquet").unlink()
    with pytest.raises(InputError, match=r"results\.parquet does not exist"):
        figures_of(tmp_path)


def record_again(folder: Path, changes: dict[str, Any], *, has_results: bool) -> list[str]:
    """Write the record of a plan that was changed; return the notes of the figures that stand there."""
    plan = StudyPlan.from_values({**PLAN, **changes}, name="plan.yaml")
    write_study_record(folder, folder / "plan.yaml", plan, has_results=has_results)
    return notes_of(folder)


def notes_of(folder: Path) -> list[str]:
    """Return the notes of the figures, without the one that each study of this file has."""
    notes = figures_of(folder, FEW)["notes"]
    return [note for note in notes if not note.startswith("KL is biased")]


def test_another_measure_after_results_was_not_declared_before(tmp_path: Path) -> None:
    """Contrasts that were declared of the reward are no declared ones of what came out better."""
    write_study(tmp_path)
    assert record_again(tmp_path, {"equivalence": 0.1}, has_results=False) == []
    changes = {"measure": "n_tokens", "equivalence": 0.4}
    [measure, margin] = record_again(tmp_path, changes, has_results=True)
    assert measure.startswith("the plan had `measure: reward` when contrasts were declared, and ")
    assert "has n_tokens since 20" in measure
    assert measure.endswith(", after results")
    assert margin.startswith(
        "the plan had `equivalence: 0.1` when contrasts were declared, and has"
    )
    # as it was declared
    assert record_again(tmp_path, {"equivalence": 0.1}, has_results=True) == []


def test_a_record_of_an_earlier_release_was_judged_by_what_it_holds(tmp_path: Path) -> None:
    write_study(tmp_path)
    path = tmp_path / "study.json"
    values = json.loads(path.read_text())
    del values["rules"], values["dropped"]
    path.write_text(json.dumps(values))
    assert notes_of(tmp_path) == []
    [note] = record_again(tmp_path, {"measure": "n_tokens"}, has_results=True)
    assert note.startswith("the plan had `measure: reward`")


def test_arms_and_seeds_that_are_left_out_after_results_are_named(tmp_path: Path) -> None:
    write_study(tmp_path)
    fewer = {"seeds": [0, 2], "arms": {"best": {}, "worse": {}}, "contrasts": [["best", "worse"]]}
    notes = record_again(tmp_path, fewer, has_results=True)
    assert any(note.startswith("arm same was left out on 20") for note in notes)
    assert any(note.startswith("seed 1 was left out on 20") for note in notes)
    others = "same, seed 0; same, seed 1; same, seed 2; worse, seed 1"
    assert (
        f"runs.parquet has runs that are not in the plan and are left out: best, seed 1; {others}"
        in notes
    )
    assert record_again(tmp_path, {}, has_results=True) == []


def test_one_evaluation_for_two_seeds_is_noted(tmp_path: Path) -> None:
    """A copy, or a trainer that takes no seed: an interval over such seeds is too narrow."""
    write_study(tmp_path)
    frame = read(tmp_path)
    is_of = (pl.col("arm") == "same") & (pl.col("budget") == "prompts")
    first = frame.filter(is_of & (pl.col("seed") == 0))
    twin = first.with_columns(pl.lit(2, pl.Int32).alias("seed")).reverse()
    rewrite(tmp_path, pl.concat([frame.filter(~(is_of & (pl.col("seed") == 2))), twin]))
    [note] = notes_of(tmp_path)
    assert note.startswith("at prompts: same has the same values for every prompt with the seeds 0")
