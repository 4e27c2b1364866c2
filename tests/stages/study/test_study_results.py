"""The tables of a study, made of real evaluations by the fake back-end, beside the parts they are made from."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from support.finished_run import command
from support.pipelines import write_prompts

from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_record import write_study_record
from prefpipe.errors import FingerprintError, InputError, UsageError
from prefpipe.stages.study.results import StudyRun, write_results

pytestmark = pytest.mark.slow

PLAN = {
    "study": "fakes",
    "model": "fake",
    "seeds": [0, 1],
    "pool": {"candidates": "pool/candidates", "scores": "pool/scores"},
    "heldout": {"prompts": "heldout.jsonl"},
    "eval": {"scorer": "fake"},
    "budgets": {"prompts": 8, "response_tokens": 400},
    "arms": {"one": {}, "two": {}},
    "worst_below": 0.4,
    "contrasts": [["one", "two"]],
}
N_PROMPTS = 9


SAMPLING = ("--backend", "fake", "--n", "3", "--max-tokens", "12", "--part-size", "4")


def sample_base(folder: Path, prompts: Path, seed: int) -> None:
    """Sample and rate the responses of the model before training."""
    candidates, scores = str(folder / "candidates"), str(folder / "scores")
    of_base = ("--model", "fake", "--seed", str(seed))
    command(["generate", str(prompts), "-o", candidates, *of_base, *SAMPLING])
    command(["score", candidates, "-o", scores, "--scorer", "fake"])


def evaluate(output: Path, base: Path, prompts: Path, seed: int, *flags: str) -> None:
    """Judge a policy against the base's responses."""
    against = ("--baseline", str(base / "candidates"), "--baseline-scores", str(base / "scores"))
    of_policy = ("--policy", "fake", "--prompts", str(prompts), "--seed", str(seed))
    more = ("--scorer", "fake", "--bootstrap-draws", "50")
    command(["eval", "-o", str(output), *of_policy, *against, *SAMPLING, *more, *flags])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base's responses, and an evaluation of each arm, seed and budget: the fake's seed is what differs."""
    folder = tmp_path_factory.mktemp("study")
    prompts = write_prompts(folder / "heldout.jsonl", N_PROMPTS)
    sample_base(folder / "heldout", prompts, 100)
    for place, arm in enumerate(("one", "two")):
        for seed in (0, 1):
            for step in (2, 3):
                output = folder / f"arms/{arm}/seed-{seed}/eval-{step:05d}"
                evaluate(output, folder / "heldout", prompts, 200 + 10 * place + 2 * seed + step)
    return folder


def study(folder: Path) -> StudyPlan:
    plan = StudyPlan.from_values(PLAN, name="plan.yaml")
    write_study_record(folder, folder / "plan.yaml", plan, has_results=False)
    return plan


def runs_of(folder: Path) -> list[StudyRun]:
    """All runs; the last one failed."""
    runs = []
    for arm in ("one", "two"):
        for seed in (0, 1):
            for step, budget in ((2, "prompts"), (3, "response_tokens")):
                evaluation = folder / f"arms/{arm}/seed-{seed}/eval-{step:05d}"
                runs.append(
                    StudyRun(arm, seed, budget, "done", evaluation, step, 8, 400, 900, 12.5)
                )
    runs[-1] = StudyRun("two", 1, "response_tokens", "failed", failed_step="eval", exit_code=3)
    return runs


def copy(made: Path, folder: Path) -> Path:
    shutil.copytree(made, folder, dirs_exist_ok=True)
    for record in folder.rglob("run.json"):
        record.write_text(record.read_text().replace(str(made), str(folder)))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return copy(made, tmp_path)


def test_rows_are_those_of_the_evaluations_and_of_their_samples(folder: Path) -> None:
    figures = write_results(study(folder), folder, runs_of(folder))
    frame = pl.read_parquet(folder / "results.parquet")
    assert len(frame) == 7 * N_PROMPTS
    assert frame.select("prompt_id", "arm", "seed", "budget").n_unique() == len(frame)

    evaluation = folder / "arms/two/seed-0/eval-00003"
    rows = frame.filter(
        (pl.col("arm") == "two") & (pl.col("seed") == 0) & (pl.col("budget") == "response_tokens")
    ).sort("prompt_id")
    table = pl.read_parquet(evaluation / "part-*.parquet").sort("prompt_id")
    for ours, theirs in (
        ("reward", "policy_reward"),
        ("base_reward", "baseline_reward"),
        ("preference", "preference"),
        ("n_rated", "n_policy"),
    ):
        assert rows[ours].to_list() == table[theirs].to_list(), ours
    for name in ("length_chars", "n_tokens", "distinct_2", "self_bleu"):
        assert rows[name].to_list() == pytest.approx(table[f"policy_{name}"].to_list(), rel=1e-6)

    for prefix, scores in (
        ("", evaluation / "policy/scores"),
        ("base_", folder / "heldout/scores"),
    ):
        samples = pl.read_parquet(scores / "part-*.parquet").group_by("prompt_id")
        by_prompt = samples.agg(
            pl.col("reward").min().alias("lowest"), (pl.col("reward") < 0.4).sum().alias("worst")
        ).sort("prompt_id")
        assert rows[f"{prefix}lowest_reward"].to_list() == by_prompt["lowest"].to_list()
        assert rows[f"{prefix}n_worst"].to_list() == by_prompt["worst"].to_list()
    assert 0 < frame["n_worst"].sum() < frame["n_rated"].sum()

    reward = figures["budgets"][0]["measures"]["reward"]
    assert reward["n_prompts"] == N_PROMPTS
    assert json.loads((folder / "summary.json").read_text())["study"] == "fakes"


def test_every_run_is_in_the_table_of_runs(folder: Path) -> None:
    figures = write_results(study(folder), folder, runs_of(folder))
    runs = pl.read_parquet(folder / "runs.parquet")
    assert runs["status"].to_list() == ["done"] * 7 + ["failed"]
    assert runs.row(-1, named=True)["exit_code"] == 3
    assert runs["seconds"].to_list() == [12.5] * 7 + [None]
    assert figures["runs"]["failed"] == 1


def test_before_the_first_run_is_judged_there_are_tables_and_no_figures(folder: Path) -> None:
    waiting = [run._replace(status="waiting", evaluation=None) for run in runs_of(folder)]
    figures = write_results(study(folder), folder, waiting)
    assert figures["runs"]["waiting"] == 4
    assert [entry["measures"] for entry in figures["budgets"]] == [{}, {}]


def test_both_budgets_may_be_one_evaluation(folder: Path) -> None:
    runs = runs_of(folder)
    runs[1] = runs[1]._replace(evaluation=runs[0].evaluation)
    write_results(study(folder), folder, runs)
    rows = pl.read_parquet(folder / "results.parquet")
    rows = rows.filter((pl.col("arm") == "one") & (pl.col("seed") == 0))
    first, second = (frame.drop("budget") for frame in rows.partition_by("budget"))
    assert first.equals(second)


def test_the_same_runs_write_the_same_bytes(folder: Path) -> None:
    plan, runs = study(folder), runs_of(folder)
    files = ("results.parquet", "runs.parquet", "summary.json")
    write_results(plan, folder, runs)
    first = [(folder / name).read_bytes() for name in files]
    write_results(plan, folder, runs)
    assert [(folder / name).read_bytes() for name in files] == first


def test_an_evaluation_by_another_recipe_is_refused(folder: Path) -> None:
    output = folder / "arms/two/seed-0/eval-00002"
    shutil.rmtree(output)
    evaluate(output, folder / "heldout", folder / "heldout.jsonl", 212, "--reward", "2*fake")
    with pytest.raises(FingerprintError, match="not evaluated with the same settings:\n  reward"):
        write_results(study(folder), folder, runs_of(folder))


def test_an_evaluation_against_another_base_is_refused(folder: Path) -> None:
    prompts, output = folder / "heldout.jsonl", folder / "arms/two/seed-0/eval-00002"
    sample_base(folder / "other", prompts, 7)
    shutil.rmtree(output)
    evaluate(output, folder / "other", prompts, 212)
    with pytest.raises(FingerprintError, match=r"baseline_candidates\.seed"):
        write_results(study(folder), folder, runs_of(folder))


def test_scores_that_are_others_by_now_are_refused(folder: Path) -> None:
    scores = folder / "arms/one/seed-0/eval-00002/policy/scores"
    shutil.rmtree(scores)
    shutil.copytree(folder / "arms/two/seed-0/eval-00002/policy/scores", scores)
    with pytest.raises(InputError, match="was not made from the scores"):
        write_results(study(folder), folder, runs_of(folder))


@pytest.mark.parametrize("broken", ["missing", "twice", "no arm", "state", "no evaluation"])
def test_runs_that_are_not_the_plan_s_are_refused(folder: Path, broken: str) -> None:
    runs = runs_of(folder)
    changed = {
        "missing": runs[1:],
        "twice": [*runs, runs[0]],
        "no arm": [*runs, runs[0]._replace(arm="three")],
        "state": [runs[0]._replace(status="finished"), *runs[1:]],
        "no evaluation": [runs[0]._replace(evaluation=None), *runs[1:]],
    }
    said = {
        "missing": "the run of one, seed 0, at prompts is left out",
        "twice": "the run of one, seed 0, at prompts occurs twice",
        "no arm": "the run of three, seed 0, at prompts is not in the plan",
        "state": "a run is done, failed, waiting, not 'finished'",
        "no evaluation": "the run of one, seed 0, is done and has no evaluation",
    }
    with pytest.raises(UsageError, match=said[broken]):
        write_results(study(folder), folder, changed[broken])
    assert not (folder / "results.parquet").exists()
