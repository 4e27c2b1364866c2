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
    ("Log-probability, nats per token", ("logps/chosen", "logps/rejected")),
    ("Fall of log-probability, nats per token", ("logps/chosen_fall", "logps/rejected_fall")),
    ("KL to the reference, nats per token", ("kl",)),
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
RELIABILITY_VALUES = ("n", "predicted", "observed")


def figure_or_dash(value: float | None) -> str:
    """Return a number as people read it."""
    return NONE if value is None else figure(value)


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in per cent."""
    return NONE if value is None else f"{100.0 * value:.{digits}f}%"


def interval(figures: Mapping[str, Any] | None, *, as_percent: bool = False) -> str:
    """Return mean and interval of a figure: ``0.34 [0.21, 0.47]``."""
    if not figures or figures.get("mean") is None:
        return NONE
    shown = percent if as_percent else _short
    mean, low, high = shown(figures["mean"]), figures.get("low"), figures.get("high")
    if low is None or high is None:
        return mean
    return f"{mean} [{shown(low)}, {shown(high)}]"


def spelled_out(name: str) -> str:
    """Return a name of the code as words."""
    return name.replace("_", " ").replace("/", " ")


def curve_panels(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the charts of a training: ``title`` and the places of their curves.

    Measures that no panel names come last, in charts of their own.
    """
    places: dict[str, list[int]] = {}
    for place, curve in enumerate(curves):
        places.setdefault(curve["name"], []).append(place)

    panels = []
    for title, names in PANELS:
        in_panel = []
        for name in names:
            in_panel += places.pop(name, [])
        if in_panel:
            panels.append({"title": title, "places": in_panel})
    for name, in_panel in places.items():
        if name not in IN_TABLE_ONLY:
            panels.append({"title": spelled_out(name), "places": in_panel})
    return panels


def health_rows(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row a measure: both sides, the paired difference, and whether it is clear.

    A difference is clear where its interval leaves out zero.
    """
    measures = entry["measures"]
    names = [name for name in HEALTH_LABELS if name in measures]
    names += [name for name in measures if name not in HEALTH_LABELS]

    rows = []
    for name in names:
        label, form = HEALTH_LABELS.get(name, (spelled_out(name), "{:.4g}"))
        measure, difference = measures[name], measures[name]["difference"]
        low, high = difference.get("low"), difference.get("high")
        rows.append(
            {
                "name": label,
                "policy": _with_interval(measure["policy"], form),
                "baseline": _with_interval(measure["baseline"], form),
                "difference": _with_interval(difference, form, signed=True),
                "is_clear": low is not None and high is not None and (low > 0 or high < 0),
            }
        )
    return rows


def round_table(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the means by round as ``head`` and ``rows``: a row a round, a column a measure."""
    measures = list(figures["measures"].values())
    rows: dict[int, list[str]] = {}
    for column, measure in enumerate(measures):
        for entry in measure["rounds"]:
            row = rows.setdefault(entry["round"], [NONE] * len(measures))
            row[column] = _with_interval(entry, measure["form"])
    return {
        "head": ["Round", *(measure["label"] for measure in measures)],
        "rows": [[_round_name(number), *row] for number, row in sorted(rows.items())],
    }


def round_rows(measure: Mapping[str, Any]) -> list[list[str]]:
    """Return a row a round: its mean, and the difference to the baseline and to the round before.

    Each has its interval.
    """
    rows = []
    for entry in measure["rounds"]:
        row = [_round_name(entry["round"]), _with_interval(entry, measure["form"])]
        for key in ("to_baseline", "to_previous"):
            difference = entry.get(key)
            shown = NONE
            if difference is not None:
                shown = _with_interval(difference, measure["form"], signed=True)
            row.append(shown)
        rows.append(row)
    return rows


def pool_round_rows(pools: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a row a round: the selection, its prompts, and the mean reward of its responses."""
    return [
        [
            _round_name(entry["round"]),
            entry["name"],
            figure(entry["n_prompts"]),
            _with_interval(entry, "{:.3f}"),
        ]
        for entry in pools
    ]


def _round_name(number: int) -> str:
    return str(number) if number else "baseline"


def gap_rows(bins: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the figures of a calibration by gap: a row a bin, its gaps, then `GAP_COLUMNS`."""
    rows = []
    for gap_bin in bins:
        row = [_between(gap_bin["gap_lower"], gap_bin["gap_upper"])]
        for name in GAP_COLUMNS:
            value = gap_bin.get(name)
            row.append(NONE if value is None else _short(value))
        rows.append(row)
    return rows


def histogram_rows(histogram: Mapping[str, Any]) -> list[list[str]]:
    """Return a row a bin: its edges, and the responses of pool, positives and negatives in it."""
    edges = histogram["edges"]
    rows = []
    for place in range(len(edges) - 1):
        counts = [figure(histogram[name][place]) for name in ("pool", "positive", "negative")]
        rows.append([_between(edges[place], edges[place + 1]), *counts])
    return rows


def trend_rows(trend: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a row a bin of lengths: mean length, mean reward, and responses."""
    return [[figure_or_dash(each[name]) for name in ("length", "reward", "n")] for each in trend]


def coverage_rows(coverage: Mapping[str, Any]) -> list[list[Any]]:
    """Return a row a k: the cost of each strategy."""
    rows = []
    for place, k in enumerate(coverage["k"]):
        costs = [figure_or_dash(by_k[place]) for by_k in coverage["strategies"].values()]
        rows.append([k, *costs])
    return rows


def curve_rows(curves: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return a row a curve: its measure and split, first and last value, and last step."""
    rows = []
    for curve in curves:
        first, last = figure_or_dash(curve["first"]), figure_or_dash(curve["last"])
        rows.append([f"{curve['name']}, {curve['split']}", first, last, curve["last_step"]])
    return rows


def reliability_tables(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the reliability curves of a calibration, each ``kind`` and ``rows``.

    A row has the bin's edges, its pairs, and the predicted and the observed share.
    """
    tables = []
    for kind, curve in entry["reliability"].items():
        rows = []
        for place in range(len(curve["n"])):
            values = [figure_or_dash(curve[name][place]) for name in RELIABILITY_VALUES]
            rows.append([_between(curve["lower"][place], curve["upper"][place]), *values])
        tables.append({"kind": kind, "rows": rows})
    return tables


def _between(low: float | None, high: float | None) -> str:
    return f"{figure_or_dash(low)} to {figure_or_dash(high)}"


def _short(value: float) -> str:
    return figure(float(f"{value:.4g}"))


def _with_interval(figures: Mapping[str, Any], form: str, *, signed: bool = False) -> str:
    if figures.get("mean") is None:
        return NONE
    return numbers.interval(figures, form, signed=signed)
