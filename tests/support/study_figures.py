"""Figures of a study, its runs and its record, made by hand: any number of arms, with names of any length, finished or not."""

import random
from collections.abc import Sequence
from typing import Any

from prefpipe.configs.study_record import Declared, StudyRecord

SHARE = "{:.1%}"
MEASURES = {
    "reward": ("mean reward", "{:.3f}", 0.55, 0.04),
    "lowest_decile": ("reward, lowest decile of prompts", "{:.3f}", 0.22, 0.05),
    "worst_rate": ("worst failures", SHARE, 0.08, 0.02),
    "win_rate": ("win rate, ties half", SHARE, 0.55, 0.05),
    "n_tokens": ("tokens a response", "{:.1f}", 24.0, 3.0),
    "kl_per_token": ("KL, nats a token", "{:.3f}", 0.3, 0.1),
}
"""Label, form, middle and spread."""
WITHOUT_BASE = ("win_rate", "kl_per_token")
NO_FIGURE = {"mean": None, "se": None, "low": None, "high": None, "df": None}
NOT_DONE = {"waiting": (None, None), "failed": ("train", 1)}


def arm_names(n: int, *, length: int = 0) -> list[str]:
    """Return names that differ in the beginning, the middle and the end, at least so long."""
    return [f"mmpo-{place}-noise-0.{place % 4}".ljust(length, "x") for place in range(n)]


def study_figures(
    arms: Sequence[str],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    budgets: Sequence[str] = ("prompts", "response_tokens"),
    not_done: Sequence[tuple[str, int, str]] = (),
    measures: Sequence[str] = tuple(MEASURES),
    later: int = 0,
    equivalence: float | None = None,
    study: str = "selection",
) -> dict[str, Any]:
    """Return what `prefpipe.stages.study.figures.figures_of` returns.

    Args:
        arms: of the plan; each but the first is compared with it.
        seeds: of the plan.
        budgets: at which arms are judged.
        not_done: arm, seed and ``failed`` or ``waiting`` of runs that are in no figure.
        measures: that are known.
        later: so many of the contrasts, the last ones, were added later.
        equivalence: the margin.
        study: its name.
    """
    draw = random.Random(len(arms))
    missing = {(arm, seed): state for arm, seed, state in not_done}
    done = {arm: [seed for seed in seeds if (arm, seed) not in missing] for arm in arms}
    states = list(missing.values())
    return {
        "study": study,
        "model": "bundled:smollm2-135m",
        "target": "policy",
        "confidence": 0.95,
        "bootstrap_draws": 10_000,
        "bootstrap_seed": 0,
        "measure": "reward",
        "worst_below": 0.15,
        "equivalence": equivalence,
        "seeds": list(seeds),
        "arms": list(arms),
        "runs": {
            "planned": len(arms) * len(seeds),
            "done": len(arms) * len(seeds) - len(missing),
            "failed": states.count("failed"),
            "waiting": states.count("waiting"),
            "not_done": [
                {
                    "arm": arm,
                    "seed": seed,
                    "budget": budget,
                    "status": state,
                    "failed_step": NOT_DONE[state][0],
                    "exit_code": NOT_DONE[state][1],
                }
                for (arm, seed), state in missing.items()
                for budget in budgets
            ],
        },
        "budgets": [
            {
                "budget": budget,
                "arms": [_arm(arm, done[arm], seeds, missing, place) for arm in arms],
                "measures": {
                    key: _measure(key, arms, done, draw, later, equivalence, place)
                    for key in measures
                    if any(done.values())
                },
            }
            for place, budget in enumerate(budgets)
        ],
        "notes": ["responses of arms are sampled with seeds of their own"],
    }


