"""The knobs of sampling, shared by ``prefpipe generate`` and ``prefpipe eval``."""

from dataclasses import dataclass
from typing import Any, get_args

from prefpipe.configs.conversations import ConversationsConfig
from prefpipe.configs.options import Dtype, option
from prefpipe.configs.stage import PART_SIZE_HELP, ErrorRateConfig, SizedParts
from prefpipe.configs.template_args import PolicyTemplateConfig

MOST_SAMPLES = 100_000
"""Of a prompt: far above use, and far below what would fill the memory before the first part."""
AUTO = "auto"
BACKENDS = (AUTO, "vllm", "transformers", "openai", "fake")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(SizedParts, PolicyTemplateConfig, ErrorRateConfig, ConversationsConfig):
    """How responses are sampled, and by which engine."""

    backend: str = option(
        AUTO,
        choices=BACKENDS,
        help="engine: vllm on GPUs, transformers anywhere, openai for any OpenAI-compatible "
        "server, fake for tests and dry runs; auto: that of the run on disk, else vllm where it is "
        "installed and a GPU is visible, else transformers",
    )
    n: int = option(
        32,
        minimum=1,
        maximum=MOST_SAMPLES,
        help="responses a prompt, dealt in turn to every model and temperature",
    )
    temperature: tuple[float, ...] = option(
        (0.8,), minimum=0, maximum=10, help="sampling temperature, 0 is greedy; repeat for several"
    )
    top_p: float = option(
        1.0, above=0, maximum=1, help="smallest probability mass that is sampled from, 1 is all"
    )
    top_k: int = option(
        0, minimum=0, help="number of most probable tokens that are sampled from, 0 is all"
    )
    max_tokens: int = option(1024, minimum=1, help="longest response, in tokens")
    seed: int = option(
        0,
        minimum=0,
        help="seed of the run; each sample's own seed is a hash of it, prompt_id and sample_idx",
    )
    system_prompt: str | None = option(None, help="system turn put before every conversation")
    drop_duplicate_prompts: bool = option(
        False, help="keep the first of prompts with the same id instead of refusing"
    )
    part_size: int | None = option(None, minimum=1, help=PART_SIZE_HELP)
    max_model_len: int | None = option(
        None, minimum=2, help="longest prompt plus response, in tokens; default the model's own"
    )
    dtype: Dtype = option(
        "auto",
        choices=get_args(Dtype),
        help="number format of the weights",
    )
    trust_remote_code: bool = option(False, help="run Python code that comes with the model")
    batch_size: int = option(
        64,
        identity=False,
        minimum=1,
        help="sequences in one forward pass (transformers, scorers) or requests at a time (openai)",
    )
    device: str = option("auto", identity=False, help="auto, cpu, cuda or cuda:N (transformers)")
    tensor_parallel_size: int = option(
        1, identity=False, minimum=1, help="GPUs that share one model (vllm)"
    )
    gpu_memory_utilization: float = option(
        0.9, identity=False, above=0, maximum=1, help="share of GPU memory that vllm may take"
    )
    enable_prefix_caching: bool = option(
        True, identity=False, help="share the prompt's cache between its samples (vllm)"
    )
    enforce_eager: bool = option(
        False, identity=False, help="no CUDA graphs: slower, starts faster (vllm)"
    )
    base_url: str | None = option(
        None, identity=False, help="address of the server, default OPENAI_BASE_URL (openai)"
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if not self.temperature:
            problems.append("--temperature is needed")
        if len(set(self.temperature)) < len(self.temperature):
            problems.append("--temperature names the same value twice")
        return problems

    def identity(self) -> dict[str, Any]:
        """Return what can change the rows: the engine that ``auto`` came to, and never ``auto``."""
        assert self.backend != AUTO, "wiring settles the back-end before a stage is run"
        return super().identity()
