"""The engines that run a model here: vLLM, transformers or a reward model."""

from typing import TYPE_CHECKING

from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.score import ScoreConfig
from prefpipe.wiring.extras import GENERATE, VLLM, require

if TYPE_CHECKING:
    from prefpipe.backends.protocol import Generator, Scorer
    from prefpipe.backends.request_threads import RunControl
    from prefpipe.execution.runtime import Runtime
    from prefpipe.models.files import ModelFiles

EngineConfig = GenerateConfig | JudgeConfig | ScoreConfig
"""The configurations that name a language model to be run here."""


def open_transformers(
    model: "ModelFiles", config: EngineConfig, *, max_model_len: int | None
) -> "Generator":
    """Load a language model with transformers."""
    require(GENERATE, "--backend transformers")
    from prefpipe.backends.generators.hf_generator import HfGenerator

    return HfGenerator(
        model,
        dtype=config.dtype,
        device=config.device,
        batch_size=config.batch_size,
        max_model_len=max_model_len,
        trust_remote_code=config.trust_remote_code,
    )


def open_vllm(
    model: "ModelFiles", config: EngineConfig, *, max_model_len: int | None
) -> "Generator":
    """Load a language model with vLLM."""
    require(VLLM, "--backend vllm")
    from prefpipe.backends.generators.vllm_engine import VllmGenerator

    # `score` has no flags of vLLM's: its judge runs with the defaults of `judge`
    gpus = JudgeConfig if isinstance(config, ScoreConfig) else config
    shares_prompts = not isinstance(config, GenerateConfig) or config.enable_prefix_caching

    return VllmGenerator(
        model,
        dtype=config.dtype,
        max_model_len=max_model_len,
        trust_remote_code=config.trust_remote_code,
        tensor_parallel_size=gpus.tensor_parallel_size,
        gpu_memory_utilization=gpus.gpu_memory_utilization,
        enable_prefix_caching=shares_prompts,
        enforce_eager=gpus.enforce_eager,
    )


def open_reward_model(model: "ModelFiles", config: JudgeConfig | ScoreConfig) -> "Scorer":
    """Load a reward model."""
    require(GENERATE, "a reward model")
    from prefpipe.backends.scorers.reward_model import RewardModelScorer

    return RewardModelScorer(
        model,
        dtype=config.dtype,
        device=config.device,
        batch_size=config.batch_size,
        max_length=config.max_length,
        trust_remote_code=config.trust_remote_code,
    )


def run_control(runtime: "Runtime") -> "RunControl":
    """Return the run's controls for the client of a server."""
    from prefpipe.backends.request_threads import RunControl

    return RunControl(
        runtime.log,
        runtime.should_stop,
        runtime.how_to_go_on,
        grace_s=runtime.grace_s,
        is_hurried=runtime.is_hurried,
    )
