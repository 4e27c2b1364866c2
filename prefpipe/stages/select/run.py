"""Keep a small informative group of each prompt's candidates.

Reads: ``candidates``, ``scores`` and, where they are given, ``embeddings``; with ``--earlier``
those of earlier rounds beside them.

Writes: ``groups``, one row for every kept candidate and one row, without a role, for every rejected
prompt.

Promises: prompts follow the order of the candidates. Positives come first, the best before the
others, then negatives by sample index. Rows are joined by key. Every candidate that is left out is
counted under its reason. The rows are the same whatever the number of workers.

A part is screened (`screening`, and `prompt_filters` for whole prompts), chosen from (`part`),
written as rows (`group_table`) and summed up (`tally`, `summary`). What the strategy needs beside
rewards is looked for first (`strategy_inputs`).
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from prefpipe.artifacts.rounds import SAMPLER_ROUND, context_of_round, sampler_round_of
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import GROUPS
from prefpipe.artifacts.store import Artifact, open_input, refuse_nesting
from prefpipe.configs.select import SelectConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.execution.runtime import Runtime
from prefpipe.maths.selection.prompt_filters import Thresholds
from prefpipe.maths.selection.rewards import RewardExpression, parse_reward
from prefpipe.maths.selection.strategies import is_ready
from prefpipe.stages.select.earlier import open_earlier
from prefpipe.stages.select.part import GroupMaker, PoolReader
from prefpipe.stages.select.prompt_filters import survey_prompts
from prefpipe.stages.select.screening import StrategyInputs, spreads_of
from prefpipe.stages.select.strategy_inputs import strategy_inputs
from prefpipe.stages.select.summary import describe_tally, facts_of_tally
from prefpipe.stages.shared.candidate_rows import parent_identity
from prefpipe.stages.shared.earlier_rounds import EarlierRound, joined, parent_name
from prefpipe.stages.shared.partwise import Summary, loop_over_parts, open_stage_output
from prefpipe.stages.shared.pool_index import SCORE_COLUMNS, flat, index_pools, pool_rewards

MOST_WORKERS = 8
"""By default: each worker holds a part in memory."""


def run(config: SelectConfig, runtime: Runtime) -> Summary:
    """Select the parts of this shard that are missing."""
    inputs = _open_inputs(config)
    candidates, scores = inputs["candidates"], inputs["scores"]
    expression = _reward_expression(config, scores)
    rounds = open_earlier(
        config.earlier,
        inputs,
        [*expression.names, *config.spread_of],
        allow_partial=config.allow_partial,
    )
    asks = strategy_inputs(config, expression, scores, candidates, rounds)
    pools = PoolReader(config, expression, joined(inputs, rounds), asks)

    indices = runtime.shard.parts(candidates.n_parts)
    # A part is selected where every input has it.
    for artifact in inputs.values():
        indices = artifact.present(indices, allow_partial=config.allow_partial)
    parents = _parent_digests(inputs, rounds, indices)
    everything = inputs | _artifacts_of(rounds)

    # Before the output is opened, which may remove an older result: an expression that these
    # rewards do not allow (logit of 0), or filters that leave nothing, must not cost it.
    if indices:
        _evaluate_once(pools, indices[0], runtime)
    # one more than there are cores: a seventh of its time a part waits for the disk, or for
    # Python's global lock
    n_threads = config.workers or min(MOST_WORKERS, _n_cores() + 1)
    thresholds = _survey(pools, runtime, n_threads)
    sampled_in = sampler_round_of(artifact.record for artifact in inputs.values())
    record = RunRecord(
        stage=config.stage,
        schema=GROUPS.tag,
        n_parts=candidates.n_parts,
        context={**runtime.context, **context_of_round(SAMPLER_ROUND, sampled_in)},
        identity={
            "stage": config.stage,
            "version": config.VERSION,
            **config.identity(),
            "reward": expression.text,
            **_resolved(config, asks, thresholds),
            **{name: parent_identity(artifact) for name, artifact in everything.items()},
        },
        parents={name: str(artifact.path) for name, artifact in everything.items()},
    )

    output = open_stage_output(config, record, runtime)

    maker = GroupMaker(config, pools, thresholds, output, parents, n_threads)
    if "embeddings" in inputs and not is_ready():
        runtime.log(
            "compiling the selection loops, once an installation: about a quarter of a minute"
        )
    if indices:
        maker.rehearse()

    summary = Summary(config.stage, config.output)
    loop_over_parts(
        config,
        output,
        maker,
        runtime,
        summary,
        indices=indices,
        parents_of=parents.__getitem__,
    )
    summary.notes += describe_tally(summary.tally, config.strategy)
    summary.facts |= facts_of_tally(summary.tally)
    return summary


def _n_cores() -> int:
    """Return the cores that this process may use: a scheduler may give it fewer than there are."""
    return len(os.sched_getaffinity(0))


def _open_inputs(config: SelectConfig) -> dict[str, Artifact]:
    """Return the inputs by name.

    Raises:
        InputError: scores or embeddings of other candidates.
    """
    paths = {"candidates": config.candidates, "scores": config.scores}
    if config.embeddings is not None:
        paths["embeddings"] = config.embeddings
    flags = {name: f"--{name}" for name in paths} | {"candidates": "CANDIDATES"}

    refuse_nesting(config.output, {flags[name]: path for name, path in paths.items()})
    inputs = {name: open_input(path, schema=name, name=flags[name]) for name, path in paths.items()}

    for name, artifact in inputs.items():
        if name == "candidates":
            continue
        if artifact.record.identity.get("candidates") != inputs["candidates"].record.identity:
            raise InputError(
                f"--{name} {artifact.path} was not made for {config.candidates}",
                hint=f"pass the {name} of these candidates, or make them with: prefpipe "
                f"{artifact.record.stage} {config.candidates} ...",
            )
    return inputs


def _reward_expression(config: SelectConfig, scores: Artifact) -> RewardExpression:
    """Return the reward to select by: ``--reward``, or the only scorer there is."""
    scorers = [scorer["name"] for scorer in scores.record.identity["scorers"]]
    if config.reward is None:
        if len(scorers) > 1:
            raise UsageError(
                f"--reward is needed: {scores.path} holds several scorers: {', '.join(scorers)}",
                hint=f'for example --reward "{" + ".join(scorers)}"',
            )
        return parse_reward(scorers[0])

    expression = parse_reward(config.reward)
    unknown = [name for name in expression.names if name not in scorers]
    if unknown:
        raise UsageError(
            f"--reward {config.reward!r} names `{unknown[0]}`, and {scores.path} holds: "
            f"{', '.join(scorers)}"
        )
    return expression


def _survey(pools: PoolReader, runtime: Runtime, n_threads: int) -> Thresholds:
    """Return the thresholds of the filters of prompts, over all prompts.

    Raises:
        UsageError: the filters leave no prompt.
    """
    filters = pools.config.filters()
    if not filters.are_any:
        return Thresholds()
    runtime.log("reading all prompts first, for the filters")
    n_parts = pools.inputs["candidates"].n_parts
    indices: Sequence[int] = range(n_parts)
    for artifact in pools.inputs.values():
        # Another shard's parts may be missing, and quantiles would be others with them.
        allow_partial = not filters.are_quantiles
        indices = artifact.present(indices, allow_partial=allow_partial)
    screen = partial(pools.screen, needs_distances=False)
    return survey_prompts(screen, indices, filters, n_threads)


def _resolved(config: SelectConfig, asks: StrategyInputs, thresholds: Thresholds) -> dict[str, Any]:
    """Return the identity's fields of these inputs besides the flags, if they apply."""
    resolved: dict[str, Any] = {}
    if asks.spread_of:
        resolved["spread_of"] = list(asks.spread_of)
    if config.filters().are_quantiles:
        resolved["thresholds"] = {
            name: value for name, value in thresholds._asdict().items() if value is not None
        }
    return resolved


