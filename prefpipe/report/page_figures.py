"""Figures of a story as the page's tables show them."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefpipe.stages.evaluate.comparison import ROWS
from prefpipe.stages.evaluate.health import HEALTH, KL, SHARED
from prefpipe.text import numbers
from prefpipe.text.numbers import figure

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
)
"""Measures that belong into one chart, in the order in which they are looked at."""
IN_TABLE_ONLY = ("n_tokens", "n_prompts", "prompt_tokens_saved")
HEALTH_LABELS: dict[str, tuple[str, str]] = {
    **{measure: (label, form) for label, measure, form in ROWS},
    **{measure: (f"KL to the reference, {unit}", "{:.3f}") for measure, (_, unit) in KL.items()},
    **{measure: (watched.name, watched.form) for measure, watched in {**SHARED, **HEALTH}.items()},
}
"""Name and form of each measure of ``prefpipe eval``, in the order in which it prints them."""
GAP_COLUMNS = ("n_pairs", "confidence", "accuracy", "ece", "brier", "log_loss")


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
    panels = [
        (title, [place for name in names for place in by_name.pop(name, [])])
        for title, names in PANELS
    ]
    panels += [
        (words(name), places) for name, places in by_name.items() if name not in IN_TABLE_ONLY
    ]
    return [{"title": title, "places": places} for title, places in panels if places]


def health_rows(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row a measure: both sides, the paired difference, and whether its interval leaves out zero."""
    known = entry["measures"]
    rows = []
    for name in [
        *(name for name in HEALTH_LABELS if name in known),
        *(name for name in known if name not in HEALTH_LABELS),
    ]:
        label, form = HEALTH_LABELS.get(name, (words(name), "{:.4g}"))
        low, high = (known[name]["difference"].get(end) for end in ("low", "high"))
        is_clear = low is not None and high is not None and (low > 0 or high < 0)
        shown = {side: _with_interval(known[name][side], form) for side in ("policy", "baseline")}
        difference = _with_interval(known[name]["difference"], form, signed=True)
        rows.append({"name": label, **shown, "difference": difference, "is_clear": is_clear})
    return rows


def _with_interval(figures: Mapping[str, Any], form: str, *, signed: bool = False) -> str:
    return NONE if figures.get("mean") is None else numbers.interval(figures, form, signed=signed)


def gap_rows(bins: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the figures of a calibration by gap: a row a bin, its gaps first, then `GAP_COLUMNS`."""
    return [
        [
            f"{figure(row['gap_lower'])} to {figure(row['gap_upper'])}",
            *(
                NONE if row.get(name) is None else figure(float(f"{row[name]:.4g}"))
                for name in GAP_COLUMNS
            ),
        ]
        for row in bins
    ]


def reliability_tables(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the reliability curves of a calibration, each ``kind`` and rows of lower, upper, n, predicted, observed."""
    names = ("lower", "upper", "n", "predicted", "observed")
    return [
        {
            "kind": kind,
            "rows": [
                dict(zip(names, row, strict=True))
                for row in zip(*(curve[name] for name in names), strict=True)
            ],
        }
        for kind, curve in entry["reliability"].items()
    ]


def tiles(story: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the few figures that stand on top: ``value`` and ``label``."""
    found: list[dict[str, str]] = []
    states = {entry["name"]: entry["state"] for entry in story["not_done"]}

    def add(value: str, label: str, *made_of: str | None) -> None:
        """Add a figure, its label marked where something that it is made of is stale, partial or corrupt."""
        marks = dict.fromkeys(states[name] for name in made_of if name in states)
        found.append({"value": value, "label": f"{label} ({', '.join(marks)})" if marks else label})

    for pool in story["pools"][:1]:
        known = {
            kind: [step for step in steps if "error" not in step]
            for kind, steps in pool["funnel"].items()
        }
        for step in known["responses"]:
            if step["artifact"] == pool["candidates"]:
                add(figure(step["n_in"]), f"responses in {pool['candidates']}", pool["candidates"])
            if step["step"] == "select":
                add(figure(step["n_out"]), f"kept by {pool['name']}", *pool["made_of"])
        for step in known["prompts"]:
            add(
                figure(step["n_out"]), f"groups of {figure(step['n_in'])} prompts", *pool["made_of"]
            )
    for entry in [entry for entry in story["win_rates"] if "error" not in entry][:1]:
        add(percent(entry["win_rate"]["mean"]), f"win rate, {entry['name']}", entry["name"])
        if entry["length_controlled"]:
            add(percent(entry["length_controlled"]["mean"]), "at equal length", entry["name"])
    for entry in story["health"][:1]:
        reward = entry["measures"].get("reward")
        if reward is not None and reward["difference"].get("mean") is not None:
            add(
                f"{reward['difference']['mean']:+.3g}",
                "held-out reward, policy - baseline",
                entry["name"],
            )
    return found
