"""What an artifact was made from, and where that is now: parents, models and files.

A run may have been moved or copied to another folder or machine. Files that moved along take
precedence over files at the old place: a copy is compared with its own parents, and the original
with its own.
"""

import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prefpipe.artifacts import run_record
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import (
    Location,
    Url,
    is_within,
    pieces_below,
    place_below,
    seen_from,
    url_in,
)
from prefpipe.artifacts.store import Artifact
from prefpipe.artifacts.tables.locations import place_of
from prefpipe.artifacts.training_folders import KEPT_STEP
from prefpipe.configs.recorded_commands import RecordedCommand, moved_folders
from prefpipe.models.files import CONFIG_FILES
from prefpipe.models.merge_record import MergedPart, MergeRecord
from prefpipe.stages.shared.earlier_rounds import EARLIER
from prefpipe.status.artifact_status import output_of
from prefpipe.status.folders import PAIR_STAGES

FILES = ("prompts", "source", "requests", "pairs")
"""Parents that are files of the user's, and no artifacts."""
REFERENCE = "reference"
"""The role of log-probabilities that a training was given."""
TOKENIZER_HASHES = ("tokenizer_hash", "chat_template_hash")
MARKS = (run_record.FILE_NAME, *CONFIG_FILES)
"""Files of which an artifact or a model folder has one."""


class Ingredient(NamedTuple):
    """A model or a file that is not a parent artifact.

    ``role`` is its role in the run, ``reference`` its name as given, ``hashes`` the recorded ones.
    """

    role: str
    reference: str
    hashes: Mapping[str, Any]


def ingredients_of(record: RunRecord) -> list[Ingredient]:
    """Return the models and files that a run was made with, as far as its record names them."""
    context, identity = record.context, record.identity
    listed = [Ingredient(**item) for item in context.get(run_record.MADE_WITH, [])]
    names = context.get("models", [])

    if record.stage in ("generate", *PAIR_STAGES):
        for name, hashes in zip(names, identity.get("models", []), strict=False):
            if "content_hash" in hashes:
                listed.append(Ingredient("model", name, hashes))

    measured = identity.get("model")
    if record.stage == "logprobs" and isinstance(measured, dict):
        listed += _measured_models(names, measured, context.get("tokenizer_of"))
    return listed


def _measured_models(
    names: Iterable[str], hashes: Mapping[str, Any], tokenizer_of: Any
) -> list[Ingredient]:
    """Return the models of log-probabilities.

    Weights may come from one model, and tokenizer and template from another: the trained policy,
    which is ``tokenizer_of``.
    """
    of_weights = {name: held for name, held in hashes.items() if name not in TOKENIZER_HASHES}
    of_tokenizer = {name: held for name, held in hashes.items() if name in TOKENIZER_HASHES}
    if not isinstance(tokenizer_of, str):
        return [Ingredient("model", name, of_weights) for name in names]
    if tokenizer_of in names:
        return [Ingredient("model", name, hashes) for name in names]
    models = [Ingredient("model", name, of_weights) for name in names]
    return [*models, Ingredient("model", tokenizer_of, of_tokenizer)]


def locate_parent(artifact: Artifact, name: str) -> Location | None:
    """Return where a parent is now, or None.

    It is searched at the recorded path, from the recorded folder, from here, and beside the
    artifact. The last is for runs from another machine.
    """
    recorded = artifact.record.parents.get(name)
    if recorded is None:
        return None

    places = [
        *_places_moved_along(artifact, recorded),
        *_places_of_then(artifact, recorded),
        *_places_in_moved_run(artifact, recorded),
    ]
    # beside the artifact is what its own round has, of the same name as an earlier round's
    if not name.startswith(f"{EARLIER}_"):
        places.append(artifact.path.parent / Path(recorded).name)
    # a partial path below another folder may be the artifact itself
    itself = artifact.path.resolve()
    for place in places:
        if files.can_be_found(place) and place.resolve() != itself:
            here = Path.cwd()
            is_here = isinstance(place, Path) and place.is_relative_to(here)
            return Path(*pieces_below(place, here)) if is_here else place
    return None


def locate_file(artifact: Artifact, name: str) -> Location | None:
    """Return where a user's file is now, or None; what lies in a bucket is where it was."""
    recorded = artifact.record.parents.get(name)
    place = None if recorded is None else place_of(recorded)
    # file:///data/prompts.jsonl moves along with nothing
    if isinstance(place, Path) and "://" in str(recorded):
        return place if place.exists() else None
    return place if isinstance(place, Url) else locate_parent(artifact, name)


