"""A study's folder made by hand: the record of a plan, and tables with values drawn by the two-level model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefpipe.artifacts.study_tables import (
    RESULTS,
    RESULTS_FILE,
    RUNS,
    RUNS_FILE,
    write_study_table,
)
from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_record import write_study_record

PLAN: dict[str, Any] = {
    "study": "by-hand",
    "model": "model",
    "seeds": [0, 1, 2],
    "pool": {"candidates": "pool/candidates", "scores": "pool/scores"},
    "heldout": {"prompts": "heldout.jsonl"},
    "eval": {"scorer": "fake"},
    "budgets": {"prompts": 60, "response_tokens": "like best"},
    "arms": {"best": {}, "same": {}, "worse": {}},
    "worst_below": 0.2,
    "contrasts": [["best", "worse"], ["best", "same"]],
}
EFFECTS = {"best": 0.15, "same": 0.15, "worse": 0.0}
"""By how much each arm's reward is above the base's."""
N_PROMPTS, N_SAMPLES = 40, 2


def write_study(
    folder: Path,
    changes: Mapping[str, Any] | None = None,
    *,
    failed: Sequence[tuple[str, int]] = (),
    waiting: Sequence[tuple[str, int]] = (),
    seed: int = 0,
) -> StudyPlan:
    """Write a folder with all three files; return the plan.

    Args:
        folder: to make.
        changes: keys of `PLAN` with another value.
        failed: arms and seeds whose training failed.
        waiting: arms and seeds that were not run.
        seed: of the values.
    """
    plan = StudyPlan.from_values({**PLAN, **(changes or {})}, name="plan.yaml")
    folder.mkdir(parents=True, exist_ok=True)
    write_study_record(folder, folder / "plan.yaml", plan, has_results=False)
    not_done = dict.fromkeys(failed, "failed") | dict.fromkeys(waiting, "waiting")

    rng = np.random.default_rng(seed)
    prompts = [f"p{number:03d}" for number in range(N_PROMPTS)]
    of_prompt = rng.uniform(0.2, 0.6, N_PROMPTS)
    base = np.clip(of_prompt[:, None] + rng.normal(0, 0.1, (N_PROMPTS, N_SAMPLES)), 0, 1)
    base_length = rng.integers(60, 160, N_PROMPTS)
    results, runs = [], []
    for run_seed in plan.seeds:
        for arm in plan.arms:
            status = not_done.get((arm, run_seed), "done")
            of_run = EFFECTS.get(arm, 0.05) + rng.normal(0, 0.01)
            for place, budget in enumerate(plan.judged_at):
                runs.append(
                    {
                        "arm": arm,
                        "seed": run_seed,
                        "budget": budget,
                        "status": status,
                        "step": 15 + 5 * place,
                        "prompts": 60 + 20 * place,
                        "response_tokens": 9_000 + 2_000 * place + run_seed,
                        "trained_tokens": 20_000,
                        "seconds": 100.0,
                        "failed_step": f"{arm}, seed {run_seed}, train"
                        if status == "failed"
                        else None,
                        "exit_code": 1 if status == "failed" else None,
                    }
                )
                rewards = of_prompt[:, None] + of_run + rng.normal(0, 0.1, (N_PROMPTS, N_SAMPLES))
                rewards = np.clip(rewards, 0, 1)
                length = base_length + rng.integers(-30, 31, N_PROMPTS)
                for index, prompt_id in enumerate(prompts):
                    if status == "done":
                        row = _row(rng, rewards[index], base[index])
                        row["length_chars"] = float(length[index])
                        row["base_length_chars"] = float(base_length[index])
                        row |= {"arm": arm, "seed": run_seed, "budget": budget}
                        results.append(row | {"prompt_id": prompt_id})
    write_study_table(folder / RESULTS_FILE, RESULTS, results)
    write_study_table(folder / RUNS_FILE, RUNS, runs)
    return plan


def _row(rng: np.random.Generator, rewards: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    wins = (rewards[:, None] > base).mean() + 0.5 * (rewards[:, None] == base).mean()
    return {
        "preference": float(wins),
        "n_rated": len(rewards),
        "n_worst": int((rewards < PLAN["worst_below"]).sum()),
        "reward": float(rewards.mean()),
        "lowest_reward": float(rewards.min()),
        "n_tokens": float(rng.integers(10, 40)),
        "repetition": float(rng.uniform(0, 0.1)),
        "self_bleu": float(rng.uniform(0, 0.3)),
        "distinct_2": float(rng.uniform(0.7, 1.0)),
        "log_ratio": float(rng.normal(3, 1)),
        "log_ratio_tokens": float(rng.integers(10, 40)),
        "base_n_rated": len(base),
        "base_n_worst": int((base < PLAN["worst_below"]).sum()),
        "base_reward": float(base.mean()),
        "base_lowest_reward": float(base.min()),
        "base_n_tokens": 25.0,
        "base_self_bleu": 0.1,
        "base_distinct_2": 0.9,
        "base_repetition": 0.0,
    }


def declare_later(folder: Path, first: str, second: str) -> None:
    """Note a contrast as one that was added after results were there."""
    path = folder / "study.json"
    values = json.loads(path.read_text())
    later = {"first": first, "second": second, "at": "2026-12-01T00:00:00+00:00"}
    values["declared"].append(later | {"is_before": False})
    path.write_text(json.dumps(values))
