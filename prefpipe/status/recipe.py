"""The recipe of artifacts: every stage that they were made by, as far as records can be reached.

For a page that others read: folders of this machine are named by their last part.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import join
from typing import Any

from prefpipe.artifacts.fingerprint import fingerprint_of
from prefpipe.artifacts.run_record import RunRecord, read_run_record
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import Artifact
from prefpipe.configs.recorded_commands import RecordedCommand
from prefpipe.errors import PrefpipeError
from prefpipe.stages.sharing.card import RecipeModel, RecipeStep
from prefpipe.status.artifact_status import output_of
from prefpipe.status.origins import FILES, ingredients_of, locate_parent

HOST = re.compile(r"(?P<scheme>https?)://[^/\s]+")
ANY_URL = re.compile(r"([a-zA-Z][\w+.-]*://\S*)")
ABSOLUTE = re.compile(r"(?<![\w./])~?/[^\s:=,'\"]+")


def recipe_of(artifacts: Sequence[Artifact]) -> list[RecipeStep]:
    """Return what artifacts were made by, and what those were made from, parents first.

    Of a parent whose folder is elsewhere, or holds another run by now, there is what its children
    recorded.
    """
    steps: dict[str, RecipeStep] = {}
    for artifact in artifacts:
        _add(artifact, steps)
    return list(steps.values())


def _add(artifact: Artifact, steps: dict[str, RecipeStep]) -> None:
    record = artifact.record
    if record.fingerprint in steps:
        return
    for name in record.parents:
        if name in FILES:
            continue
        identity = record.identity.get(name)
        parent = _parent(artifact, name)
        if parent is not None and identity in (None, parent.record.identity):
            _add(parent, steps)
        elif isinstance(identity, dict):
            _add_recorded(name, identity, steps)
    steps[record.fingerprint] = _step_of(artifact)


def _parent(artifact: Artifact, name: str) -> Artifact | None:
    place = locate_parent(artifact, name)
    if place is None:
        return None
    try:
        return Artifact(place, read_run_record(place))
    except PrefpipeError:
        return None


def _step_of(artifact: Artifact) -> RecipeStep:
    record = artifact.record
    made_from = {
        name: _digest_of(record.identity[name])
        for name in record.parents
        if record.identity.get(name) is not None
    }
    versions = record.context.get("versions")
    return RecipeStep(
        name=artifact.path.resolve().name,
        stage=record.stage,
        fingerprint=record.fingerprint,
        command=command_for_others(record),
        made_from=made_from,
        models=[
            RecipeModel(each.role, short_reference(each.reference), each.hashes)
            for each in ingredients_of(record)
        ],
        versions=dict(versions) if isinstance(versions, Mapping) else {},
    )


def _add_recorded(name: str, identity: Mapping[str, Any], steps: dict[str, RecipeStep]) -> None:
    """Add what an identity says of a parent whose folder is elsewhere."""
    fingerprint = fingerprint_of(dict(identity))
    if fingerprint in steps:
        return
    made_from, settings = {}, {}
    for inner, value in identity.items():
        if isinstance(value, dict) and "stage" in value:
            _add_recorded(inner, value, steps)
            made_from[inner] = fingerprint_of(value)
        else:
            settings[inner] = value
    stage = str(settings.pop("stage", name))
    steps[fingerprint] = RecipeStep(
        name, stage, fingerprint, made_from=made_from, settings=settings
    )


def _digest_of(identity: Any) -> str:
    return fingerprint_of(identity) if isinstance(identity, dict) else str(identity)


def command_for_others(record: RunRecord) -> str:
    """Return the command of a run without what only its machine knows.

    Paths are relative to the folder that the output lay in; what was elsewhere has its last part.
    """
    root = _root_of(record)
    words = [_word_for_others(word, record, root) for word in record.command]
    return join(words)


def _root_of(record: RunRecord) -> Location | None:
    try:
        recorded = RecordedCommand(record.command)
    except ValueError:
        return None
    output = recorded.output(Path(record.folder or "/"))
    return None if output is None else output_of(recorded.stage, record.stage, output).parent


def _word_for_others(word: str, record: RunRecord, root: Location | None) -> str:
    def named(match: re.Match[str]) -> str:
        path = Path(match[0])
        for above in (record.folder, str(root or "")):
            # of a bucket the URL is no path, and is kept whole
            if above not in {"", "/", "."} and path.is_relative_to(above):
                inside = path.relative_to(above)
                return inside.as_posix() if inside.parts else path.name
        return path.name

    word = HOST.sub(r"\g<scheme>://HOST", word)
    # of a URL the host alone is hidden
    pieces = ANY_URL.split(word)
    pieces[::2] = [ABSOLUTE.sub(named, piece) for piece in pieces[::2]]
    word = "".join(pieces)
    return Path(word).name if word.startswith("../") else word


def short_reference(reference: str) -> str:
    """Return a model as it was named; of a path its last part."""
    is_path = reference.startswith(("/", ".", "~")) or reference.count("/") > 1
    return Path(reference).name if is_path else reference
