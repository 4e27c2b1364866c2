"""What is done, partial, stale or corrupt, and why: nothing here changes a file.

The files are the truth about progress, ``run.json`` about configuration. An artifact is

- ``corrupt`` when a part's footer or bytes do not prove what they claim, or ``run.json`` cannot be read;
- ``stale`` when it is whole but was made from something that has changed since;
- ``partial`` when parts, or the summary that a stage writes last, are missing;
- ``done`` otherwise.
"""

import os
import shlex
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prefpipe.artifacts import parts, run_record
from prefpipe.artifacts.file_hashes import hash_file
from prefpipe.artifacts.fingerprint import field_differences
from prefpipe.artifacts.interchange.formats import content_hash
from prefpipe.artifacts.interchange.user_table import file_of
from prefpipe.artifacts.prompt_changes import changes_of_prompts
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.store import PART_PATTERN, Artifact, Shard, parts_without_record
from prefpipe.artifacts.template_dates import FIELD as TEMPLATE_DATE
from prefpipe.configs.recorded_commands import RecordedCommand, Surroundings, moved_folders
from prefpipe.errors import CorruptPartError, InputError, PrefpipeError
from prefpipe.models.files import content_hash_of
from prefpipe.models.location import locate_model
from prefpipe.models.merge_record import MergedPart, MergeRecord, read_merge_record

State = Literal["done", "partial", "stale", "corrupt"]
PAIR_STAGES = ("eval rewardbench", "eval calibration")
STAGE_ORDER = (
    "import",
    "generate",
    "score",
    "embed",
    "select",
    "logprobs",
    "train",
    "judge",
    "eval",
    *PAIR_STAGES,
)
SUMMARY_STAGES = ("train", "eval", "judge", *PAIR_STAGES)
"""Stages that write ``summary.json`` when everything else is on disk."""
WHOLE_PARENTS = {"train": None, "eval": None, "judge": ("b",)}
"""Parents of which each part needs all parts; None for all of a stage's parents."""
FILES = ("prompts", "source", "requests", "pairs")
"""Parents that are files of the user's, and no artifacts."""
REFERENCE = "reference"
"""The role of log-probabilities that a training was given."""
MAX_LINES = 8


@dataclass
class Report:
    """The state of one artifact.

    ``missing``, ``outdated`` and ``corrupt_parts`` are numbers of parts; ``reasons`` say why the state is not ``done``,
    ``notes`` what could not be looked at; ``command`` is the one that made it, ``words`` the same as it was typed, ``folder``
    where it was run.
    """

    path: Path
    stage: str = "?"
    fingerprint: str = ""
    n_parts: int = 0
    n_rows: int = 0
    missing: list[int] = field(default_factory=list)
    outdated: list[int] = field(default_factory=list)
    corrupt_parts: list[int] = field(default_factory=list)
    is_other_run: bool = False
    is_corrupt: bool = False
    is_unfinished: bool = False
    is_behind: bool = False
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    command: str = ""
    folder: str = ""
    words: list[str] = field(default_factory=list)

    @property
    def state(self) -> State:
        """The gravest of what was found."""
        if self.is_corrupt or self.corrupt_parts:
            return "corrupt"
        if self.is_other_run or self.outdated or self.is_behind:
            return "stale"
        return "partial" if self.missing or self.is_unfinished else "done"

    @property
    def to_make(self) -> list[int]:
        """The parts that are still to be made, or made again: all of them when the run itself is another one."""
        if self.is_other_run:
            return list(range(self.n_parts))
        return sorted({*self.missing, *self.outdated, *self.corrupt_parts})

    def shards(self, num_shards: int | None) -> list[int]:
        """Return the shards (of ``num_shards``, default one a part) that have something to make."""
        count = num_shards or max(1, self.n_parts)
        return [
            index
            for index in range(count)
            if not {*self.to_make}.isdisjoint(Shard(index, count).parts(self.n_parts))
        ]

    def again(self, num_shards: int | None) -> list[list[str]]:
        """Return the commands that finish what is there, each as its words: one, or one a shard that has something to make.

        They go on: without ``--overwrite``, for the shards of ``num_shards`` or those that the recorded command was one of, with
        paths that are right in the folder of now. What is of another configuration is made again, with ``--overwrite=stale``.
        """
        if self.state == "done" or not self.words:
            return []
        try:
            recorded = RecordedCommand(self.words)
        except ValueError:
            return []

        output = _output_of(recorded.stage, self.stage, self.path)
        surroundings = Surroundings(Path(self.folder or "."), output, Path.cwd())
        count = num_shards or recorded.num_shards or 1
        shards: list[tuple[int, int] | None] = [None]
        if recorded.takes_shards and self.n_parts > 1 and count > 1:
            shards = [(index, count) for index in self.shards(count)] or shards
        return [
            recorded.to_go_on(
                surroundings,
                replaces_other_runs=self.is_other_run or self.is_behind,
                shard=shard,
                has_checkpoints=any(output.glob("checkpoint-*")),
            )
            for shard in shards
        ]

    @property
    def takes_shards(self) -> bool:
        """Whether the command that made it divides its parts among workers."""
        try:
            return RecordedCommand(self.words).takes_shards
        except ValueError:
            return False

    def to_json(self, num_shards: int | None) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "path": str(self.path),
            "stage": self.stage,
            "state": self.state,
            "fingerprint": self.fingerprint,
            "n_parts": self.n_parts,
            "n_rows": self.n_rows,
            "missing": self.missing,
            "outdated": self.outdated,
            "corrupt": self.corrupt_parts,
            "reasons": self.reasons,
            "notes": self.notes,
            "command": self.command,
            "num_shards": num_shards or max(1, self.n_parts),
            "shards_to_run": self.shards(num_shards),
            "again": self.again(num_shards),
        }


