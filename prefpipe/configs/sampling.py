"""The knobs of sampling, shared by ``prefpipe generate`` and ``prefpipe eval``."""

from dataclasses import dataclass
from typing import get_args

from prefpipe.configs.conversations import ConversationsConfig
from prefpipe.configs.options import Dtype, ErrorRateConfig, TemplatedConfig, option

MOST_SAMPLES = 100_000  # a prompt; far above use, and far below what would fill the memory before the first part

BACKENDS = ("vllm", "transformers", "openai", "fake")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(TemplatedConfig, ErrorRateConfig, ConversationsConfig):
    """How responses are sampled, and by which engine."""

    backend: str = option(
        "transformers",
        choices=BACKENDS,
        help="engine: vllm on GPUs, transformers anywhere, openai for any OpenAI-compatible server, fake for tests and dry runs",
    )
    n: int = option(32, help="responses a prompt, dealt in turn to every model and temperature")
    temperature: tuple[float, ...] = option(
        (0.8,), help="sampling temperature, 0 is greedy; repeat for several"
    )
    top_p: float = option(1.0, help="smallest probability mass that is sampled from, 1 is all")
    top_k: int = option(0, help="number of most probable tokens that are sampled from, 0 is all")
    max_tokens: int = option(1024, help="longest response, in tokens")
    seed: int = option(
        0, help="seed of the run; each sample's own seed is a hash of it, prompt_id and sample_idx"
    )
    system_prompt: str | None = option(None, help="system turn put before every conversation")
    drop_duplicate_prompts: bool = option(
        False, help="keep the first of prompts with the same id instead of refusing"
    )
    part_size: int = option(128, help="prompts a part; a crash costs at most one part")
    max_model_len: int | None = option(
        None, help="longest prompt plus response, in tokens; default the model's own"
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
        help="sequences in one forward pass (transformers, scorers) or requests at a time (openai)",
    )
    device: str = option("auto", identity=False, help="auto, cpu, cuda or cuda:N (transformers)")
    tensor_parallel_size: int = option(1, identity=False, help="GPUs that share one model (vllm)")
    gpu_memory_utilization: float = option(
        0.9, identity=False, help="share of GPU memory that vllm may take"
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
        found = super().problems()
        checks = (
            (1 <= self.n <= MOST_SAMPLES, f"--n must be within 1 and {MOST_SAMPLES}, not {self.n}"),
            (
                bool(self.temperature) and all(0 <= t <= 10 for t in self.temperature),
                "--temperature must be within 0 and 10",
            ),
            (0 < self.top_p <= 1, f"--top-p must be above 0 and at most 1, not {self.top_p}"),
            (self.top_k >= 0, f"--top-k must be 0 or more, not {self.top_k}"),
            (self.max_tokens >= 1, f"--max-tokens must be 1 or more, not {self.max_tokens}"),
            (self.part_size >= 1, f"--part-size must be 1 or more, not {self.part_size}"),
            (self.batch_size >= 1, f"--batch-size must be 1 or more, not {self.batch_size}"),
            (
                self.tensor_parallel_size >= 1,
                f"--tensor-parallel-size must be 1 or more, not {self.tensor_parallel_size}",
            ),
            (
                0 < self.gpu_memory_utilization <= 1,
                "--gpu-memory-utilization must be above 0 and at most 1",
            ),
            (
                self.max_model_len is None or self.max_model_len > 1,
                "--max-model-len must be above 1",
            ),
            (
                len(set(self.temperature)) == len(self.temperature),
                "--temperature names the same value twice",
            ),
            (self.seed >= 0, f"--seed must be 0 or more, not {self.seed}"),
        )
        return found + [sentence for holds, sentence in checks if not holds]
