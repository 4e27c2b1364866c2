"""Machine code on disk is that of the sources as they are now, of every file that is called.

A cache that is damaged or cannot be written to costs a compilation and changes no result.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import prefpipe.maths.compute.compiled

pytestmark = pytest.mark.slow

INNER = """
from compiled import compiled

@compiled
def inner(x):
    return x + {term}
"""
OUTER = """
from compiled import compiled
from inner import inner

@compiled
def outer(x):
    return 10.0 * inner(x)
"""


def answer(folder: Path) -> str:
    program = "from outer import outer; print(outer(1.0))"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


def test_a_changed_file_is_compiled_again_in_the_functions_of_others_that_call_it(
    tmp_path: Path,
) -> None:
    shutil.copy(prefpipe.maths.compute.compiled.__file__, tmp_path / "compiled.py")
    (tmp_path / "outer.py").write_text(OUTER)
    (tmp_path / "inner.py").write_text(INNER.format(term="1.0"))
    assert answer(tmp_path) == "20.0"
    assert list((tmp_path / "__pycache__").glob("outer.outer-*.nbi")), "it was kept on disk"

    (tmp_path / "inner.py").write_text(INNER.format(term="2.0"))
    assert answer(tmp_path) == "30.0"

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "__pycache__").glob("*.nb?")}
    assert answer(tmp_path) == "30.0"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "nothing is compiled twice"


SUM_OF_SQUARES = """
import numpy as np
from prefpipe.maths.compute.compiled import compiled

@compiled
def total(values):
    found = 0.0
    for value in values:
        found += value * value
    return found

print(total(np.array([1.0, 2.0, 3.0])), sum(total.stats.cache_hits.values()))
"""


def total_of(folder: Path, cache: Path) -> list[str]:
    """Return the sum of 1, 4 and 9, and how often it came from the cache, from a process of its
    own."""
    script = folder / "total.py"
    if not script.exists():
        script.write_text(SUM_OF_SQUARES, encoding="utf-8")
    root = Path(__file__).parents[3]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(root)}
    outcome = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout.split()


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("kept", [0, 40])
def test_a_file_of_the_cache_that_was_cut_off_is_made_again(
    tmp_path: Path, suffix: str, kept: int
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    assert total_of(tmp_path, cache) == ["14.0", "0"]
    assert total_of(tmp_path, cache) == ["14.0", "1"]

    (file,) = cache.rglob(f"*{suffix}")
    file.write_bytes(file.read_bytes()[:kept])
    assert total_of(tmp_path, cache) == ["14.0", "0"]
    assert total_of(tmp_path, cache) == ["14.0", "1"]


def test_a_cache_that_cannot_be_written_to_any_more_costs_a_compilation(tmp_path: Path) -> None:
    """The folder of the index is a file by the time the function is compiled: what numba writes
    fails as on a full disk."""
    cache = tmp_path / "cache"
    cache.mkdir()
    break_the_folder = (
        "import shutil, pathlib\n"
        "place = pathlib.Path(total.stats.cache_path)\n"
        "shutil.rmtree(place)\n"
        "place.touch()\n"
    )
    script = SUM_OF_SQUARES.replace("print(", f"{break_the_folder}print(")
    (tmp_path / "total.py").write_text(script, encoding="utf-8")
    assert total_of(tmp_path, cache) == ["14.0", "0"]