def _output_of(command_stage: str, stage: str, path: Path) -> Path:
    """Return the output of the command that made an artifact: some write several, in folders of their output."""
    if command_stage == stage:
        return path.parent if stage == "import" else path
    return (
        path.parent.parent if command_stage == "eval" else path.parent
    )  # eval's sides; a training's own reference


def find_artifacts(path: Path) -> list[Path]:
    """Return the artifacts in a folder, itself and linked ones among them, in the order of the pipeline; [] when there is none.

    Raises:
        InputError: the path does not exist, or is a file.
    """
    if not path.exists():
        raise InputError(
            f"{path} does not exist", hint="look at the path, or run the stage that makes it"
        )
    if not path.is_dir():
        holds_run = (path.parent / run_record.FILE_NAME).exists()
        folder = str(path.parent) if holds_run else "the folder that a prefpipe stage wrote with -o"
        raise InputError(f"{path} is a file, and an artifact is a folder", hint=f"pass {folder}")
    found, seen = [], {path.resolve()}
    for folder, names, files in os.walk(path, followlinks=True):
        names[:] = [name for name in sorted(names) if _is_looked_into(Path(folder, name), seen)]
        has_parts = any(PART_PATTERN.fullmatch(name) for name in files)
        if run_record.FILE_NAME in files or (has_parts and parts_without_record(Path(folder))):
            found.append(Path(folder))
    return sorted(
        found, key=lambda item: (item != path, item.parent, _stage_number(item), item.name)
    )


def _is_looked_into(folder: Path, seen: set[Path]) -> bool:
    """Whether artifacts are looked for in a folder: in each once, and behind a link only in an artifact."""
    if folder.name.startswith((".", "checkpoint-")) or (
        folder.is_symlink() and not (folder / run_record.FILE_NAME).exists()
    ):
        return False
    place = folder.resolve()
    is_new = place not in seen
    seen.add(place)
    return is_new


def _stage_number(folder: Path) -> int:
    try:
        return STAGE_ORDER.index(run_record.read_run_record(folder).stage)
    except (PrefpipeError, ValueError):
        return len(STAGE_ORDER)


