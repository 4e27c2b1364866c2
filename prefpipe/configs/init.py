"""The flags of ``prefpipe init``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import flag_named, option
from prefpipe.configs.sampling import AUTO, BACKENDS
from prefpipe.configs.stages import STAGES

FAKE = "fake"
SMALL_MODEL = "bundled:smollm2-135m"
DEFAULT_FOLDER = Path("my-run")
STAGE_NAMES = tuple(config_class.stage for config_class in STAGES)
USED_BY = {
    "prompts": ("generate",),
    "heldout": ("eval",),
    "model": ("generate", "train", "eval", "logprobs"),
    "scorer": ("score", "eval"),
    "embedder": ("embed",),
    "backend": ("generate", "eval"),
}
"""Flags, and the stages whose file has a place for them."""


@dataclass(frozen=True, kw_only=True)
class InitConfig(CommandConfig):
    """Write commented settings for a stage or a whole run.

    Without STAGE, writes a folder with a script of the six commands, a settings file for each of
    them, and a plan for `prefpipe rounds`. Existing files are never replaced.
    """

    command: ClassVar[str] = "init"
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe init -o my-run --prompts prompts.jsonl --heldout heldout.jsonl",
        "prefpipe init select",
    )

    stage: str | None = option(
        None,
        positional=True,
        metavar="[STAGE]",
        choices=STAGE_NAMES,
        help=f"stage to write settings for: {', '.join(STAGE_NAMES)}; default: a whole run",
    )
    output: Path | None = option(
        None,
        flag="-o",
        metavar="DIR",
        help=f"folder to write to [default: {DEFAULT_FOLDER}, for a stage the current folder]",
    )
    prompts: str = option("prompts.jsonl", metavar="FILE", help="prompts to sample responses to")
    heldout: str = option("heldout.jsonl", metavar="FILE", help="held-out prompts to evaluate on")
    model: str | None = option(
        None,
        metavar="MODEL",
        help="model to sample from, to train and to compare with [default: Qwen/Qwen3-4B; with "
        "--backend fake bundled:smollm2-135m]",
    )
    scorer: str | None = option(
        None,
        metavar="KIND[:TARGET]",
        help="scorer of the responses, as in `prefpipe score` [default: a reward model, "
        "Skywork-Reward-V2-Qwen3-4B]",
    )
    embedder: str | None = option(
        None, metavar="MODEL", help="model for the embeddings [default: all-MiniLM-L6-v2]"
    )
    backend: str = option(
        AUTO,
        choices=BACKENDS,
        help="engine to sample with; fake also sets a fake scorer, a fake embedder and a few small "
        "steps of training, for a dry run",
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.stage is None:
            return problems
        for name, stages in USED_BY.items():
            if self.stage not in stages and getattr(self, name) != getattr(InitConfig, name):
                problems.append(f"{flag_named(name)} has no place in the settings of {self.stage}")
        return problems

    @property
    def folder(self) -> Path:
        """The folder to write to."""
        if self.output is not None:
            return self.output
        return DEFAULT_FOLDER if self.stage is None else Path()

    @property
    def is_dry_run(self) -> bool:
        """Whether the fake engine samples."""
        return self.backend == FAKE

    @property
    def model_or_default(self) -> str:
        """The model, the placeholder if none was given; a dry run trains a small one."""
        if self.model is not None:
            return self.model
        return SMALL_MODEL if self.is_dry_run else "Qwen/Qwen3-4B"

    @property
    def scorer_or_default(self) -> str:
        """The scorer, the placeholder if none was given."""
        if self.scorer is not None:
            return self.scorer
        placeholder = "reward-model:Skywork/Skywork-Reward-V2-Qwen3-4B"
        return FAKE if self.is_dry_run else placeholder

    @property
    def embedder_or_default(self) -> str:
        """The embedding model, the placeholder if none was given."""
        if self.embedder is not None:
            return self.embedder
        placeholder = "sentence-transformers/all-MiniLM-L6-v2"
        return FAKE if self.is_dry_run else placeholder