def locate_ingredient(artifact: Artifact, reference: str) -> Location | None:
    """Return where a model or file is now, or None.

    It is searched at the recorded path, from here, and beside or above the artifact. The last is
    for moved runs: for ``run/eval/policy/candidates`` the model ``run/policy`` is three folders up.
    """
    places = [
        *_places_moved_along(artifact, reference),
        *_places_of_then(artifact, reference),
    ]
    for place in places:
        if files.can_be_found(place):
            return place
    if "/" not in reference:
        return None

    # a folder of that name may be anything
    places = [
        *_places_in_moved_run(artifact, reference),
        *(folder / Path(reference).name for folder in _folders_above(artifact)),
    ]
    for place in places:
        is_marked = any(files.can_be_found(place / mark) for mark in MARKS)
        if is_marked or files.is_file(place):
            return place
    return None


def locate_merged_part(record: MergeRecord, part: MergedPart, place: Path) -> Path | None:
    """Return where the adapter or base of the merged model in ``place`` is now, or None.

    It may have moved along with the model, or still be at its old place.
    """
    then = Path(part.path)
    moved = []
    for from_, to in moved_folders(Path(record.output), place.absolute()):
        if isinstance(from_, Path) and isinstance(to, Path) and then.is_relative_to(from_):
            moved.append(to / then.relative_to(from_))
    return next((folder for folder in [*moved, then] if folder.is_dir()), None)


def _folders_above(artifact: Artifact) -> list[Location]:
    """Return the folders in which other artifacts of the same run may be, the nearest first."""
    return list(artifact.path.absolute().parents[:4])


def _places_of_then(artifact: Artifact, recorded: str) -> list[Location]:
    """Return a recorded path seen from the recorded folder, and seen from here."""
    made_in = artifact.record.folder
    from_then = [seen_from(Path(made_in), recorded)] if made_in else []
    return [*from_then, seen_from(Path(), recorded)]


def _places_moved_along(artifact: Artifact, recorded: str) -> Iterator[Location]:
    """Yield where a recorded path is if it was moved or copied with the artifact.

    Yields nothing if the artifact was not moved.
    """
    folder = artifact.record.folder
    if not folder:
        return
    try:
        command = RecordedCommand(artifact.record.command)
    except ValueError:
        return

    output_then = command.output(Path(folder))
    if output_then is None:
        return
    output_now = output_of(command.stage, artifact.record.stage, artifact.path.absolute())
    if KEPT_STEP in artifact.record.context:
        output_then = output_then / artifact.path.name
    place_then = seen_from(Path(folder), recorded)
    for from_, to in moved_folders(output_then.absolute(), output_now):
        if is_within(place_then, from_):
            yield place_below(to, pieces_below(place_then, from_))


def _places_in_moved_run(artifact: Artifact, recorded: str) -> Iterator[Location]:
    """Yield places of a recorded path in a moved run: below one of the folders above.

    Of its last folders, two or more, the longest first: of ``eval`` the parent
    ``/then/eval/policy/candidates`` is not the ``candidates`` beside it.
    """
    pieces = [piece for piece in Path(recorded).parts if piece not in ("/", "..")]
    for start in range(len(pieces) - 1):
        for folder in _folders_above(artifact):
            yield place_below(folder, pieces[start:])


def is_path(artifact: Artifact, reference: str) -> bool:
    """Return whether a name that is not on disk means a file or folder, not a hub name."""
    if reference.startswith(("bundled:", "hf:")):
        return False
    if url_in(reference) is not None:
        return True
    place = Path(artifact.record.folder) / reference
    is_spelled_out = reference.startswith((".", "~", "/")) or reference.count("/") > 1
    return is_spelled_out or ("/" in reference and place.parent.is_dir())


def absence(host: Any, *, are: bool = False) -> str:
    """Describe a missing file: deleted, or on another machine and perhaps never copied here.

    Args:
        host: the machine that it was seen on.
        are: it is a plural.
    """
    if host == socket.gethostname():
        return "no longer exist" if are else "no longer exists"
    if are:
        return "are not on this disk and were not checked"
    return "is not on this disk and was not checked"
