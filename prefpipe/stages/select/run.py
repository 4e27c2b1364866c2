"""Keep a small informative group of each prompt's candidates.

Reads: ``candidates``, ``scores`` and, where they are given, ``embeddings``. Writes: ``groups``, one row for every kept candidate
and one row, without a role, for every rejected prompt. Promises: prompts follow the order of the candidates, positives come
first, the best before the others, then negatives by sample index; rows are joined by key; every candidate that is left out
is counted under its reason; the rows are the same whatever the number of workers.
"""

import os
from collections.abc import Mapping, Sequence

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import GROUPS
from prefpipe.artifacts.store import Artifact, open_input, open_output, refuse_nesting
from prefpipe.configs.select import SelectConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.rewards import RewardExpression, parse_reward
from prefpipe.maths.selection.strategies import is_ready
from prefpipe.stages.select.part import PartSelector
from prefpipe.stages.select.tally import describe_tally, facts_of_tally
from prefpipe.stages.shared.candidate_rows import parent_identity
from prefpipe.stages.shared.pool_index import flat, index_pools, pool_rewards
from prefpipe.stages.shared.runtime import Runtime, Summary, loop_over_parts

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
    indices = runtime.shard.parts(candidates.n_parts)
    for artifact in inputs.values():
        indices = artifact.present(indices, allow_partial=config.allow_partial)
    parents = _parent_digests(inputs, indices)
    if (
        indices
    ):  # an expression that these rewards do not allow (logit of 0) must not cost an older result
        first = candidates.read(indices[0], ["prompt_id", "sample_idx"])[0]
        pools = index_pools(
            flat(first, "prompt_id"),
            flat(first, "sample_idx"),
            str(candidates.part_path(indices[0])),
        )
        pool_rewards(scores.read(indices[0])[0], expression, pools)
    output = open_output(config.output, record, shard=runtime.shard, overwrite=config.overwrite)
    summary = Summary(config.stage, config.output)
    if "embeddings" in inputs and not is_ready():
        runtime.log(
            "compiling the selection loops, once an installation: about a quarter of a minute"
        )
    selector = PartSelector(config, expression, inputs, output)
    if indices:
        selector.rehearse()
    loop_over_parts(
        output,
        parents.__getitem__,
        lambda index: selector.make(index, parents[index]),
        runtime,
        summary,
        indices=indices,
        workers=config.workers or min(MOST_WORKERS, len(os.sched_getaffinity(0))),
    )
    summary.notes += describe_tally(summary.tally, config.strategy)
    summary.facts |= facts_of_tally(summary.tally)
    return summary


def _open_inputs(config: SelectConfig) -> dict[str, Artifact]:
    paths = {"candidates": config.candidates, "scores": config.scores}
    if config.embeddings is not None:
        paths["embeddings"] = config.embeddings
    refuse_nesting(
        config.output,
        {
            ("CANDIDATES" if name == "candidates" else f"--{name}"): path
            for name, path in paths.items()
        },
    )
    inputs = {
        name: open_input(
            path, schema=name, name="CANDIDATES" if name == "candidates" else f"--{name}"
        )
        for name, path in paths.items()
    }
    for name, artifact in inputs.items():
        if (
            name != "candidates"
            and artifact.record.identity.get("candidates") != inputs["candidates"].record.identity
        ):
            raise InputError(
                f"--{name} {artifact.path} was made for other candidates than {config.candidates}",
                hint=f"pass the {name} of these candidates, or make them: "
                f"prefpipe {artifact.record.stage} {config.candidates} ...",
            )
    return inputs


def _parent_digests(
    inputs: Mapping[str, Artifact], indices: Sequence[int]
) -> dict[int, dict[str, str]]:
    """Return the digests of the parts that each part is made from.

    Raises:
        InputError: scores or embeddings of candidates that were made again since.
    """
    digests: dict[int, dict[str, str]] = {}
    for index in indices:
        footers = {name: artifact.footer(index) for name, artifact in inputs.items()}
        digests[index] = {name: footer.data_sha256 for name, footer in footers.items()}
        for name, footer in footers.items():
            if (
                name != "candidates"
                and footer.parents.get("candidates") != footers["candidates"].data_sha256
            ):
                raise InputError(
                    f"{inputs[name].part_path(index)} was made from another version of {inputs['candidates'].part_path(index)}",
                    hint=f"run the `prefpipe {inputs[name].record.stage}` command again: it makes this part anew",
                )
    return digests


def _reward_expression(config: SelectConfig, scores: Artifact) -> RewardExpression:
    names = [scorer["name"] for scorer in scores.record.identity["scorers"]]
    if config.reward is None:
        if len(names) > 1:
            raise UsageError(
                f"--reward is needed: {scores.path} holds several scorers: {', '.join(names)}",
                hint=f'for example --reward "{" + ".join(names)}"',
            )
        return parse_reward(names[0])
    expression = parse_reward(config.reward)
    unknown = [name for name in expression.names if name not in names]
    if unknown:
        raise UsageError(
            f"--reward {config.reward!r} names `{unknown[0]}`, and {scores.path} holds: {', '.join(names)}"
        )
    return expression
