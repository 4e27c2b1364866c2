"""What came of a run: training curves, win rates, the health of the policy, and whether probabilities are right."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefpipe.errors import PrefpipeError
from prefpipe.maths.statistics.intervals import Bootstrap
from prefpipe.report.sources import ReportedArtifact
from prefpipe.stages.evaluate.health import health_notes
from prefpipe.stages.evaluate.win_rate_recipes import WinRateSources
from prefpipe.stages.evaluate.win_rates import Drawing, win_rates
from prefpipe.stages.inspect.curves import read_points
from prefpipe.stages.inspect.overview import read_summary

MAX_CURVE_POINTS = 400
FITS = 500
"""Resamples of a length-controlled fit."""
PREFERENCES = ("evaluation", "verdicts")
FIGURES = ("n_pairs", "accuracy", "auc", "ece", "ece_mass", "brier", "log_loss")
CURVE = ("lower", "upper", "n", "predicted", "observed")
SIDES = ("policy", "baseline", "difference")
SETTINGS = (
    "objective",
    "target",
    "beta",
    "gamma",
    "alpha",
    "learning_rate",
    "num_train_epochs",
    "global_batch_size",
    "lora_r",
)


def trainings_of(found: Sequence[ReportedArtifact]) -> list[dict[str, Any]]:
    """Return every training: ``name``, ``settings``, ``curves`` and ``summary``, which may be None.

    The curves are those of `prefpipe.stages.inspect.curves.read_points`.
    """
    trained = []
    for item in (item for item in found if item.kind == "policy"):
        identity = item.artifact.record.identity | (
            item.artifact.record.identity.get("knobs") or {}
        )
        trained.append(
            {
                "name": item.name,
                "settings": {name: identity[name] for name in SETTINGS if identity.get(name)},
                "curves": read_points(item.artifact.path, MAX_CURVE_POINTS),
                "summary": read_summary(item.artifact),
            }
        )
    return trained


def win_rates_of(found: Sequence[ReportedArtifact]) -> list[dict[str, Any]]:
    """Return the win rates of every evaluation and every judgement: what `prefpipe eval win-rate DIR` finds, one each.

    Keys: ``name``, and either ``error``, or ``policy``, ``n_rows``, ``n_rows_missing``, ``confidence``, ``win_rate``,
    ``length_controlled`` (None where there is none), ``notes`` and ``recipe``.
    """
    results = []
    for item in (item for item in found if item.kind in PREFERENCES):
        try:
            drawing = Drawing(of_fits=Bootstrap(n_draws=FITS))
            told = win_rates([str(item.artifact.path)], WinRateSources(allow_missing=True), drawing)
        except PrefpipeError as error:
            results.append({"name": item.name, "error": error.message})
            continue
        result = dict(told["results"][0])
        results.append(
            result | {"name": item.name, "policy": result["name"], "confidence": told["confidence"]}
        )
    return results


def health_of(found: Sequence[ReportedArtifact]) -> list[dict[str, Any]]:
    """Return what every evaluation measured of its two sides.

    Keys: ``name``, the sides' names, ``confidence``, ``measures``, those of ``summary.json`` that have a value, ``absent``, why
    others have none, and ``notes``: what got worse.
    """
    told = []
    for item in (item for item in found if item.kind == "evaluation"):
        summary = read_summary(item.artifact) or {}
        every = {
            name: value
            for name, value in {**summary, **(summary.get("health") or {})}.items()
            if is_measure(value)
        }
        if every:
            sides = {side: summary.get(f"{side}_name") for side in ("policy", "baseline")}
            told.append(
                {
                    "name": item.name,
                    **sides,
                    "confidence": summary.get("confidence"),
                    "measures": {
                        name: value for name, value in every.items() if "reason" not in value
                    },
                    "absent": {
                        name: value["reason"] for name, value in every.items() if "reason" in value
                    },
                    "notes": health_notes(summary) if "health" in summary else [],
                }
            )
    return told


def is_measure(value: Any) -> bool:
    """Whether a value of a summary is a figure of both sides and of their difference."""
    return isinstance(value, Mapping) and all(
        isinstance(value.get(side), Mapping) for side in SIDES
    )


def calibrations_of(found: Sequence[ReportedArtifact]) -> list[dict[str, Any]]:
    """Return every calibration on disk, of reward models in training and of ``eval calibration``, in one form.

    Keys: ``name``, the figures (``n_pairs``, ``accuracy``, ``auc``, ``ece``, ``ece_mass``, ``brier``, ``log_loss``),
    ``reliability`` (``width`` and ``mass``, each columns ``lower``, ``upper``, ``n``, ``predicted``, ``observed``), ``by_gap`` (a
    list, by the gap of the scores), ``by_rater_gap`` (a list, by the raters' gap; empty without one) and ``temperature`` (before
    and after scaling, or None).
    """
    told = []
    for item in found:
        figures = (read_summary(item.artifact) or {}).get("calibration")
        if isinstance(figures, Mapping) and figures.get("reliability"):
            told.append(
                {
                    "name": item.name,
                    **{name: figures.get(name) for name in FIGURES},
                    "reliability": _curves(figures),
                    "temperature": figures.get("temperature"),
                    "by_gap": figures.get("by_gap") or figures.get("by_score_gap") or [],
                    "by_rater_gap": figures.get("by_rater_gap")
                    or figures.get("by_reward_gap")
                    or [],
                }
            )
    return told


def _curves(figures: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Return both curves as columns; ``eval calibration`` writes them as rows, ``train`` as columns."""
    if isinstance(figures["reliability"], Mapping):
        return dict(figures["reliability"])
    rows = {"width": figures["reliability"], "mass": figures.get("reliability_mass") or []}
    return {
        kind: {name: [row[name] for row in curve] for name in CURVE}
        for kind, curve in rows.items()
        if curve
    }