def locate_parent(artifact: Artifact, name: str) -> Path | None:
    """Return where a parent is now, or None: as recorded, from the recorded folder, from here, or beside the artifact.

    The last is for runs that came from another machine. Of a run that was moved or copied, what moved along comes before what
    is still where it was: a copy is judged by its own parents, and the original by its own.
    """
    recorded = artifact.record.parents.get(name)
    if recorded is None:
        return None
    places = [*_places_moved_along(artifact, recorded), *_places_of_then(artifact, recorded)]
    places += [
        *_places_in_moved_run(artifact, recorded),
        artifact.path.parent / Path(recorded).name,
    ]
    own = artifact.path.resolve()
    found = next((place for place in places if place.exists() and place.resolve() != own), None)
    return (
        found.relative_to(Path.cwd())
        if found is not None and found.is_relative_to(Path.cwd())
        else found
    )


class Standing(NamedTuple):
    """What ``prefpipe status --quick`` says of an artifact that another command reads: say it, mark figures, or refuse."""

    path: Path
    state: State
    reasons: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether figures made from it need no mark."""
        return self.state == "done"

    @property
    def line(self) -> str:
        """One line for the top of a page: ``run/scores is stale: its candidates ...``."""
        first = self.reasons[0].rstrip(":") if self.reasons else "see why with prefpipe status"
        more = len(self.reasons) - 1
        return f"{self.path} is {self.state}: {first}" + (f" (and {more} more)" if more > 0 else "")

    @property
    def command(self) -> str:
        """The command that says all of it."""
        return f"prefpipe status {shlex.quote(str(self.path))}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"path": str(self.path), "state": self.state, "reasons": list(self.reasons)}


def standing_of(
    path: Path, inspector: "Inspector | None" = None, *, quick: bool = True
) -> Standing:
    """Return what status says of an artifact; one whose record cannot be read is ``corrupt`` and raises nothing.

    Args:
        path: the artifact's folder.
        inspector: one that has looked at others of the run, so that none is looked at twice.
        quick: look at the footers of parts alone, and not at every byte.
    """
    try:
        report = (inspector or Inspector()).report(path, quick=quick)
    except PrefpipeError as error:
        return Standing(path, "corrupt", (error.message,))
    return Standing(path, report.state, tuple(line.strip() for line in report.reasons))


class Ingredient(NamedTuple):
    """A model or a file that is no parent artifact: its role, how it was named, and the hashes that it had then."""

    role: str
    reference: str
    hashes: Mapping[str, Any]


def ingredients_of(record: RunRecord) -> list[Ingredient]:
    """Return the models and files that a run was made with, as far as its record says where they were."""
    context, identity = record.context, record.identity
    listed = [Ingredient(**item) for item in context.get(run_record.MADE_WITH, [])]
    names = context.get("models", [])

    if record.stage in ("generate", *PAIR_STAGES):
        then = zip(names, identity.get("models", []), strict=False)
        listed += [
            Ingredient("model", name, hashes) for name, hashes in then if "content_hash" in hashes
        ]

    measured = identity.get("model")
    if record.stage == "logprobs" and isinstance(measured, dict):
        # weights may be of one model, and tokenizer and template of another: of the policy that is trained
        of_words = ("tokenizer_hash", "chat_template_hash")
        weights = {name: value for name, value in measured.items() if name not in of_words}
        listed += [Ingredient("model", name, weights) for name in names]
        words = context.get("tokenizer_of")
        if isinstance(words, str):
            same = words in names
            hashes = {name: value for name, value in measured.items() if name in of_words}
            listed = (
                [item._replace(hashes=measured) for item in listed]
                if same
                else [*listed, Ingredient("model", words, hashes)]
            )
    return listed


def _locate_ingredient(artifact: Artifact, reference: str) -> Path | None:
    """Return where a model or file is now, or None: as recorded, from here, or beside or above the artifact.

    The last is for runs that were moved: of ``run/eval/policy/candidates`` the model ``run/policy`` is three folders up.
    """
    recorded = Path(reference).expanduser()
    places = [
        *_places_moved_along(artifact, str(recorded)),
        *_places_of_then(artifact, str(recorded)),
    ]
    found = next((place for place in places if place.exists()), None)
    if found is not None or "/" not in reference:
        return found

    places = [
        *_places_in_moved_run(artifact, reference),
        *(folder / recorded.name for folder in _folders_above(artifact)),
    ]
    marks = (run_record.FILE_NAME, "config.json", "adapter_config.json")
    return next(
        (
            place
            for place in places
            if place.is_file() or any((place / mark).exists() for mark in marks)
        ),
        None,
    )


def _folders_above(artifact: Artifact) -> list[Path]:
    """Return the folders in which other artifacts of the same run may be, the nearest first."""
    return list(artifact.path.absolute().parents[:4])


def _places_of_then(artifact: Artifact, recorded: str) -> list[Path]:
    """Return where a recorded path was, from the folder that the command was run in, and where it would be from here."""
    made_in = artifact.record.context.get("folder")
    from_then = [Path(made_in) / recorded] if isinstance(made_in, str) else []
    return [*from_then, Path(recorded)]


def _places_moved_along(artifact: Artifact, recorded: str) -> Iterator[Path]:
    """Yield where a recorded path is if it was moved or copied with the artifact; nothing where the artifact was not."""
    context, stage = artifact.record.context, artifact.record.stage
    folder, words = context.get("folder"), context.get("command")
    if not isinstance(folder, str) or not isinstance(words, list):
        return
    try:
        command = RecordedCommand([str(word) for word in words])
    except ValueError:
        return

    output_then = command.output(Path(folder))
    output_now = _output_of(command.stage, stage, artifact.path.absolute())
    if output_then is None:
        return
    place_then = Path(folder) / recorded
    for from_, to in moved_folders(output_then.absolute(), output_now):
        if place_then.is_relative_to(from_):
            yield to / place_then.relative_to(from_)


def _places_in_moved_run(artifact: Artifact, recorded: str) -> Iterator[Path]:
    """Yield where a recorded path may be in a run that was moved: of its last folders, two or more, below one above.

    The longest first: of ``eval`` the parent ``/then/eval/policy/candidates`` is not the ``candidates`` beside it.
    """
    pieces = [piece for piece in Path(recorded).parts if piece not in ("/", "..")]
    for start in range(len(pieces) - 1):
        yield from (folder.joinpath(*pieces[start:]) for folder in _folders_above(artifact))


def _locate_merged_part(record: MergeRecord, part: MergedPart, place: Path) -> Path | None:
    """Return where the adapter or base of the merged model in ``place`` is now: moved along with it, or where it was."""
    then = Path(part.path)
    moved = [
        to / then.relative_to(from_)
        for from_, to in moved_folders(Path(record.output), place.absolute())
        if then.is_relative_to(from_)
    ]
    return next((folder for folder in [*moved, then] if folder.is_dir()), None)


def _is_path(artifact: Artifact, reference: str) -> bool:
    """Return whether a name that is not on disk is that of a file or folder, and not of a model on the hub."""
    if reference.startswith(("bundled:", "hf:")):
        return False
    place = Path(artifact.record.context.get("folder", ".")) / reference
    is_spelled_out = reference.startswith((".", "~", "/")) or reference.count("/") > 1
    return is_spelled_out or ("/" in reference and place.parent.is_dir())


def _absence(record: RunRecord, *, are: bool = False) -> str:
    """Say that something is not there: gone, if the run was made on this machine; else perhaps never copied here."""
    if record.context.get("host") == socket.gethostname():
        return "no longer exist" if are else "no longer exists"
    return f"{'are' if are else 'is'} not on this disk and {'were' if are else 'was'} not looked at"


class Inspector:
    """Looks at artifacts, each once, however many others are made from it."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Path, bool], Report] = {}

    def report(self, path: Path, *, quick: bool = False) -> Report:
        """Return the state of the artifact in a folder.

        Every byte of every part is verified, unless ``quick``: then the footers alone. Parents are looked at
        quickly in any case.

        Raises:
            InputError: the folder holds no ``run.json``.
        """
        key = (path.resolve(), quick)
        if key not in self._seen:
            if not (path / run_record.FILE_NAME).exists() and not parts_without_record(path):
                run_record.read_run_record(path)  # raises the error that names what is wrong
            self._seen[key] = Report(
                path
            )  # what is asked for while it is being looked at: no endless circle
            self._look(self._seen[key], quick=quick)
        return self._seen[key]

    def _look(self, report: Report, *, quick: bool) -> None:
        lost = parts_without_record(report.path)
        if lost:
            report.is_corrupt = True
            report.reasons.append(
                f"{report.path} has {len(lost)} parts and no {run_record.FILE_NAME}: restore it, or run the command that "
                "made them again, which writes it anew and keeps them"
            )
            return
        try:
            artifact = Artifact(report.path, run_record.read_run_record(report.path))
        except PrefpipeError as error:
            report.is_corrupt = True
            report.reasons.append(error.message)
            return
        _describe_run(report, artifact.record)
        if artifact.record.stage == "generate":
            _check_prompts(report, artifact)
        for ingredient in ingredients_of(artifact.record):
            self._check_ingredient(report, artifact, ingredient)
        _check_sources(report, artifact)
        parents = {
            name: self._parent(report, artifact, name)
            for name in artifact.record.parents
            if name not in FILES
        }
        digests = _ParentDigests(
            artifact.record.stage,
            {name: found for name, found in parents.items() if found is not None},
        )
        _check_parts(report, artifact, digests, quick=quick)
        if artifact.record.stage in SUMMARY_STAGES and not (report.path / "summary.json").exists():
            report.is_unfinished = True
            report.reasons.append(_unfinished(report.path))

    def _parent(self, report: Report, artifact: Artifact, name: str) -> Artifact | None:
        """Return a parent that is on disk and still the one this artifact was made from; else say why not."""
        place = locate_parent(artifact, name)
        if place is not None and parts_without_record(place):
            report.notes.append(f"its {name}, {place}, have lost their {run_record.FILE_NAME}")
            return None
        if place is None or not (place / run_record.FILE_NAME).exists():
            report.notes.append(
                f"its {name}, {artifact.record.parents[name]}, {_absence(artifact.record, are=True)}"
            )
            return None
        above = self.report(place, quick=True)
        try:
            parent = Artifact(place, run_record.read_run_record(place))
        except InputError as error:
            report.notes.append(f"its {name} cannot be looked at: {error.message}")
            return None
        nested = artifact.record.identity.get(name)
        if isinstance(nested, dict) and nested != parent.record.identity:
            differences = field_differences(nested, parent.record.identity)
            report.is_other_run = True
            report.reasons.append(f"its {name}, {place}, are of another configuration now:")
            for difference in differences[:MAX_LINES]:
                report.reasons.append(f"  {difference.worded('then', 'now')}")
            if len(differences) > MAX_LINES:
                report.reasons.append(f"  and {len(differences) - MAX_LINES} more")
            return None
        if above.state == "stale":
            report.is_behind = True
            report.reasons.append(f"its {name}, {place}, are stale themselves")
        return parent

    def _check_ingredient(self, report: Report, artifact: Artifact, ingredient: Ingredient) -> None:
        """Compare a model or a file with what it was then, and pass on that it is stale where it is an artifact itself."""
        place = _locate_ingredient(artifact, ingredient.reference)
        shown = f"its {ingredient.role}, {ingredient.reference},"
        if place is None:
            if _is_path(artifact, ingredient.reference):
                report.notes.append(f"{shown} {_absence(artifact.record)}")
            return

        if ingredient.role == REFERENCE:
            self._check_reference(report, place, ingredient)
            return
        if not place.is_dir():
            if "sha256" in ingredient.hashes and hash_file(place) != ingredient.hashes["sha256"]:
                report.is_other_run = True
                report.reasons.append(f"{shown} has changed since")
            return

        try:
            now = locate_model(str(place)).identity()
        except PrefpipeError as error:
            report.notes.append(f"{shown[:-1]} cannot be looked at: {error.message}")
            return
        # the day that its template was told then is the run's, and no file of the model has one
        then = {name: value for name, value in ingredient.hashes.items() if name != TEMPLATE_DATE}
        if any(now.get(name) != value for name, value in then.items()):
            report.is_other_run = True
            report.reasons.append(
                f"{shown} has changed since: it has other weights, tokenizer or template"
            )

        # a policy or reward model of ours, which may be out of date although its weights are those of then
        if self._is_stale_model(place):
            report.is_behind = True
            report.reasons.append(f"{shown} is stale itself")
        self._check_merge(report, shown, place)

    def _is_stale_model(self, place: Path) -> bool:
        """Return whether a model, or the training that a checkpoint belongs to, is an artifact that is stale."""
        folder = place.parent if place.name.startswith("checkpoint-") else place
        return (folder / run_record.FILE_NAME).exists() and self.report(
            folder, quick=True
        ).state == "stale"

    def _check_merge(self, report: Report, shown: str, place: Path) -> None:
        """Pass on that a merged model is out of date: its adapter or its base is another now, or stale itself."""
        record = read_merge_record(place)
        if record is None:
            return
        for part in record.made_of:
            folder = _locate_merged_part(record, part, place)
            if folder is None:
                gone = (
                    "no longer exists"
                    if record.host == socket.gethostname()
                    else "is not on this disk and was not looked at"
                )
                report.notes.append(
                    f"{shown} was merged: its {part.role}, {part.reference}, {gone}"
                )
                continue

            try:
                has_changed = content_hash_of(folder) != part.content_hash
            except PrefpipeError as error:
                report.notes.append(
                    f"{shown} was merged: its {part.role} cannot be looked at: {error.message}"
                )
                continue
            if has_changed or self._is_stale_model(folder):
                why = "has changed since" if has_changed else "is stale itself"
                report.is_behind = True
                report.reasons.append(
                    f"{shown} is to be merged again first: its {part.role}, {part.reference}, {why}"
                )

    def _check_reference(self, report: Report, place: Path, ingredient: Ingredient) -> None:
        """Compare the log-probabilities that a training was given: they may be of another model by now, or out of date."""
        shown = f"its {ingredient.role}, {ingredient.reference},"
        try:
            identity = run_record.read_run_record(place).identity
        except PrefpipeError as error:
            report.notes.append(f"{shown[:-1]} cannot be looked at: {error.message}")
            return

        measured = identity.get("model")
        now = {**measured, "dtype": identity.get("dtype")} if isinstance(measured, dict) else {}
        if any(now.get(name) != value for name, value in ingredient.hashes.items()):
            report.is_other_run = True
            report.reasons.append(f"{shown} is of another model or number format now")
        if self.report(place, quick=True).state == "stale":
            report.is_behind = True
            report.reasons.append(f"{shown} is stale itself")


