"""The flags of ``prefpipe study``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class StudyConfig(CommandConfig):
    """Compare ways to select and to train, over several seeds.

    All arms share one pool of candidates and one held-out set. Each step is an ordinary command
    with its own folder, such as OUTPUT/arms/ARM/seed-0/policy. Run the command again to resume.
    Several copies can share a study.
    """

    command: ClassVar[str] = "study"
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe study plan.yaml -o study --dry-run",
        "prefpipe study plan.yaml -o study",
    )

    plan: Path = option(
        positional=True,
        metavar="PLAN",
        help="YAML file with the arms and what they share: docs/guides/studies.md",
    )
    output: Path = option(help="folder of the study", flag="-o", metavar="DIR")
    arms: str | None = option(
        None, metavar="A,B", help="run these arms only, comma-separated; default: all of the plan"
    )
    seeds: str | None = option(
        None, metavar="0,1", help="run these seeds only, comma-separated; default: all of the plan"
    )
    dry_run: bool = option(False, help="print the steps as a shell script, and run nothing")
    keep_policies: bool = option(
        False,
        help="keep the weights of evaluated policies; without it only their records stay",
    )
    overwrite: Overwrite = option(
        Overwrite.NO,
        choices=tuple(Overwrite),
        help="--overwrite=stale is passed to each step: redo what a change of the plan "
        "affects, keep the rest",
    )
    train_tokens_per_s: float | None = option(
        None,
        above=0,
        help="response tokens per second of training, to estimate the time until a finished "
        "step measures it",
    )
    sample_tokens_per_s: float | None = option(
        None,
        above=0,
        help="response tokens per second of sampling, to estimate the time until a finished "
        "step measures it",
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.overwrite is Overwrite.ALL:
            problems.append(
                "--overwrite would make everything again, also when the command is run again to "
                f"go on: pass --overwrite=stale, or remove {self.output} first"
            )
        if self.arms is not None and not all(_parted(self.arms)):
            problems.append(f"--arms takes names, A,B, not {self.arms!r}")
        if self.seeds is not None and not all(
            text.isascii() and text.isdecimal() for text in _parted(self.seeds)
        ):
            problems.append(f"--seeds takes whole numbers, 0,1, not {self.seeds!r}")
        return problems

    @property
    def chosen_arms(self) -> list[str] | None:
        """The arms to be run, None for all."""
        return None if self.arms is None else list(dict.fromkeys(_parted(self.arms)))

    @property
    def chosen_seeds(self) -> list[int] | None:
        """The seeds to be run, None for all."""
        if self.seeds is None:
            return None
        return list(dict.fromkeys(int(text) for text in _parted(self.seeds)))


def _parted(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]
