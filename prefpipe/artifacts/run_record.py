"""``run.json``: the truth about a run's configuration.

The files are the truth about progress, ``run.json`` is the truth about configuration. It is written
once, by the first worker to start, and every other worker and every resume validates against it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from prefpipe import __version__
from prefpipe.artifacts.atomic import locked_folder
from prefpipe.artifacts.fingerprint import fingerprint_of
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.artifacts.storage.unreadable import unreadable
from prefpipe.errors import InputError, PrefpipeError

FILE_NAME = "run.json"
HINT = "rerun the stage with --overwrite, or restore the file"
MOST_STEPS_MEANWHILE = 100
"""Steps of other workers that may come in between before adding one to a bucket is given up."""
MAX_PARTS = 10_000_000
"""More than anybody makes: a number above it is damage, and would be counted through for hours."""
FIELD_TYPES: dict[str, tuple[type, str]] = {
    "fingerprint": (str, "a text"),
    "stage": (str, "a text"),
    "schema": (str, "a text"),
    "n_parts": (int, "a number of parts"),
    "identity": (dict, "an object"),
    "parents": (dict, "an object"),
    "context": (dict, "an object"),
    "history": (list, "a list"),
}
"""What each field of the file must be, and how a message calls it."""
OPTIONAL_FIELDS = ("parents", "context", "history")
CONTEXT_TYPES: dict[str, tuple[type, str]] = {
    "command": (list, "a list of words"),
    "folder": (str, "a path"),
    "host": (str, "a text"),
    "versions": (dict, "an object"),
    "models": (list, "a list of names"),
    "round": (int, "a number"),
    "sampler_round": (int, "a number"),
}
"""What the entries of the context that commands read must be; the others are for people."""
MADE_WITH = "made_with"
"""Key of the context that lists models and files which are no parent artifacts, for ``status``."""
RATER_SCORES = "rater scores"
"""Role of the scores by which a training chose its gamma; their hash is the ``digest``."""
INGREDIENT_KEYS = {"role", "reference", "hashes"}


@dataclass(frozen=True)
class RunRecord:
    """One run of one stage.

    ``identity`` holds the fields of the fingerprint. ``parents`` says where the inputs were (for
    ``status``), ``context`` holds what does not change the answer: command line, versions, host.
    ``history`` lists the recorded operations (extend, retry) that the artifact has been through.
    """

    stage: str
    schema: str
    n_parts: int
    identity: dict[str, Any]
    parents: dict[str, str] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """The sha256 of the identity."""
        return fingerprint_of(self.identity)

    @property
    def kind(self) -> str:
        """The schema's name without its version: ``candidates``, ``groups``."""
        return self.schema.partition("/")[0]

    @property
    def command(self) -> list[str]:
        """The words of the command that made it, [] if none is recorded."""
        return [str(word) for word in self.context.get("command") or []]

    @property
    def folder(self) -> str:
        """The folder that the command was run in, "" if none is recorded."""
        return self.context.get("folder") or ""

    def to_bytes(self) -> bytes:
        """Return the file's content: JSON that people read."""
        values = {"fingerprint": self.fingerprint, **asdict(self)}
        return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()

    def write_if_absent(self, folder: Location) -> bool:
        """Write ``run.json`` unless it exists; return whether this call wrote it."""
        return files.create(folder / FILE_NAME, self.to_bytes())

    def replace_in(self, folder: Location) -> None:
        """Write ``run.json`` over an earlier one (``--overwrite``, ``--extend``)."""
        files.write(folder / FILE_NAME, self.to_bytes())


def add_step(folder: Location, step: Mapping[str, Any], *, once: bool = False) -> RunRecord:
    """Add a step to the history on disk, and return the record.

    Any number of threads and processes may do so at once; on several machines, where the file
    system locks folders, or the bucket replaces a file on condition.

    Args:
        folder: the artifact.
        step: the operation, as ``history`` lists it.
        once: whether it is left out where it is in there already.

    Raises:
        InputError: the record cannot be read.
        PrefpipeError: it cannot be written.
    """
    if isinstance(folder, Url):
        return _add_step_in_bucket(folder, step, once=once)
    with locked_folder(folder):
        # what others have added meanwhile stays
        record = read_run_record(folder)
        if not (once and step in record.history):
            record = replace(record, history=[*record.history, dict(step)])
            record.replace_in(folder)
    return record


def _add_step_in_bucket(folder: Url, step: Mapping[str, Any], *, once: bool) -> RunRecord:
    """Add a step; a bucket has no locks, so the record is replaced if nobody else did meanwhile."""
    path = folder / FILE_NAME
    for _ in range(MOST_STEPS_MEANWHILE):
        data = _read_bytes(path)
        record = _parsed(data, path)
        if once and step in record.history:
            return record
        record = replace(record, history=[*record.history, dict(step)])
        if files.replace(path, record.to_bytes(), expected=data):
            return record
    raise PrefpipeError(
        f"{path} is being changed by others all the time",
        hint="run the same command again",
    )