def _check_parts(
    report: Report, artifact: Artifact, digests: "_ParentDigests", *, quick: bool
) -> None:
    grown: list[int] = []
    for index in range(artifact.n_parts):
        part = artifact.part_path(index)
        if not part.exists():
            report.missing.append(index)
            continue
        try:
            footer = parts.read_footer(part) if quick else parts.verify_part(part)
        except (
            CorruptPartError,
            InputError,
        ) as error:  # damaged, not to be read, or of a newer release
            report.corrupt_parts.append(index)
            report.reasons.append(error.message)
            continue
        report.n_rows += footer.n_rows
        if footer.fingerprint != artifact.record.fingerprint:
            grown.append(index)
            continue
        changed = [
            name
            for name, digest in footer.parents.items()
            if digests.of(name, index) not in (None, digest)
        ]
        if changed:
            report.outdated.append(index)
            report.reasons.append(
                f"part {index} was made from another version of its {' and '.join(changed)}"
            )
    if grown:
        report.outdated = sorted([*report.outdated, *grown])
        report.reasons.append(_of_other_run(artifact.record, grown))
    if report.missing:
        report.reasons.append(f"missing: {_parts(report.missing)}")
    report.notes += digests.notes()


class _ParentDigests:
    """The digests of the parents' parts on disk now; parts that are not there are counted, not judged."""

    def __init__(self, stage: str, parents: dict[str, Artifact]) -> None:
        self.stage, self.parents = stage, parents
        self.unknown: dict[str, int] = {}
        self._whole: dict[str, str | None] = {}

    def of(self, name: str, index: int) -> str | None:
        """Return the digest, None where it cannot be known."""
        parent = self.parents.get(name)
        if parent is None:
            return None
        try:
            if self.stage in WHOLE_PARENTS and name in (WHOLE_PARENTS[self.stage] or (name,)):
                if name not in self._whole:
                    self._whole[name] = parent.digest()
                return self._whole[name]
            return parent.footer(index).data_sha256
        except PrefpipeError:
            self.unknown[name] = self.unknown.get(name, 0) + 1
            self._whole[name] = None
            return None

    def notes(self) -> list[str]:
        """Return a line for each parent that lacks parts."""
        lines = []
        for name, count in self.unknown.items():
            parts_of, them = ("part", "it") if count == 1 else ("parts", "them")
            lines.append(
                f"{count} {parts_of} could not be compared with its {name}, which lack {them}"
            )
        return lines


