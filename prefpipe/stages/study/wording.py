"""Words that the pages of a study share: names of budgets, and lines on runs that are not done."""

from collections.abc import Iterator, Mapping
from typing import Any

MINUS = "\N{MINUS SIGN}"
LATER = "added later"
"""Of a contrast that was not declared before the first run was judged."""
TITLES = {"prompts": "equal prompts", "response_tokens": "equal response tokens"}
SEPARABLE = ("higher", "lower")
"""Verdicts on a contrast whose difference is not chance, by Holm's correction."""
NOT_DONE_SHOWN = 12


def budget_title(budget: str) -> str:
    """Return what arms share at a budget: ``equal prompts``, ``after epoch 2``."""
    kind, _, number = budget.rpartition("-")
    return f"after epoch {number}" if kind == "epoch" else TITLES.get(budget, budget)


def contrast_title(contrast: Mapping[str, Any]) -> str:
    """Return a contrast as a difference of two arms."""
    return f"{contrast['first']} {MINUS} {contrast['second']}"


def is_separable(contrast: Mapping[str, Any]) -> bool:
    """Whether a declared contrast is marked: its difference is not chance."""
    return contrast["declared"] and contrast["verdict"] in SEPARABLE


def intervals_are(figures: Mapping[str, Any]) -> str:
    """Return what the intervals cover, and how differences are paired.

    One seed says nothing about another: its interval covers only prompts.
    """
    level = f"{figures['confidence']:.0%} intervals"
    if len(figures["seeds"]) == 1:
        return (
            f"intervals are {level} over prompts alone, as one seed says nothing about others; "
            "differences are paired by prompt"
        )
    return (
        f"intervals are {level} over seeds and prompts (over prompts alone where one seed is done);"
        " differences are paired by seed and prompt"
    )


def runs_of_arm(arm: Mapping[str, Any]) -> str:
    """Return how many runs of an arm are in the figures: ``2 of 3, 1 failed``."""
    pieces = [f"{arm['n_done']} of {arm['n_planned']}"]
    for count, name in ((arm["n_failed"], "failed"), (arm["n_waiting"], "waiting")):
        if count:
            pieces.append(f"{count} {name}")
    return ", ".join(pieces)


def failure(run: Mapping[str, Any]) -> str:
    """Return the step at which a run failed, and how: ``train, exit 1``, ``train, signal 9``."""
    step, code = run["failed_step"] or "a step", run["exit_code"]
    # the steps of a run are named after it, which is said beside it
    step = step.removeprefix(f"{run['arm']}, ").removeprefix(f"seed {run['seed']}, ")
    return str(step) if code is None else ending(step, code)


def ending(step: str, code: int) -> str:
    """Return the exit code or signal of a step: ``train, exit 1``."""
    return f"{step}, signal {-code}" if code < 0 else f"{step}, exit {code}"


def unfinished_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines on runs that are not in the figures.

    Args:
        figures: of `prefpipe.stages.study.figures.figures_of`.
    """
    runs = figures["runs"]
    if runs["done"] == runs["planned"]:
        return
    others = [f"{runs[name]} {name}" for name in ("failed", "waiting") if runs[name]]
    counted = ", ".join([f"{runs['done']} of {runs['planned']} runs are done", *others])
    yield f"NOT DONE: {counted}. Figures are over the runs that are done."

    # an arm and seed that fails at one budget has failed at all of them
    failed: dict[tuple[str, int], Mapping[str, Any]] = {}
    for run in runs["not_done"]:
        if run["status"] == "failed":
            failed.setdefault((run["arm"], run["seed"]), run)
    for (arm, seed), run in list(failed.items())[:NOT_DONE_SHOWN]:
        yield f"failed: {arm}, seed {seed}: {failure(run)}"
    n_more = len(failed) - NOT_DONE_SHOWN
    if n_more > 0:
        yield f"and {n_more} more that failed"
