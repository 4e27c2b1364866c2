"""The flags of ``prefpipe check``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.answers import json_option, strict_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.gpus import GPU_HELP, MFU_HELP, TFLOPS_HELP, gpu_problems
from prefpipe.configs.options import option
from prefpipe.configs.train import (
    POINT_WINS_HELP,
    RATER_SCORES_HELP,
    WEIGHT_BY_HELP,
    TrainConfig,
    gamma_problems,
)
from prefpipe.maths.objectives.registry import DEFAULTS, OBJECTIVES


@dataclass(frozen=True, kw_only=True)
class CheckConfig(CommandConfig):
    """Find problems in groups before training on them.

    Reports tokens, lengths, ties, copies, length bias, and the memory and time of a step. Loads no
    weights and needs no GPU. Exits with 1 if it finds an error, else with 0.
    """

    command: ClassVar[str] = "check"
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe check run/groups --model Qwen/Qwen3-4B --lora-r 16",
    )
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        "The training that is looked ahead to, as given to `prefpipe train`": (
            "model",
            "max_length",
            "on_too_long",
            "objective",
            "gamma",
            "point_wins",
            "rater_scores",
            "weight_by",
            "global_batch_size",
            "max_batch_tokens",
            "lora_r",
            "bf16",
            "gradient_checkpointing",
        ),
        "On what, for the time of a step": ("gpu", "tflops", "mfu"),
    }

    groups: Location = option(positional=True, metavar="GROUPS", help="folder written by select")
    model: str = option(
        metavar="MODEL",
        common=True,
        help="the policy to start from; only its tokenizer, chat template and configuration "
        "are read",
    )
    max_length: int = option(
        TrainConfig.max_length,
        minimum=2,
        metavar="N",
        common=True,
        help="longest prompt plus response, in tokens",
    )
    on_too_long: str = option(
        TrainConfig.on_too_long,
        choices=("drop", "truncate", "error"),
        help="what to do with a longer response",
    )
    objective: str = option(
        DEFAULTS["policy"], choices=tuple(OBJECTIVES), common=True, help="loss to train with"
    )
    gamma: str | None = option(
        None,
        metavar="X",
        help="mmpo: nats of margin per unit of reward, for the targets; auto: from "
        "--point-wins or --rater-scores; default: the objective's",
    )
    point_wins: float | None = option(None, above=0.5, below=1, metavar="P", help=POINT_WINS_HELP)
    rater_scores: Location | None = option(None, metavar="DIR", help=RATER_SCORES_HELP)
    weight_by: str | None = option(None, metavar="EXPRESSION", help=WEIGHT_BY_HELP)
    global_batch_size: int | None = option(
        None,
        minimum=1,
        metavar="N",
        common=True,
        help="prompts per optimizer step; default: the objective's",
    )
    max_batch_tokens: int = option(
        TrainConfig.max_batch_tokens,
        minimum=1,
        metavar="N",
        common=True,
        help="tokens a device computes at once",
    )
    lora_r: int = option(
        0, minimum=0, metavar="N", common=True, help="rank of LoRA adapters, 0 trains all weights"
    )
    bf16: bool = option(False, common=True, help="compute in bfloat16")
    gradient_checkpointing: bool = option(
        False, common=True, help="recompute activations to save memory"
    )
    gpu: str | None = option(None, metavar="NAME", common=True, help=GPU_HELP)
    tflops: float | None = option(None, above=0, metavar="X", help=TFLOPS_HELP)
    mfu: float = option(0.4, above=0, maximum=1, metavar="X", help=MFU_HELP)
    strict: bool = strict_option()
    as_json: bool = json_option()

    def problems(self) -> list[str]:
        problems = super().problems() + gpu_problems(self.gpu, self.tflops)
        if self.gamma is not None and self.objective != "mmpo":
            return [*problems, "--gamma needs --objective mmpo"]
        return problems + gamma_problems(
            self.objective, self.gamma, self.point_wins, self.rater_scores
        )