def ingredient(role: str, reference: str, hashes: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of ``MADE_WITH``.

    Args:
        role: what it is to the run, ``reward model``.
        reference: as the user named it.
        hashes: of a model those that `ModelFiles.identity` gives, of a file ``sha256``; anything
            else is left out.
    """
    names = ("content_hash", "tokenizer_hash", "chat_template_hash", "base_content_hash", "sha256")
    return {
        "role": role,
        "reference": reference,
        "hashes": {name: hashes[name] for name in names if name in hashes},
    }


def rater_digests(record: RunRecord) -> set[str]:
    """Return the digests of all scores for which a training is known to have chosen its gamma.

    They are those that it was made with, and those from which a later call chose the same gamma.
    """
    digests = {
        entry["hashes"]["digest"]
        for entry in record.context.get(MADE_WITH, [])
        if entry["role"] == RATER_SCORES
    }
    return digests | {step[RATER_SCORES] for step in record.history if RATER_SCORES in step}


def read_run_record(folder: Location) -> RunRecord:
    """Return the record of an artifact.

    Raises:
        InputError: no folder, no ``run.json``, or one that cannot be read; the message says which.
    """
    path = folder / FILE_NAME
    return _parsed(_read_bytes(path), path)


def _parsed(data: bytes, path: Location) -> RunRecord:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: it is not JSON ({error})", hint=HINT) from error

    # people open JSON and change a value, which must not pass for what the run was
    record = _record_from_json(values, path)
    claimed = values["fingerprint"]
    if record.fingerprint != claimed:
        raise InputError(
            f"{path} was edited: its identity does not match its fingerprint {claimed[:12]}",
            hint="restore the file, or rerun the stage with --overwrite",
        )
    return record


def _read_bytes(path: Location) -> bytes:
    """Return what ``run.json`` holds.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    folder = path.parent
    # on a disk the folder first; a request to a bucket is worth saving
    if isinstance(folder, Path) and not folder.exists():
        raise _no_folder(folder)
    try:
        return files.read(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not _is_there(folder):
            raise _no_folder(folder) from error
        raise InputError(
            f"{folder} is not a prefpipe artifact: it has no {FILE_NAME}",
            hint="pass the folder that a prefpipe stage wrote with -o",
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _is_there(folder: Location) -> bool:
    try:
        return files.exists(folder)
    except OSError as error:
        raise unreadable(folder, error) from error


def _no_folder(folder: Location) -> InputError:
    return InputError(
        f"{folder} does not exist", hint="check the path, or run the stage that makes it"
    )


def _record_from_json(values: Any, path: Location) -> RunRecord:
    """Return the record that a file's JSON describes, every field of the type it should have.

    Raises:
        InputError: it is no record, or one that a newer release wrote.
    """
    if not isinstance(values, dict):
        raise InputError(
            f"{path} cannot be read: it holds {values!r:.40}, which is not an object", hint=HINT
        )

    problem = _problem_of_fields(values)
    if problem is not None:
        raise InputError(f"{path} cannot be read: {problem}", hint=HINT)

    unknown = sorted(values.keys() - FIELD_TYPES.keys())
    if unknown:
        raise InputError(
            f"{path} was written by a newer release of prefpipe: it holds `{unknown[0]}`, which "
            f"release {__version__} does not know",
            hint="read it with the release that wrote it, or make the artifact again with "
            "--overwrite",
        )
    return RunRecord(**{name: value for name, value in values.items() if name != "fingerprint"})


def _problem_of_fields(values: Mapping[str, Any]) -> str | None:
    """Return the first problem of a record's fields."""
    for name, (kind, noun) in FIELD_TYPES.items():
        if name in OPTIONAL_FIELDS and name not in values:
            continue
        value = values.get(name)
        # a boolean is a whole number to Python
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"its `{name}` is {value!r:.40}, which is not {noun}"

    if not 0 <= values["n_parts"] <= MAX_PARTS:
        return f"its `n_parts` is {values['n_parts']}, which is not from 0 to {MAX_PARTS:,}"
    if not all(isinstance(place, str) for place in values.get("parents", {}).values()):
        return "its `parents` are not paths by name"

    context = values.get("context", {})
    for name, (kind, noun) in CONTEXT_TYPES.items():
        entry = context.get(name)
        if entry is not None and not isinstance(entry, kind):
            return f"its context's `{name}` is {entry!r:.40}, which is not {noun}"
    if not _lists_ingredients(context.get(MADE_WITH)):
        return f"its context's `{MADE_WITH}` does not list role, reference and hashes"

    if not all(isinstance(step, dict) for step in values.get("history", [])):
        return "its `history` is not a list of objects"
    return None


def _lists_ingredients(value: Any) -> bool:
    """Return whether a value is what `ingredient` makes, in a list, or is not there."""
    if value is None:
        return True
    return isinstance(value, list) and all(map(_is_ingredient, value))


def _is_ingredient(item: Any) -> bool:
    if not isinstance(item, dict) or item.keys() != INGREDIENT_KEYS:
        return False
    return isinstance(item["reference"], str) and isinstance(item["hashes"], dict)
