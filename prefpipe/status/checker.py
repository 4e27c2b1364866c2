"""Compare artifacts with what they were made from, each once."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from prefpipe.artifacts import run_record
from prefpipe.artifacts.file_hashes import hash_file
from prefpipe.artifacts.fingerprint import field_differences
from prefpipe.artifacts.interchange.formats import content_hash
from prefpipe.artifacts.prompt_changes import changes_of_prompts
from prefpipe.artifacts.rounds import round_of
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.seen_footers import SeenFooters
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.local_copies import kept_local_copies, local_copy
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.storage.unreadable import is_of_bucket
from prefpipe.artifacts.store import Artifact, has_file, has_record, parts_without_record
from prefpipe.artifacts.summary_file import SUMMARY_FILE
from prefpipe.artifacts.tables.locations import HUB, place_of
from prefpipe.artifacts.tables.reading import SAVED_DATASET
from prefpipe.artifacts.template_args import FIELD as TEMPLATE_ARGS
from prefpipe.artifacts.template_dates import FIELD as TEMPLATE_DATE
from prefpipe.artifacts.training_folders import KEPT_STEP
from prefpipe.errors import InputError, PrefpipeError
from prefpipe.models.files import content_hash_of
from prefpipe.models.location import locate_model
from prefpipe.models.merge_record import MergedPart, MergeRecord, read_merge_record
from prefpipe.status.artifact_status import ArtifactStatus, Effect, Standing, StatusFinding
from prefpipe.status.claimed_parts import claimed_parts
from prefpipe.status.folders import PAIR_STAGES
from prefpipe.status.origins import (
    FILES,
    REFERENCE,
    Ingredient,
    absence,
    ingredients_of,
    is_path,
    locate_file,
    locate_ingredient,
    locate_merged_part,
    locate_parent,
)
from prefpipe.status.part_states import part_states
from prefpipe.status.run_plan import RunPlan, open_run_plan, run_of
from prefpipe.text.thoughts import FIELD as THOUGHTS

SUMMARY_STAGES = ("train", "eval", "judge", *PAIR_STAGES)
"""Stages that write `SUMMARY_FILE` when everything else is on disk."""
SOURCES = ("source", "requests", "pairs")
"""Parents that are files, and are compared by their hash."""
MAX_DIFFERENCES = 8


class StatusChecker:
    """Checks artifacts, each once, however many others are made from it.

    Args:
        footers: what the command has read, and reads later.
    """

    def __init__(self, footers: SeenFooters | None = None) -> None:
        self._known: dict[tuple[Location, bool], ArtifactStatus] = {}
        self._footers = footers or SeenFooters()
        self._plans: dict[Path, RunPlan | None] = {}

    def check(self, path: Location, *, quick: bool = False) -> ArtifactStatus:
        """Return the status of the artifact in a folder.

        Every byte of every part is verified, unless ``quick``: then only the footers. Parents are
        checked quickly in any case.

        Raises:
            InputError: the folder holds no ``run.json``; a bucket does not answer.
        """
        key = (path.resolve(), quick)
        if key in self._known:
            return self._known[key]
        if not has_record(path) and not parts_without_record(path):
            run_record.read_run_record(path)  # raises the error that names what is wrong

        # an artifact that is requested while it is being checked counts as done: no endless loop
        self._known[key] = ArtifactStatus(path)
        self._known[key] = self._status(path, quick=quick)
        return self._known[key]

    def _status(self, path: Location, *, quick: bool) -> ArtifactStatus:
        lost = parts_without_record(path)
        if lost:
            reason = (
                f"{path} has {len(lost)} parts and no {run_record.FILE_NAME}: restore it, or run "
                "the command that made the parts again: it rewrites the file and keeps the parts"
            )
            return ArtifactStatus(path, effects={Effect.CORRUPT}, reasons=[reason])
        try:
            record = run_record.read_run_record(path)
        except PrefpipeError as error:
            if is_of_bucket(error):
                raise
            return ArtifactStatus(path, effects={Effect.CORRUPT}, reasons=[error.message])

        artifact = Artifact(path, record, read_footer=self._footers.read)
        findings: list[StatusFinding] = []
        if KEPT_STEP in record.context:
            step, training = record.context[KEPT_STEP], path.absolute().parent
            text = f"it is step {step} of the training in {training}, whose command makes it"
            findings.append(StatusFinding(Effect.NOTE, text))
        findings += _prompt_findings(artifact)
        for ingredient in ingredients_of(record):
            findings += self._ingredient_findings(artifact, ingredient)
        findings += _source_findings(artifact)
        plan = self._plan_of(path)
        of_plan = [] if plan is None else _plan_findings(plan, artifact)
        findings += of_plan

        parents = {}
        for name in record.parents:
            if name not in FILES:
                parent, of_parent = self._parent(artifact, name)
                findings += of_parent
                if parent is not None:
                    parents[name] = parent

        # not those of another configuration: one line says of all parts that they differ
        states = part_states(artifact, parents, self._footers, quick=quick)
        unfinished = []
        if record.stage in SUMMARY_STAGES and not has_file(path, SUMMARY_FILE):
            unfinished.append(StatusFinding(Effect.UNFINISHED, _unfinished(path)))

        reasons = [finding.text for finding in findings if finding.effect is not Effect.NOTE]
        notes = [finding.text for finding in findings if finding.effect is Effect.NOTE]
        return ArtifactStatus(
            path,
            stage=record.stage,
            fingerprint=record.fingerprint,
            n_parts=record.n_parts,
            n_rows=states.n_rows,
            missing=states.missing,
            outdated=states.outdated,
            corrupt_parts=states.corrupt,
            effects={finding.effect for finding in [*findings, *unfinished]},
            reasons=[*reasons, *states.reasons, *(finding.text for finding in unfinished)],
            notes=[*notes, *states.notes],
            claims=claimed_parts(path, record.fingerprint, states.to_make),
            round=round_of(record),
            # an intermediate step is made by its training, into a folder of that one's
            words=[] if KEPT_STEP in record.context else record.command,
            folder=record.folder,
            by_plan=plan.command(replaces_other_runs=True) if plan and of_plan else (),
        )

    def plan_of_run(self, run: Path) -> RunPlan | None:
        """Return the plan by which the rounds of a folder are run, None if no plan is noted.

        Raises:
            InputError: ``rounds.json`` cannot be read.
            UsageError: it is of another release, and no plan of this one.
        """
        place = run.resolve()
        if place not in self._plans:
            self._plans[place] = open_run_plan(run)
        return self._plans[place]

    def _plan_of(self, path: Location) -> RunPlan | None:
        """Return the plan of the rounds that an artifact belongs to, None if that says nothing.

        Problems of ``rounds.json`` itself are reported for the run, not for each artifact.
        """
        run = run_of(path)
        if run is None:
            return None
        try:
            return self.plan_of_run(run)
        except PrefpipeError:
            return None

    def _parent(self, artifact: Artifact, name: str) -> tuple[Artifact | None, list[StatusFinding]]:
        """Return a parent that is still the one this artifact was made from, and the findings.

        It is None if it is not on disk or has another configuration now.
        """
        place = locate_parent(artifact, name)
        if place is not None and parts_without_record(place):
            text = f"its {name}, {place}, have lost their {run_record.FILE_NAME}"
            return None, [StatusFinding(Effect.NOTE, text)]
        if place is None or not has_record(place):
            gone = absence(_host(artifact), are=True)
            text = f"its {name}, {artifact.record.parents[name]}, {gone}"
            return None, [StatusFinding(Effect.NOTE, text)]

        status = self.check(place, quick=True)
        try:
            record = run_record.read_run_record(place)
            parent = Artifact(place, record, read_footer=self._footers.read)
        except InputError as error:
            text = f"its {name} cannot be read: {error.message}"
            return None, [StatusFinding(Effect.NOTE, text)]

        then, now = artifact.record.identity.get(name), parent.record.identity
        if isinstance(then, dict) and then != now:
            header = f"its {name}, {place}, have another configuration now:"
            lines = [header, *_difference_lines(then, now)]
            return None, [StatusFinding(Effect.OTHER_RUN, line) for line in lines]
        if status.state == "stale":
            return parent, [
                StatusFinding(Effect.BEHIND, f"its {name}, {place}, are stale themselves")
            ]
        return parent, []

    def _ingredient_findings(
        self, artifact: Artifact, ingredient: Ingredient
    ) -> Iterator[StatusFinding]:
        """Compare a model or a file with its recorded hashes.

        If it is an artifact itself, its staleness is passed on.
        """
        place = locate_ingredient(artifact, ingredient.reference)
        name = f"its {ingredient.role}, {ingredient.reference}"
        if place is None:
            if is_path(artifact, ingredient.reference):
                yield StatusFinding(Effect.NOTE, f"{name}, {absence(_host(artifact))}")
        elif ingredient.role == REFERENCE:
            yield from self._reference_findings(name, place, ingredient.hashes)
        elif ingredient.role == run_record.RATER_SCORES:
            yield from self._rater_findings(name, place, artifact.record)
        elif isinstance(place, Path) and place.is_dir():
            yield from self._model_findings(name, place, ingredient.hashes)
        elif "sha256" in ingredient.hashes and _hash_of(place) != ingredient.hashes["sha256"]:
            yield StatusFinding(Effect.OTHER_RUN, f"{name}, has changed since")

    def _model_findings(
        self, name: str, place: Path, hashes: Mapping[str, Any]
    ) -> Iterator[StatusFinding]:
        """Compare a model folder with its recorded hashes.

        Args:
            name: of the model in the run, for the lines.
            place: its folder.
            hashes: those that were recorded.
        """
        standing = self._standing_of_model(place)
        try:
            now = locate_model(str(place)).identity()
        except PrefpipeError as error:
            # the lines of an unfinished training say what is missing
            if standing is not None:
                yield StatusFinding(Effect.BEHIND, f"{name}, {standing}")
            else:
                yield StatusFinding(Effect.NOTE, f"{name} cannot be read: {error.message}")
            return

        # template settings belong to the run; no file of the model has them
        of_run = (TEMPLATE_DATE, TEMPLATE_ARGS, THOUGHTS)
        then = {key: value for key, value in hashes.items() if key not in of_run}
        if any(now.get(key) != value for key, value in then.items()):
            yield StatusFinding(
                Effect.OTHER_RUN,
                f"{name}, has changed since: it has other weights, tokenizer or template",
            )

        # a model of ours may be out of date although its weights are unchanged
        if standing is not None:
            yield StatusFinding(Effect.BEHIND, f"{name}, {standing}")
        record = read_merge_record(place)
        if record is not None:
            for part in record.made_of:
                yield from self._merged_part_findings(name, place, record, part)

    def _standing_of_model(self, place: Path) -> str | None:
        """Return why a model made by prefpipe is out of date, None if it is up to date.

        It is stale, a checkpoint of a stale training, or from a training that is not finished. A
        checkpoint is complete before its training is.
        """
        is_checkpoint = place.name.startswith("checkpoint-")
        folder = place.parent if is_checkpoint else place
        if not (folder / run_record.FILE_NAME).exists():
            return None
        state = self.check(folder, quick=True).state
        if state == "stale":
            return "is stale itself"
        return "is not finished" if state == "partial" and not is_checkpoint else None

    def _merged_part_findings(
        self, name: str, place: Path, record: MergeRecord, part: MergedPart
    ) -> Iterator[StatusFinding]:
        """Report that a merged model is out of date: its adapter or base changed or is stale."""
        folder = locate_merged_part(record, part, place)
        if folder is None:
            gone = absence(record.host)
            text = f"{name}, was merged: its {part.role}, {part.reference}, {gone}"
            yield StatusFinding(Effect.NOTE, text)
            return
        try:
            has_changed = content_hash_of(folder) != part.content_hash
        except PrefpipeError as error:
            text = f"{name}, was merged: its {part.role} cannot be read: {error.message}"
            yield StatusFinding(Effect.NOTE, text)
            return

        standing = self._standing_of_model(folder)
        if has_changed or standing is not None:
            why = "has changed since" if has_changed else standing
            yield StatusFinding(
                Effect.BEHIND,
                f"{name}, needs to be merged again first: its {part.role}, {part.reference}, {why}",
            )

    def _rater_findings(
        self, name: str, place: Location, record: RunRecord
    ) -> Iterator[StatusFinding]:
        """Compare the scores from which a training chose gamma with the recorded ones."""
        try:
            scores = Artifact(
                place, run_record.read_run_record(place), read_footer=self._footers.read
            )
            digest = scores.digest()
        except PrefpipeError as error:
            yield StatusFinding(Effect.NOTE, f"{name}, cannot be read: {error.message}")
            return

        if digest not in run_record.rater_digests(record):
            yield StatusFinding(
                Effect.OTHER_RUN,
                f"{name}, have changed since: train chooses gamma from them again, and keeps the "
                "model if gamma stays the same",
            )
        if self.check(place, quick=True).state == "stale":
            yield StatusFinding(Effect.BEHIND, f"{name}, are stale themselves")

    def _reference_findings(
        self, name: str, place: Location, hashes: Mapping[str, Any]
    ) -> Iterator[StatusFinding]:
        """Compare the log-probabilities of a training's reference with the recorded ones."""
        try:
            identity = run_record.read_run_record(place).identity
        except PrefpipeError as error:
            yield StatusFinding(Effect.NOTE, f"{name} cannot be read: {error.message}")
            return

        measured = identity.get("model")
        now: dict[str, Any] = {}
        if isinstance(measured, dict):
            now = {**measured, "dtype": identity.get("dtype")}
        if any(now.get(key) != value for key, value in hashes.items()):
            yield StatusFinding(Effect.OTHER_RUN, f"{name}, has another model or number format now")
        if self.check(place, quick=True).state == "stale":
            yield StatusFinding(Effect.BEHIND, f"{name}, is stale itself")


