"""The artifacts in a folder, in the order of the pipeline."""

import os
from pathlib import Path

from prefpipe.artifacts import run_record
from prefpipe.artifacts.claims import FOLDER_NAME as CLAIMS
from prefpipe.artifacts.parts import PART_PATTERN
from prefpipe.artifacts.seen_footers import SeenFooters
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.artifacts.storage.unreadable import unreadable
from prefpipe.artifacts.store import Artifact, parts_without_record
from prefpipe.artifacts.training_folders import is_within_training
from prefpipe.configs.study_record import FILE_NAME as STUDY_RECORD
from prefpipe.errors import InputError, PrefpipeError

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


def find_artifacts(path: Location, footers: SeenFooters | None = None) -> list[Location]:
    """Return the artifacts in a folder in the order of the pipeline; [] when there is none.

    The folder itself and linked artifacts are among them.

    Args:
        path: the folder.
        footers: takes what is listed of a bucket, for whoever looks at the parts next.

    Raises:
        InputError: the path does not exist, or is a file.
    """
    if isinstance(path, Url):
        return _in_order(path, _artifacts_in_bucket(path, footers))
    if not path.exists():
        raise InputError(
            f"{path} does not exist", hint="check the path, or run the stage that makes it"
        )
    if not path.is_dir():
        holds_run = (path.parent / run_record.FILE_NAME).exists()
        meant = path.parent if holds_run else "the folder that a prefpipe stage wrote with -o"
        raise InputError(f"{path} is a file, and an artifact is a folder", hint=f"pass {meant}")

    artifacts: list[Location] = []
    seen = {path.resolve()}
    for folder_name, names, file_names in os.walk(path, followlinks=True):
        folder = Path(folder_name)
        # `walk` goes on into the names that are left here
        names[:] = [name for name in sorted(names) if _is_looked_into(folder / name, seen)]
        has_parts = any(PART_PATTERN.fullmatch(name) for name in file_names)
        if run_record.FILE_NAME in file_names or (has_parts and parts_without_record(folder)):
            artifacts.append(folder)
    return _in_order(path, artifacts)


def _artifacts_in_bucket(path: Url, footers: SeenFooters | None) -> list[Location]:
    """Return the artifacts under a prefix, each of its folders listed once.

    Raises:
        InputError: nothing is there, or it cannot be listed.
    """
    try:
        listing = files.list_folder(path)
    except NotADirectoryError as error:
        raise InputError(
            f"{path} is a file, and an artifact is a folder", hint=f"pass {path.parent}"
        ) from error
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist", hint="check the URL, or run the stage that makes it"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error

    artifacts: list[Location] = []
    has_parts = any(PART_PATTERN.fullmatch(name) for name in listing)
    if run_record.FILE_NAME in listing or (has_parts and parts_without_record(path)):
        artifacts.append(path)
        if footers is not None:
            footers.note_listing(path, listing)
    for name in sorted(listing):
        is_folder = listing[name] is None
        is_hidden = name.startswith(".") or name == CLAIMS
        if is_folder and not is_hidden and not is_within_training(path / name):
            artifacts += _artifacts_in_bucket(path / name, footers)
    return artifacts


def _in_order(path: Location, artifacts: list[Location]) -> list[Location]:
    # parents before what is made of them, so that commands can be pasted from the top
    return sorted(
        artifacts,
        key=lambda item: (
            item != path,
            str(item.parent).split("/"),
            _stage_number(item),
            item.name,
        ),
    )


def open_artifact(path: Location, *, verb: str) -> Artifact:
    """Return the artifact of a folder.

    Args:
        path: the folder.
        verb: what is to be done with it, for the hint.

    Raises:
        InputError: there is none; of a folder that holds several the error names them.
    """
    inside = find_artifacts(path)
    if inside and path not in inside:
        raise InputError(
            f"{path} is not an artifact, it holds {len(inside)}",
            hint=f"{verb} one of them: {', '.join(map(str, inside[:6]))}",
        )
    return Artifact.open(path)


def _is_looked_into(folder: Path, seen: set[Path]) -> bool:
    """Whether to search a folder for artifacts: once, and a link only if it is an artifact."""
    if folder.name.startswith(".") or is_within_training(folder):
        return False
    if folder.is_symlink() and not (folder / run_record.FILE_NAME).exists():
        return False

    place = folder.resolve()
    is_new = place not in seen
    seen.add(place)
    return is_new


def _stage_number(folder: Location) -> int:
    try:
        return STAGE_ORDER.index(run_record.read_run_record(folder).stage)
    except (PrefpipeError, ValueError):
        return len(STAGE_ORDER)


def studies_in(path: Location) -> list[Path]:
    """Return the folders that hold a study: ``path`` itself, or folders in it."""
    if isinstance(path, Url) or not path.is_dir():
        return []
    studies = []
    for name, folders, file_names in os.walk(path):
        # the artifacts of a study hold no other
        if STUDY_RECORD in file_names:
            studies.append(Path(name))
            folders.clear()
        folders[:] = [each for each in sorted(folders) if not each.startswith(".")]
    return studies