def _artifacts_of(rounds: Sequence[EarlierRound]) -> dict[str, Artifact]:
    """Return the artifacts of earlier rounds, by parent name."""
    artifacts = {}
    for each in rounds:
        for kind, artifact in each.artifacts.items():
            artifacts[parent_name(each.number, kind)] = artifact
    return artifacts


def _parent_digests(
    inputs: Mapping[str, Artifact], rounds: Sequence[EarlierRound], indices: Sequence[int]
) -> dict[int, dict[str, str]]:
    """Return the digests of the parts that each part is made from.

    Raises:
        InputError: scores or embeddings of candidates that were made again since.
    """
    candidates = inputs["candidates"]
    digests: dict[int, dict[str, str]] = {}
    for index in indices:
        digest = candidates.footer(index).data_sha256
        digests[index] = {"candidates": digest}
        for name, artifact in inputs.items():
            if name != "candidates":
                footer = artifact.footer_made_from(index, candidates, digest)
                digests[index][name] = footer.data_sha256

        for each in rounds:
            digests[index] |= each.digests(index)
    return digests


def _evaluate_once(pools: PoolReader, index: int, runtime: Runtime) -> None:
    """Evaluate the reward, and the scorers' spread, of one part.

    Raises:
        UsageError: the expression does not allow these rewards.
    """
    candidates, scores = pools.inputs["candidates"], pools.inputs["scores"]
    table, _ = candidates.read(index, ["prompt_id", "sample_idx"])
    pool_index = index_pools(
        flat(table, "prompt_id"), flat(table, "sample_idx"), str(candidates.part_path(index))
    )
    rows, _ = scores.read(index, SCORE_COLUMNS)
    rewards = pool_rewards(rows, pools.expression, pool_index)
    names = pools.asks.spread_of
    if not names:
        return

    spreads = spreads_of(names, rows, rewards, pool_index)
    if not (spreads > 0.0).any():
        runtime.log(
            f"{' and '.join(names)} agree on every response of the first part: without a spread, "
            f"--strategy {pools.config.strategy} uses rewards only"
        )
