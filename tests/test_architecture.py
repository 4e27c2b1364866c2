"""The house: imports point down, no function takes a crowd of arguments, every module imports, and help is instant."""

import ast
import importlib.util
import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import typer

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "prefpipe"
FLOORS = {
    "errors": 0, "version": 0, "spelling": 0, "surrogates": 0, "maths": 1, "text": 1, "artifacts": 1, "models": 2, "backends": 3, "training": 3, "configs": 4, "execution": 5,
    "stages": 6, "status": 7, "report": 7, "pages": 7, "wiring": 8, "frames": 9, "running": 10, "cli": 9, "__main__": 10,
}  # fmt: skip
MAX_ARGUMENTS = 8
FORBIDDEN_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "misc",
    "base",
    "core",
    "manager",
    "handler",
}
HEAVY = {
    "torch",
    "transformers",
    "polars",
    "pyarrow",
    "sklearn",
    "numpy",
    "scipy",
    "vllm",
    "datasets",
    "huggingface_hub",
}
DOORSTEPS = {"__main__", "cli", "wiring", "running"}
"""Rooms that may put an import inside a function, because they are reached before one knows what is needed."""
DEFERRED_ELSEWHERE = {"datasets", "fsspec", "polars", "py3langid"}
"""Third-party packages that one kind of input needs and every other run should not pay for."""
HELP_BUDGET_S = 0.5

MODULES = sorted(PACKAGE.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """Return a module's dotted name below the package: ``stages.select.run``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield every imported name in full, ``prefpipe.errors.UsageError``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(path: Path) -> set[str]:
    """Return the modules of this package that a file imports, dotted, wherever in the file the import stands."""
    modules = {name_of(module) for module in MODULES}
    imported = set()
    for name in imported_names(tree_of(path)):
        pieces = name.removeprefix("prefpipe.").split(".")
        if not name.startswith("prefpipe."):
            continue
        for n_pieces in range(len(pieces), 0, -1):  # a name of a module, or a module
            candidate = ".".join(pieces[:n_pieces])
            if candidate in modules:
                imported.add(candidate)
                break
    return imported


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return (node for node in ast.walk(tree) if isinstance(node, functions))


def is_for_type_checkers(node: ast.stmt) -> bool:
    if not isinstance(node, ast.If):
        return False
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def assert_none(offenders: list[str], rule: str) -> None:
    """Fail with every offender at once, so that one run shows all that is to be mended."""
    assert not offenders, f"{rule}:\n  " + "\n  ".join(offenders)


def test_imports_point_strictly_down() -> None:
    """A module imports its own room and lower floors; rooms of one floor do not see each other."""
    offenders = []
    for path in MODULES:
        room = room_of(path)
        if room == "__init__":
            continue
        for name in imported_names(tree_of(path)):
            pieces = name.split(".")
            if pieces[0] != "prefpipe" or name == "prefpipe.__version__":
                continue
            target = next((piece for piece in pieces[1:] if piece in FLOORS), None)
            if target is None:
                offenders.append(f"{name_of(path)} imports {name}, which has no floor")
            elif target != room and FLOORS[target] >= FLOORS[room]:
                floors = f"floor {FLOORS[room]} imports floor {FLOORS[target]}"
                offenders.append(f"{name_of(path)} imports {name}: {floors}")
    assert_none(offenders, "imports point strictly down")


def test_the_package_itself_imports_nothing() -> None:
    """The names in ``prefpipe/__init__.py`` are for type checkers: ``import prefpipe`` costs nothing."""
    body = [
        node for node in tree_of(PACKAGE / "__init__.py").body if not is_for_type_checkers(node)
    ]
    at_run_time = imported_names(ast.Module(body, []))
    assert not [name for name in at_run_time if name.startswith("prefpipe")]


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions count: a circle that Python forgives is still one that a reader walks."""
    graph = {name_of(path): imported_modules(path) for path in MODULES}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_imports_inside_functions_stay_at_the_doorstep() -> None:
    """Lazy at the doorstep, eager inside the room: elsewhere only packages that one kind of input needs."""
    offenders = []
    for path in MODULES:
        if room_of(path) in DOORSTEPS:
            continue
        deferred = set()
        for function in functions_of(tree_of(path)):
            deferred |= {name.split(".")[0] for name in imported_names(function)}
        if not deferred <= DEFERRED_ELSEWHERE:
            offenders.append(f"{name_of(path)}: {sorted(deferred - DEFERRED_ELSEWHERE)}")
    assert_none(offenders, "imports inside functions")


def test_no_module_is_named_in_a_string() -> None:
    """Objects are named by imports, which editors follow and type checkers read, never by ``"module:name"``."""
    offenders = []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and re.fullmatch(r"prefpipe(\.\w+)+:\w+", node.value):
                offenders.append(f"{name_of(path)}:{node.lineno} {node.value}")
    assert_none(offenders, "modules named in strings")


def test_no_function_takes_a_crowd_of_arguments() -> None:
    """At most 8 arguments a function (``self`` not counted): more is an object that nobody has named yet."""
    offenders = []
    for path in MODULES:
        for function in functions_of(tree_of(path)):
            given = function.args
            arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            n_arguments = sum(argument.arg not in ("self", "cls") for argument in arguments)
            if n_arguments > MAX_ARGUMENTS:
                offenders.append(f"{name_of(path)}.{function.name}: {n_arguments}")
    assert_none(offenders, f"more than {MAX_ARGUMENTS} arguments")


def test_names_say_something() -> None:
    """No module, package or class is called after nothing in particular."""
    suffixes = ("manager", "handler", "helper", "utils")
    offenders = []
    for path in MODULES:
        words = {piece.removesuffix(".py") for piece in path.relative_to(PACKAGE).parts}
        classes = (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef))
        words |= {node.name.lower() for node in classes}
        for word in words:
            is_vague = any(piece in FORBIDDEN_NAMES for piece in word.split("_"))
            if is_vague or word.endswith(suffixes):
                offenders.append(f"{name_of(path)}: {word}")
    assert_none(offenders, "names that say nothing")


