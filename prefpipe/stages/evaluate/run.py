"""Compare a policy with a baseline.

Reads: ``candidates`` and ``scores`` of both sides; their ``embeddings`` and the reference's
``logprobs`` of the policy's responses, if any.
Writes: ``evaluation``, one row for every prompt, and ``summary.json`` with the figures and their
intervals.
Promises: sides are joined by prompt_id, never by position; a prompt or response without a reward is
counted, never scored as something; every figure carries its standard error and a seeded interval.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa

from prefpipe.artifacts.finite_json import finite_values
from prefpipe.artifacts.rounds import ROUND, context_of_round, sampler_round_of
from prefpipe.artifacts.run_record import RunRecord, read_run_record
from prefpipe.artifacts.schemas import EVALUATION
from prefpipe.artifacts.storage.location import is_within
from prefpipe.artifacts.store import Artifact, Output, open_output, refuse_nesting
from prefpipe.artifacts.summary_file import write_summary
from prefpipe.configs.eval import EvalConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.execution.runtime import Runtime
from prefpipe.maths.selection.rewards import parse_reward
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.stages.evaluate.comparison import comparison_table
from prefpipe.stages.evaluate.embeddings import check_embeddings
from prefpipe.stages.evaluate.figures import figures_of, health_figures
from prefpipe.stages.evaluate.health import health_notes
from prefpipe.stages.evaluate.kl import KlReference, kl_figures, notes_on_kl
from prefpipe.stages.evaluate.length_control import notes_on_length
from prefpipe.stages.evaluate.measures import compare, measures_by_prompt
from prefpipe.stages.shared.candidate_rows import count_by_status, parent_identity
from prefpipe.stages.shared.partwise import Summary
from prefpipe.stages.shared.recipe import (
    SIDES,
    RatedCandidates,
    check_recipes,
    notes_on_force,
    notes_on_recipe,
    recipe_of,
)

MORE_MEASURES = ("reference_logprobs", *(f"{side}_embeddings" for side in SIDES))
"""Parents that add columns and change none: a finished table is made again with them."""


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
    if reference is None:
        reference = KlReference(reason="--no-kl")
    inputs = _inputs(policy, baseline, reference)
    # What this evaluation sampled and rated itself lies in its own output.
    outside = {
        f"--{name}": artifact.path
        for name, artifact in inputs.items()
        if not is_within(artifact.path, config.output)
    }
    refuse_nesting(config.output, outside)
    differences = check_recipes(policy, baseline, force=config.force)
    check_embeddings(policy, baseline)

    reward = reward_text(config, policy, baseline)
    of_round = sampler_round_of([policy.candidates.record])
    record = RunRecord(
        stage=config.stage,
        schema=EVALUATION.tag,
        n_parts=1,
        context={**runtime.context, **context_of_round(ROUND, of_round)},
        identity={
            "stage": config.stage,
            "version": config.VERSION,
            **_identity(config),
            "reward": reward,
            **{name: parent_identity(artifact) for name, artifact in inputs.items()},
        },
        parents={name: str(artifact.path) for name, artifact in inputs.items()},
    )

    output = _open(config, record, runtime)
    parents = {name: artifact.digest() for name, artifact in inputs.items()}
    summary = Summary(config.stage, config.output)
    if output.is_done(0, parents):
        summary.n_parts_kept = 1
        runtime.log(f"{config.output}: the per-prompt table is finished and kept")
    else:
        rows = compare(
            measures_by_prompt(policy, reward, reference.logprobs),
            measures_by_prompt(baseline, reward),
            config.tie_tolerance,
        )
        new_table = pa.Table.from_pylist(rows, schema=EVALUATION.arrow())
        output.write(0, new_table, counts=count_by_status(rows), parents=parents)
        summary.n_parts_made = 1

    # The figures are made of the table on disk, whether it is of now or of an earlier run.
    table, footer = output.read(0)
    summary.counts.update(footer.counts)
    bootstrap = Bootstrap(config.confidence, config.bootstrap_draws, config.bootstrap_seed)
    health = kl_figures(table, reference, policy, bootstrap) | health_figures(table, bootstrap)
    figures = {
        "policy_name": policy.name,
        "baseline_name": baseline.name,
        **context_of_round(ROUND, of_round),
        "reward_expression": reward,
        "confidence": config.confidence,
        "bootstrap_draws": config.bootstrap_draws,
        "bootstrap_seed": config.bootstrap_seed,
        **figures_of(table, bootstrap),
        "health": health,
        "recipe": recipe_of(policy, baseline, runtime.context, differences),
    }
    write_summary(config.output, figures)
    summary.facts |= finite_values(figures)
    summary.table = comparison_table(summary.facts)
    summary.notes += notes_on_force(differences)
    summary.notes += notes_on_recipe(policy, baseline)
    summary.notes += notes_on_length(figures["length_controlled"])
    summary.notes += notes_on_kl(health["kl_per_token"], n_prompts=table.num_rows)
    summary.notes += health_notes(figures)
    return summary


def _inputs(
    policy: RatedCandidates, baseline: RatedCandidates, reference: KlReference
) -> dict[str, Artifact]:
    """Return all inputs of the table, by their names in the record."""
    inputs: dict[str, Artifact | None] = {
        "policy_candidates": policy.candidates,
        "policy_scores": policy.scores,
        "baseline_candidates": baseline.candidates,
        "baseline_scores": baseline.scores,
        "policy_embeddings": policy.embeddings,
        "baseline_embeddings": baseline.embeddings,
        "reference_logprobs": reference.logprobs,
    }
    return {name: artifact for name, artifact in inputs.items() if artifact is not None}


def _open(config: EvalConfig, record: RunRecord, runtime: Runtime) -> Output:
    """Open the output.

    A table of an earlier release, or one with fewer measures, is made again from the same
    responses.
    """
    on_disk = None
    if not config.overwrite.replaces_this_run:
        with suppress(InputError):
            on_disk = read_run_record(config.output)
    extends = on_disk is not None and _lacks_measures_alone(on_disk.identity, record.identity)
    if extends:
        runtime.log(
            f"{config.output}: its per-prompt table lacks measures and is computed again; "
            "responses and rewards are kept"
        )

    return open_output(
        config.output, record, shard=runtime.shard, overwrite=config.overwrite, extends=extends
    )


def _lacks_measures_alone(on_disk: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether an identity lacks only inputs of measures, and perhaps a version."""
    version = on_disk.get("version")
    if not isinstance(version, int) or version > wanted["version"]:
        return False
    would_be = {**wanted, "version": version}
    for name in MORE_MEASURES:
        if name not in on_disk:
            would_be.pop(name, None)
    return dict(on_disk) == would_be and dict(on_disk) != dict(wanted)


def _identity(config: EvalConfig) -> dict[str, Any]:
    """Return the fields that matter to the comparison.

    How the sides were sampled is in their own identities.
    """
    names = ("tie_tolerance", "confidence", "bootstrap_draws", "bootstrap_seed")
    return {name: getattr(config, name) for name in names}


def reward_text(config: EvalConfig, policy: RatedCandidates, baseline: RatedCandidates) -> str:
    """Return the reward expression, checked against the scorers of both sides.

    Raises:
        UsageError: it names a scorer that a side lacks, or it is not given and the sides share
            none, or several.
    """
    of_policy = {scorer["name"] for scorer in policy.scores.record.identity["scorers"]}
    of_baseline = {scorer["name"] for scorer in baseline.scores.record.identity["scorers"]}
    shared = sorted(of_policy & of_baseline)
    if config.reward is None:
        if len(shared) != 1:
            raise UsageError(
                f"--reward is needed: the sides share the scorers {', '.join(shared) or 'none'}"
            )
        return str(shared[0])

    for name in parse_reward(config.reward).names:
        if name not in shared:
            raise UsageError(
                f"--reward {config.reward!r} names `{name}`; both sides have: {', '.join(shared)}"
            )
    return config.reward
