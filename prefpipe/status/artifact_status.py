"""The state of an artifact, the reasons, and the commands that finish it."""

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.recorded_commands import RecordedCommand, Surroundings
from prefpipe.status.claimed_parts import ClaimedPart

State = Literal["done", "partial", "stale", "corrupt"]


class Effect(Enum):
    """The effect of a finding on the whole artifact."""

    CORRUPT = auto()
    """Nobody can tell what it is."""
    OTHER_RUN = auto()
    """It was not made from what is there now, and must be made again completely."""
    BEHIND = auto()
    """An input must be made again first."""
    UNFINISHED = auto()
    """Its parts are there, and what is written last is not."""
    NOTE = auto()
    """No effect: something could not be checked."""


class StatusFinding(NamedTuple):
    """A finding about an artifact, with a line for the user."""

    effect: Effect
    text: str


@dataclass(frozen=True)
class ArtifactStatus:
    """The state of one artifact.

    ``missing``, ``outdated`` and ``corrupt_parts`` are numbers of parts. ``reasons`` say why the
    state is not ``done``, ``notes`` what could not be checked. ``claims`` are the parts that
    workers are making. ``round``: of training, of a policy or an evaluation. ``words`` are the
    command that made it, as it was typed, and ``folder`` is where it was run. ``by_plan``: the
    command of a run of several rounds, where its plan wants the artifact otherwise.
    """

    path: Location
    stage: str = "?"
    fingerprint: str = ""
    n_parts: int = 0
    n_rows: int = 0
    missing: Sequence[int] = ()
    outdated: Sequence[int] = ()
    corrupt_parts: Sequence[int] = ()
    effects: Collection[Effect] = ()
    reasons: Sequence[str] = ()
    notes: Sequence[str] = ()
    claims: Sequence[ClaimedPart] = ()
    round: int | None = None
    words: Sequence[str] = ()
    folder: str = ""
    by_plan: Sequence[str] = ()

    @property
    def state(self) -> State:
        """The most severe finding."""
        if Effect.CORRUPT in self.effects or self.corrupt_parts:
            return "corrupt"
        if Effect.OTHER_RUN in self.effects or Effect.BEHIND in self.effects or self.outdated:
            return "stale"
        if Effect.UNFINISHED in self.effects or self.missing:
            return "partial"
        return "done"

    @property
    def command(self) -> str:
        """The command that made it, to paste into a shell."""
        return shlex.join(self.words)

    @property
    def to_make(self) -> list[int]:
        """The parts to make, or to make again: all of them if they are of another run."""
        if Effect.OTHER_RUN in self.effects:
            return list(range(self.n_parts))
        return sorted({*self.missing, *self.outdated, *self.corrupt_parts})

    def shards(self, num_shards: int | None) -> list[int]:
        """Return the shards (of ``num_shards``, default one a part) that have something to make."""
        count = num_shards or max(1, self.n_parts)
        # as `Shard.parts` divides them
        return sorted({index % count for index in self.to_make})

    def again(self, num_shards: int | None) -> list[list[str]]:
        """Return the commands that finish the artifact, each as a list of words.

        It is one, or one a shard that has something to make: for the shards of ``num_shards``, or
        those that the recorded command was one of. They go on, without ``--overwrite``, with paths
        that are right in the folder of now. What is of another configuration is made again, with
        ``--overwrite=stale``; what a plan wants otherwise, by the command that runs the plan.
        """
        if self.by_plan:
            return [list(self.by_plan)]
        recorded = self._recorded_command()
        if self.state == "done" or recorded is None:
            return []

        output = output_of(recorded.stage, self.stage, self.path)
        surroundings = Surroundings(Path(self.folder or "."), output, Path.cwd())
        count = num_shards or recorded.num_shards or 1
        shards: list[tuple[int, int] | None] = [None]
        if recorded.takes_shards and self.n_parts > 1 and count > 1:
            # no shard has a part to make where a summary alone is missing: one line for all
            shards = [(index, count) for index in self.shards(count)] or shards

        is_replaced = Effect.OTHER_RUN in self.effects or Effect.BEHIND in self.effects
        has_checkpoints = isinstance(output, Path) and any(output.glob("checkpoint-*"))
        return [
            recorded.to_go_on(
                surroundings,
                replaces_other_runs=is_replaced,
                shard=shard,
                has_checkpoints=has_checkpoints,
            )
            for shard in shards
        ]

    @property
    def takes_shards(self) -> bool:
        """Whether the command that made it divides its parts among workers."""
        recorded = self._recorded_command()
        return recorded is not None and recorded.takes_shards

    def _recorded_command(self) -> RecordedCommand | None:
        try:
            return RecordedCommand(self.words)
        except ValueError:
            return None

    def to_json(self, num_shards: int | None) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "path": str(self.path),
            "stage": self.stage,
            "round": self.round,
            "state": self.state,
            "fingerprint": self.fingerprint,
            "n_parts": self.n_parts,
            "n_rows": self.n_rows,
            "missing": list(self.missing),
            "outdated": list(self.outdated),
            "corrupt": list(self.corrupt_parts),
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "claims": [claim.to_json() for claim in self.claims],
            "command": self.command,
            "num_shards": num_shards or max(1, self.n_parts),
            "shards_to_run": self.shards(num_shards),
            "again": self.again(num_shards),
        }


class Standing(NamedTuple):
    """The result of ``prefpipe status --quick`` for an artifact that another command reads.

    That command prints it, marks its figures, or refuses.
    """

    path: Location
    state: State
    reasons: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether figures made from it need no mark."""
        return self.state == "done"

    @property
    def line(self) -> str:
        """One line for the top of a page: ``run/scores is stale: its candidates ...``."""
        first = (
            self.reasons[0].rstrip(":") if self.reasons else ("run `prefpipe status` to see why")
        )
        line = f"{self.path} is {self.state}: {first}"
        n_more = len(self.reasons) - 1
        return f"{line} (and {n_more} more)" if n_more > 0 else line

    @property
    def command(self) -> str:
        """The command that prints everything."""
        return f"prefpipe status {shlex.quote(str(self.path))}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"path": str(self.path), "state": self.state, "reasons": list(self.reasons)}


def output_of(command_stage: str, stage: str, path: Location) -> Location:
    """Return the output of the command that made an artifact.

    Some commands write several artifacts, in folders of their output: an import, the sides of an
    evaluation, a training's own reference.
    """
    if command_stage == stage:
        return path.parent if stage == "import" else path
    return path.parent.parent if command_stage == "eval" else path.parent


def ranges(indices: Sequence[int]) -> str:
    """Return sorted numbers as Slurm's ``--array`` takes them: ``0,3-7,12``."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))

    pieces = []
    for first, last in runs:
        pieces.append(f"{first}-{last}" if last > first else str(first))
    return ",".join(pieces)
