"""Where copies of ``prefpipe study`` hold what they are at."""

from pathlib import Path

from prefpipe.artifacts.holders import Lock

LOCKS = "locks"
"""Folder of a study: a file a piece of work, locked by who is at it."""
SHARED, RESULTS = "shared", "results"
"""What all runs need, and the tables."""


def lock_of(study: Path, name: str) -> Lock:
    """Return the lock of what is no run: `SHARED` or `RESULTS`."""
    return Lock(study / LOCKS / name)


def lock_of_run(study: Path, arm: str, seed: int) -> Lock:
    """Return the lock of an arm with a seed."""
    return Lock(study / LOCKS / f"{arm}.seed-{seed}")
