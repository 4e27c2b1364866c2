"""The flags of ``prefpipe savings``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

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
    """Say what it saves to train on the kept groups instead of on every usable candidate.

    In tokens, FLOP, GPU-hours and cost: from the groups that select wrote, or before any run from
    numbers and mean lengths.
    """

    command: ClassVar[str] = "savings"
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

    groups: Path | None = option(
        None,
        positional=True,
        metavar="GROUPS",
        help="folder written by select; without it see below",
    )
    model: str = option(
        metavar="MODEL",
        help="the model to be trained: a folder, org/name[@revision] in the local cache, "
        "bundled:NAME, or its size, 8B or 135M",
    )
    epochs: float = option(1.0, above=0, metavar="X", help="passes over the groups")
    lora: bool = option(False, help="train adapters: frozen weights need no gradient")
    gradient_checkpointing: bool = option(False, help="activations are computed twice")
    reference: bool = option(
        False, help="the objective has a reference policy: one forward pass more in all"
    )
    shared_prompt: bool = option(
        TrainConfig.shared_prompt,
        help="count a prompt once a group, as `prefpipe train` computes it where the model allows; "
        "else once a response",
    )
    gpu: str | None = option(None, metavar="NAME", help=GPU_HELP)
    tflops: float | None = option(None, above=0, metavar="X", help=TFLOPS_HELP)
    mfu: float = option(0.4, above=0, maximum=1, metavar="X", help=MFU_HELP)
    price_per_hour: float | None = option(
        None, minimum=0, metavar="X", help="price of a GPU-hour, any currency: adds the cost"
    )
    prompts: int | None = option(None, minimum=1, metavar="N", help="prompts")
    n: int | None = option(None, minimum=2, metavar="N", help="candidates a prompt")
    k: int | None = option(
        None, minimum=1, metavar="N", help=f"negatives kept [default: {SelectConfig.k}]"
    )
    positives: int | None = option(
        None, minimum=1, metavar="N", help=f"positives kept [default: {SelectConfig.positives}]"
    )
    mean_prompt_tokens: float | None = option(
        None, above=0, metavar="X", help="mean length of a prompt, in tokens"
    )
    mean_response_tokens: float | None = option(
        None, above=0, metavar="X", help="mean length of a response, in tokens"
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
