"""Compare a policy with a baseline.

Reads: ``candidates`` and ``scores`` of both sides; where there are any, their ``embeddings``, and the reference's ``logprobs`` of
the policy's responses. Writes: ``evaluation``, one row for every prompt, and ``summary.json`` with the figures and their
intervals. Promises: sides are joined by prompt_id, never by position; a prompt or response without a reward is counted, never
scored as something; every figure carries its standard error and a seeded interval.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa

from prefpipe.artifacts.atomic import atomic_write
from prefpipe.artifacts.finite_json import finite_values
from prefpipe.artifacts.run_record import RunRecord, read_run_record
from prefpipe.artifacts.schemas import EVALUATION
from prefpipe.artifacts.store import Artifact, Output, open_output, refuse_nesting
from prefpipe.configs.eval import EvalConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.rewards import parse_reward
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.stages.evaluate.comparison import comparison_table
from prefpipe.stages.evaluate.embeddings import check_embeddings
from prefpipe.stages.evaluate.figures import figures_of, health_figures, notes_on_length
from prefpipe.stages.evaluate.health import health_notes
from prefpipe.stages.evaluate.kl import KlReference, kl_figures, notes_on_kl
from prefpipe.stages.evaluate.measures import compare, pools_of
from prefpipe.stages.shared.candidate_rows import count_by_status, parent_identity
from prefpipe.stages.shared.recipe import (
    SIDES,
    RatedCandidates,
    check_recipes,
    notes_on_force,
    notes_on_recipe,
    recipe_of,
)
from prefpipe.stages.shared.runtime import Runtime, Summary

MORE_MEASURES = ("reference_logprobs", *(f"{side}_embeddings" for side in SIDES))
"""Parents that add columns and change none: a finished table is made again with them, without a question."""


def run(
    config: EvalConfig,
    policy: RatedCandidates,
    baseline: RatedCandidates,
    runtime: Runtime,
    reference: KlReference | None = None,
) -> Summary:
    """Compute and write the per-prompt table and the summary.

    Args:
        config: the stage's knobs.
        policy: the side under test.
        baseline: what it is compared with.
        runtime: the surroundings.
        reference: what the policy's divergence is measured from; None measures none.
    """
    reference = reference if reference is not None else KlReference(reason="--no-kl")
    artifacts = _inputs(policy, baseline, reference)
    outside = {
        f"--{name}": item.path
        for name, item in artifacts.items()
        if not item.path.is_relative_to(config.output)
    }
    refuse_nesting(config.output, outside)
    differences = check_recipes(policy, baseline, force=config.force)
    check_embeddings(policy, baseline)
    text = reward_text(config, policy, baseline)
    record = RunRecord(
        stage=config.stage,
        schema=EVALUATION.tag,
        n_parts=1,
        context=dict(runtime.context),
        identity={
            "stage": config.stage,
            "version": config.VERSION,
            **own_identity(config),
            "reward": text,
            **{name: parent_identity(item) for name, item in artifacts.items()},
        },
        parents={name: str(item.path) for name, item in artifacts.items()},
    )
    output = _open(config, record, runtime)
    parents = {name: item.digest() for name, item in artifacts.items()}
    summary = Summary(config.stage, config.output)
    if output.is_done(0, parents):
        summary.n_parts_kept = 1
        runtime.log(f"{config.output}: the per-prompt table is finished and kept")
    else:
        rows = compare(
            pools_of(policy, text, reference.logprobs),
            pools_of(baseline, text),
            config.tie_tolerance,
        )
        table = pa.Table.from_pylist(rows, schema=EVALUATION.arrow())
        output.write(0, table, counts=count_by_status(rows), parents=parents)
        summary.n_parts_made = 1
    table, footer = output.read(0)
    summary.counts.update(footer.counts)
    bootstrap = Bootstrap(config.confidence, config.bootstrap_draws, config.bootstrap_seed)
    figures = {
        "policy_name": policy.name,
        "baseline_name": baseline.name,
        "reward_expression": text,
        "confidence": config.confidence,
        "bootstrap_draws": config.bootstrap_draws,
        "bootstrap_seed": config.bootstrap_seed,
        **figures_of(table, bootstrap),
        "health": kl_figures(table, reference, policy, bootstrap)
        | health_figures(table, bootstrap),
        "recipe": recipe_of(policy, baseline, runtime.context, differences),
    }
    _finish(summary, finite_values(figures))
    summary.notes += (
        notes_on_force(differences)
        + notes_on_recipe(policy, baseline)
        + notes_on_length(figures["length_controlled"])
    )
    summary.notes += notes_on_kl(
        figures["health"]["kl_per_token"], n_prompts=table.num_rows
    ) + health_notes(figures)
    return summary


def _inputs(
    policy: RatedCandidates, baseline: RatedCandidates, reference: KlReference
) -> dict[str, Artifact]:
    """Return everything that the table is made from, by the name it has in the record."""
    sides = {"policy": policy, "baseline": baseline}
    found = {
        f"{name}_{what}": getattr(side, what)
        for name, side in sides.items()
        for what in ("candidates", "scores")
    }
    more = {f"{name}_embeddings": side.embeddings for name, side in sides.items()} | {
        "reference_logprobs": reference.logprobs
    }
    return found | {name: item for name, item in more.items() if item is not None}


def _open(config: EvalConfig, record: RunRecord, runtime: Runtime) -> Output:
    """Open the output; a table of an earlier release, or one with fewer measures, is made again from the same responses."""
    on_disk = None
    with suppress(InputError):
        on_disk = read_run_record(config.output)
    extends = (
        not config.overwrite.replaces_this_run
        and on_disk is not None
        and _is_less(on_disk.identity, record.identity)
    )
    if extends:
        runtime.log(
            f"{config.output}: its per-prompt table lacks measures and is made again; responses and rewards are kept"
        )
    return open_output(
        config.output, record, shard=runtime.shard, overwrite=config.overwrite, extends=extends
    )


def _is_less(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether an identity is another that differs by an earlier version and by missing inputs of measures alone."""
    added = {name for name in MORE_MEASURES if name in wanted and name not in found}
    same = {name: value for name, value in wanted.items() if name not in added} | {
        "version": found.get("version")
    }
    is_older = isinstance(found.get("version"), int) and found["version"] <= wanted["version"]
    return is_older and dict(found) == same and dict(found) != dict(wanted)


