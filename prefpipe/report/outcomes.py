"""What a run led to: training curves, win rates, the policy's health, and calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefpipe.errors import PrefpipeError
from prefpipe.report.answers import bootstrap_of
from prefpipe.report.sources import ReportedArtifact
from prefpipe.stages.evaluate.health import health_notes
from prefpipe.stages.evaluate.length_control import MAX_FITS
from prefpipe.stages.evaluate.win_rate_recipes import WinRateSources
from prefpipe.stages.evaluate.win_rates import Drawing, win_rates
from prefpipe.stages.inspect.curves import read_points
from prefpipe.stages.inspect.overview import read_summary

MAX_CURVE_POINTS, ALL_CURVE_POINTS, FEWEST_CURVE_POINTS = 400, 2_000, 40
"""Of a curve, of all trainings' longest curves together, and of a curve at least."""
PREFERENCES = ("evaluation", "verdicts")
FIGURES = ("n_pairs", "accuracy", "auc", "ece", "ece_mass", "brier", "log_loss")
CURVE = ("lower", "upper", "n", "predicted", "observed")
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


def trainings_of(artifacts: Sequence[ReportedArtifact]) -> list[dict[str, Any]]:
    """Return every training: ``name``, ``settings``, ``curves`` and ``summary``, which may be None.

    The curves are those of `prefpipe.stages.inspect.curves.read_points`.
    """
    trained = [each for each in artifacts if each.kind == "policy"]
    # Of many rounds each curve has fewer points: the page stays small.
    shared = ALL_CURVE_POINTS // max(len(trained), 1)
    n_points = max(FEWEST_CURVE_POINTS, min(MAX_CURVE_POINTS, shared))
    trainings = []
    for policy in trained:
        chosen = {**policy.identity, **(policy.identity.get("knobs") or {})}
        trainings.append(
            {
                "name": policy.name,
                "settings": {name: chosen[name] for name in SETTINGS if chosen.get(name)},
                "curves": read_points(policy.artifact.path, n_points),
                "summary": read_summary(policy.artifact),
            }
        )
    return trainings


def win_rates_of(artifacts: Sequence[ReportedArtifact]) -> list[dict[str, Any]]:
    """Return the win rates of every evaluation and every judgement.

    That is what ``prefpipe eval win-rate DIR`` computes, one each; an evaluation has the intervals
    that ``prefpipe eval`` printed. Keys: ``name``, and either
    ``error``, or ``policy``, ``n_rows``, ``n_rows_missing``, ``confidence``, ``win_rate``,
    ``length_controlled`` (None where there is none), ``notes`` and ``recipe``.
    """
    entries = []
    for judged in artifacts:
        if judged.kind not in PREFERENCES:
            continue
        try:
            # Missing verdicts are counted in the entry: they must not end a report.
            computed = win_rates(
                [str(judged.artifact.path)],
                WinRateSources(allow_missing=True),
                _drawing_of(judged),
            )
        except PrefpipeError as error:
            entries.append({"name": judged.name, "error": error.message})
            continue

        [result] = computed["results"]
        of_policy = {"policy": result["name"], "confidence": computed["confidence"]}
        entries.append({**result, "name": judged.name, **of_policy})
    return entries


def _drawing_of(judged: ReportedArtifact) -> Drawing:
    """Return the resamples of an evaluation as it drew them, else those of the command."""
    if judged.kind != "evaluation":
        return Drawing()
    bootstrap = bootstrap_of(judged)
    fits = bootstrap._replace(n_draws=min(bootstrap.n_draws, MAX_FITS))
    return Drawing(of_means=bootstrap, of_fits=fits)


def health_of(artifacts: Sequence[ReportedArtifact]) -> list[dict[str, Any]]:
    """Return what every evaluation measured of its two sides.

    Keys: ``name``, the sides' names as ``policy`` and ``baseline``, ``confidence``, ``measures``,
    those of ``summary.json`` that have a value, ``absent``, why others have none, and ``notes``:
    what got worse.
    """
    entries = []
    for evaluation in artifacts:
        if evaluation.kind != "evaluation":
            continue
        summary = read_summary(evaluation.artifact) or {}
        measures, absent = {}, {}
        # Those of health stand one level below the others.
        for name, value in {**summary, **(summary.get("health") or {})}.items():
            if not is_measure(value):
                continue
            if "reason" in value:
                absent[name] = value["reason"]
            else:
                measures[name] = value

        if measures or absent:
            entries.append(
                {
                    "name": evaluation.name,
                    "policy": summary.get("policy_name"),
                    "baseline": summary.get("baseline_name"),
                    "confidence": summary.get("confidence"),
                    "measures": measures,
                    "absent": absent,
                    "notes": health_notes(summary) if "health" in summary else [],
                }
            )
    return entries


def is_measure(value: Any) -> bool:
    """Whether a value of a summary is a figure of both sides and of their difference."""
    if not isinstance(value, Mapping):
        return False
    return all(isinstance(value.get(of), Mapping) for of in ("policy", "baseline", "difference"))


def calibrations_of(artifacts: Sequence[ReportedArtifact]) -> list[dict[str, Any]]:
    """Return every calibration on disk, of reward models and of ``eval calibration``, in one form.

    Keys:

    - ``name`` and the figures: ``n_pairs``, ``accuracy``, ``auc``, ``ece``, ``ece_mass``,
      ``brier``, ``log_loss``;
    - ``reliability``: ``width`` and ``mass``, each columns ``lower``, ``upper``, ``n``,
      ``predicted``, ``observed``;
    - ``temperature``: before and after scaling, or None;
    - ``by_gap``: a list, by the gap of the scores;
    - ``by_rater_gap``: a list, by the raters' gap; empty without one.
    """
    entries = []
    for artifact in artifacts:
        figures = (read_summary(artifact.artifact) or {}).get("calibration")
        if not isinstance(figures, Mapping) or not figures.get("reliability"):
            continue
        # `train` and `eval calibration` name the gaps differently.
        by_rater_gap = figures.get("by_rater_gap") or figures.get("by_reward_gap")
        entries.append(
            {
                "name": artifact.name,
                **{name: figures.get(name) for name in FIGURES},
                "reliability": _reliability_curves(figures),
                "temperature": figures.get("temperature"),
                "by_gap": figures.get("by_gap") or figures.get("by_score_gap") or [],
                "by_rater_gap": by_rater_gap or [],
            }
        )
    return entries


def _reliability_curves(figures: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Return both curves as columns; ``eval calibration`` writes them as rows."""
    if isinstance(figures["reliability"], Mapping):
        return dict(figures["reliability"])

    curves = {}
    for kind, name in (("width", "reliability"), ("mass", "reliability_mass")):
        rows = figures.get(name)
        if rows:
            curves[kind] = {column: [row[column] for row in rows] for column in CURVE}
    return curves
