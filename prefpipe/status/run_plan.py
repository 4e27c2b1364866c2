"""The plan of a run of several rounds, and how an artifact differs from it.

The current plan file counts: a changed setting makes its steps stale before anything is run again.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.prompt_changes import changes_of_prompts
from prefpipe.artifacts.run_record import MADE_WITH, RunRecord
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.artifacts.store import Artifact
from prefpipe.configs.recorded_commands import RecordedCommand
from prefpipe.configs.round_plan import RoundPlan
from prefpipe.configs.round_steps import Step, number_of_folder, steps_of
from prefpipe.configs.rounds_record import RoundsRecord, read_rounds_record
from prefpipe.configs.sampling import AUTO
from prefpipe.configs.stage import StageConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import PrefpipeError, UsageError
from prefpipe.maths.objectives.registry import KNOB_NAMES, resolve_knobs
from prefpipe.models.location import locate_model
from prefpipe.training.start_values import LORA_LEARNING_RATE_FACTOR, START_VALUES

INPUTS = {
    "generate": ("prompts", "model"),
    "score": ("candidates", "scorer"),
    "embed": ("candidates", "model"),
    "select": ("candidates", "scores", "embeddings", "earlier"),
    "train": ("groups", "model", "reference_model", "eval_groups", "rater_scores", "chat_template"),
    "eval": ("policy", "baseline", "baseline_scores", "prompts", "scorer", "kl", "kl_reference"),
}
"""What a step is made from, which its identity holds by content and not by name."""
SETTLED_BY_THE_RUN = ("part_size", "backend", "template_date")
"""Fields that a run on disk keeps where they are not given."""


class PlanDifference(NamedTuple):
    """A setting of a step in which the plan differs from the artifact.

    ``key``: stage and flag, ``select.k``. None, or an empty list, is a setting that was not given.
    """

    key: str
    planned: Any
    made: Any

    @property
    def line(self) -> str:
        """The difference as a reason: ``the plan says select.k 5, it was made with 3``."""
        if self.planned is None or self.planned in ([], ()):
            return f"the plan does not set {self.key}, it was made with {_shown(self.made)}"
        if self.made is None or self.made in ([], ()):
            return f"the plan says {self.key} {_shown(self.planned)}, it was made without"
        return (
            f"the plan says {self.key} {_shown(self.planned)}, it was made with {_shown(self.made)}"
        )


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run and its steps.

    Attributes:
        run: the folder of all rounds.
        record: its ``rounds.json``.
        plan: as the file is now, or as it was recorded where that cannot be read.
        steps: in order.
        note: why the file's plan was not taken, None if it was.
    """

    run: Path
    record: RoundsRecord
    plan: RoundPlan
    steps: tuple[Step, ...]
    note: str | None

    def step_of(self, path: Location) -> Step | None:
        """Return the step that writes a folder, None if none does."""
        place = path.resolve()
        return next((step for step in self.steps if step.output == place), None)

    def command(self, *, replaces_other_runs: bool) -> list[str]:
        """Return the command that continues the rounds, ready to paste.

        Args:
            replaces_other_runs: steps that are stale are made again, and not refused.
        """
        words = ["prefpipe", "rounds", str(as_seen_from_here(self.record.path))]
        words += ["-o", str(as_seen_from_here(self.run))]
        if self.record.seed is not None:
            words += ["--seed", str(self.record.seed)]
        if replaces_other_runs:
            words.append(f"--overwrite={Overwrite.STALE}")
        return words

    def differences(self, artifact: Artifact) -> list[PlanDifference]:
        """Return the differences of an artifact from what its step would make now.

        There are none if no step of the plan makes it, or its command cannot be read. A setting
        that does not change the fingerprint is not a difference.
        """
        step = self.step_of(artifact.path)
        if step is None:
            return []
        try:
            then = _config_then(artifact.record)
        except (ValueError, PrefpipeError):
            return []
        if not isinstance(then, type(step.config)):
            return []

        differences = []
        for name, planned, made in self._changes(step, then, artifact):
            differences.append(PlanDifference(f"{step.stage}.{name}", planned, made))
        return differences

    def _changes(
        self, step: Step, then: StageConfig, artifact: Artifact
    ) -> Iterator[tuple[str, Any, Any]]:
        """Yield the fields of a step that differ now, with both values."""
        record, given = artifact.record, {word.field for word in step.arguments}
        wanted, made = _identity_of(step.config, record), _identity_of(then, record)
        for name in [item.name for item in fields(step.config)]:
            if name in SETTLED_BY_THE_RUN and name not in given:
                continue
            planned, before = wanted.get(name), made.get(name)
            if planned != before and not _is_as_made(name, planned, step.config, record):
                yield name, planned, before

        for name in INPUTS[step.stage]:
            # flags of a later release are not checked
            if not hasattr(then, name):
                continue
            planned, before = getattr(step.config, name), getattr(then, name)
            if not self._is_same_input(name, planned, before, artifact):
                yield name, self._as_typed(planned), before

    def _as_typed(self, value: Any) -> Any:
        """Return an input of a step as the plan's command would name it, for people."""
        if isinstance(value, list | tuple):
            return [self._as_typed(each) for each in value]
        if not isinstance(value, str | Path) or not Path(value).is_relative_to(self.run):
            return value
        return str(as_seen_from_here(Path(value)))

    def _is_same_input(self, name: str, planned: Any, made: Any, artifact: Artifact) -> bool:
        """Return whether an input is the one that the artifact was made from."""
        if planned == made:
            return True
        record = artifact.record
        if name == "reference_model" and "reference" not in record.identity:
            return True  # the objective has none, and what is logged does not count

        # the run may have been moved or copied: below its folder names are the same
        run_then = _run_folder(record)
        wanted = _placed(planned, Path(self.record.folder), self.run)
        before = _placed(made, Path(record.folder), run_then)
        if wanted == before:
            return True
        if isinstance(planned, str) and name == "prompts" and record.stage == "generate":
            place = Path(self.record.folder, planned)
            return place.exists() and not changes_of_prompts(artifact, place)
        if name == "model":
            return _is_same_model(planned, Path(self.record.folder), record)
        return False