def _describe_run(report: Report, record: RunRecord) -> None:
    report.stage, report.fingerprint, report.n_parts = (
        record.stage,
        record.fingerprint,
        record.n_parts,
    )
    command, folder = record.context.get("command"), record.context.get("folder")
    if isinstance(command, list):
        report.words = [str(word) for word in command]
        report.command = shlex.join(report.words)
    report.folder = folder if isinstance(folder, str) else ""


def _check_prompts(report: Report, artifact: Artifact) -> None:
    source = artifact.record.parents.get("prompts", "")
    if source.startswith("hf:"):
        report.notes.append(f"its prompts are {source}, which were not looked at")
        return
    place = locate_parent(artifact, "prompts")
    if place is None:
        report.notes.append(f"its prompts, {source}, {_absence(artifact.record, are=True)}")
        return
    changes = changes_of_prompts(artifact, place)
    if changes:
        report.is_other_run = True
        report.reasons.append(f"its prompts, {place}, have changed since:")
        report.reasons += [f"  {line}" for line in changes]


def _check_sources(report: Report, artifact: Artifact) -> None:
    """Compare the files that were imported with what they were then, by their hash."""
    for name in ("source", "requests", "pairs"):
        recorded = artifact.record.parents.get(name)
        if recorded is None:
            continue
        place = locate_parent(artifact, name) if file_of(recorded) is not None else None
        if place is None:
            what = (
                _absence(artifact.record) if file_of(recorded) is not None else "was not looked at"
            )
            report.notes.append(f"its {name}, {recorded}, {what}")
        elif content_hash(str(place)) != artifact.record.identity.get(name):
            report.is_other_run = True
            report.reasons.append(f"its {name}, {place}, has changed since")


