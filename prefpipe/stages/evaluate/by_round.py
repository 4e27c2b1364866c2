"""Evaluations of one round's policy after another, over one run or several.

Reads: evaluations, each of the policy of a round.

Promises: every mean and difference of a measure is over the same prompts, those that have a value
in every round of every run; evaluations of other prompts, sampling, scorers or rewards are refused
and never mixed.

Runs are seeds of one recipe. Errors and intervals are over seeds and prompts
(`prefpipe.maths.statistics.two_level`), of one run over prompts.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from prefpipe.artifacts.fingerprint import field_differences
from prefpipe.artifacts.rounds import round_of
from prefpipe.artifacts.store import Artifact
from prefpipe.errors import FingerprintError, UsageError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.two_level import two_level_mean, two_level_ratio
from prefpipe.stages.inspect.overview import read_summary
from prefpipe.stages.shared.recipe import NOT_COMPARED

BASELINE = 0
"""The round of the baseline: what the policy of round 1 was trained from, as a rule."""


class RunEvaluations(NamedTuple):
    """The evaluations of a run by the round of their policy."""

    name: str
    by_round: Mapping[int, Artifact]


def evaluations_by_round(evaluations: Iterable[Artifact]) -> dict[int, Artifact]:
    """Return evaluations by the round of their policy; evaluations of other policies are left out.

    Raises:
        UsageError: two are of one round.
    """
    by_round: dict[int, Artifact] = {}
    for evaluation in evaluations:
        number = round_of(evaluation.record)
        if not number:
            continue
        if number in by_round:
            raise UsageError(
                f"there are two evaluations of round {number}, {by_round[number].path} and "
                f"{evaluation.path}",
                hint="pass a folder that holds one evaluation of each round",
            )
        by_round[number] = evaluation
    return by_round


class RoundMeasure(NamedTuple):
    """A measure by round: its name in a sentence, the form of its numbers, and its columns.

    ``policy`` and ``baseline`` are columns of an evaluation, ``baseline`` None if the baseline
    has none. ``below``: the column that it is a ratio to.
    """

    name: str
    form: str
    policy: str
    baseline: str | None
    below: str | None = None


def _of_both_sides(name: str, form: str, column: str) -> RoundMeasure:
    return RoundMeasure(name, form, f"policy_{column}", f"baseline_{column}")


MEASURES = {
    "reward": _of_both_sides("mean reward", "{:.3f}", "reward"),
    "win_rate": RoundMeasure("win rate, ties half", "{:.1%}", "preference", None),
    "n_tokens": _of_both_sides("tokens per response", "{:.1f}", "n_tokens"),
    "kl_per_token": RoundMeasure(
        "KL, nats per token", "{:.3f}", "policy_log_ratio", None, "policy_log_ratio_tokens"
    ),
    "self_bleu": _of_both_sides("self-BLEU", "{:.3f}", "self_bleu"),
    "distinct_2": _of_both_sides("distinct-2", "{:.3f}", "distinct_2"),
    "embedding_diversity": _of_both_sides("embedding distance", "{:.3f}", "embedding_diversity"),
}
"""What is shown by round, in this order; a measure without a value is left out."""


def figures_by_round(runs: Sequence[RunEvaluations], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return each measure by round with its intervals, paired by prompt.

    Keys: ``runs`` (names), ``rounds`` (those that every run has), ``reward_expression``,
    ``confidence``, ``bootstrap_draws``, ``bootstrap_seed``, ``notes``, and ``measures``: by name
    ``label``, ``form``, ``n_prompts``, ``n_missing`` and ``rounds``, one entry each for the
    baseline (round 0) and the rounds: ``round``, ``mean``, ``se``, ``low``, ``high``, ``by_run``
    (the means of the runs), and, if known, ``to_baseline`` and ``to_previous``, the paired
    differences.

    Args:
        runs: seeds of one recipe; one at least.
        bootstrap: level, resamples and seed of the intervals.

    Raises:
        FingerprintError: evaluations that were not made by the same recipe.
        UsageError: no round that all runs have, or a run that is a copy of another.
    """
    rounds = sorted(set.intersection(*(set(run.by_round) for run in runs)))
    if not rounds:
        raise UsageError(
            f"no round is evaluated in each of {', '.join(run.name for run in runs)}",
            hint="run `prefpipe status RUN` to see which rounds are evaluated",
        )
    _check_recipes(runs, rounds)
    _refuse_copies(runs, rounds)

    frames = [_Frames(run, rounds) for run in runs]
    measures = {}
    for key, measure in MEASURES.items():
        figures = _figures_of(measure, frames, rounds, bootstrap)
        if figures is not None:
            measures[key] = figures
    first = runs[0].by_round[rounds[0]].record.identity
    return {
        "runs": [run.name for run in runs],
        "rounds": rounds,
        "reward_expression": first["reward"],
        "confidence": bootstrap.level,
        "bootstrap_draws": bootstrap.n_draws,
        "bootstrap_seed": bootstrap.seed,
        "measures": measures,
        "notes": _notes(runs, rounds),
    }


