"""Machine code on disk is that of the sources as they are now, of every file that a compiled function calls."""

import shutil
import subprocess
import sys
from pathlib import Path

import prefpipe.maths.compiled

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
    ran = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def test_a_changed_file_is_compiled_again_in_the_functions_of_others_that_call_it(tmp_path: Path) -> None:
    shutil.copy(prefpipe.maths.compiled.__file__, tmp_path / "compiled.py")
    (tmp_path / "outer.py").write_text(OUTER)
    (tmp_path / "inner.py").write_text(INNER.format(term="1.0"))
    assert answer(tmp_path) == "20.0"
    assert list((tmp_path / "__pycache__").glob("outer.outer-*.nbi")), "it was kept on disk"

    (tmp_path / "inner.py").write_text(INNER.format(term="2.0"))
    assert answer(tmp_path) == "30.0"

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "__pycache__").glob("*.nb?")}
    assert answer(tmp_path) == "30.0"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "nothing is compiled twice"
