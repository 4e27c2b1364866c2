"""``study.json``: the plan by which a study was run last, and when its contrasts were declared."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from prefpipe import __version__
from prefpipe.configs.plan_record import read_plan_record, write_plan_record
from prefpipe.configs.study_plan import StudyPlan, read_study_plan
from prefpipe.errors import InputError, UsageError

FILE_NAME = "study.json"
RULES = ("measure", "worst_below", "equivalence", "truth")
"""Keys of a plan by which its contrasts are judged: another one after results was not declared."""
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


class Rules(NamedTuple):
    """By what a plan judges its contrasts, and when that was said.

    ``values``: those of `RULES` that the plan has. ``at``, ``is_before``: as of `Declared`.
    """

    values: Mapping[str, Any]
    at: str
    is_before: bool


class Dropped(NamedTuple):
    """An arm or a seed that a plan had and left out when there were results; ``at``: when."""

    what: str
    at: str


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
        rules: by what contrasts are judged, each time that it became another, by time.
        dropped: arms and seeds that are no more in the plan, and whose results may have been seen.
    """

    plan: str
    folder: str
    values: Mapping[str, Any]
    declared: Sequence[Declared]
    machine: Mapping[str, Any]
    version: str = __version__
    rules: Sequence[Rules] = ()
    dropped: Sequence[Dropped] = ()

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
        rules=_rules_of(earlier, plan, now, has_results=has_results),
        dropped=_dropped_of(earlier, plan, now, has_results=has_results),
    )
    tuples = ("declared", "rules", "dropped")
    values = asdict(record)
    values |= {name: [each._asdict() for each in getattr(record, name)] for name in tuples}
    write_plan_record(folder / FILE_NAME, values, default=_as_text)
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
    values = read_plan_record(path, _KINDS, hint=hint)
    if values is None:
        return None

    try:
        declared = [_declared(each) for each in values["declared"]]
        # earlier releases wrote neither of the two
        rules = [_rules(each) for each in values.get("rules", [])]
        dropped = [_dropped(each) for each in values.get("dropped", [])]
        record = StudyRecord(
            **{name: values[name] for name in _KINDS}
            | {"declared": declared, "rules": rules, "dropped": dropped}
        )
        record.plan_then()
    except UsageError as error:
        raise InputError(f"{path}: {error.message}", hint=hint) from error
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: `declared`, `rules` or `dropped` holds something else: {error}", hint=hint
        ) from error
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


def _rules(values: Any) -> Rules:
    """Return what contrasts are judged by, as it was written.

    Raises:
        TypeError: another kind of value.
    """
    rules = Rules(**values)
    kinds = (isinstance(rules.values, dict), isinstance(rules.at, str))
    if not all(kinds) or not isinstance(rules.is_before, bool):
        raise TypeError(f"{values!r}")
    return rules


def _dropped(values: Any) -> Dropped:
    """Return what was left out, as it was written.

    Raises:
        TypeError: another kind of value.
    """
    dropped = Dropped(**values)
    if not all(isinstance(text, str) for text in dropped):
        raise TypeError(f"{values!r}")
    return dropped


def _rules_of(
    earlier: StudyRecord | None, plan: StudyPlan, now: str, *, has_results: bool
) -> list[Rules]:
    """Return by what contrasts were judged so far, and by what they are now."""
    rules = [] if earlier is None else list(earlier.rules)
    if earlier is not None and not rules:
        # of an earlier release, which kept those of its last call alone
        before = not earlier.declared or any(each.is_before for each in earlier.declared)
        at = earlier.declared[0].at if earlier.declared else now
        rules = [Rules(_judged_by(earlier.plan_then()), at, before)]
    values = _judged_by(plan)
    if not rules or rules[-1].values != values:
        rules.append(Rules(values, now, not has_results))
    return rules


def _judged_by(plan: StudyPlan) -> dict[str, Any]:
    """Return the values of `RULES` as JSON values."""
    return {
        "measure": plan.measure,
        "worst_below": plan.worst_below,
        "equivalence": plan.equivalence,
        "truth": None if plan.truth is None else list(plan.truth),
    }


def _dropped_of(
    earlier: StudyRecord | None, plan: StudyPlan, now: str, *, has_results: bool
) -> list[Dropped]:
    """Return the arms and seeds that the plan has no more, without those that are back."""
    if earlier is None:
        return []
    there = _arms_and_seeds(plan)
    dropped = [each for each in earlier.dropped if each.what not in there]
    if has_results:
        gone = [what for what in _arms_and_seeds(earlier.plan_then()) if what not in there]
        dropped += [Dropped(what, now) for what in gone]
    return dropped


def _arms_and_seeds(plan: StudyPlan) -> list[str]:
    return [*(f"arm {arm}" for arm in plan.arms), *(f"seed {seed}" for seed in plan.seeds)]


def _as_text(value: object) -> str:
    """Return a day as a plan's flags take it."""
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"no JSON value: {value!r}")