def standing_of(
    path: Location, checker: StatusChecker | None = None, *, quick: bool = True
) -> Standing:
    """Return the status of an artifact; one that cannot be read is ``corrupt``.

    Args:
        path: the artifact's folder.
        checker: one that has looked at others of the run, so that none is checked twice.
        quick: look at the footers of parts alone, and not at every byte.

    Raises:
        InputError: a bucket does not answer.
    """
    try:
        status = (checker or StatusChecker()).check(path, quick=quick)
    except PrefpipeError as error:
        if is_of_bucket(error):
            raise
        return Standing(path, "corrupt", (error.message,))
    return Standing(path, status.state, tuple(line.strip() for line in status.reasons))


def _prompt_findings(artifact: Artifact) -> list[StatusFinding]:
    """Compare the sampled prompts with the current file."""
    if artifact.record.stage != "generate":
        return []
    source = artifact.record.parents.get("prompts", "")
    if source.startswith(HUB):
        return [StatusFinding(Effect.NOTE, f"its prompts are {source}, which were not checked")]
    place = locate_file(artifact, "prompts")
    if place is None:
        gone = absence(_host(artifact), are=True)
        return [StatusFinding(Effect.NOTE, f"its prompts, {source}, {gone}")]

    # what is looked at first, and what is read then, is one copy of what lies in a bucket
    with kept_local_copies():
        problem = _problem_of_bucket(place)
        if problem is not None:
            return [StatusFinding(Effect.NOTE, f"its prompts were not checked: {problem}")]
        changes = changes_of_prompts(artifact, place)
    lines = [f"its prompts, {place}, have changed since:", *(f"  {line}" for line in changes)]
    return [StatusFinding(Effect.OTHER_RUN, line) for line in lines] if changes else []