class _Frames:
    """The tables of a run's evaluations by round.

    ``prompts``: those of the first, in its order, by which intervals draw them as `eval` does.
    """

    def __init__(self, run: RunEvaluations, rounds: Sequence[int]) -> None:
        self._by_round = {
            number: pl.DataFrame(run.by_round[number].read_all()) for number in rounds
        }
        self.prompts = self._by_round[rounds[0]]["prompt_id"].to_list()

    def column(self, number: int, name: str | None, prompts: Sequence[str]) -> np.ndarray:
        """Return a column of a round by prompt (P,), NaN if there is no value."""
        frame = self._by_round[number]
        if name is None or name not in frame.columns:
            return np.full(len(prompts), np.nan)
        values = dict(zip(frame["prompt_id"], frame[name].cast(pl.Float64), strict=True))
        known = [values.get(prompt) for prompt in prompts]
        return np.array([np.nan if value is None else value for value in known])


def _figures_of(
    measure: RoundMeasure, runs: Sequence[_Frames], rounds: Sequence[int], bootstrap: Bootstrap
) -> dict[str, Any] | None:
    """Return a measure by round, None if it has no value that all rounds and runs share."""
    prompts = runs[0].prompts

    def values(name: str | None, number: int) -> np.ndarray:
        return np.stack([run.column(number, name, prompts) for run in runs])

    above = {number: values(measure.policy, number) for number in rounds}
    below = {number: values(measure.below, number) for number in rounds if measure.below}
    baselines = {number: values(measure.baseline, number) for number in rounds if measure.baseline}
    every = np.stack([*above.values(), *below.values(), *baselines.values()])
    is_known_P = ~np.isnan(every).any(axis=(0, 1))
    if not is_known_P.any():
        return None

    def known(tables: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        return {number: table[:, is_known_P] for number, table in tables.items()}

    above, below, baselines = known(above), known(below), known(baselines)
    entries = []
    if baselines:
        entries.append(_entry(BASELINE, baselines[rounds[0]], None, bootstrap))
    for number in rounds:
        entry = _entry(number, above[number], below.get(number), bootstrap)
        if baselines:
            entry["to_baseline"] = _difference(above[number] - baselines[number], bootstrap)
        previous = baselines.get(number) if number == 1 else above.get(number - 1)
        # the ratio of a difference is not the difference of two ratios
        if previous is not None and not below:
            entry["to_previous"] = _difference(above[number] - previous, bootstrap)
        entries.append(entry)
    return {
        "label": measure.name,
        "form": measure.form,
        "n_prompts": int(is_known_P.sum()),
        "n_missing": int((~is_known_P).sum()),
        "rounds": entries,
    }


def _entry(
    number: int, above_SP: np.ndarray, below_SP: np.ndarray | None, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return the mean of a round, and that of each run."""
    if below_SP is None:
        mean = two_level_mean(above_SP, bootstrap)
        by_run = above_SP.mean(axis=1)
    else:
        mean = two_level_ratio(above_SP, below_SP, bootstrap)
        by_run = above_SP.sum(axis=1) / below_SP.sum(axis=1)
    return {"round": number, **mean._asdict(), "by_run": by_run.tolist()}


def _difference(differences_SP: np.ndarray, bootstrap: Bootstrap) -> dict[str, Any]:
    mean = two_level_mean(differences_SP, bootstrap)
    return {**mean._asdict(), "by_run": differences_SP.mean(axis=1).tolist()}


def _check_recipes(runs: Sequence[RunEvaluations], rounds: Sequence[int]) -> None:
    """Refuse evaluations whose figures do not compare.

    Raises:
        FingerprintError: naming the first two that differ, and in what.
    """
    first = runs[0].by_round[rounds[0]]
    for run in runs:
        for number in rounds:
            other = run.by_round[number]
            differences = field_differences(recipe_of_figures(first), recipe_of_figures(other))
            if differences:
                lines = [
                    each.worded(f"in {first.path}", f"in {other.path}") for each in differences
                ]
                raise FingerprintError(
                    "the rounds were not evaluated by the same recipe:\n  " + "\n  ".join(lines),
                    hint="evaluate them with the same settings, or compare them separately",
                )


def _refuse_copies(runs: Sequence[RunEvaluations], rounds: Sequence[int]) -> None:
    """Refuse runs with identical evaluations: intervals would narrow without new data.

    Raises:
        UsageError: naming two such runs.
    """
    seen: dict[tuple[str, ...], str] = {}
    for run in runs:
        evaluations = tuple(run.by_round[number].record.fingerprint for number in rounds)
        other = seen.setdefault(evaluations, run.name)
        if other != run.name:
            raise UsageError(
                f"{run.name} has the same evaluations as {other}: a copy would count as a second "
                "seed",
                hint="name each run once; for another seed run `prefpipe rounds PLAN -o RUN "
                "--seed N`",
            )


def recipe_of_figures(evaluation: Artifact) -> dict[str, Any]:
    """Return the settings that must be equal for two evaluations to be comparable."""
    identity = evaluation.record.identity
    recipe: dict[str, Any] = {"reward": identity["reward"]}
    for parent in ("policy_candidates", "policy_scores"):
        fields = identity.get(parent) or {}
        recipe[parent] = {key: fields[key] for key in fields if key not in NOT_COMPARED}
    return recipe


def _notes(runs: Sequence[RunEvaluations], rounds: Sequence[int]) -> list[str]:
    """Return notes for a reader of the table."""
    notes = []
    for run in runs:
        more = sorted(set(run.by_round) - set(rounds))
        if more:
            numbers = ", ".join(map(str, more))
            notes.append(f"round {numbers} of {run.name} is left out because not every run has it")

        identities = [run.by_round[number].record.identity for number in rounds]
        samples = {_models(each["baseline_candidates"]) for each in identities}
        if len(samples) > 1:
            notes.append(f"the rounds of {run.name} are compared with different baselines")
        references = {_models(each.get("reference_logprobs") or {}) for each in identities}
        if len(references) > 1:
            notes.append(f"the KL values of the rounds of {run.name} use different references")

    first = read_summary(runs[0].by_round[rounds[0]]) or {}
    divergence = (first.get("health") or {}).get("kl_per_token") or {}
    if divergence.get("reference"):
        notes.append(f"KL is to {divergence['reference']}")
    if divergence.get("sampled_otherwise"):
        notes.append(f"KL is biased: responses were sampled at {divergence['sampled_otherwise']}")
    return notes


def _models(identity: Mapping[str, Any]) -> str:
    return str(identity.get("models") or identity.get("model"))