def _finish(summary: Summary, figures: Mapping[str, Any]) -> None:
    with atomic_write(summary.path / "summary.json") as file:
        file.write((json.dumps(figures, indent=2, ensure_ascii=False) + "\n").encode())
    summary.facts |= figures
    summary.table = comparison_table(figures)


def own_identity(config: EvalConfig) -> dict[str, Any]:
    """Return the fields that matter to the comparison; how the sides were sampled is in their own identities."""
    names = ("tie_tolerance", "confidence", "bootstrap_draws", "bootstrap_seed")
    return {name: getattr(config, name) for name in names}


def reward_text(config: EvalConfig, policy: RatedCandidates, baseline: RatedCandidates) -> str:
    """Return the reward expression, checked against the scorers of both sides."""
    held = [
        {scorer["name"] for scorer in side.scores.record.identity["scorers"]}
        for side in (policy, baseline)
    ]
    both = sorted(held[0] & held[1])
    if config.reward is None:
        if len(both) != 1:
            raise UsageError(
                f"--reward is needed: the sides share the scorers {', '.join(both) or 'none'}"
            )
        return str(both[0])
    unknown = [name for name in parse_reward(config.reward).names if name not in both]
    if unknown:
        raise UsageError(
            f"--reward {config.reward!r} names `{unknown[0]}`; both sides have: {', '.join(both)}"
        )
    return config.reward
