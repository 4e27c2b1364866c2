"""The knobs of ``prefpipe judge``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

from prefpipe.configs.judging import ENGINES, JudgingConfig, judge_problems, parse_judge
from prefpipe.configs.options import Dtype, ErrorRateConfig, PartwiseConfig, option

KINDS = (*ENGINES, "reward-model", "fake")
REWARD_RULES = ("sigmoid", "hard")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(JudgingConfig, PartwiseConfig, ErrorRateConfig):
    """Compare the responses of two candidates folders, pair by pair, with a judge."""

    stage: ClassVar[str] = "judge"
    VERSION: ClassVar[int] = 1

    a: Path = option(
        positional=True, identity=False, metavar="A", help="candidates whose preference is told"
    )
    b: Path = option(
        positional=True, identity=False, metavar="B", help="candidates that they are compared with"
    )
    judge: str = option(
        identity=False,
        metavar="KIND:MODEL",
        help="openai:MODEL for any OpenAI-compatible server, vllm:MODEL, transformers:MODEL or reward-model:MODEL",
    )
    verdict: str | None = option(
        None,
        choices=("text", "logprobs", *REWARD_RULES),
        help="how a preference is read: the judge's text (default) or its token probabilities; of a reward model the sigmoid of "
        "the difference (default) or who is ahead",
    )
    orders: str = option(
        "both",
        choices=("both", "a-first", "b-first"),
        help="presentation orders to ask; reward models see no order",
    )
    pairing: str = option(
        "same-index",
        choices=("same-index", "all"),
        help="responses of a prompt to compare: equal sample_idx, or each with each",
    )
    tie_tolerance: float = option(
        0.0, help="reward difference up to which two responses tie (reward-model, hard)"
    )
    force: bool = option(
        False, identity=False, help="compare candidates that were sampled differently"
    )
    retry_errors: bool = option(
        True, identity=False, help="ask again for verdicts that are missing or could not be read"
    )
    confidence: float = option(0.95, identity=False, help="level of the bootstrap intervals")
    bootstrap_draws: int = option(10_000, identity=False, help="resamples of the bootstrap")
    bootstrap_seed: int = option(0, identity=False, help="seed of the bootstrap")
    max_length: int | None = option(
        None, help="longest prompt plus response of a model run here, in tokens; default its own"
    )
    dtype: Dtype = option(
        "auto",
        choices=get_args(Dtype),
        help="number format of a model run here",
    )
    trust_remote_code: bool = option(False, help="run Python code that comes with the model")
    batch_size: int = option(
        16, identity=False, help="sequences in one forward pass of a model run here"
    )
    device: str = option("auto", identity=False, help="auto, cpu, cuda or cuda:N")
    tensor_parallel_size: int = option(1, identity=False, help="GPUs that share one model (vllm)")
    enforce_eager: bool = option(
        False, identity=False, help="no CUDA graphs: slower, starts faster (vllm)"
    )
    gpu_memory_utilization: float = option(
        0.9, identity=False, help="share of GPU memory that vllm may take"
    )

    def problems(self) -> list[str]:
        found = super().problems() + judge_problems("--judge", self.judge, KINDS)
        asks_model = parse_judge(self.judge).kind in ENGINES
        batch = self.emit_batch or self.ingest_batch
        checks = (
            (
                self.verdict not in REWARD_RULES or not asks_model,
                f"--verdict {self.verdict} is for reward models",
            ),
            (
                self.verdict not in ("text", "logprobs") or asks_model,
                f"--verdict {self.verdict} is for language models; a reward model takes sigmoid or hard",
            ),
            (
                self.verdict != "logprobs" or parse_judge(self.judge).kind == "openai",
                "--verdict logprobs needs a server: serve the model (`vllm serve`), then --judge openai:MODEL --base-url URL",
            ),
            (
                not batch or parse_judge(self.judge).kind == "openai",
                "--emit-batch and --ingest-batch go with --judge openai:MODEL",
            ),
            (
                self.tie_tolerance >= 0,
                f"--tie-tolerance must be 0 or more, not {self.tie_tolerance}",
            ),
            (
                0 < self.confidence < 1,
                f"--confidence must be within 0 and 1, not {self.confidence}",
            ),
            (
                1 <= self.bootstrap_draws <= 10_000_000,
                "--bootstrap-draws must be within 1 and 10000000",
            ),
            (
                self.bootstrap_seed >= 0,
                f"--bootstrap-seed must be 0 or more, not {self.bootstrap_seed}",
            ),
            (self.batch_size >= 1, f"--batch-size must be 1 or more, not {self.batch_size}"),
            (self.tensor_parallel_size >= 1, "--tensor-parallel-size must be 1 or more"),
            (
                0 < self.gpu_memory_utilization <= 1,
                "--gpu-memory-utilization must be above 0 and at most 1",
            ),
        )
        return found + [sentence for holds, sentence in checks if not holds]

    @property
    def judges_by_reward(self) -> bool:
        """Whether the judge sees each response alone, so that there are no orders."""
        return parse_judge(self.judge).kind not in ENGINES

    @property
    def verdict_by(self) -> Literal["text", "logprobs"]:
        """How the preference of a language model is read, the default filled in."""
        return "logprobs" if self.verdict == "logprobs" else "text"

    @property
    def reward_rule(self) -> Literal["sigmoid", "hard"]:
        """How the preference of a reward model is read, the default filled in."""
        return "hard" if self.verdict == "hard" else "sigmoid"

    @property
    def asks_again(self) -> bool:
        """Whether an answer of an earlier run that holds no verdict is asked for again."""
        return self.retry_errors
