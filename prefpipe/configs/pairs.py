"""The knobs of ``prefpipe eval rewardbench`` and ``eval calibration``.

Both score the same pairs and read the scores in two ways.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefpipe.configs.command import OUTPUT_HEADING
from prefpipe.configs.conversations import ConversationsConfig
from prefpipe.configs.options import option
from prefpipe.configs.stage import (
    ENGINE_HEADING,
    INTERVALS_HEADING,
    ErrorRateConfig,
    ShardedConfig,
    TemplatedConfig,
)

FAKE, BASE = "fake", "base"
BETAS = {"log_ratio": 0.1, "mean_logp": 1.0, "reward": 1.0, "given": 1.0}
"""What a difference of scores is multiplied by before the sigmoid; of log-ratios DPO's beta."""
MOST_BETA = 1e6
"""Beyond it a difference of 1e-5, a rounding error, would be a certainty."""


@dataclass(frozen=True, kw_only=True)
class PairsConfig(TemplatedConfig, ShardedConfig, ErrorRateConfig, ConversationsConfig):
    """Score pairs of a chosen and a rejected response."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        OUTPUT_HEADING: ("output", "pairs", "model", "reference", "reward_model", "overwrite"),
        "Calibration": ("beta", "outcome_gamma", "n_bins", "n_gap_bins", "fit_share"),
        ENGINE_HEADING: (
            "device",
            "max_length",
            "max_batch_tokens",
            "batch_size",
            "dtype",
            "trust_remote_code",
        ),
        INTERVALS_HEADING: ("confidence", "bootstrap_draws", "bootstrap_seed"),
        "GPUs and machines": ("part_size",),
    }

    # 2: arrow.json, control tokens in contents as text, templated prompts as turns, system columns
    VERSION: ClassVar[int] = 2

    pairs: str = option(
        identity=False,
        metavar="FILE|DIR",
        common=True,
        help="pairs with `chosen` and `rejected`: Parquet, JSONL, JSON, CSV or hf:org/name; or "
        "a folder that this command or its sibling wrote",
    )
    model: str | None = option(
        None,
        identity=False,
        metavar="MODEL",
        common=True,
        help="the policy, or with --reward-model the reward model; default: use the file's "
        "`score_chosen` and `score_rejected`",
    )
    reference: str | None = option(
        None,
        identity=False,
        metavar="MODEL",
        common=True,
        help="the policy's reference, or `base` for the model under an adapter; scores are "
        "then log-ratios, else mean log-probabilities per token",
    )
    reward_model: bool = option(
        False, common=True, help="the model is a reward model; its rewards are the scores"
    )
    max_length: int | None = option(
        None,
        minimum=2,
        common=True,
        help="longest prompt plus response, in tokens; longer pairs are skipped, never cut; "
        "default: the model's limit",
    )
    dtype: str = option(
        "float32", choices=("float32", "bfloat16"), help="number format of the weights"
    )
    part_size: int = option(128, minimum=1, help="pairs per part; a crash loses at most one part")
    beta: float | None = option(
        None,
        identity=False,
        above=0,
        maximum=MOST_BETA,
        common=True,
        help="calibration: factor on a policy's score differences before the sigmoid; default: "
        "that of its training, else 0.1 with a reference, 1 without",
    )
    outcome_gamma: float | None = option(
        None,
        identity=False,
        minimum=0,
        maximum=MOST_BETA,
        metavar="GAMMA",
        help="calibration: use graded outcomes sigma(GAMMA * (rating of chosen - rating of "
        "rejected)), as mmpo does; needs two columns of ratings",
    )
    n_bins: int = option(
        10, identity=False, help="bins of the reliability curve over [0, 1], an even number"
    )
    n_gap_bins: int = option(
        4, identity=False, minimum=1, help="bins by score gap, with about equal numbers of pairs"
    )
    fit_share: float = option(
        0.5,
        identity=False,
        above=0,
        below=1,
        help="share of the prompts to fit the temperature on",
    )
    confidence: float = option(
        0.95, identity=False, above=0, below=1, help="level of the bootstrap intervals"
    )
    bootstrap_draws: int = option(
        10_000,
        identity=False,
        minimum=1,
        maximum=1_000_000,
        help="resamples of the bootstrap; calibration uses at most 1000",
    )
    bootstrap_seed: int = option(
        0,
        identity=False,
        minimum=0,
        help="seed of the bootstrap, and of the split for the temperature",
    )
    max_batch_tokens: int = option(
        16_384, identity=False, minimum=1, common=True, help="tokens that a policy computes at once"
    )
    batch_size: int = option(
        16,
        identity=False,
        minimum=1,
        common=True,
        help="conversations that a reward model computes at once",
    )
    device: str = option("auto", identity=False, common=True, help="auto, cpu, cuda or cuda:N")
    trust_remote_code: bool = option(False, help="run Python code that comes with the model")

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.reward_model and self.reference:
            problems.append("--reference and --reward-model exclude each other")
        if self.model is None and (self.reward_model or self.reference):
            problems.append(
                "--reference and --reward-model say what --model is, so --model is needed"
            )
        if self.model == FAKE and not self.reward_model:
            problems.append("--model fake goes with --reward-model")

        has_rewards = self.model is not None and (self.reward_model or self.model == FAKE)
        if self.beta is not None and has_rewards:
            problems.append("--beta is for policies: a reward is compared as it is")
        if self.n_bins < 2 or self.n_bins % 2:
            problems.append(
                f"--n-bins must be even and at least 2, not {self.n_bins}: with an odd number, "
                "errors near 1/2 vanish"
            )
        return problems

    def identity(self) -> dict[str, Any]:
        """Return what can change the rows; of scores that the file gives, no setting of a model."""
        identity = super().identity()
        del identity["reward_model"]  # which the kind of score says
        if self.model is not None:
            return identity

        of_file = ("part_size", "prompts_are_text", "leave_out")
        return {name: identity[name] for name in of_file if name in identity}


@dataclass(frozen=True, kw_only=True)
class RewardBenchConfig(PairsConfig):
    """Measure how often the chosen response scores higher.

    Reports RewardBench's subsets, sections and final figure.
    """

    stage: ClassVar[str] = "eval rewardbench"
    examples: ClassVar[tuple[str, ...]] = (
        (
            "prefpipe eval rewardbench --pairs pairs.parquet --model run/policy --reference base "
            "-o run/rb"
        ),
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig(PairsConfig):
    """Measure whether preference probabilities are right.

    Reports accuracy, AUC, ECE, Brier score, log loss, a reliability curve and a fitted temperature.
    """

    stage: ClassVar[str] = "eval calibration"
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe eval calibration --pairs run/rb -o run/calibration",
        (
            "prefpipe eval calibration --pairs pairs.parquet --model run/reward-model "
            "--reward-model -o run/calibration"
        ),
    )
