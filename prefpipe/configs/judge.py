"""The knobs of ``prefpipe judge``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

from prefpipe.configs.judging import ENGINES, JudgingConfig, judge_problems, parse_judge
from prefpipe.configs.options import Dtype, option
from prefpipe.configs.stage import ErrorRateConfig, PartwiseConfig
from prefpipe.configs.workers import WorkersConfig

KINDS = (*ENGINES, "reward-model", "fake")
REWARD_RULES = ("sigmoid", "hard")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(JudgingConfig, PartwiseConfig, WorkersConfig, ErrorRateConfig):
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
        help="openai:MODEL for any OpenAI-compatible server, vllm:MODEL, transformers:MODEL or "
        "reward-model:MODEL",
    )
    verdict: str | None = option(
        None,
        choices=("text", "logprobs", *REWARD_RULES),
        help="how a preference is read: the judge's text (default) or its token probabilities; of "
        "a reward model the sigmoid of the difference (default) or who is ahead",
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
        0.0,
        minimum=0,
        help="reward difference up to which two responses tie (reward-model, hard)",
    )
    force: bool = option(
        False, identity=False, help="compare candidates that were sampled differently"
    )
    retry_errors: bool = option(
        True, identity=False, help="ask again for verdicts that are missing or could not be read"
    )
    confidence: float = option(
        0.95, identity=False, above=0, below=1, help="level of the bootstrap intervals"
    )
    bootstrap_draws: int = option(
        10_000, identity=False, minimum=1, maximum=10_000_000, help="resamples of the bootstrap"
    )
    bootstrap_seed: int = option(0, identity=False, minimum=0, help="seed of the bootstrap")
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
        16, identity=False, minimum=1, help="sequences in one forward pass of a model run here"
    )
    device: str = option("auto", identity=False, help="auto, cpu, cuda or cuda:N")
    tensor_parallel_size: int = option(
        1, identity=False, minimum=1, help="GPUs that share one model (vllm)"
    )
    enforce_eager: bool = option(
        False, identity=False, help="no CUDA graphs: slower, starts faster (vllm)"
    )
    gpu_memory_utilization: float = option(
        0.9, identity=False, above=0, maximum=1, help="share of GPU memory that vllm may take"
    )

    def problems(self) -> list[str]:
        problems = super().problems() + judge_problems("--judge", self.judge, KINDS)
        kind = parse_judge(self.judge).kind

        if self.verdict in REWARD_RULES and kind in ENGINES:
            problems.append(f"--verdict {self.verdict} is for reward models")
        if self.verdict in ("text", "logprobs") and kind not in ENGINES:
            problems.append(
                f"--verdict {self.verdict} is for language models; a reward model takes sigmoid "
                "or hard"
            )
        if self.verdict == "logprobs" and kind != "openai":
            problems.append(
                "--verdict logprobs needs a server: serve the model (`vllm serve`), then "
                "--judge openai:MODEL --base-url URL"
            )
        if (self.emit_batch or self.ingest_batch) and kind != "openai":
            problems.append("--emit-batch and --ingest-batch go with --judge openai:MODEL")
        return problems

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