def _of_other_run(record: RunRecord, indices: list[int]) -> str:
    if record.history:
        return f"from before the last {record.history[-1].get('operation', 'change')}: {_parts(indices)}"
    return f"of another run than run.json describes: {_parts(indices)}"


def _parts(indices: list[int]) -> str:
    return f"part {indices[0]}" if len(indices) == 1 else f"{len(indices)} parts, {ranges(indices)}"


def ranges(indices: list[int]) -> str:
    """Return sorted numbers as Slurm's ``--array`` takes them: ``0,3-7,12``."""
    return ",".join(
        str(first) if first == last else f"{first}-{last}" for first, last in _runs(indices)
    )


def _runs(indices: list[int]) -> Iterator[tuple[int, int]]:
    first = previous = None
    for index in indices:
        if first is None or previous is None:
            first = index
        elif index != previous + 1:
            yield first, previous
            first = index
        previous = index
    if first is not None and previous is not None:
        yield first, previous


def _unfinished(path: Path) -> str:
    checkpoints = [
        item.name for item in path.glob("checkpoint-*") if item.name[len("checkpoint-") :].isdigit()
    ]
    if not checkpoints:
        return "it has no summary.json, which is written last"
    latest = max(checkpoints, key=lambda name: int(name.rpartition("-")[2]))
    return f"it has no summary.json, which is written last; it goes on from {latest}"
