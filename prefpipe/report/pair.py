"""Two runs side by side: the first screen's figures of both, and which settings differ.

Reads: what `prefpipe.report.answers` says of each, and the tables of their evaluations.

Promises: a difference is paired by prompt, and is there only where both evaluations have the same
held-out prompts, in any order, sampling and scorers. Where they have not, the page says in what
they differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from prefpipe import __version__
from prefpipe.artifacts.fingerprint import canonical_json, field_differences, shorten
from prefpipe.artifacts.finite_json import finite_values
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import Artifact
from prefpipe.errors import InputError, PrefpipeError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.intervals import paired_difference
from prefpipe.report.answers import (
    answers_of,
    bootstrap_of,
    change_state,
    lowest_deciles,
)
from prefpipe.report.lineage import NOT_SETTINGS
from prefpipe.report.outcomes import win_rates_of
from prefpipe.report.sources import ReportedArtifact, TrainedShape, pools_of
from prefpipe.report.story import not_done
from prefpipe.stages.evaluate.by_round import recipe_of_figures
from prefpipe.stages.evaluate.health import HEALTH, SHARED
from prefpipe.stages.shared.candidate_rows import REASONING, further_columns

NOT_PAIRED = "not paired"
PROMPTS = "candidates.prompts"
"""End of the keys of a recipe that hold the digest of a prompts file."""
SECOND = "_of_second"
"""Behind the columns of the second run."""
WORSE_DIRECTION = {
    "reward": -1,
    "win_rate": -1,
    "lowest_decile": -1,
    **{key: measure.worse for key, measure in {**SHARED, **HEALTH}.items()},
}
"""Which direction is worse; of the measures that are not named, neither."""
MOST_SETTINGS = 200
"""Settings that are listed; the page counts the others."""


class ReportedRun(NamedTuple):
    """A run of a pair: its name on the page, its artifacts, and the model of its savings."""

    name: str
    artifacts: Sequence[ReportedArtifact]
    model: TrainedShape
    unreadable: Sequence[Mapping[str, Any]] = ()


def run_names(paths: Sequence[Location]) -> list[str]:
    """Return the names of two runs: of their folders, with as many parents as tell them apart."""
    parts = [str(path.resolve()).split("/") for path in paths]
    for length in range(1, max(len(each) for each in parts) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def tell_pair(first: ReportedRun, second: ReportedRun) -> dict[str, Any]:
    """Return the story of two runs as JSON values, as ``pair.html.jinja`` reads it.

    Keys: ``folder``, ``version``, ``runs`` (each ``name``, ``answers`` and ``not_done``),
    ``reasons`` (why no difference is given; [] where they are), ``notes``, ``rows`` (each ``key``,
    ``label``, ``form``, ``first``, ``second``, ``difference``, ``n_prompts``, ``state`` and
    ``why``), ``settings``, ``n_more_settings`` and ``alone``.

    Raises:
        InputError: a run holds no artifact.
    """
    runs: list[dict[str, Any]] = []
    for run in (first, second):
        if not run.artifacts:
            raise InputError(
                f"{run.name} holds no artifact",
                hint="pass the folder in which prefpipe's stages wrote theirs",
            )
        answers = answers_of(
            run.artifacts, pools_of(run.artifacts), win_rates_of(run.artifacts), run.model
        )
        entry = {
            "name": run.name,
            "answers": answers,
            "not_done": [*run.unreadable, *not_done(run.artifacts)],
        }
        runs.append(entry)

    evaluations = [
        _named(run.artifacts, entry["answers"]["evaluation"])
        for run, entry in zip((first, second), runs, strict=True)
    ]
    reasons = _reasons((first, second), evaluations)
    pairs = None
    if not reasons:
        assert evaluations[0] is not None
        assert evaluations[1] is not None
        try:
            pairs = PairedEvaluations(evaluations[0], evaluations[1])
        except PrefpipeError as error:
            reasons.append(error.message)

    settings, alone = _settings(first, second)
    story = {
        "folder": f"{first.name} and {second.name}",
        "version": __version__,
        "runs": runs,
        "reasons": reasons,
        "rows": list(_rows(runs, pairs)),
        "settings": settings[:MOST_SETTINGS],
        "n_more_settings": max(len(settings) - MOST_SETTINGS, 0),
        "alone": alone,
    }
    finite: dict[str, Any] = finite_values(story)
    return finite


def _named(artifacts: Sequence[ReportedArtifact], name: str | None) -> ReportedArtifact | None:
    return next((each for each in artifacts if each.name == name), None)


def _reasons(
    runs: Sequence[ReportedRun], evaluations: Sequence[ReportedArtifact | None]
) -> list[str]:
    """Return why the two evaluations do not compare, [] where they do."""
    names = [run.name for run in runs]
    reasons = [
        f"{name} has no evaluation"
        for name, evaluation in zip(names, evaluations, strict=True)
        if evaluation is None
    ]
    if reasons:
        return reasons
    first, second = evaluations
    assert first is not None
    assert second is not None
    differences = field_differences(
        recipe_of_figures(first.artifact), recipe_of_figures(second.artifact)
    )
    of_prompts = [each for each in differences if each.key.endswith(PROMPTS)]
    # the digests are of files: the same prompts in another order have another one
    if of_prompts and _have_the_same_prompts(runs, (first, second)):
        differences = [each for each in differences if each not in of_prompts]
    for difference in differences:
        line = difference.worded(f"in {names[0]}", f"in {names[1]}")
        if difference in of_prompts:
            line = f"the held-out prompts differ: {line}"
        reasons.append(line)
    return reasons


def _have_the_same_prompts(
    runs: Sequence[ReportedRun], evaluations: Sequence[ReportedArtifact]
) -> bool:
    """Return whether the sampled prompts are the same, in whatever order.

    Ids, messages and the user's columns count, `checks` among them.
    """
    prompts = []
    for run, evaluation in zip(runs, evaluations, strict=True):
        candidates = _named(run.artifacts, evaluation.parents.get("policy_candidates"))
        # candidates that are not in the folder cannot be read
        if candidates is None:
            return False
        prompts.append(_prompts_of(candidates.artifact))
    return prompts[0] == prompts[1]


def _prompts_of(candidates: Artifact) -> dict[str, dict[str, Any]]:
    """Return what belongs to each prompt of candidates, by id."""
    prompts = {}
    for index in candidates.present(range(candidates.n_parts), allow_partial=True):
        table, _ = candidates.read(index)
        of_prompts = [name for name in further_columns(table).column_names if name != REASONING]
        for row in table.select(["prompt_id", "messages", *of_prompts]).to_pylist():
            prompts[row["prompt_id"]] = row
    return prompts


class PairedEvaluations:
    """The tables of two evaluations of one recipe, joined by prompt.

    Raises:
        CorruptPartError: a table is damaged.
    """

    def __init__(self, first: ReportedArtifact, second: ReportedArtifact) -> None:
        tables = [pl.DataFrame(each.artifact.read_all()) for each in (first, second)]
        self._joined = tables[0].join(
            tables[1], on="prompt_id", suffix=SECOND, maintain_order="left"
        )
        self._bootstrap = bootstrap_of(first)
        identities = (first.identity, second.identity)
        # the joined prompts are the same, whatever the digests of their files
        baselines = []
        for identity in identities:
            baseline = identity["baseline_candidates"]
            baselines.append({key: baseline[key] for key in baseline if key != "prompts"})
        self._same_baseline = canonical_json(baselines[0]) == canonical_json(baselines[1])
        self._same_reference = _alike(identities, "reference_logprobs", "model")

    def difference(self, key: str) -> tuple[dict[str, Any] | None, str]:
        """Return second minus first, or None and why there is none."""
        if key == "length_controlled":
            return None, "the fit of each run has its own baseline lengths"
        if key == "win_rate":
            if not self._same_baseline:
                return None, "the runs are compared with different baselines"
            return self._of_means("preference"), ""
        if key == "kl_per_token":
            if not self._same_reference:
                return None, "the KL is to different references"
            return self._of_ratios("policy_log_ratio", "policy_log_ratio_tokens"), ""
        if key == "lowest_decile":
            return self._of_deciles(), ""
        return self._of_means(f"policy_{key}"), ""

    def _columns(self, *names: str) -> list[np.ndarray]:
        """Return the columns of the first run, then of the second, of prompts that have all."""
        columns = [*names, *(f"{name}{SECOND}" for name in names)]
        known = self._joined.select(columns).cast(pl.Float64).fill_nan(None).drop_nulls()
        return [known[name].to_numpy() for name in columns]

    def _of_means(self, column: str) -> dict[str, Any] | None:
        if column not in self._joined.columns:
            return None
        of_first, of_second = self._columns(column)
        return paired_difference(of_second, of_first, self._bootstrap)._asdict()

    def _of_deciles(self) -> dict[str, Any] | None:
        of_first, of_second = self._columns("policy_reward")
        if not len(of_first):
            return None
        difference: dict[str, Any] = lowest_deciles(of_second, of_first, self._bootstrap)[
            "difference"
        ]
        return difference

    def _of_ratios(self, above: str, below: str) -> dict[str, Any] | None:
        columns = self._columns(above, below)
        if not len(columns[0]):
            return None
        return difference_of_ratios(
            (columns[0], columns[1]), (columns[2], columns[3]), self._bootstrap
        )


def difference_of_ratios(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Return ``sum above / sum below`` of the second minus that of the first.

    Every resample draws the same prompts for both.

    Args:
        first: ``above`` and ``below`` by prompt, every value known.
        second: the same, prompts in the same order.
        bootstrap: level, resamples and seed.
    """
    stacked = np.stack([*first, *second])

    def of_prompts(drawn: np.ndarray) -> np.ndarray:
        sums = [column[drawn].sum(axis=1) for column in stacked]
        return np.asarray(sums[2] / sums[3] - sums[0] / sums[1])

    n_prompts = stacked.shape[1]
    mean = float(of_prompts(np.arange(n_prompts)[None])[0])
    low, high = bootstrap.ends(bootstrap.resample(of_prompts, n_prompts))
    return {"mean": mean, "low": low, "high": high, "n": n_prompts}


