"""The flags of ``prefpipe rounds``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class RoundsConfig(CommandConfig):
    """Run several rounds: sample, rate, embed, select, train, evaluate, and again from the policy.

    Each step is an ordinary command with its own folder, OUTPUT/round-01/candidates and so on. Run
    it again to go on: what is finished is kept.
    """

    command: ClassVar[str] = "rounds"

    plan: Path = option(
        positional=True,
        metavar="PLAN",
        help="YAML file with a section a stage, and what changes by round: docs/guides/rounds.md",
    )
    output: Path = option(help="folder of all rounds", flag="-o", metavar="DIR")
    dry_run: bool = option(
        False, help="print the steps as a shell script that does the same, and run nothing"
    )
    overwrite: Overwrite = option(
        Overwrite.NO,
        choices=tuple(Overwrite),
        help="--overwrite=stale, handed to each step: make again what a change of the plan "
        "affects, and keep the rest",
    )
    seed: int | None = option(None, minimum=0, help="instead of the plan's own seed")
    from_round: int = option(
        1, minimum=1, metavar="N", help="begin with round N; the rounds before it are finished"
    )
    until_round: int | None = option(
        None, minimum=1, metavar="N", help="end after round N; without it, after the last one"
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.overwrite is Overwrite.ALL:
            problems.append(
                "--overwrite would make everything again, also when the command is run again to "
                f"go on: pass --overwrite=stale, or remove {self.output} first"
            )
        if self.until_round is not None and self.until_round < self.from_round:
            problems.append(
                f"--until-round {self.until_round} is before --from-round {self.from_round}"
            )
        return problems