def _plan_findings(plan: RunPlan, artifact: Artifact) -> list[StatusFinding]:
    """Compare the settings of a step with its plan."""
    differences = plan.differences(artifact)
    return [StatusFinding(Effect.OTHER_RUN, difference.line) for difference in differences]


def _problem_of_bucket(place: Location) -> str | None:
    """Return why what lies in a bucket cannot be read; None if it can, and for a path."""
    try:
        with local_copy(place, folder_marks=SAVED_DATASET):
            return None
    except (PrefpipeError, IsADirectoryError) as error:
        return str(error)


def _source_findings(artifact: Artifact) -> Iterator[StatusFinding]:
    """Compare imported files with their recorded hashes."""
    for name in SOURCES:
        recorded = artifact.record.parents.get(name)
        if recorded is None:
            continue
        if place_of(recorded) is None:
            yield StatusFinding(Effect.NOTE, f"its {name}, {recorded}, was not checked")
            continue

        place = locate_file(artifact, name)
        if place is None:
            yield StatusFinding(Effect.NOTE, f"its {name}, {recorded}, {absence(_host(artifact))}")
            continue
        yield from _changes_of_source(artifact, name, place)


def _changes_of_source(artifact: Artifact, name: str, place: Location) -> list[StatusFinding]:
    with kept_local_copies():
        problem = _problem_of_bucket(place)
        if problem is not None:
            return [StatusFinding(Effect.NOTE, f"its {name} was not checked: {problem}")]
        if content_hash(str(place)) != artifact.record.identity.get(name):
            text = f"its {name}, {place}, has changed since"
            return [StatusFinding(Effect.OTHER_RUN, text)]
    return []


def _difference_lines(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the first fields in which an identity differs, and how many more there are."""
    lines = [f"  {item.worded('then', 'now')}" for item in field_differences(then, now)]
    n_more = len(lines) - MAX_DIFFERENCES
    if n_more <= 0:
        return lines
    return [*lines[:MAX_DIFFERENCES], f"  and {n_more} more"]


def _hash_of(place: Location) -> str:
    """Return the sha256 of a file."""
    return hash_file(place) if isinstance(place, Path) else sha256(files.read(place)).hexdigest()


def _host(artifact: Artifact) -> Any:
    """Return the machine on which the artifact was made."""
    return artifact.record.context.get("host")


def _unfinished(path: Location) -> str:
    prefix = "checkpoint-"
    found = path.glob(f"{prefix}*") if isinstance(path, Path) else ()
    steps = [item.name.removeprefix(prefix) for item in found]
    numbers = [int(step) for step in steps if step.isdigit()]
    reason = f"it has no {SUMMARY_FILE}, which is written last"
    return f"{reason}; training resumes from {prefix}{max(numbers)}" if numbers else reason
