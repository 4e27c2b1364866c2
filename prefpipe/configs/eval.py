"""The knobs of ``prefpipe eval``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.command import OUTPUT_HEADING
from prefpipe.configs.options import option
from prefpipe.configs.sampling import MOST_SAMPLES, SamplingConfig
from prefpipe.configs.score import scorer_problems
from prefpipe.configs.stage import INTERVALS_HEADING, GraceConfig
from prefpipe.configs.workers import WorkersConfig


@dataclass(frozen=True, kw_only=True)
class EvalConfig(SamplingConfig, WorkersConfig, GraceConfig):
    """Compare a policy with a baseline on held-out prompts.

    Reports win rates, raw and length-controlled, and the policy's health: KL divergence, lengths,
    diversity, repetition and refusals, all paired and with intervals.
    """

    stage: ClassVar[str] = "eval"
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        OUTPUT_HEADING: ("output", "policy", "baseline", "prompts", "scorer", "overwrite"),
        "Comparison": (
            "reward",
            "tie_tolerance",
            "judge_base_url",
            "policy_scores",
            "baseline_scores",
            "policy_embeddings",
            "baseline_embeddings",
            "force",
            "trust_python_checks",
        ),
        "KL divergence": ("kl", "kl_reference"),
        INTERVALS_HEADING: ("confidence", "bootstrap_draws", "bootstrap_seed"),
    }
    examples: ClassVar[tuple[str, ...]] = (
        (
            "prefpipe eval --policy run/policy --baseline Qwen/Qwen3-4B --prompts heldout.jsonl "
            "-o run/eval --scorer reward-model:Skywork/Skywork-Reward-V2-Qwen3-4B"
        ),
    )
    # 2: policy health; repetition counts signs and words of scripts without spaces; no null is 0
    VERSION: ClassVar[int] = 2

    policy: str = option(
        identity=False,
        metavar="MODEL|DIR",
        common=True,
        help="the model to evaluate, or a folder of its candidates",
    )
    baseline: str = option(
        identity=False,
        metavar="MODEL|DIR",
        common=True,
        help="the model to compare with, or a folder of its candidates",
    )
    prompts: str | None = option(
        None,
        identity=False,
        metavar="PROMPTS",
        common=True,
        help="held-out prompts; needed if --policy or --baseline is a model",
    )
    scorer: tuple[str, ...] = option(
        (),
        identity=False,
        metavar="[NAME=]KIND[:TARGET]",
        common=True,
        help="checks, reward-model:MODEL, ratings:FILE or judge:KIND:MODEL; NAME= names it; "
        "repeat for several scorers",
    )
    judge_base_url: str | None = option(
        None,
        identity=False,
        help="address of the server of --scorer judge:openai:MODEL; default: --base-url unless "
        "--backend is openai, then OPENAI_BASE_URL",
    )
    policy_scores: Location | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="existing scores of the policy's candidates folder",
    )
    baseline_scores: Location | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="existing scores of the baseline's candidates folder",
    )
    policy_embeddings: Location | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="embeddings of the policy's candidates, to measure their diversity",
    )
    baseline_embeddings: Location | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="embeddings of the baseline's candidates, by the same model",
    )
    kl: bool = option(
        True,
        identity=False,
        help="measure the policy's KL divergence to the reference with one forward pass over "
        "its responses",
    )
    kl_reference: str | None = option(
        None,
        identity=False,
        metavar="MODEL",
        help="model to measure the KL divergence to; default: the baseline, if it is a model",
    )
    reward: str | None = option(
        None,
        metavar="EXPRESSION",
        common=True,
        help="reward as an expression over scorers; default: the only scorer",
    )
    n: int = option(
        1, minimum=1, maximum=MOST_SAMPLES, common=True, help="responses per prompt from each model"
    )
    tie_tolerance: float = option(
        0.0, minimum=0, help="largest reward difference that counts as a tie"
    )
    confidence: float = option(0.95, above=0, below=1, help="level of the bootstrap intervals")
    bootstrap_draws: int = option(
        10_000, minimum=1, maximum=10_000_000, help="resamples of the bootstrap"
    )
    bootstrap_seed: int = option(0, minimum=0, help="seed of the bootstrap")
    force: bool = option(
        False,
        identity=False,
        help="compare two candidates folders that were sampled or scored differently",
    )
    trust_python_checks: bool = option(
        False, identity=False, help="run Python functions that the prompts file names"
    )

    def problems(self) -> list[str]:
        problems = super().problems() + scorer_problems(self.scorer)
        if (self.policy_embeddings is None) != (self.baseline_embeddings is None):
            problems.append("--policy-embeddings and --baseline-embeddings go together")
        if self.kl_reference is not None and not self.kl:
            problems.append("--kl-reference and --no-kl exclude each other")
        return problems

    @property
    def judge_url(self) -> str | None:
        """The address of the judge's server, None for that of the environment."""
        # the server that samples the responses is no judge
        shared = None if self.backend == "openai" else self.base_url
        return self.judge_base_url or shared
