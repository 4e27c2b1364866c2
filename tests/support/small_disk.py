"""A disk that is full after a few kilobytes, and can grow: a tmpfs, where this user may mount one."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, kib: int) -> Iterator[Path]:
    """Mount an empty disk of ``kib`` KiB at a new folder; skip the test where that is not allowed."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", path]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def grow(disk: Path, mib: int) -> None:
    """Give the disk more room, as somebody who tidies up does."""
    subprocess.run(["mount", "-o", f"remount,size={mib}m", disk], check=True)
