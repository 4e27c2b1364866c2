"""``--overwrite``, which may stand alone or have a value: as words that a parser can read."""

from collections.abc import Sequence
from pathlib import Path

from prefpipe.artifacts.overwriting import Overwrite

WITHOUT_RECORD: dict[str, list[str]] = {"merge": ["--overwrite"], "report": []}
"""What ``--overwrite=stale`` is to commands that keep no record of what they wrote from.

A merged model is made again, and a report is in any case. So a script may have the flag on every
line.
"""


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """Return a stage's words with a bare ``--overwrite`` as ``--overwrite=all``.

    Left to the parser, ``--overwrite run/candidates`` would take the input for its value.
    """
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    for place in range(end):
        if words[place] != "--overwrite":
            continue

        # `--overwrite stale`, as other flags take values, unless that is a file here
        following = words[place + 1] if place + 1 < end else ""
        if following in tuple(Overwrite) and not Path(following).exists():
            return [*words[:place], f"--overwrite={following}", *spelled_out(words[place + 2 :])]
        words[place] = f"--overwrite={Overwrite.ALL}"
    return words


def without_stale(arguments: Sequence[str]) -> list[str]:
    """Return the words of another command, ``--overwrite=stale`` as what it comes to there."""
    replacement = WITHOUT_RECORD.get(arguments[0]) if arguments else None
    if replacement is None:
        return list(arguments)

    words = []
    for word in arguments:
        words += replacement if word == f"--overwrite={Overwrite.STALE}" else [word]
    return words
