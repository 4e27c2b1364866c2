"""Compare a policy with a baseline.

Reads: ``candidates`` and ``scores`` of both sides. Writes: ``evaluation``, one row for every prompt, and ``summary.json``
with the figures and their intervals. Promises: sides are joined by prompt_id, never by position; a prompt or response
without a reward is counted, never scored as something; every figure carries its standard error and a seeded interval.
"""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.artifacts.atomic import atomic_write
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import EVALUATION
from prefpipe.artifacts.store import open_output, refuse_nesting
from prefpipe.configs.eval import EvalConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.maths.intervals import Bootstrap, bootstrap_interval, estimate_mean, paired_difference
from prefpipe.maths.length_control import length_controlled_win_rate
from prefpipe.maths.rewards import parse_reward
from prefpipe.maths.winrate import preference, win_rate
from prefpipe.reports.comparison import comparison_table, length_notes
from prefpipe.stages.candidate_rows import Row, count_by_status, key_of, parent_identity
from prefpipe.stages.eval_recipe import Side, check_recipes, notes_on_force, notes_on_recipe, recipe_of
from prefpipe.stages.pool_index import rewards_by_key
from prefpipe.stages.runtime import Runtime, Summary
from prefpipe.text.repetition import repeated_ngram_share

SIDES = ("policy", "baseline")
MAX_FITS = 1_000
"""Resamples of the length-controlled fit, at most: each is a fit of its own."""
MEASURES = ("reward", "n_tokens", "length_chars", "repetition", "truncated")


def run(config: EvalConfig, policy: Side, baseline: Side, runtime: Runtime) -> Summary:
    """Compute and write the per-prompt table and the summary."""
    sides = {"policy": policy, "baseline": baseline}
    artifacts = {f"{name}_{what}": getattr(side, what) for name, side in sides.items() for what in ("candidates", "scores")}
    outside = {f"--{name}": item.path for name, item in artifacts.items() if not item.path.is_relative_to(config.output)}
    refuse_nesting(config.output, outside)
    differences = check_recipes(policy, baseline, force=config.force)
    text = reward_text(config, policy, baseline)
    record = RunRecord(
        stage=config.stage, schema=EVALUATION.tag, n_parts=1, context=dict(runtime.context),
        identity={"stage": config.stage, "version": config.VERSION, **own_identity(config), "reward": text,
                  **{name: parent_identity(item) for name, item in artifacts.items()}},
        parents={name: str(item.path) for name, item in artifacts.items()},
    )  # fmt: skip
    output = open_output(config.output, record, shard=runtime.shard, overwrite=config.overwrite)
    parents = {name: item.digest() for name, item in artifacts.items()}
    summary = Summary(config.stage, config.output)
    if output.is_done(0, parents):
        summary.n_parts_kept = 1
        runtime.log(f"{config.output}: the per-prompt table is finished and kept")
    else:
        rows = compare(measures_by_prompt(policy, text), measures_by_prompt(baseline, text), config.tie_tolerance)
        table = pa.Table.from_pylist(rows, schema=EVALUATION.arrow())
        output.write(0, table, counts=count_by_status(rows), parents=parents)
        summary.n_parts_made = 1
    table, footer = output.read(0)
    summary.counts.update(footer.counts)
    figures = {
        "policy_name": policy.name, "baseline_name": baseline.name, "reward_expression": text,
        "confidence": config.confidence, "bootstrap_draws": config.bootstrap_draws, "bootstrap_seed": config.bootstrap_seed,
        **figures_of(table, config), "recipe": recipe_of(policy, baseline, runtime.context, differences),
    }  # fmt: skip
    with atomic_write(config.output / "summary.json") as file:
        file.write((json.dumps(_without_nan(figures), indent=2, ensure_ascii=False) + "\n").encode())
    summary.facts |= _without_nan(figures)
    summary.table = comparison_table(figures)
    summary.notes += (
        notes_on_force(differences) + notes_on_recipe(policy, baseline) + notes_on_length(figures["length_controlled"])
    )
    return summary


def own_identity(config: EvalConfig) -> dict[str, Any]:
    """Return the fields that matter to the comparison; how the sides were sampled is in their own identities."""
    names = ("tie_tolerance", "confidence", "bootstrap_draws", "bootstrap_seed")
    return {name: getattr(config, name) for name in names}


def reward_text(config: EvalConfig, policy: Side, baseline: Side) -> str:
    """Return the reward expression, checked against the scorers of both sides."""
    held = [{scorer["name"] for scorer in side.scores.record.identity["scorers"]} for side in (policy, baseline)]
    both = sorted(held[0] & held[1])
    if config.reward is None:
        if len(both) != 1:
            raise UsageError(f"--reward is needed: the sides share the scorers {', '.join(both) or 'none'}")
        return str(both[0])
    unknown = [name for name in parse_reward(config.reward).names if name not in both]
    if unknown:
        raise UsageError(f"--reward {config.reward!r} names `{unknown[0]}`; both sides have: {', '.join(both)}")
    return config.reward


