"""The progress of a study: which runs are done, which failed, and what each step is made from.

A run is an arm with a seed. It is done when each of its evaluations is in the ledger under its
current key and the artifact is on disk; its weights may be removed by then.

The key of a step is a hash of everything that can change its result: the content of the groups and
held-out responses, the model, and the fingerprint settings of its command and of those before it.
The place of the folder, the number of workers and the order of flags are not in it.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from prefpipe.artifacts.file_hashes import hash_file
from prefpipe.artifacts.fingerprint import fingerprint_of
from prefpipe.artifacts.run_record import FILE_NAME as RUN_FILE
from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.step_ledger import StepEntry
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import parse_location
from prefpipe.artifacts.store import Artifact
from prefpipe.configs.recorded_commands import NAMED_TARGETS, names_place, split_target
from prefpipe.configs.sampling import AUTO, SamplingConfig
from prefpipe.configs.stage import StageConfig
from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_steps import (
    Place,
    StudyStep,
    groups_folder,
    heldout_candidates_folder,
    heldout_scores_folder,
    run_steps,
    selection_steps,
    shared_steps,
)
from prefpipe.errors import PrefpipeError
from prefpipe.models.files import holds_config
from prefpipe.models.location import locate_model
from prefpipe.stages.study.places import places_of

RunState = Literal["done", "failed", "waiting"]
NOT_INPUTS = ("output", "workers", "on", "cache", "resume_from")
"""Fields that name places and change nothing of what is made."""
IN_STUDY = "STUDY"


@dataclass(frozen=True)
class RunProgress:
    """An arm with a seed.

    Attributes:
        arm: its name.
        seed: of the training.
        state: ``waiting`` where it has not run, or not to its end.
        places: where it is judged; none where its groups are not there.
        steps: in order, with the keys that they have now.
        finished: names of the steps that need not run again.
        failed: how the step ended that failed last, None if none did.
        changes: in what the run on disk was made otherwise, [] if it was not.
        seconds: that its steps took so far, those of calls that were killed left out.
        keeps_weights: the weights that were judged are to stay.
        problem: why there are no steps, "" if there are.
    """

    arm: str
    seed: int
    state: RunState
    places: tuple[Place, ...] = ()
    steps: tuple[tuple[StudyStep, str], ...] = ()
    finished: frozenset[str] = frozenset()
    failed: StepEntry | None = None
    changes: tuple[str, ...] = ()
    seconds: float = 0.0
    keeps_weights: bool = False
    problem: str = ""

    @property
    def name(self) -> str:
        """The arm and the seed in words."""
        return f"{self.arm}, seed {self.seed}"


class StudyProgress:
    """What of a study is done, by its ledger and by what is on disk now.

    Args:
        plan: as it is now.
        folder: of the study.
        entries: of the ledger, the oldest first.
    """

    def __init__(self, plan: StudyPlan, folder: Path, entries: Sequence[StepEntry]) -> None:
        self._plan, self._folder = plan, folder
        self._by_key: dict[str, list[StepEntry]] = {}
        self._by_name: dict[str, list[StepEntry]] = {}
        self._contents: dict[Path, list[str] | None] = {}
        for entry in entries:
            self._by_key.setdefault(entry.key, []).append(entry)
            self._by_name.setdefault(entry.name, []).append(entry)

    def runs(self) -> list[RunProgress]:
        """Return all runs of the plan: seed by seed over the arms, as they are run."""
        return [self.run(arm, seed) for seed in self._plan.seeds for arm in self._plan.arms]

    def shared(self) -> list[tuple[StudyStep, str]]:
        """Return the steps that all arms share, each with its key."""
        return self._chained({}, shared_steps(self._plan, self._folder))

    def selections(self, arms: Iterable[str], seeds: Sequence[int]) -> list[tuple[StudyStep, str]]:
        """Return the selections of some arms and seeds, each with its key."""
        steps = selection_steps(self._plan, self._folder, arms=list(arms), seeds=seeds)
        return [self._selection(step) for step in steps]

    def is_finished(self, step: StudyStep, key: str) -> bool:
        """Return whether a step has ended well as it is now, and all its parts are on disk."""
        fingerprint = fingerprint_on_disk(step.output)
        return any(entry.is_done and entry.fingerprint == fingerprint for entry in self._of(key))

    def run(self, arm: str, seed: int) -> RunProgress:
        """Return how far a run is."""
        for selection in self.selections([arm], [seed]):
            if not self.is_finished(*selection):
                failed = self.last_failure([selection])
                state: RunState = "waiting" if failed is None else "failed"
                changes = self.changes_of_groups(*selection)
                problem = f"{selection[0].output} is not selected yet"
                return RunProgress(
                    arm, seed, state, failed=failed, changes=changes, problem=problem
                )
        try:
            places = places_of(self._plan, self._folder, arm, seed)
            made_from = self._made_from(arm, seed)
        except PrefpipeError as error:
            return RunProgress(arm, seed, "waiting", problem=error.message)

        steps = run_steps(self._plan, self._folder, arm, seed, places)
        keyed = self._chained(made_from, steps)
        judging = [(step, key) for step, key in keyed if step.judged_at is not None]
        judged = [step for step, key in judging if self.is_finished(step, key)]
        is_done = len(judged) == len(judging)
        last = None if is_done else self.last_failure(keyed)
        return RunProgress(
            arm,
            seed,
            "done" if is_done else "waiting" if last is None else "failed",
            tuple(places),
            tuple(keyed),
            frozenset(step.name for step in judged),
            last,
            () if is_done else tuple(self._changes(keyed)),
            self._seconds(keyed),
            any(entry.keeps_weights for _, key in judging for entry in self._of(key)),
        )

    def _selection(self, step: StudyStep) -> tuple[StudyStep, str]:
        """Return a selection with its key, which holds the content of what it reads."""
        made_from = {}
        for name in ("candidates", "scores", "embeddings"):
            folder = getattr(step.config, name)
            made_from[name] = None if folder is None else self._content_of(folder)
        [keyed] = self._chained(made_from, [step])
        return keyed

    def last_failure(self, keyed: Iterable[tuple[StudyStep, str]]) -> StepEntry | None:
        """Return how the first step ended that is not done, where it failed."""
        for _, key in keyed:
            entries = self._of(key)
            if entries and entries[-1].has_failed:
                return entries[-1]
        return None

    def _of(self, key: str) -> list[StepEntry]:
        return self._by_key.get(key, [])

    def _seconds(self, keyed: Iterable[tuple[StudyStep, str]]) -> float:
        seconds = 0.0
        for _, key in keyed:
            for entry in self._of(key):
                if not entry.has_failed:
                    seconds += entry.seconds
        return seconds

    def changes_of_groups(self, step: StudyStep, key: str) -> tuple[str, ...]:
        """Return in what groups on disk were selected otherwise than the plan says now.

        A selection without `--overwrite` refuses such a folder.
        """
        entries = [entry for entry in self._by_name.get(step.name, []) if entry.is_done]
        if not entries or self.is_finished(step, key) or not (step.output / RUN_FILE).exists():
            return ()
        changes = self._changed_words(step, entries[-1])
        return tuple(changes) or ("the inputs that its groups are selected from have changed",)

    def _changes(self, keyed: Iterable[tuple[StudyStep, str]]) -> list[str]:
        """Return in what finished evaluations of a run were made otherwise than they are now."""
        is_stale, changes = False, []
        for step, key in keyed:
            entries = [entry for entry in self._by_name.get(step.name, []) if entry.is_done]
            if not entries or self.is_finished(step, key) or not (step.output / RUN_FILE).exists():
                continue
            is_stale = is_stale or step.judged_at is not None
            changes += self._changed_words(step, entries[-1])
        if not is_stale:
            return []
        return changes or ["its groups, its held-out responses or its model have changed"]

    def _changed_words(self, step: StudyStep, entry: StepEntry) -> list[str]:
        """Return the flags of a step that have other values than when it was run."""
        now, then = (_by_flag(words, self._folder) for words in (step.words, entry.words))
        lines = []
        for flag in dict.fromkeys([*now, *then]):
            if now.get(flag) == then.get(flag):
                continue
            wanted, made = (" ".join(each.get(flag, ["not set"])) for each in (now, then))
            lines.append(f"{step.stage} {flag} {wanted or 'set'} now, {made or 'set'} then")
        return lines

    def _made_from(self, arm: str, seed: int) -> dict[str, Any]:
        """Return the contents that a run is made from, as far as they are there."""
        groups = groups_folder(self._plan, self._folder, arm, seed)
        heldout = [heldout_candidates_folder(self._plan, self._folder)]
        heldout.append(heldout_scores_folder(self._plan, self._folder))
        return {
            "groups": None if groups is None else self._content_of(groups),
            "heldout": [self._content_of(folder) for folder in heldout],
            "model": self._placed(self._plan.model),
        }

    def _chained(
        self, made_from: Mapping[str, Any], steps: Iterable[StudyStep]
    ) -> list[tuple[StudyStep, str]]:
        """Return steps with their keys; what judges is behind no other that judges."""
        keyed: list[tuple[StudyStep, str]] = []
        before: list[dict[str, Any]] = []
        for step in steps:
            own = self._identity_of(step)
            key = fingerprint_of({"made_from": made_from, "before": list(before), "step": own})
            keyed.append((step, key))
            if step.judged_at is None:
                before.append(own)
        return keyed

    def _identity_of(self, step: StudyStep) -> dict[str, Any]:
        """Return what of a step's command can change what it makes."""
        config = step.config
        if config is None:
            return {"command": [self._placed(word) for word in step.words]}

        inputs = {}
        for item in fields(config):
            value = getattr(config, item.name)
            # one that is not given is left out, so that a flag of a later release changes no key
            is_given = value is not None and value != ()
            if is_given and names_place(item.name, type(config)) and item.name not in NOT_INPUTS:
                inputs[item.name] = self._placed_value(item.name, value)
        return {
            "stage": step.stage,
            "version": config.VERSION,
            "identity": self._settings_of(config),
            "inputs": inputs,
        }

    @staticmethod
    def _settings_of(config: StageConfig) -> dict[str, Any]:
        """Return a step's settings that can change its rows.

        Which engine ``auto`` comes to is the machine's: the artifact records it, and the command
        keeps to it.
        """
        if isinstance(config, SamplingConfig) and config.backend == AUTO:
            return replace(config, backend="transformers").identity() | {"backend": AUTO}
        return config.identity()

    def _placed_value(self, name: str, value: Any) -> Any:
        """Return an input's value so that it does not depend on where the study lies."""
        if isinstance(value, tuple):
            return [self._placed_value(name, each) for each in value]
        head, target = split_target(str(value)) if name in NAMED_TARGETS else ("", str(value))
        return [head, self._placed(target)]

    def _placed(self, text: str) -> Any:
        """Return a word that may be a path: of the study by its place there, else by its content.

        A word that is no path stays as it is.
        """
        if "://" in text:
            return _version_in_bucket(text)
        place, study = Path(text).expanduser(), self._folder.absolute()
        if place.absolute().is_relative_to(study):
            return f"{IN_STUDY}/{place.absolute().relative_to(study)}"
        try:
            if place.is_file():
                return hash_file(place)
            if (place / RUN_FILE).is_file():
                return self._content_of(place)
            if holds_config(place):
                return locate_model(text).content_hash
        except (OSError, PrefpipeError):
            return text
        return text

    def _content_of(self, folder: Path) -> list[str] | None:
        """Return what tells the content of an artifact from any other, None if it is not whole.

        It is looked at once.
        """
        if folder not in self._contents:
            self._contents[folder] = None
            with suppress(PrefpipeError):
                artifact = Artifact(folder, read_run_record(folder))
                self._contents[folder] = [artifact.record.fingerprint, artifact.digest()]
        return self._contents[folder]


def _version_in_bucket(text: str) -> str:
    """Return a URL with what tells its object from one that took its place; else the text."""
    try:
        place = parse_location(text)
        version = files.version_of(place)
    except (OSError, PrefpipeError):
        return text
    return text if version is None else f"{text} {version.stamp}"


def fingerprint_on_disk(folder: Path) -> str | None:
    """Return the fingerprint of an artifact all whose parts are there, None if it is none."""
    try:
        artifact = Artifact(folder, read_run_record(folder))
        return None if artifact.missing() else artifact.record.fingerprint
    except PrefpipeError:
        return None


def _by_flag(words: Sequence[str], study: Path) -> dict[str, list[str]]:
    """Return the values of a command by flag; "" is what is before the first one."""
    values: dict[str, list[str]] = {}
    flag = ""
    for word in words[1:]:
        text = word.replace(f"{study}/", f"{IN_STUDY}/")
        if text.startswith("-") and len(text) > 1:
            flag, equals, value = text.partition("=")
            values.setdefault(flag, []).extend([value] if equals else [])
        else:
            values.setdefault(flag, []).append(text)
    values.pop("--overwrite", None)
    return values