def _alike(identities: Sequence[Mapping[str, Any]], *keys: str) -> bool:
    """Whether both have the same value under the keys."""
    values = []
    for identity in identities:
        value: Any = identity
        for key in keys:
            value = (value or {}).get(key)
        values.append(canonical_json(value))
    return values[0] == values[1]


def _rows(
    runs: Sequence[Mapping[str, Any]], pairs: PairedEvaluations | None
) -> list[dict[str, Any]]:
    """Return a row a measure that either run has."""
    by_run = []
    for run in runs:
        answers = run["answers"]
        by_run.append({row["key"]: row for row in (*answers["gains"], *answers["changes"])})
    first, second = by_run

    rows = []
    for key in {**first, **second}:
        known = first.get(key) or second[key]
        sides = [None if key not in each else each[key]["policy"] for each in by_run]
        difference, why = None, NOT_PAIRED
        if pairs is not None:
            difference, why = pairs.difference(key)
        row = {
            "key": key,
            "label": known["label"],
            "form": known["form"],
            "first": sides[0],
            "second": sides[1],
            "difference": difference,
            "n_prompts": None if difference is None else difference.get("n"),
            "state": change_state(difference, WORSE_DIRECTION.get(key, 0)),
            "why": "" if difference is not None else why,
            "made_of": [each[key]["made_of"] for each in by_run if key in each],
        }
        if any(side is not None for side in sides):
            rows.append(row)
    return rows


