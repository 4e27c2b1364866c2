"""A process that forks commands, and folders in memory where there are any: durability tests wait for disks otherwise."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stage_server import StageServer

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def fast_root() -> Iterator[Path]:
    root = Path(
        tempfile.mkdtemp(
            prefix="prefpipe-tests-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None
        )
    )
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def folder(fast_root: Path) -> Iterator[Path]:
    """An empty folder for one test."""
    path = Path(tempfile.mkdtemp(dir=fast_root))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def stages(fast_root: Path) -> Iterator[StageServer]:
    """Runs prefpipe commands in forked processes."""
    scratch = fast_root / "streams"
    scratch.mkdir()
    server = StageServer(scratch)
    yield server
    server.stop()
