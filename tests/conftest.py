"""What all tests share: the path to tests' own modules, threads, and a cache that is not the user's."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["COLUMNS"] = "200"
for _name in (
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_COUNT",
    "PREFPIPE_SHARD_INDEX",
    "PREFPIPE_NUM_SHARDS",
):
    os.environ.pop(_name, None)

# Under `nohup`, or behind `&` in a script, these are ignored, and so they would be in every command that tests start.
for _signal, _usual in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
):
    if (
        signal.getsignal(_signal) is signal.SIG_IGN
        and threading.current_thread() is threading.main_thread()
    ):
        signal.signal(_signal, _usual)

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Public data for tests, outside the project; skips where it is absent."""
    path = Path(os.environ.get("PREFPIPE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no test data in {path}; set PREFPIPE_TEST_DATA")
    return path