def _settings(
    first: ReportedRun, second: ReportedRun
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the settings in which artifacts of one name differ, and artifacts of one run alone."""
    by_name = [{each.name: each for each in run.artifacts} for run in (first, second)]
    settings, alone = [], []
    for name in {**by_name[0], **by_name[1]}:
        pair = [each.get(name) for each in by_name]
        for run, there, other in zip((first, second), pair, pair[::-1], strict=True):
            if there is not None and other is None:
                alone.append({"run": run.name, "artifact": name, "stage": _stage(there)})
        if pair[0] is None or pair[1] is None:
            continue
        before, after = (_chosen(each) for each in pair if each is not None)
        settings += [
            {
                "artifact": name,
                "setting": difference.key,
                "first": shorten(difference.before),
                "second": shorten(difference.after),
            }
            for difference in field_differences(before, after)
        ]
    return settings, alone


def _stage(artifact: ReportedArtifact) -> str:
    return artifact.artifact.record.stage


def _chosen(artifact: ReportedArtifact) -> dict[str, Any]:
    """Return the stage and what was chosen for it; parents' settings are in their own rows."""
    record = artifact.artifact.record
    left_out = {*NOT_SETTINGS, *record.parents}
    chosen = {key: value for key, value in record.identity.items() if key not in left_out}
    return {"stage": record.stage, **chosen}
