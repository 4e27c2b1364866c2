"""The reference's log-probabilities of the policy's responses.

An evaluation makes them with the stage ``logprobs``.
"""

from transformers import AutoConfig

from prefpipe.artifacts.store import open_input
from prefpipe.backends.device import find_device
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.execution.runtime import Runtime
from prefpipe.models.files import ModelFiles
from prefpipe.stages import logprobs
from prefpipe.stages.evaluate.kl import KlReference
from prefpipe.stages.shared.recipe import RatedCandidates
from prefpipe.stages.shared.training_groups import ids_fit

FOLDER = "reference-logprobs"
NO_LIMIT = 1_000_000
"""Positions of a model that names no limit."""


def measure_reference(
    config: EvalConfig, policy: RatedCandidates, model: ModelFiles, runtime: Runtime
) -> KlReference:
    """Return log-probabilities of the policy's token ids under ``model``, or why there are none.

    Finished parts are kept.

    The policy's ids must be the reference's own: the same tokenizer and the same chat template.
    Otherwise the two models distribute probability over different texts, and there is no divergence
    to speak of.
    """
    if not ids_fit(policy.candidates, model.tokenizer_hash, model.chat_template_hash):
        samplers = policy.candidates.record.identity["models"]
        is_same = all(each.get("tokenizer_hash") == model.tokenizer_hash for each in samplers)
        other = "chat template" if is_same else "tokenizer"
        reason = f"{model.requested} does not have the {other} of the policy"
        return KlReference(model.requested, reason=reason)

    runtime.log(f"KL: the policy's responses under {model.requested}")
    output = config.output / "policy" / FOLDER
    dtype = dtype_of(config)

    config_of_logprobs = LogprobsConfig(
        groups=policy.candidates.path,
        model=model.requested,
        output=output,
        dtype=dtype,
        device=config.device,
        merge_adapter=dtype == "float32" and model.base is not None,
        max_length=position_limit(model, config),
        trust_remote_code=config.trust_remote_code,
        overwrite=config.overwrite,
        max_error_rate=config.max_error_rate,
    )

    logprobs.run(config_of_logprobs, model, runtime)
    return KlReference(
        model.requested, open_input(output, schema="logprobs", name="--kl-reference")
    )


def dtype_of(config: EvalConfig) -> str:
    """Return the precision in which the responses were sampled.

    Rounding then does not show up as a divergence.
    """
    if config.dtype == "auto":
        return "float32" if find_device(config.device).type == "cpu" else "bfloat16"
    # `logprobs` does not compute in float16.
    return "bfloat16" if config.dtype == "float16" else config.dtype


def position_limit(model: ModelFiles, config: EvalConfig) -> int:
    """Return the reference's longest prompt plus response, in tokens."""
    whole = model.base if model.base is not None else model
    model_config = AutoConfig.from_pretrained(
        whole.path, trust_remote_code=config.trust_remote_code
    )
    limit = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return int(limit or NO_LIMIT)
