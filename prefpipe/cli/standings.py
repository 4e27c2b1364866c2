"""What status says of the artifacts that a command reads: said in the first line, handed on as a mark, or refused."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

STRICT_HELP = "refuse artifacts that `prefpipe status` does not call done, instead of marking what is made from them"


def not_done(paths: Iterable[Path | None], *, strict: bool = False) -> list[dict[str, Any]]:
    """Say on stderr which artifacts are not done, and return each as ``{"path", "state", "reasons"}``.

    Args:
        paths: folders of artifacts; what is None or no artifact is left out, for it has an error of its own.
        strict: refuse them; every byte of every part is then verified, and not the footers alone.

    Raises:
        InputError: with ``strict``, naming the first that is partial, stale or corrupt.
    """
    from prefpipe.artifacts.run_record import FILE_NAME
    from prefpipe.cli import console
    from prefpipe.errors import InputError
    from prefpipe.status.checker import StatusChecker, standing_of

    checker = StatusChecker()
    artifacts = dict.fromkeys(
        path for path in paths if path is not None and (path / FILE_NAME).exists()
    )
    standings = [standing_of(path, checker, quick=not strict) for path in artifacts]
    found = [standing for standing in standings if not standing.is_done]
    if found and strict:
        raise InputError(
            f"--strict: {found[0].line}", hint=f"see why and what to run: {found[0].command}"
        )
    for standing in found:
        console.log(f"warning: {standing.line}; see {standing.command}")
    return [standing.to_json() for standing in found]
