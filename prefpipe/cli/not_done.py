"""Artifacts that a command reads and that are not done: warned of, handed on, or refused."""

from collections.abc import Iterable
from typing import Any

from prefpipe.artifacts.storage.location import Location


def not_done(paths: Iterable[Location | None], *, strict: bool = False) -> list[dict[str, Any]]:
    """Warn of artifacts that are not done, and return each as ``{"path", "state", "reasons"}``.

    Args:
        paths: folders of artifacts; what is None or no artifact is left out, for it has an error of
            its own.
        strict: refuse them; every byte of every part is then verified, and not the footers alone.

    Raises:
        InputError: with ``strict``, naming the first that is partial, stale or corrupt.
    """
    from prefpipe.artifacts.run_record import FILE_NAME
    from prefpipe.artifacts.storage.files import can_be_found
    from prefpipe.cli import stderr
    from prefpipe.errors import InputError
    from prefpipe.status.checker import StatusChecker, standing_of

    folders = [path for path in paths if path is not None and can_be_found(path / FILE_NAME)]
    checker = StatusChecker()
    unfinished = []
    for folder in dict.fromkeys(folders):
        standing = standing_of(folder, checker, quick=not strict)
        if not standing.is_done:
            unfinished.append(standing)

    if unfinished and strict:
        first = unfinished[0]
        raise InputError(
            f"--strict: {first.line}", hint=f"see why and what to run: {first.command}"
        )
    for standing in unfinished:
        stderr.log(f"warning: {standing.line}; see {standing.command}")
    return [standing.to_json() for standing in unfinished]
