"""The artifacts in a folder, in the order of the pipeline."""

import os
from pathlib import Path

from prefpipe.artifacts import run_record
from prefpipe.artifacts.store import PART_PATTERN, Artifact, parts_without_record
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


def find_artifacts(path: Path) -> list[Path]:
    """Return the artifacts in a folder in the order of the pipeline; [] when there is none.

    The folder itself and linked artifacts are among them.

    Raises:
        InputError: the path does not exist, or is a file.
    """
    if not path.exists():
        raise InputError(
            f"{path} does not exist", hint="check the path, or run the stage that makes it"
        )
    if not path.is_dir():
        holds_run = (path.parent / run_record.FILE_NAME).exists()
        meant = path.parent if holds_run else "the folder that a prefpipe stage wrote with -o"
        raise InputError(f"{path} is a file, and an artifact is a folder", hint=f"pass {meant}")

    artifacts, seen = [], {path.resolve()}
    for folder_name, names, files in os.walk(path, followlinks=True):
        folder = Path(folder_name)
        # `walk` goes on into the names that are left here
        names[:] = [name for name in sorted(names) if _is_looked_into(folder / name, seen)]
        has_parts = any(PART_PATTERN.fullmatch(name) for name in files)
        if run_record.FILE_NAME in files or (has_parts and parts_without_record(folder)):
            artifacts.append(folder)
    # parents before what is made of them, so that commands can be pasted from the top
    return sorted(
        artifacts, key=lambda item: (item != path, item.parent, _stage_number(item), item.name)
    )


def open_artifact(path: Path, *, verb: str) -> Artifact:
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
    return Artifact(path, run_record.read_run_record(path))


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


def _stage_number(folder: Path) -> int:
    try:
        return STAGE_ORDER.index(run_record.read_run_record(folder).stage)
    except (PrefpipeError, ValueError):
        return len(STAGE_ORDER)


def studies_in(path: Path) -> list[Path]:
    """Return the folders that hold a study: ``path`` itself, or folders in it."""
    if not path.is_dir():
        return []
    studies = []
    for name, folders, files in os.walk(path):
        # the artifacts of a study hold no other
        if STUDY_RECORD in files:
            studies.append(Path(name))
            folders.clear()
        folders[:] = [each for each in sorted(folders) if not each.startswith(".")]
    return studies
