"""The knobs of ``prefpipe eval rewardbench`` and ``prefpipe eval calibration``: the same scored pairs, read in two ways."""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefpipe.configs.conversations import ConversationsConfig
from prefpipe.configs.options import ErrorRateConfig, ShardedConfig, TemplatedConfig, option

FAKE, BASE = "fake", "base"
BETAS = {"log_ratio": 0.1, "mean_logp": 1.0, "reward": 1.0, "given": 1.0}
"""What a difference of scores is multiplied by before the sigmoid: of log-ratios DPO's usual beta."""

MOST_BETA = 1e6
"""Beyond it a difference of 1e-5, a rounding error, would be a certainty."""


@dataclass(frozen=True, kw_only=True)
class PairsConfig(TemplatedConfig, ShardedConfig, ErrorRateConfig, ConversationsConfig):
    """Score pairs of a chosen and a rejected response."""

    VERSION: ClassVar[int] = (
        2  # 2: arrow.json, control tokens in contents as text, templated prompts as turns, system columns
    )

    pairs: str = option(
        identity=False,
        metavar="FILE|DIR",
        help="pairs with `chosen` and `rejected`: Parquet, JSONL, JSON, CSV or hf:org/name; or a folder that one of them wrote",
    )
    model: str | None = option(
        None,
        identity=False,
        metavar="MODEL",
        help="the policy, or with --reward-model the reward model; without it the file's `score_chosen` and "
        "`score_rejected` are the scores",
    )
    reference: str | None = option(
        None,
        identity=False,
        metavar="MODEL",
        help="the policy's reference, or `base` for the model under an adapter: scores are log-ratios then, else mean "
        "log-probabilities a token",
    )
    reward_model: bool = option(False, help="the model is a reward model: scores are its rewards")
    max_length: int | None = option(
        None,
        help="longest prompt plus response, in tokens; longer pairs are not scored, and never cut; default the model's own",
    )
    dtype: str = option(
        "float32", choices=("float32", "bfloat16"), help="number format of the weights"
    )
    part_size: int = option(128, help="pairs a part; a crash costs at most one part")
    beta: float | None = option(
        None,
        identity=False,
        help="a policy's difference of scores is multiplied by it before the sigmoid (calibration alone); default that of its "
        "training, where prefpipe trained it on such scores, else 0.1 with a reference and 1 without",
    )
    outcome_gamma: float | None = option(
        None,
        identity=False,
        metavar="GAMMA",
        help="calibrate against graded outcomes, sigma(GAMMA * (rating of chosen - rating of rejected)), the target of mmpo; "
        "the pairs need two columns of ratings (calibration alone)",
    )
    n_bins: int = option(
        10, identity=False, help="bins of the reliability curve over [0, 1], an even number"
    )
    n_gap_bins: int = option(
        4, identity=False, help="bins by score gap, of about equal numbers of pairs"
    )
    fit_share: float = option(
        0.5, identity=False, help="share of the prompts that the temperature is fitted on"
    )
    confidence: float = option(0.95, identity=False, help="level of the bootstrap intervals")
    bootstrap_draws: int = option(
        10_000, identity=False, help="resamples of the bootstrap; of calibration at most 1000"
    )
    bootstrap_seed: int = option(
        0, identity=False, help="seed of the bootstrap, and of the split for the temperature"
    )
    max_batch_tokens: int = option(
        16_384, identity=False, help="tokens that a policy computes at once"
    )
    batch_size: int = option(
        16, identity=False, help="conversations that a reward model computes at once"
    )
    device: str = option("auto", identity=False, help="auto, cpu, cuda or cuda:N")
    trust_remote_code: bool = option(False, help="run Python code that comes with the model")

    def problems(self) -> list[str]:
        found = super().problems()
        is_policy = self.model is not None and not self.reward_model and self.model != FAKE
        checks = (
            (
                not (self.reward_model and self.reference),
                "--reference and --reward-model exclude each other",
            ),
            (
                self.model is not None or not (self.reward_model or self.reference),
                "--reference and --reward-model say what --model is, so --model is needed",
            ),
            (self.model != FAKE or self.reward_model, "--model fake goes with --reward-model"),
            (
                self.beta is None or is_policy or self.model is None,
                "--beta is for policies: a reward is compared as it is",
            ),
            (
                self.beta is None or 0 < self.beta <= MOST_BETA,
                f"--beta must be above 0 and at most {MOST_BETA:g}, not {self.beta}",
            ),
            (
                self.outcome_gamma is None or 0 <= self.outcome_gamma <= MOST_BETA,
                f"--outcome-gamma must be 0 or more and at most {MOST_BETA:g}, not {self.outcome_gamma}",
            ),
            (
                self.max_length is None or self.max_length > 1,
                f"--max-length must be above 1, not {self.max_length}",
            ),
            (self.part_size >= 1, f"--part-size must be 1 or more, not {self.part_size}"),
            (
                self.n_bins >= 2 and self.n_bins % 2 == 0,
                f"--n-bins must be even and at least 2, not {self.n_bins}: with an odd number, errors near 1/2 vanish",
            ),
            (self.n_gap_bins >= 1, f"--n-gap-bins must be 1 or more, not {self.n_gap_bins}"),
            (0 < self.fit_share < 1, f"--fit-share must be within 0 and 1, not {self.fit_share}"),
            (
                0 < self.confidence < 1,
                f"--confidence must be within 0 and 1, not {self.confidence}",
            ),
            (
                1 <= self.bootstrap_draws <= 1_000_000,
                f"--bootstrap-draws must be within 1 and 1000000, not {self.bootstrap_draws}",
            ),
            (
                self.bootstrap_seed >= 0,
                f"--bootstrap-seed must be 0 or more, not {self.bootstrap_seed}",
            ),
            (
                self.max_batch_tokens >= 1,
                f"--max-batch-tokens must be 1 or more, not {self.max_batch_tokens}",
            ),
            (self.batch_size >= 1, f"--batch-size must be 1 or more, not {self.batch_size}"),
        )
        return found + [sentence for holds, sentence in checks if not holds]

    def identity(self) -> dict[str, Any]:
        """Return what can change the rows; of scores that the file gives, no setting of a model can."""
        own = super().identity()
        del own["reward_model"]  # which the kind of score says
        of_file = ("part_size", "prompts_are_text", "leave_out")
        return (
            own if self.model is not None else {name: own[name] for name in of_file if name in own}
        )


@dataclass(frozen=True, kw_only=True)
class RewardBenchConfig(PairsConfig):
    """How often the chosen response scores higher: RewardBench's subsets, sections and final figure."""

    stage: ClassVar[str] = "eval rewardbench"


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig(PairsConfig):
    """How right and how sure a model's preferences are: accuracy, AUC, ECE, Brier, log loss, reliability, temperature."""

    stage: ClassVar[str] = "eval calibration"