def study_runs(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of ``runs.parquet`` that go with figures."""
    missing = {(each["arm"], each["seed"]): each for each in figures["runs"]["not_done"]}
    rows = []
    for arm in figures["arms"]:
        for seed in figures["seeds"]:
            for place, entry in enumerate(figures["budgets"]):
                row = {"arm": arm, "seed": seed, "budget": entry["budget"], "status": "done"}
                row |= {"failed_step": None, "exit_code": None, "step": 15 + 10 * place}
                row |= {"prompts": 60, "response_tokens": 9000 + seed, "trained_tokens": 30_000}
                row |= {"seconds": 312.5}
                if (arm, seed) in missing:
                    known = missing[arm, seed]
                    nothing = ("step", "prompts", "response_tokens", "trained_tokens", "seconds")
                    row |= dict.fromkeys(nothing)
                    row |= {key: known[key] for key in ("status", "failed_step", "exit_code")}
                rows.append(row)
    return rows


def study_record(figures: dict[str, Any]) -> StudyRecord:
    """Return the record that goes with figures."""
    contrasts = _contrasts_of(figures)
    return StudyRecord(
        plan="plan.yaml",
        folder="/home/somebody",
        values={
            "study": figures["study"],
            "arms": {arm: {"select": {"k": place}} for place, arm in enumerate(figures["arms"])},
            "budgets": {"prompts": 60, "response_tokens": f"like {figures['arms'][0]}"},
            "contrasts": [list(each[:2]) for each in contrasts],
            "train": {"learning_rate": 5e-5},
        },
        declared=[
            Declared(first, second, "2026-11-30T09:00:00+00:00", is_before)
            for first, second, is_before in contrasts
        ],
        machine={"processor": "AMD EPYC", "cores": 2},
    )


def _contrasts_of(figures: dict[str, Any]) -> list[tuple[str, str, bool]]:
    for entry in figures["budgets"]:
        for measure in entry["measures"].values():
            return [
                (each["first"], each["second"], each["declared"]) for each in measure["contrasts"]
            ]
    first, *others = figures["arms"]
    return [(other, first, True) for other in others]


def _arm(
    arm: str,
    done: Sequence[int],
    seeds: Sequence[int],
    missing: dict[tuple[str, int], str],
    place: int,
) -> dict[str, Any]:
    states = [missing[arm, seed] for seed in seeds if (arm, seed) in missing]
    counts: dict[str, Any] = dict.fromkeys(
        ("step", "prompts", "response_tokens", "trained_tokens", "seconds")
    )
    if done:
        counts |= {"step": 15.0 + 8 * place, "prompts": 60.0, "trained_tokens": 30_000.0}
        counts |= {"response_tokens": 9000.0 + 4000 * place + 37 * len(arm), "seconds": 312.5}
    return {
        "arm": arm,
        "n_planned": len(seeds),
        "n_done": len(done),
        "n_failed": states.count("failed"),
        "n_waiting": states.count("waiting"),
        "seeds": list(done),
        **counts,
    }


def _measure(
    key: str,
    arms: Sequence[str],
    done: dict[str, list[int]],
    draw: random.Random,
    later: int,
    equivalence: float | None,
    place: int,
) -> dict[str, Any]:
    label, form, middle, spread = MEASURES[key]
    base = None if key in WITHOUT_BASE else _figure(draw, 0.9 * middle, spread / 2)
    rows = []
    for arm in arms:
        if done[arm]:
            drawn = draw.gauss(middle * (1 + 0.05 * place), spread)
            row = {"arm": arm, "seeds": done[arm], **_figure(draw, drawn, spread)}
            row["by_seed"] = [row["mean"]] * len(done[arm])
            row["to_base"] = None
            if base is not None:
                row["to_base"] = {**_figure(draw, row["mean"] - base["mean"], spread)}
            rows.append(row)

    first, *others = arms
    contrasts = []
    for number, other in enumerate(others):
        seeds = [seed for seed in done[other] if seed in done[first]]
        is_declared = number < len(others) - later
        contrasts.append(
            _contrast((other, first), seeds, draw, spread, is_declared, key, equivalence)
        )
    return {
        "label": label,
        "form": form,
        "better": "higher",
        "n_prompts": 120,
        "n_missing": 0,
        "base": base,
        "arms": rows,
        "contrasts": contrasts,
    }


def _contrast(
    arms: tuple[str, str],
    seeds: Sequence[int],
    draw: random.Random,
    spread: float,
    is_declared: bool,
    key: str,
    equivalence: float | None,
) -> dict[str, Any]:
    figure = _figure(draw, draw.gauss(0.0, 1.5 * spread), spread) if seeds else dict(NO_FIGURE)
    contrast = {"first": arms[0], "second": arms[1], "declared": is_declared}
    contrast |= {"seeds": list(seeds), **figure, "by_seed": [], "p": None, "p_holm": None}
    contrast |= {"detectable": None, "detectable_holm": None, "equivalence": None}
    contrast |= {"verdict": "unknown", "sentence": f"{arms[0]} and {arms[1]}: nothing to compare"}
    if not seeds:
        return contrast
    contrast |= {"detectable": 1.2 * spread, "detectable_holm": 1.5 * spread}
    contrast |= {"verdict": "untested", "sentence": ""}
    if key == "reward":
        is_apart = figure["low"] > 0 or figure["high"] < 0
        contrast["p"] = 0.00001 if is_apart else 0.21
        contrast["p_holm"] = 0.013 if is_apart else 0.63
        contrast["verdict"] = "not_separable"
        if is_apart:
            contrast["verdict"] = "higher" if figure["mean"] > 0 else "lower"
        contrast["sentence"] = f"{arms[0]} against {arms[1]}: {contrast['verdict']}."
        if not is_declared:
            contrast["p_holm"] = None
        if equivalence is not None:
            contrast["equivalence"] = {"margin": equivalence, "is_equivalent": not is_apart}
    return contrast


def _figure(draw: random.Random, mean: float, spread: float) -> dict[str, Any]:
    low, high = mean - spread * draw.uniform(0.6, 1.0), mean + spread * draw.uniform(0.6, 1.0)
    return {"mean": mean, "se": spread / 2, "low": low, "high": high, "df": 9.0}
