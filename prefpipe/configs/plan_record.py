"""The file in which a folder keeps the plan that it was run by: ``rounds.json``, ``study.json``."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefpipe.artifacts.atomic import atomic_write, make_folder
from prefpipe.errors import InputError

Kinds = Mapping[str, tuple[type, ...]]


def write_plan_record(
    path: Path, values: Mapping[str, Any], *, default: Callable[[object], Any] | None = None
) -> None:
    """Write a record whole or not at all; its folder is made.

    Args:
        path: of the file.
        values: of the record.
        default: what makes a JSON value of one that is none.

    Raises:
        PrefpipeError: the disk is full, or the folder cannot be written to.
    """
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False, default=default)
    make_folder(path.parent)
    with atomic_write(path) as file:
        file.write(f"{text}\n".encode())


def read_plan_record(path: Path, kinds: Kinds, *, hint: str) -> dict[str, Any] | None:
    """Return what a record holds, None where there is no such file.

    Args:
        path: of the file.
        kinds: by key what its value may be; each must be there.
        hint: what to do about a file that cannot be used.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint=hint) from error

    if not isinstance(values, dict):
        raise InputError(f"{path} holds no object", hint=hint)
    wrong = [name for name, kind in kinds.items() if not isinstance(values.get(name), kind)]
    if wrong:
        raise InputError(f"{path}: `{wrong[0]}` is missing or no {kinds[wrong[0]][0]}", hint=hint)
    return values
