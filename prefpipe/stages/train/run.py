"""Train a policy, or a reward model, on groups.

Reads: ``groups``, and ``logprobs`` where given. Writes: the policy as a Hugging Face folder or a
PEFT adapter; the model of an intermediate step, if requested, in ``step-00015``, a folder like the
run's own; checkpoints, ``metrics.parquet``, ``reference/`` (log-probabilities under the reference,
for objectives that need them) and TensorBoard events during training; at the end ``policy`` (one
row for every response of the groups, with its outcome) and ``summary.json``. Promises: stored token
ids are used when tokenizer and chat template are those that sampled them; a stopped or killed run
resumes from its last complete checkpoint and reaches the same weights; every response is trained on
or counted under its reason.
"""

from contextlib import ExitStack
from functools import partial

from prefpipe.configs.train import TrainConfig
from prefpipe.execution.runtime import Runtime
from prefpipe.models.files import ModelFiles
from prefpipe.stages.shared.partwise import Summary
from prefpipe.stages.train.inputs import open_training
from prefpipe.stages.train.result import find_result, keep_step, write_result
from prefpipe.stages.train.training import train


def run(
    config: TrainConfig,
    model: ModelFiles,
    runtime: Runtime,
    *,
    reference_model: ModelFiles | None = None,
) -> Summary:
    """Train, resume training, or report that it is done.

    Args:
        config: the stage's knobs.
        model: what the training starts from.
        runtime: the surroundings.
        reference_model: the files of ``--reference-model`` if it names a separate model.
    """
    inputs = open_training(config, model, reference_model, runtime)
    kept = find_result(inputs, runtime)
    if kept is not None:
        return kept

    # Once there is a step to lose, a stop waits until the result is on disk.
    with ExitStack() as finishing:
        result = train(inputs, runtime, finishing, keep=partial(keep_step, inputs))
        return write_result(inputs, result)