def open_run_plan(run: Path) -> RunPlan | None:
    """Return the plan by which the rounds of a folder are run, None if no plan is noted.

    Raises:
        InputError: ``rounds.json`` cannot be read.
        UsageError: it is of another release, and no plan of this one.
    """
    record = read_rounds_record(run)
    if record is None:
        return None

    place = run.resolve()
    note = None
    try:
        plan = record.plan_now()
        steps = steps_of(plan, place, name=record.plan)
    except UsageError as error:
        note = f"the plan recorded in {run / 'rounds.json'} is used: {error.message}"
        plan = record.plan_then()
        steps = steps_of(plan, place, name=record.plan)
    return RunPlan(place, record, plan, tuple(steps), note)


def as_seen_from_here(path: Path) -> Path:
    """Return a path as short as it can be typed in this folder."""
    place, here = path.absolute(), Path.cwd()
    return place.relative_to(here) if place.is_relative_to(here) else place


def run_of(path: Location) -> Path | None:
    """Return the rounds folder that an artifact belongs to, None if there is none."""
    # rounds are run on a disk
    if isinstance(path, Url):
        return None
    place = path.resolve()
    return None if number_of_folder(place.parent.name) is None else place.parent.parent


def _config_then(record: RunRecord) -> StageConfig:
    """Return the config of the command that made an artifact.

    Raises:
        ValueError: no command is recorded.
        UsageError: it is of another release.
    """
    return RecordedCommand(record.command).config(Path(record.folder))


def _run_folder(record: RunRecord) -> Path | None:
    """Return where the folder of the rounds was when an artifact was made."""
    output = RecordedCommand(record.command).output(Path(record.folder))
    return output.absolute().parent.parent if isinstance(output, Path) else None


def _identity_of(config: StageConfig, record: RunRecord) -> dict[str, Any]:
    """Return the part of a config that can change the answer, including the detected back-end."""
    if getattr(config, "backend", None) == AUTO:
        settled = record.identity.get("backend", "transformers")
        config = replace(config, backend=settled)  # type: ignore[call-arg]
    return config.identity()


def _is_as_made(name: str, planned: Any, config: StageConfig, record: RunRecord) -> bool:
    """Return whether an artifact has a value anyway, because it was settled when it was made.

    A learning rate left to the objective is the one of its table, and a reward left to the scores
    is their only scorer.
    """
    identity = record.identity
    recorded = {**identity, **(identity.get("knobs") or {})}
    if planned is not None:
        return name in recorded and bool(recorded[name] == planned)

    if name == "reward":
        scorers = [each["name"] for each in (identity.get("scores") or {}).get("scorers", [])]
        return scorers == [identity.get("reward")]
    if isinstance(config, TrainConfig) and name in recorded:
        return bool(recorded[name] == _start_value(name, config, str(identity.get("objective"))))
    return False


def _start_value(name: str, config: TrainConfig, objective: str) -> Any:
    """Return the value of a setting that is not given."""
    if name in KNOB_NAMES:
        return resolve_knobs(objective, {}).get(name)

    start = START_VALUES[objective]._asdict()
    if config.lora_r:
        start["learning_rate"] *= LORA_LEARNING_RATE_FACTOR
    return start.get(name)


def _placed(value: Any, folder: Path, run: Path | None) -> Any:
    """Return a value with comparable paths: relative to the folder of the rounds."""
    if isinstance(value, list | tuple):
        return [_placed(each, folder, run) for each in value]
    if not isinstance(value, str | Path):
        return value

    # `reward-model:run/rm`: of a scorer the path stands last; `checks` stays a word
    head, colon, target = str(value).rpartition(":")
    place = Path(folder, Path(target).expanduser()).absolute()
    if run is not None and place.is_relative_to(run):
        return head + colon, "run", str(place.relative_to(run))
    return head + colon, str(place.resolve()) if place.exists() else target


def _is_same_model(planned: Any, folder: Path, record: RunRecord) -> bool:
    """Return whether the model that the plan names is the one on record, by its content."""
    names = planned if isinstance(planned, tuple) else (planned,)
    made_with = record.context.get(MADE_WITH, [])
    known = [dict(item["hashes"]) for item in made_with if item["role"] == "model"]
    known += [dict(item) for item in record.identity.get("models", []) if isinstance(item, dict)]
    for name in names:
        here = Path(folder, name)
        try:
            now = locate_model(str(here) if here.is_dir() else name).identity()
        except PrefpipeError:
            return False
        if not any(_are_hashes_of(now, hashes) for hashes in known):
            return False
    return True


def _are_hashes_of(now: Mapping[str, Any], then: Mapping[str, Any]) -> bool:
    return "content_hash" in then and then["content_hash"] == now.get("content_hash")


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(_shown, value)) or "nothing"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, str | Path | int) else json.dumps(value)