def measures_by_prompt(side: Side, reward: str) -> dict[str, dict[str, np.ndarray]]:
    """Return for each prompt its responses' measures, (n,) each, and their number; unrated responses have reward NaN."""
    expression = parse_reward(reward)
    result: dict[str, dict[str, np.ndarray]] = {}
    columns = ["prompt_id", "sample_idx", "response", "n_response_tokens", "finish_reason"]
    for index in side.candidates.present(range(side.candidates.n_parts), allow_partial=False):
        rows = side.candidates.read(index, columns)[0].to_pylist()
        rewards = rewards_by_key(side.scores.read(index)[0], expression, [key_of(row) for row in rows])
        pools: dict[str, list[Row]] = {}
        for row in rows:
            pools.setdefault(row["prompt_id"], []).append(row)
        for prompt_id, pool in pools.items():
            result[prompt_id] = {
                "reward": np.array([rewards[key_of(row)] for row in pool]),
                "n_tokens": np.array([_number(row["n_response_tokens"]) for row in pool]),
                "length_chars": np.array([_number(None if row["response"] is None else len(row["response"])) for row in pool]),
                "repetition": np.array(
                    [np.nan if row["response"] is None else repeated_ngram_share(row["response"]) for row in pool]
                ),
                "truncated": np.array([float(row["finish_reason"] == "length") for row in pool]),
            }
    return result


def compare(
    policy: Mapping[str, Mapping[str, np.ndarray]], baseline: Mapping[str, Mapping[str, np.ndarray]], tie_tolerance: float
) -> list[Row]:
    """Return one row for each prompt of either side, in the order of the policy's prompts."""
    rows = []
    for prompt_id in [*policy, *(key for key in baseline if key not in policy)]:
        row: Row = {"prompt_id": prompt_id, "preference": None, "status": "ok", "reason": None}
        rated = {}
        for name, measures in (("policy", policy.get(prompt_id)), ("baseline", baseline.get(prompt_id))):
            rewards = measures["reward"] if measures is not None else np.array([])
            rated[name] = rewards[~np.isnan(rewards)]
            row[f"n_{name}"] = len(rated[name])
            for measure in MEASURES:
                row[f"{name}_{measure}"] = _mean(measures[measure]) if measures is not None else None
        missing = [name for name in SIDES if not len(rated[name])]
        if missing:
            row["status"] = f"no_{missing[0]}_reward"
            row["reason"] = f"no rated response of the {' and the '.join(missing)}"
        else:
            row["preference"] = preference(rated["policy"], rated["baseline"], tie_tolerance=tie_tolerance)
        rows.append(row)
    if not any(row["status"] == "ok" for row in rows):
        raise InputError("no prompt has a rated response on both sides", hint="look at both sides with `prefpipe inspect`")
    return rows


def figures_of(table: pa.Table, config: EvalConfig) -> dict[str, Any]:
    """Return the win rate and the mean of every measure on both sides and of their paired difference.

    Only prompts with a reward on both sides count; each figure has its standard error over prompts and a percentile
    bootstrap interval that resamples prompts.
    """
    both = table.filter(pc.equal(table["status"], "ok"))
    bootstrap: Any = {"level": config.confidence, "n_draws": config.bootstrap_draws}

    def column(name: str) -> np.ndarray:
        return np.array(both[name].to_pylist(), dtype=np.float64)

    def rng() -> np.random.Generator:
        return np.random.default_rng(config.bootstrap_seed)

    preferences = column("preference")
    seeded = Bootstrap(config.confidence, config.bootstrap_draws, config.bootstrap_seed)
    ours, theirs = column("policy_length_chars"), column("baseline_length_chars")
    figures: dict[str, Any] = {
        "n_prompts": table.num_rows, "n_compared": both.num_rows,
        "win_rate": win_rate(preferences, bootstrap=seeded)._asdict(),
        "length_controlled": length_controlled(preferences, ours, theirs, seeded),
    }  # fmt: skip
    for measure in MEASURES:
        ours, theirs = column(f"policy_{measure}"), column(f"baseline_{measure}")
        figures[measure] = {"difference": paired_difference(ours, theirs, rng(), **bootstrap)._asdict()}
        for name, values in (("policy", ours), ("baseline", theirs)):
            low, high, _ = bootstrap_interval(values, rng(), **bootstrap)
            figures[measure][name] = estimate_mean(values)._asdict() | {"low": low, "high": high}
    return figures


def length_controlled(
    preferences: np.ndarray, lengths: np.ndarray, baseline_lengths: np.ndarray, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return the figures at equal lengths, without a difficulty term; where there are none, their ``reason``.

    Lengths are each side's mean characters a response, by prompt (P,), as the preferences are.
    """
    fits = bootstrap._replace(n_draws=min(bootstrap.n_draws, MAX_FITS))
    try:
        return length_controlled_win_rate(preferences, lengths, baseline_lengths, bootstrap=fits).figures()
    except InputError as error:
        return {"mean": None, "se": None, "low": None, "high": None, "reason": error.message}


def notes_on_length(controlled: Mapping[str, Any]) -> list[str]:
    """Return what a reader should know about the length-controlled figure."""
    if "reason" in controlled:
        return [f"no length-controlled win rate: {controlled['reason']}"]
    return length_notes(controlled)


def _number(value: int | None) -> float:
    return np.nan if value is None else float(value)


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _without_nan(value: Any) -> Any:
    """Return JSON-able figures: what is not finite (a standard error of one prompt) is null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
