"""Figures of a story as the page's tables show them."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefpipe.reports.distribution import figure

NONE = "\N{EN DASH}"
PANELS = (
    ("Loss", ("loss",)),
    ("Scores", ("rewards/chosen", "rewards/rejected", "rewards/margins")),
    ("Share in the right order", ("rewards/accuracy", "rewards/best")),
    ("Log-probability, nats a token", ("logps/chosen", "logps/rejected")),
    ("Fall of log-probability, nats a token", ("logps/chosen_fall", "logps/rejected_fall")),
    ("KL to the reference, nats a token", ("kl",)),
    ("Entropy, nats", ("entropy",)),
    ("Pairs in evaluation", ("pairs/accuracy", "pairs/ece", "pairs/brier", "pairs/log_loss")),
    ("Norm of the gradient", ("grad_norm",)),
    ("Learning rate", ("learning_rate",)),
    ("Tokens a second", ("tokens_per_s",)),
)  # fmt: skip
"""Measures that belong into one chart, in the order in which they are looked at."""
IN_TABLE_ONLY = ("n_tokens", "n_prompts", "prompt_tokens_saved")
LOWER_IS_BETTER = ("repetition", "truncated", "refusals", "self_bleu", "empty", "duplicates", "kl")
PERCENT = ("truncated", "repetition", "refusals", "empty", "duplicates", "ended", "distinct_1", "distinct_2", "win_rate")


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in per cent."""
    return NONE if value is None else f"{100.0 * value:.{digits}f}%"


def interval(figures: Mapping[str, Any] | None, *, as_percent: bool = False) -> str:
    """Return mean and interval of a figure: ``0.34 [0.21, 0.47]``."""
    if not figures or figures.get("mean") is None:
        return NONE
    shown = percent if as_percent else _number
    low, high = figures.get("low"), figures.get("high")
    between = f" [{shown(low)}, {shown(high)}]" if low is not None and high is not None else ""
    return shown(figures["mean"]) + between


def words(name: str) -> str:
    """Return a name of the code as words."""
    return name.replace("_", " ").replace("/", " ")


def _number(value: float) -> str:
    return figure(float(f"{value:.4g}"))


def curve_panels(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the charts of a training: ``title`` and the places of their curves; measures that no panel names come last."""
    by_name: dict[str, list[int]] = {}
    for place, curve in enumerate(curves):
        by_name.setdefault(curve["name"], []).append(place)
    panels = [(title, [place for name in names for place in by_name.pop(name, [])]) for title, names in PANELS]
    panels += [(words(name), places) for name, places in by_name.items() if name not in IN_TABLE_ONLY]
    return [{"title": title, "places": places} for title, places in panels if places]


def health_rows(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row a measure: both sides, the paired difference, and whether its interval leaves out zero."""
    rows = []
    for name, measure in entry["measures"].items():
        difference = measure["difference"]
        low, high = difference.get("low"), difference.get("high")
        is_clear = low is not None and high is not None and (low > 0 or high < 0)
        shown = {side: interval(measure[side], as_percent=name in PERCENT) for side in ("policy", "baseline", "difference")}
        rows.append({"name": name, **shown, "is_clear": is_clear})
    return rows


def reliability_tables(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the reliability curves of a calibration, each ``kind`` and rows of lower, upper, n, predicted, observed."""
    names = ("lower", "upper", "n", "predicted", "observed")
    return [
        {"kind": kind, "rows": [dict(zip(names, row, strict=True)) for row in zip(*(curve[name] for name in names), strict=True)]}
        for kind, curve in entry["reliability"].items()
    ]


def tiles(story: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the few figures that stand on top: ``value`` and ``label``."""
    found: list[dict[str, str]] = []

    def add(value: str, label: str) -> None:
        found.append({"value": value, "label": label})

    for pool in story["pools"][:1]:
        known = {kind: [step for step in steps if "error" not in step] for kind, steps in pool["funnel"].items()}
        for step in known["responses"]:
            if step["artifact"] == pool["candidates"]:
                add(figure(step["n_in"]), f"responses in {pool['candidates']}")
            if step["step"] == "select":
                add(figure(step["n_out"]), f"kept by {pool['name']}")
        for step in known["prompts"]:
            add(figure(step["n_out"]), f"groups of {figure(step['n_in'])} prompts")
    for entry in [entry for entry in story["win_rates"] if "error" not in entry][:1]:
        add(percent(entry["win_rate"]["mean"]), f"win rate, {entry['name']}")
        if entry["length_controlled"]:
            add(percent(entry["length_controlled"]["mean"]), "at equal length")
    for entry in story["health"][:1]:
        reward = entry["measures"].get("reward")
        if reward is not None and reward["difference"].get("mean") is not None:
            add(f"{reward['difference']['mean']:+.3g}", "held-out reward, policy - baseline")
    return found
