"""The flags of ``prefpipe rounds``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class RoundsConfig(CommandConfig):
    """Run the pipeline several times, each from the last policy.

    Each step is an ordinary command with its own folder, such as OUTPUT/round-01/candidates. Run
    the command again to resume: finished steps are kept.
    """

    command: ClassVar[str] = "rounds"
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe rounds plan.yaml -o run --dry-run",
        "prefpipe rounds plan.yaml -o run",
    )

    plan: Path = option(
        positional=True,
        metavar="PLAN",
        help="YAML file with a section per stage and what changes by round: docs/guides/rounds.md",
    )
    output: Path = option(help="folder of all rounds", flag="-o", metavar="DIR")
    dry_run: bool = option(False, help="print the steps as a shell script, and run nothing")
    overwrite: Overwrite = option(
        Overwrite.NO,
        choices=tuple(Overwrite),
        help="--overwrite=stale is passed to each step: redo what a change of the plan "
        "affects, keep the rest",
    )
    seed: int | None = option(None, minimum=0, help="seed that replaces the plan's")
    from_round: int = option(
        1, minimum=1, metavar="N", help="first round to run; the rounds before it are finished"
    )
    until_round: int | None = option(
        None, minimum=1, metavar="N", help="last round to run; default: the plan's last"
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
