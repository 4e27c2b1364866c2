"""Keep a small informative group of each prompt's candidates.

Reads: ``candidates``, ``scores`` and, where they are given, ``embeddings``.

Writes: ``groups``, one row for every kept candidate and one row, without a role, for every rejected
prompt.

Promises: prompts follow the order of the candidates. Positives come first, the best before the
others, then negatives by sample index. Rows are joined by key. Every candidate that is left out is
counted under its reason. The rows are the same whatever the number of workers.

A part is screened (`screening`), chosen from (`part`), written as rows (`group_table`) and summed
up (`tally`, `summary`).
"""

import os
from collections.abc import Mapping, Sequence

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import GROUPS
from prefpipe.artifacts.store import Artifact, open_input, refuse_nesting
from prefpipe.configs.select import SelectConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.execution.runtime import Runtime
from prefpipe.maths.selection.rewards import RewardExpression, parse_reward
from prefpipe.maths.selection.strategies import is_ready
from prefpipe.stages.select.part import GroupMaker
from prefpipe.stages.select.summary import describe_tally, facts_of_tally
from prefpipe.stages.shared.candidate_rows import parent_identity
from prefpipe.stages.shared.partwise import Summary, loop_over_parts, open_stage_output
from prefpipe.stages.shared.pool_index import flat, index_pools, pool_rewards

MOST_WORKERS = 8
"""By default: each worker holds a part in memory."""


def run(config: SelectConfig, runtime: Runtime) -> Summary:
    """Select the parts of this shard that are missing."""
    inputs = _open_inputs(config)
    candidates, scores = inputs["candidates"], inputs["scores"]
    expression = _reward_expression(config, scores)
    record = RunRecord(
        stage=config.stage,
        schema=GROUPS.tag,
        n_parts=candidates.n_parts,
        context=dict(runtime.context),
        identity={
            "stage": config.stage,
            "version": config.VERSION,
            **config.identity(),
            "reward": expression.text,
            **{name: parent_identity(artifact) for name, artifact in inputs.items()},
        },
        parents={name: str(artifact.path) for name, artifact in inputs.items()},
    )

    # A part is selected where every input has it.
    indices = runtime.shard.parts(candidates.n_parts)
    for artifact in inputs.values():
        indices = artifact.present(indices, allow_partial=config.allow_partial)
    parents = _parent_digests(inputs, indices)

    # Before the output is opened, which may remove an older result: an expression that these
    # rewards do not allow (logit of 0) must not cost it.
    if indices:
        _evaluate_once(expression, candidates, scores, indices[0])
    output = open_stage_output(config, record, runtime)

    # The processors that this process may use: a scheduler may give it fewer than there are.
    n_threads = config.workers or min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    maker = GroupMaker(config, expression, inputs, output, parents, n_threads)
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


def _open_inputs(config: SelectConfig) -> dict[str, Artifact]:
    """Return what is read, by name.

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
                f"--{name} {artifact.path} was made for other candidates than {config.candidates}",
                hint=f"pass the {name} of these candidates, or make them: "
                f"prefpipe {artifact.record.stage} {config.candidates} ...",
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


def _parent_digests(
    inputs: Mapping[str, Artifact], indices: Sequence[int]
) -> dict[int, dict[str, str]]:
    """Return the digests of the parts that each part is made from.

    Raises:
        InputError: scores or embeddings of candidates that were made again since.
    """
    candidates = inputs["candidates"]
    digests: dict[int, dict[str, str]] = {}
    for index in indices:
        footers = {name: artifact.footer(index) for name, artifact in inputs.items()}
        digests[index] = {name: footer.data_sha256 for name, footer in footers.items()}

        for name, footer in footers.items():
            if name == "candidates":
                continue
            if footer.parents.get("candidates") != digests[index]["candidates"]:
                raise InputError(
                    f"{inputs[name].part_path(index)} was made from another version of "
                    f"{candidates.part_path(index)}",
                    hint=f"run the `prefpipe {inputs[name].record.stage}` command again: "
                    "it makes this part anew",
                )
    return digests


def _evaluate_once(
    expression: RewardExpression, candidates: Artifact, scores: Artifact, index: int
) -> None:
    """Evaluate the reward of one part.

    Raises:
        UsageError: the expression does not allow these rewards.
    """
    table, _ = candidates.read(index, ["prompt_id", "sample_idx"])
    pools = index_pools(
        flat(table, "prompt_id"), flat(table, "sample_idx"), str(candidates.part_path(index))
    )
    pool_rewards(scores.read(index)[0], expression, pools)
