"""What the first screen answers: did it get better, by how much, at what cost, what got worse.

Reads: the evaluation of the last round, or the first evaluation of a run without rounds, and the
candidates that were sampled for training.

Promises: a change is called better or worse only where its interval leaves out zero. What was not
measured is named, with the command that measures it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from prefpipe.artifacts.rounds import round_of
from prefpipe.errors import PrefpipeError
from prefpipe.maths.compute.training_compute import Recipe
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.two_level_figures import lowest_share_figures, two_level_figure
from prefpipe.report.sources import ReportedArtifact, ReportedPool, TrainedShape
from prefpipe.stages.evaluate.comparison import ROWS
from prefpipe.stages.evaluate.health import HEALTH, LEAST_PROMPTS, SHARED
from prefpipe.stages.inspect.curves import read_totals
from prefpipe.stages.inspect.overview import read_summary
from prefpipe.stages.savings import Machine, TrainedModel, basis_of_groups, savings

BETTER, WORSE, MIXED = "better", "worse", "mixed"
CANNOT_TELL, UNCHANGED, NOT_MEASURED = "cannot tell", "unchanged", "not measured"
HIGHER, LOWER = "higher", "lower"
MOST_SORTS = 2_000
"""Resamples of a lowest decile, each of which sorts the prompts."""
ALWAYS_SHOWN = ("refused", "distinct_2_equal", "self_bleu", "embedding_diversity")
"""Of the health measures; the others are shown where they got worse."""
PLAIN_LABELS = {
    "distinct_2_equal": "variety of words (distinct-2 at equal length)",
    "self_bleu": "sameness of a prompt's responses (self-BLEU)",
    "embedding_diversity": "diversity of a prompt's responses (embeddings)",
}
"""What a reader without the field's words is told; the health section has the field's names."""
EVAL_COMMAND = "prefpipe eval --policy POLICY --baseline MODEL --prompts HELDOUT -o RUN/eval"
EMBED_COMMAND = "prefpipe eval --policy-embeddings DIR --baseline-embeddings DIR"


def answers_of(
    artifacts: Sequence[ReportedArtifact],
    pools: Sequence[ReportedPool],
    win_rates: Sequence[Mapping[str, Any]],
    model: TrainedShape,
) -> dict[str, Any]:
    """Return the answers as JSON values.

    Keys:

    - ``evaluation``: the name of the one that is shown, None where there is none, ``others`` and
      ``baseline``, ``n_prompts``, ``confidence``, ``reward``;
    - ``state``: `BETTER`, `WORSE`, `MIXED`, `CANNOT_TELL` or `NOT_MEASURED`;
    - ``gains`` and ``changes``: rows, each ``key``, ``label``, ``form``, ``policy``, ``baseline``,
      ``difference`` (each with ``mean``, ``low``, ``high``, or None), ``state``, ``made_of`` and
      ``missing`` (the command that measures it, or None);
    - ``costs``: see `costs_of`.

    Args:
        artifacts: of the folder.
        pools: of them.
        win_rates: of `prefpipe.report.outcomes.win_rates_of`.
        model: whose training compute is counted.
    """
    evaluations = [each for each in artifacts if each.kind == "evaluation"]
    shown = _last_evaluation(evaluations)
    summary = {} if shown is None else read_summary(shown.artifact) or {}
    gains = [*_reward_gain(shown, summary), *_win_rate_gains(shown, win_rates)]
    return {
        "evaluation": shown and shown.name,
        "others": [each.name for each in evaluations if each is not shown],
        "baseline": summary.get("baseline_name"),
        "n_prompts": summary.get("n_compared"),
        "confidence": summary.get("confidence"),
        "reward": summary.get("reward_expression"),
        "state": _state_of(gains),
        "gains": gains,
        "changes": [] if shown is None else list(_changes(shown, summary)),
        "costs": costs_of(artifacts, pools, model),
    }


def _last_evaluation(evaluations: Sequence[ReportedArtifact]) -> ReportedArtifact | None:
    """Return the evaluation of the last round, the first where several are of it."""
    if not evaluations:
        return None
    return max(evaluations, key=lambda each: round_of(each.artifact.record) or 0)


def _state_of(gains: Sequence[Mapping[str, Any]]) -> str:
    """Return the answer of mean reward and win rate together."""
    states = {row["state"] for row in gains if row["key"] != "length_controlled"}
    if BETTER in states:
        return MIXED if WORSE in states else BETTER
    if WORSE in states:
        return WORSE
    if states <= {NOT_MEASURED}:
        return NOT_MEASURED
    return UNCHANGED if states <= {UNCHANGED, NOT_MEASURED} else CANNOT_TELL


def change_state(difference: Mapping[str, Any] | None, worse: int) -> str:
    """Return what an interval says of a change.

    Args:
        difference: ``mean``, ``low``, ``high`` and, where it is known, ``n`` prompts.
        worse: the direction that is worse, 0 for neither.
    """
    if difference is None or difference.get("mean") is None:
        return NOT_MEASURED
    low, high = difference.get("low"), difference.get("high")
    if low is None or high is None or difference.get("n", LEAST_PROMPTS) < LEAST_PROMPTS:
        return CANNOT_TELL
    if low == high == 0:
        return UNCHANGED
    if low <= 0 <= high:
        return CANNOT_TELL
    direction = 1 if low > 0 else -1
    if not worse:
        return HIGHER if direction > 0 else LOWER
    return WORSE if direction == worse else BETTER


def _row(
    key: str,
    label: str,
    form: str,
    values: Mapping[str, Any] | None,
    *,
    worse: int,
    made_of: str | None,
    missing: str | None = None,
) -> dict[str, Any]:
    """Return a row of a measure that ``summary.json`` has of both sides."""
    values = values or {}
    sides = {of: _ends(values.get(of)) for of in ("policy", "baseline", "difference")}
    state = change_state(values.get("difference"), worse)
    return {
        "key": key,
        "label": label,
        "form": form,
        **sides,
        "state": state,
        "made_of": made_of,
        "missing": missing if state == NOT_MEASURED else None,
    }


def _ends(figures: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return mean and interval, None where there is no mean."""
    if figures is None or figures.get("mean") is None:
        return None
    return {name: figures.get(name) for name in ("mean", "low", "high")}


