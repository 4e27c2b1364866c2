"""The flags of ``prefpipe savings``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.answers import json_option, strict_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.gpus import GPU_HELP, MFU_HELP, TFLOPS_HELP, gpu_problems
from prefpipe.configs.options import flag_named, option
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.train import TrainConfig

REQUIRED_OF_A_PLAN = ("prompts", "n", "mean_prompt_tokens", "mean_response_tokens")
PLAN = (*REQUIRED_OF_A_PLAN, "k", "positives")
"""Fields that describe a selection which has not been run."""


@dataclass(frozen=True, kw_only=True)
class SavingsConfig(CommandConfig):
    """Estimate the training compute that selection saves.

    Compares training on the kept groups with training on every usable candidate, in tokens, FLOP,
    GPU-hours and cost. Reads GROUPS, or takes the numbers of a planned run.
    """

    command: ClassVar[str] = "savings"
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe savings run/groups --model 8B --gpu h100",
        (
            "prefpipe savings --model 8B --gpu h100 --prompts 60000 --n 32 --mean-prompt-tokens "
            "200 --mean-response-tokens 400"
        ),
    )
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        "What is trained, and how": (
            "model",
            "epochs",
            "lora",
            "gradient_checkpointing",
            "reference",
            "shared_prompt",
        ),
        "On what": ("gpu", "tflops", "mfu", "price_per_hour"),
        "Before any run, instead of GROUPS": PLAN,
    }

    groups: Location | None = option(
        None,
        positional=True,
        metavar="[GROUPS]",
        common=True,
        help="folder written by select; without it, describe a planned selection (see below)",
    )
    model: str = option(
        metavar="MODEL",
        common=True,
        help="the model to train: a folder, org/name[@revision] in the local cache, "
        "bundled:NAME, or a size such as 8B",
    )
    epochs: float = option(1.0, above=0, metavar="X", common=True, help="passes over the groups")
    lora: bool = option(
        False, common=True, help="train LoRA adapters: frozen weights need no gradient"
    )
    gradient_checkpointing: bool = option(False, help="recompute activations to save memory")
    reference: bool = option(
        False, help="the objective has a reference policy, which adds one forward pass"
    )
    shared_prompt: bool = option(
        TrainConfig.shared_prompt,
        help="count a prompt once per group, as `prefpipe train` computes it if the model "
        "allows; else once per response",
    )
    gpu: str | None = option(None, metavar="NAME", common=True, help=GPU_HELP)
    tflops: float | None = option(None, above=0, metavar="X", common=True, help=TFLOPS_HELP)
    mfu: float = option(0.4, above=0, maximum=1, metavar="X", help=MFU_HELP)
    price_per_hour: float | None = option(
        None,
        minimum=0,
        metavar="X",
        common=True,
        help="price of a GPU-hour in any currency; adds the cost",
    )
    prompts: int | None = option(
        None, minimum=1, metavar="N", common=True, help="number of prompts"
    )
    n: int | None = option(None, minimum=2, metavar="N", common=True, help="candidates per prompt")
    k: int | None = option(
        None, minimum=1, metavar="N", help=f"negatives kept per prompt [default: {SelectConfig.k}]"
    )
    positives: int | None = option(
        None,
        minimum=1,
        metavar="N",
        help=f"positives kept per prompt [default: {SelectConfig.positives}]",
    )
    mean_prompt_tokens: float | None = option(
        None, above=0, metavar="X", common=True, help="mean length of a prompt, in tokens"
    )
    mean_response_tokens: float | None = option(
        None, above=0, metavar="X", common=True, help="mean length of a response, in tokens"
    )
    strict: bool = strict_option()
    as_json: bool = json_option()

    def problems(self) -> list[str]:
        problems = super().problems() + gpu_problems(self.gpu, self.tflops)
        if self.gpu is None and self.tflops is None:
            problems.append("one of --gpu and --tflops is needed")

        if self.groups is None:
            missing = [
                flag_named(name) for name in REQUIRED_OF_A_PLAN if getattr(self, name) is None
            ]
            if missing:
                problems.append(f"GROUPS, or {', '.join(missing)} is needed")
            kept = self.k_or_default + self.positives_or_default
            # an n below 2 is named by its bound already
            if self.n is not None and kept > self.n >= 2:
                problems.append(
                    f"--k {self.k_or_default} and --positives {self.positives_or_default} keep "
                    f"more than the {self.n} candidates of --n"
                )
            return problems

        given = [flag_named(name) for name in PLAN if getattr(self, name) is not None]
        if given:
            problems.append(
                f"{', '.join(given)} describe a selection before it is run and do not go with "
                "GROUPS"
            )
        return problems

    @property
    def k_or_default(self) -> int:
        """Negatives of a plan, select's own number where none is given."""
        return SelectConfig.k if self.k is None else self.k

    @property
    def positives_or_default(self) -> int:
        """Positives of a plan, select's own number where none is given."""
        return SelectConfig.positives if self.positives is None else self.positives
