"""The knobs of ``prefpipe judge``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.command import OUTPUT_HEADING
from prefpipe.configs.judging import ENGINES, JudgingConfig, judge_problems, parse_judge
from prefpipe.configs.options import Dtype, option
from prefpipe.configs.stage import (
    ENGINE_HEADING,
    INTERVALS_HEADING,
    ErrorRateConfig,
    PartwiseConfig,
)
from prefpipe.configs.workers import WorkersConfig

KINDS = (*ENGINES, "reward-model", "fake")
REWARD_RULES = ("sigmoid", "hard")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(JudgingConfig, PartwiseConfig, WorkersConfig, ErrorRateConfig):
    """Compare two folders of candidates, pair by pair, with a judge.

    The judge is a language model, asked in both presentation orders, or a reward model. Paid
    answers are kept and reused.
    """

    stage: ClassVar[str] = "judge"
    VERSION: ClassVar[int] = 1
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        OUTPUT_HEADING: ("output", "judge", "overwrite", "retry_errors", "force"),
        "Comparison": ("pairing", "orders", "verdict", "tie_tolerance"),
        "Judges": (),
        ENGINE_HEADING: (
            "batch_size",
            "device",
            "dtype",
            "max_length",
            "trust_remote_code",
            "tensor_parallel_size",
            "gpu_memory_utilization",
            "enforce_eager",
        ),
        INTERVALS_HEADING: ("confidence", "bootstrap_draws", "bootstrap_seed"),
    }
    examples: ClassVar[tuple[str, ...]] = (
        (
            "prefpipe judge run/policy-candidates run/baseline-candidates -o run/verdicts --judge "
            "openai:gpt-4.1"
        ),
    )

    a: Location = option(
        positional=True,
        identity=False,
        metavar="A",
        common=True,
        help="candidates whose win rate is reported",
    )
    b: Location = option(
        positional=True,
        identity=False,
        metavar="B",
        common=True,
        help="candidates to compare them with",
    )
    judge: str = option(
        identity=False,
        metavar="KIND:MODEL",
        common=True,
        help="openai:MODEL for any OpenAI-compatible server, vllm:MODEL, transformers:MODEL or "
        "reward-model:MODEL",
    )
    verdict: str | None = option(
        None,
        choices=("text", "logprobs", *REWARD_RULES),
        help="how a preference is read: text (default) or logprobs of a judge; sigmoid "
        "(default) or hard difference of a reward model",
    )
    orders: str = option(
        "both",
        choices=("both", "a-first", "b-first"),
        common=True,
        help="presentation orders to ask in; reward models ignore it",
    )
    pairing: str = option(
        "same-index",
        choices=("same-index", "all"),
        common=True,
        help="responses of a prompt to compare: those with equal sample_idx, or all with all",
    )
    tie_tolerance: float = option(
        0.0,
        minimum=0,
        help="largest reward difference that counts as a tie (reward-model, hard)",
    )
    force: bool = option(
        False, identity=False, help="compare candidates that were sampled differently"
    )
    retry_errors: bool = option(
        True, identity=False, help="ask again for verdicts that are missing or unreadable"
    )
    confidence: float = option(
        0.95, identity=False, above=0, below=1, help="level of the bootstrap intervals"
    )
    bootstrap_draws: int = option(
        10_000, identity=False, minimum=1, maximum=10_000_000, help="resamples of the bootstrap"
    )
    bootstrap_seed: int = option(0, identity=False, minimum=0, help="seed of the bootstrap")
    max_length: int | None = option(
        None,
        help="longest prompt plus response of a local model, in tokens; default: the model's limit",
    )
    dtype: Dtype = option(
        "auto",
        choices=get_args(Dtype),
        help="number format of a local model",
    )
    trust_remote_code: bool = option(False, help="run Python code that comes with the model")
    batch_size: int = option(
        16, identity=False, minimum=1, help="sequences per forward pass of a local model"
    )
    device: str = option("auto", identity=False, help="auto, cpu, cuda or cuda:N")
    tensor_parallel_size: int = option(
        1, identity=False, minimum=1, help="GPUs that share one model (vllm)"
    )
    enforce_eager: bool = option(
        False, identity=False, help="run without CUDA graphs: slower, but starts faster (vllm)"
    )
    gpu_memory_utilization: float = option(
        0.9, identity=False, above=0, maximum=1, help="share of the GPU memory that vllm may use"
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