def test_every_module_has_a_docstring() -> None:
    silent = [name_of(path) for path in MODULES if not ast.get_docstring(tree_of(path))]
    assert_none(silent, "no docstring")


def test_nothing_prints() -> None:
    """Text leaves through the console; the one ``print`` is what ``--version`` is for."""
    offenders = []
    for path in MODULES:
        allowed = 1 if path == PACKAGE / "cli" / "app.py" else 0
        calls = (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))
        names = (call.func for call in calls if isinstance(call.func, ast.Name))
        lines = [name.lineno for name in names if name.id == "print"]
        offenders += [f"{name_of(path)}:{line}" for line in lines[allowed:]]
    assert_none(offenders, "print")


def is_importable(path: Path) -> bool:
    """Whether every third-party package that a module imports at its top is installed."""
    roots = {
        name.split(".")[0]
        for node in tree_of(path).body
        for name in imported_names(ast.Module([node], []))
    }
    return all(importlib.util.find_spec(root) is not None for root in roots)


def test_every_module_imports() -> None:
    """Each by itself would hide nothing more; the vLLM back-end is left out where vLLM is not installed."""
    names = [
        str(path.relative_to(REPOSITORY))
        .removesuffix(".py")
        .replace("/", ".")
        .removesuffix(".__init__")
        for path in MODULES
        if path.name != "__main__.py" and is_importable(path)
    ]
    assert len(names) >= len(MODULES) - 2
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


HELP_OF_MANY = """
import json, sys
from prefpipe.cli.main import run

codes = {}
for words in json.loads(sys.argv[1]):
    codes[" ".join(words)] = run([*words, "--help"])
    sys.stdout.flush()
loaded = sorted({name.partition(".")[0] for name in sys.modules})
sys.stderr.write(json.dumps([codes, loaded]))
"""


def test_help_of_every_command_loads_nothing_heavy() -> None:
    """``prefpipe X --help`` answers without PyTorch, Arrow or NumPy in the process."""
    from prefpipe.cli.app import app
    from prefpipe.cli.reference import commands

    words = [
        [],
        ["models"],
        *(path.split()[1:] for path, _ in commands(typer.main.get_command(app))),
    ]
    start = [sys.executable, "-c", HELP_OF_MANY, json.dumps(words)]
    outcome = subprocess.run(start, capture_output=True, text=True, check=True)
    codes, loaded = json.loads(outcome.stderr)
    assert not {name: code for name, code in codes.items() if code != 0}
    assert not HEAVY & set(loaded)
    assert outcome.stdout.count("Usage:") >= len(words)


def test_help_is_instant() -> None:
    """``prefpipe --help`` takes less than half a second, the best of three starts.

    Measured in processor time, which on an idle machine is the time one waits and on a busy one stays the same.
    """
    table = {
        "python -c pass": best_of_three(["-c", "pass"]),
        "import typer": best_of_three(["-c", "import typer"]),
        "import prefpipe.cli.main": best_of_three(["-c", "import prefpipe.cli.main"]),
        "prefpipe --help": best_of_three(["-m", "prefpipe", "--help"]),
    }
    shown = "\n".join(f"{name:<26} {elapsed_s:.3f} s" for name, elapsed_s in table.items())
    assert table["prefpipe --help"] < HELP_BUDGET_S, f"\n{shown}"


def best_of_three(arguments: list[str]) -> float:
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(times)
