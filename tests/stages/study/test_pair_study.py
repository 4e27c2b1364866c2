"""A study whose runs are judged by held-out pairs: its table, and contrasts of an arm at an epoch."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from support.written_pools import candidate, write_pools

from prefpipe.artifacts.study_tables import RESULTS_FILE
from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_record import write_study_record
from prefpipe.errors import UsageError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.holm import holm
from prefpipe.maths.statistics.two_level_figures import SeedFigures, two_level_figure
from prefpipe.stages.study.figures import figures_of
from prefpipe.stages.study.pair_results import judge_reward_model, read_heldout_pairs
from prefpipe.stages.study.results import StudyRun, write_results

BOOTSTRAP = Bootstrap(n_draws=400)
N_PROMPTS = 12
QUALITIES = {f"p{i:02d}": np.random.default_rng(i).random(3).tolist() for i in range(N_PROMPTS)}
SHARPNESS = {("bt", 1): 3.0, ("bt", 2): 30.0, ("mmpo", 1): 3.0, ("mmpo", 2): 6.0}
"""Scores are so many times the quality, plus noise: 6 is the truth."""


def plan_of(heldout: Path, **changes: Any) -> StudyPlan:
    values: dict[str, Any] = {
        "study": "known-truth",
        "model": "model",
        "target": "reward",
        "seeds": [0, 1, 2],
        "pool": {"candidates": "pool/candidates", "scores": "pool/scores"},
        "heldout": {
            "candidates": str(heldout / "candidates"),
            "scores": str(heldout / "scores"),
        },
        "truth": {"reward": "checks", "gamma": 6},
        "epochs": [1, 2],
        "arms": {"bt": {"train": {"objective": "bt"}}, "mmpo": {}},
        "contrasts": [["mmpo", "bt"], ["bt@2", "bt@1"]],
    }
    return StudyPlan.from_values(values | changes, name="plan.yaml")


def write_rated(folder: Path, values: Mapping[str, list[float]], scorer: str) -> Path:
    """The held-out responses, the same in every folder, with the scores of one scorer."""
    pools = {
        prompt: [candidate(f"{prompt}{place}", {scorer: value}) for place, value in enumerate(row)]
        for prompt, row in values.items()
    }
    write_pools(folder, pools)
    return folder


def write_study(folder: Path, *, waiting: tuple[str, int] = ("mmpo", 2)) -> StudyPlan:
    """A study of reward models, each run judged by scores on disk."""
    plan = plan_of(write_rated(folder / "heldout", QUALITIES, "checks"))
    write_study_record(folder / "study", folder / "plan.yaml", plan, has_results=False)
    runs = []
    for arm in plan.arms:
        for seed in plan.seeds:
            for epoch in plan.epochs:
                place = {"arm": arm, "seed": seed, "budget": f"epoch-{epoch}"}
                if (arm, seed) == waiting:
                    runs.append(StudyRun(**place, status="waiting"))
                    continue
                random = np.random.default_rng([seed, epoch, len(arm)])
                scores = {
                    prompt: (SHARPNESS[arm, epoch] * np.array(row) + random.normal(size=3)).tolist()
                    for prompt, row in QUALITIES.items()
                }
                at = write_rated(folder / f"{arm}-{seed}-{epoch}", scores, "reward_model")
                runs.append(StudyRun(**place, status="done", evaluation=at / "scores"))
    write_results(plan, folder / "study", runs)
    return plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair-study")
    write_study(folder)
    return folder


def values_of(folder: Path, arm: str, epoch: int, seeds: list[int]) -> np.ndarray:
    """Log losses by seed and prompt, read with plain polars."""
    table = pl.read_parquet(folder / "study" / RESULTS_FILE)
    rows = table.filter((pl.col("arm") == arm) & (pl.col("budget") == f"epoch-{epoch}"))
    return np.stack(
        [rows.filter(seed=seed).sort("prompt_id")["log_loss"].to_numpy() for seed in seeds]
    )


def test_the_table_has_what_judges_each_run(folder: Path) -> None:
    table = pl.read_parquet(folder / "study" / RESULTS_FILE)
    assert len(table) == 5 * 2 * N_PROMPTS
    heldout = folder / "heldout"
    pairs = read_heldout_pairs(
        heldout / "candidates", heldout / "scores", reward="checks", gamma=6.0
    )
    expected = judge_reward_model(pairs, folder / "bt-1-2" / "scores").by_prompt
    found = table.filter(arm="bt", seed=1, budget="epoch-2").select(expected.columns)
    assert found["n_pairs"].to_list() == [3] * N_PROMPTS
    for name in expected.columns[2:]:
        # seven digits are kept
        assert found[name].to_list() == pytest.approx(expected[name].to_list(), rel=1e-6), name


def test_arms_are_compared_at_each_epoch_and_one_arm_over_epochs(folder: Path) -> None:
    found = figures_of(folder / "study", BOOTSTRAP)
    assert found["measure"] == "log_loss"
    first, second = (entry["measures"]["log_loss"] for entry in found["budgets"])
    assert [entry["budget"] for entry in found["budgets"]] == ["epoch-1", "epoch-2"]
    for measure in (first, second):
        assert [entry["arm"] for entry in measure["arms"]] == ["bt", "mmpo"]
        assert (measure["n_prompts"], measure["n_missing"]) == (N_PROMPTS, 0)

    def sides(measure: dict[str, Any]) -> list[tuple[str, str]]:
        return [(entry["first"], entry["second"]) for entry in measure["contrasts"]]

    assert sides(first) == [("mmpo", "bt")]
    assert sides(second) == [("mmpo", "bt"), ("bt@2", "bt@1")]

    # mmpo's third seed waits: the contrast with it has two, that of bt alone three
    between, over = second["contrasts"]
    assert (between["seeds"], over["seeds"]) == ([0, 1], [0, 1, 2])
    differences = values_of(folder, "bt", 2, [0, 1, 2]) - values_of(folder, "bt", 1, [0, 1, 2])
    expected = two_level_figure(SeedFigures(differences), BOOTSTRAP)
    for name in ("mean", "se", "low", "high"):
        assert over[name] == pytest.approx(getattr(expected, name), abs=1e-9), name
    assert over["by_seed"] == pytest.approx(differences.mean(axis=1).tolist(), abs=1e-9)
    assert over["verdict"] == "higher"
    assert over["sentence"].startswith("bt@2 is higher than bt@1 in log loss")

    # Holm over the two of the second epoch, and over the one of the first
    both = np.array([between["p"], over["p"]])
    assert [between["p_holm"], over["p_holm"]] == pytest.approx(holm(both).tolist())
    assert between["p_holm"] == pytest.approx(2 * between["p"])
    assert first["contrasts"][0]["p_holm"] == first["contrasts"][0]["p"]


def test_the_mean_of_the_table_is_the_calibration_error(folder: Path) -> None:
    """A reader's plain mean; of bt, too sure at epoch 2, it is above that of epoch 1."""
    found = figures_of(folder / "study", BOOTSTRAP)
    at = [entry["measures"]["ece"]["arms"][0] for entry in found["budgets"]]
    table = pl.read_parquet(folder / "study" / RESULTS_FILE)
    for number, entry in enumerate(at, 1):
        rows = table.filter(arm="bt", budget=f"epoch-{number}")
        assert entry["mean"] == pytest.approx(rows["ece"].mean(), abs=1e-9)
    assert at[1]["mean"] > at[0]["mean"]
    assert not math.isnan(at[1]["se"])


@pytest.mark.parametrize(
    ("contrast", "problem"),
    [
        (["bt@3", "bt@1"], "bt@3: arms are not judged after epoch 3"),
        (["bt@2", "mmpo"], "names an epoch for one of its two arms"),
        (["bt@2", "bt@2"], "bt@2 is compared with itself"),
        (["dpo@2", "bt@1"], "'dpo' is no arm of the plan"),
        (["bt@0", "bt@1"], "'bt@0' is no arm of the plan"),
    ],
    ids=["no such epoch", "one epoch", "itself", "no such arm", "epoch 0"],
)
def test_contrasts_that_cannot_be_made(tmp_path: Path, contrast: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        plan_of(tmp_path, contrasts=[contrast])


def test_every_pair_measure_can_be_the_one_of_the_contrasts(tmp_path: Path) -> None:
    for measure in ("log_loss", "excess_log_loss", "scaled_log_loss", "brier", "ece", "accuracy"):
        assert plan_of(tmp_path, measure=measure).measure == measure
    with pytest.raises(UsageError, match="`measure` must be"):
        plan_of(tmp_path, measure="reward")
