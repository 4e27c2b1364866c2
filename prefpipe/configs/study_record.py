"""``study.json``: the plan by which a study was run last, and when its contrasts were declared."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from prefpipe import __version__
from prefpipe.artifacts.atomic import atomic_write, make_folder
from prefpipe.configs.study_plan import StudyPlan, read_study_plan
from prefpipe.errors import InputError, UsageError

FILE_NAME = "study.json"
_KINDS: dict[str, tuple[type, ...]] = {
    "plan": (str,),
    "folder": (str,),
    "values": (dict,),
    "declared": (list,),
    "machine": (dict,),
    "version": (str,),
}


class Declared(NamedTuple):
    """A contrast, and when it was declared.

    ``first``, ``second``: arms. ``at``: the time of the command, in ISO 8601. ``is_before``: no
    evaluation of the study was finished then.
    """

    first: str
    second: str
    at: str
    is_before: bool


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """What ``study.json`` holds.

    Attributes:
        plan: the path of the plan, as it was given.
        folder: where the command was run, to which paths of the plan are relative.
        values: what the plan said.
        declared: every contrast that a plan of this study ever declared, by time. One that the plan
            has no more is still here.
        machine: on which it was run last.
        version: of prefpipe.
    """

    plan: str
    folder: str
    values: Mapping[str, Any]
    declared: Sequence[Declared]
    machine: Mapping[str, Any]
    version: str = __version__

    @property
    def path(self) -> Path:
        """Where the plan is."""
        return Path(self.folder) / self.plan

    def plan_then(self) -> StudyPlan:
        """Return the plan as it was.

        Raises:
            UsageError: another release wrote it, with keys that are none any more.
        """
        return StudyPlan.from_values(self.values, name=f"in {FILE_NAME}")

    def plan_now(self) -> StudyPlan:
        """Return the plan as its file is now.

        Raises:
            UsageError: the file is gone, or is no plan.
        """
        return read_study_plan(self.path)


def write_study_record(
    folder: Path, plan_path: Path, plan: StudyPlan, *, has_results: bool
) -> StudyRecord:
    """Note by which plan a study is run; the folder is made, and what was declared is kept.

    Args:
        folder: of the study.
        plan_path: as it was given.
        plan: what it says now.
        has_results: an evaluation of the study is finished: what the plan declares now, and has
            not declared before, was not declared before the run.

    Raises:
        InputError: what is there cannot be read.
        PrefpipeError: the disk is full, or the folder cannot be written to.
    """
    earlier = read_study_record(folder)
    declared = [] if earlier is None else list(earlier.declared)
    known = {(each.first, each.second) for each in declared}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for first, second in plan.contrasts:
        if (first, second) not in known:
            declared.append(Declared(first, second, now, not has_results))

    record = StudyRecord(
        plan=str(plan_path),
        folder=str(Path.cwd()),
        values=plan.values,
        declared=declared,
        machine=machine(),
    )
    values = asdict(record) | {"declared": [each._asdict() for each in declared]}
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False, default=_as_text)
    make_folder(folder)
    with atomic_write(folder / FILE_NAME) as file:
        file.write(f"{text}\n".encode())
    return record


def read_study_record(folder: Path) -> StudyRecord | None:
    """Return what a study was run by, None where no ``study.json`` is.

    Args:
        folder: of the study, or of a copy of its record and results.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    path = folder / FILE_NAME
    hint = "the `prefpipe study` command of this folder writes it again; move the file away first"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint=hint) from error

    if not isinstance(values, dict):
        raise InputError(f"{path} holds no object", hint=hint)
    wrong = [name for name, kinds in _KINDS.items() if not isinstance(values.get(name), kinds)]
    if wrong:
        raise InputError(f"{path}: `{wrong[0]}` is missing or no {_KINDS[wrong[0]][0]}", hint=hint)

    try:
        declared = [_declared(each) for each in values["declared"]]
        record = StudyRecord(**{name: values[name] for name in _KINDS} | {"declared": declared})
        record.plan_then()
    except UsageError as error:
        raise InputError(f"{path}: {error.message}", hint=hint) from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: `declared` holds something else: {error}", hint=hint) from error
    return record


def machine() -> dict[str, Any]:
    """Return what this machine is, for readers of seconds."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": _memory_gb(),
    }


def _processor() -> str:
    """Return the processor's name, as far as the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory_gb() -> float | None:
    try:
        n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    return round(n_bytes / 1e9, 1)


def _declared(values: Any) -> Declared:
    """Return a contrast as it was written.

    Raises:
        TypeError: another kind of value.
    """
    declared = Declared(**values)
    if not all(isinstance(text, str) for text in declared[:3]):
        raise TypeError(f"{values!r}")
    if not isinstance(declared.is_before, bool):
        raise TypeError(f"{values!r}")
    return declared


def _as_text(value: object) -> str:
    """Return a day as a plan's flags take it."""
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"no JSON value: {value!r}")
