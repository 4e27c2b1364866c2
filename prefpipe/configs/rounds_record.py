"""``rounds.json``: the plan by which the rounds of a folder were run last."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefpipe import __version__
from prefpipe.configs.plan_record import read_plan_record, write_plan_record
from prefpipe.configs.round_plan import RoundPlan, read_plan
from prefpipe.errors import InputError, UsageError

FILE_NAME = "rounds.json"
_KINDS: dict[str, tuple[type, ...]] = {
    "plan": (str,),
    "folder": (str,),
    "values": (dict,),
    "seed": (int, type(None)),
    "version": (str,),
}


@dataclass(frozen=True, kw_only=True)
class RoundsRecord:
    """What ``rounds.json`` holds.

    Attributes:
        plan: the path of the plan, as it was given.
        folder: where the command was run, to which paths of the plan are relative.
        values: what the plan said, with ``seed`` if that was given by a flag.
        seed: what ``--seed`` was, None where it was not given.
        version: of prefpipe.
    """

    plan: str
    folder: str
    values: Mapping[str, Any]
    seed: int | None = None
    version: str = __version__

    @property
    def path(self) -> Path:
        """Where the plan is."""
        return Path(self.folder) / self.plan

    def plan_then(self) -> RoundPlan:
        """Return the plan as it was.

        Raises:
            UsageError: another release wrote it, with keys that are none any more.
        """
        return RoundPlan.from_values(self.values, name=f"in {FILE_NAME}")

    def plan_now(self) -> RoundPlan:
        """Return the plan as its file is now.

        Raises:
            UsageError: the file is gone, or is no plan.
        """
        return read_plan(self.path, seed=self.seed)


def write_rounds_record(run: Path, plan_path: Path, plan: RoundPlan, *, seed: int | None) -> None:
    """Note by which plan the rounds of a folder are run; the folder is made.

    Raises:
        PrefpipeError: the disk is full, or the folder cannot be written to.
    """
    record = RoundsRecord(
        plan=str(plan_path), folder=str(Path.cwd()), values=plan.to_values(), seed=seed
    )
    write_plan_record(run / FILE_NAME, asdict(record))


def read_rounds_record(run: Path) -> RoundsRecord | None:
    """Return what a folder's rounds were run by, None where no ``rounds.json`` is.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    path = run / FILE_NAME
    hint = "the `prefpipe rounds` command of this folder writes it again"
    values = read_plan_record(path, _KINDS, hint=hint)
    if values is None:
        return None
    record = RoundsRecord(**{name: values[name] for name in _KINDS})
    try:
        record.plan_then()
    except UsageError as error:
        raise InputError(f"{path}: {error.message}", hint=hint) from error
    return record