def _reward_gain(
    shown: ReportedArtifact | None, summary: Mapping[str, Any]
) -> list[dict[str, Any]]:
    label, key, form = ROWS[0]
    name = shown and shown.name
    return [_row(key, label, form, summary.get(key), worse=-1, made_of=name, missing=EVAL_COMMAND)]


def _win_rate_gains(
    shown: ReportedArtifact | None, win_rates: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return win rates, raw and at equal length: of the evaluation, else of the first verdicts."""
    entries = [entry for entry in win_rates if "error" not in entry]
    of_evaluation = [entry for entry in entries if shown and entry["name"] == shown.name]
    entry = next(iter([*of_evaluation, *entries]), None)
    rows = []
    for key, label in (("win_rate", "win rate"), ("length_controlled", "at equal length")):
        rate = {} if entry is None else entry[key] or {}
        if key == "length_controlled" and _ends(rate) is None:
            continue
        from_half = None
        if _ends(rate) is not None:
            # 50 % is no change
            from_half = {
                end: None if rate[end] is None else rate[end] - 0.5
                for end in ("mean", "low", "high")
            }
            from_half["n"] = rate.get("n", LEAST_PROMPTS)
        made_of = None if entry is None else entry["name"]
        row = _row(
            key,
            label,
            "{:.1%}",
            {"policy": rate, "difference": from_half},
            worse=-1,
            made_of=made_of,
            missing=EVAL_COMMAND,
        )
        rows.append(row)
    return rows


def _changes(shown: ReportedArtifact, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what may have got worse: the lowest decile, KL, length, diversity, refusals.

    Every other measure of health is there where it got worse.
    """
    name, health = shown.name, summary.get("health") or {}
    rows = [
        _row(
            "lowest_decile",
            "mean reward, worst tenth of prompts",
            "{:.3f}",
            lowest_decile(shown),
            worse=-1,
            made_of=name,
        )
    ]

    divergence = health.get("kl_per_token")
    kl = _row(
        "kl_per_token",
        "distance from the reference (KL, nats per token)",
        "{:.3f}",
        {"policy": (divergence or {}).get("policy")},
        worse=0,
        made_of=name,
        missing="prefpipe eval without --no-kl",
    )
    if kl["policy"] is not None:
        kl |= {"state": HIGHER, "missing": None}
        ends = kl["policy"]
        if ends["low"] is None or ends["low"] <= 0 <= ends["high"]:
            kl["state"] = CANNOT_TELL
    rows.append(kl)

    label, key, form = ROWS[1]
    if _ends((summary.get(key) or {}).get("difference")) is None:
        label, key, form = ROWS[2]
    rows.append(_row(key, label, form, summary.get(key), worse=0, made_of=name))

    for key, measure in {**HEALTH, **SHARED}.items():
        values = summary.get(key) if key in SHARED else health.get(key)
        missing = EMBED_COMMAND if key == "embedding_diversity" else "prefpipe eval --n 2"
        row = _row(
            key,
            PLAIN_LABELS.get(key, measure.name),
            measure.form,
            values,
            worse=measure.worse,
            made_of=name,
            missing=missing,
        )
        if key in ALWAYS_SHOWN or row["state"] == WORSE:
            rows.append(row)
    return rows


def lowest_decile(evaluation: ReportedArtifact) -> dict[str, Any] | None:
    """Return the mean reward of the tenth of prompts with the lowest, of both sides.

    Each side has its own lowest prompts. The difference is resampled over prompts, the same for
    both sides. None where the table cannot be read or rates no prompt on both sides.
    """
    try:
        table, _ = evaluation.artifact.read(0, ["policy_reward", "baseline_reward", "status"])
    except PrefpipeError:
        return None
    rated = pl.DataFrame(table).filter(pl.col("status") == "ok")
    policy_rewards = rated["policy_reward"].to_numpy()
    baseline_rewards = rated["baseline_reward"].to_numpy()
    if not len(policy_rewards):
        return None
    return lowest_deciles(policy_rewards, baseline_rewards, bootstrap_of(evaluation))


def lowest_deciles(
    of_first: np.ndarray, of_second: np.ndarray, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return the lowest deciles of two sides and their difference, first minus second."""
    sorts = bootstrap._replace(n_draws=min(bootstrap.n_draws, MOST_SORTS))
    first = lowest_share_figures(of_first[None], bootstrap=sorts)
    second = lowest_share_figures(of_second[None], bootstrap=sorts)
    figures = {"policy": first, "baseline": second, "difference": first.minus(second)}
    made = {}
    for name, each in figures.items():
        figure = two_level_figure(each, sorts)
        made[name] = {"mean": figure.mean, "low": figure.low, "high": figure.high}
    made["difference"]["n"] = len(of_first)
    return made


def bootstrap_of(evaluation: ReportedArtifact) -> Bootstrap:
    """Return level, resamples and seed as the evaluation has them."""
    identity = evaluation.identity
    return Bootstrap(
        identity["confidence"], identity["bootstrap_draws"], identity["bootstrap_seed"]
    )


def costs_of(
    artifacts: Sequence[ReportedArtifact],
    pools: Sequence[ReportedPool],
    model: TrainedShape,
) -> dict[str, Any]:
    """Return what a run cost.

    Keys:

    - ``n_prompts``, ``n_responses``, ``n_tokens`` sampled for training (responses alone; None where
      nobody counted), and ``n_without_tokens``;
    - ``n_kept``: responses that the selections that were trained on kept, else the first
      selection; None without one;
    - ``trained_tokens`` and ``training_hours``, the least that training took: response tokens over
      tokens a second; None where no training logged them;
    - ``saved_share`` of the training compute, of the first of these selections;
    - ``made_of``: names of artifacts, of what was ``sampled``, ``kept`` and ``trained``;
    - ``errors``: what could not be read.
    """
    errors: list[str] = []
    # Of selections that are only compared, one is enough.
    trained_on = {each.parents.get("groups") for each in artifacts if each.kind == "policy"}
    selected = [pool for pool in pools if pool.groups is not None]
    shown = [pool for pool in selected if pool.name in trained_on] or selected[:1]
    groups = [pool.groups for pool in shown if pool.groups is not None]
    kept = []
    for each in groups:
        try:
            kept.append(each.artifact.tally().get("n_kept", 0))
        except PrefpipeError as error:
            errors.append(error.message)

    sampled = _sampled(artifacts, pools, errors)
    return {
        **sampled,
        **_trained(artifacts),
        "n_kept": round(sum(kept)) if kept else None,
        "saved_share": _saved_share(groups, model),
        "made_of": {
            "sampled": sampled["made_of"],
            "kept": list(dict.fromkeys(name for pool in shown for name in _made_of(pool))),
            "trained": [each.name for each in artifacts if each.kind == "policy"],
        },
        "errors": errors,
    }


def _made_of(pool: ReportedPool) -> list[str]:
    """Return the names of a selection and of what it was made from."""
    parts = (pool.candidates, pool.scores, pool.embeddings, pool.groups)
    return [*(each.name for each in parts if each is not None), *pool.earlier]


def _sampled(
    artifacts: Sequence[ReportedArtifact], pools: Sequence[ReportedPool], errors: list[str]
) -> dict[str, Any]:
    """Return prompts, responses and tokens of all candidates that are a pool's."""
    names = {pool.candidates.name for pool in pools if pool.candidates is not None}
    names |= {name for pool in pools for name in pool.earlier}
    prompts: list[pl.Series] = []
    n_responses = n_tokens = n_without = 0
    made_of = []
    for each in artifacts:
        if each.kind != "candidates" or each.name not in names:
            continue
        made_of.append(each.name)
        missing = set(each.artifact.missing())
        for index in range(each.artifact.n_parts):
            if index in missing:
                continue
            try:
                table, _ = each.artifact.read(index, ["prompt_id", "n_response_tokens"])
            except PrefpipeError as error:
                errors.append(error.message)
                continue
            part = pl.DataFrame(table)
            prompts.append(part["prompt_id"].unique())
            n_responses += len(part)
            n_tokens += int(part["n_response_tokens"].sum())
            n_without += part["n_response_tokens"].null_count()
    n_prompts = pl.concat(prompts).n_unique() if prompts else 0
    return {
        "n_prompts": n_prompts,
        "n_responses": n_responses,
        "n_tokens": n_tokens if n_without < n_responses else None,
        "n_without_tokens": n_without,
        "made_of": made_of,
    }


def _trained(artifacts: Sequence[ReportedArtifact]) -> dict[str, Any]:
    """Return the response tokens that trainings went through, and the least time they took."""
    n_tokens, seconds = 0.0, 0.0
    for each in artifacts:
        if each.kind != "policy":
            continue
        totals = read_totals(each.artifact.path)
        n_tokens += totals.n_tokens
        seconds += totals.least_s
    return {
        "trained_tokens": round(n_tokens) or None,
        "training_hours": seconds / 3600 if seconds else None,
    }


def _saved_share(groups: Sequence[ReportedArtifact], model: TrainedShape) -> float | None:
    """Return what ``prefpipe savings`` says of the first selection that has sums of tokens."""
    for each in groups:
        try:
            basis = basis_of_groups(each.artifact, shared_prompt=True)
        except PrefpipeError:
            continue
        of_model = TrainedModel(model.name, model.shape, 0, 0)
        # the share depends on neither peak nor price
        machine = Machine("", 1.0, None, 1.0)
        share = savings(basis, of_model, Recipe(), machine)["saved_share"]
        return None if share is None else float(share)
    return None
