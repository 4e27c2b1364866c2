"""The house: imports point down, no function takes a crowd of arguments, every module imports, and help is instant."""

import ast
import importlib.util
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "prefpipe"
FLOORS = {
    "errors": 0, "spelling": 0, "surrogates": 0, "maths": 1, "text": 1, "artifacts": 1, "models": 2, "backends": 3, "training": 3, "configs": 4,
    "stages": 5, "status": 6, "report": 6, "pages": 6, "wiring": 7, "frames": 8, "cli": 8, "__main__": 9,
}  # fmt: skip
APART_FLOORS = {1, 3, 6}
"""Floors whose rooms do not see each other."""
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
DOORSTEPS = {"__main__", "cli", "wiring", "status"}
"""Rooms that may put an import inside a function, because they are reached before one knows what is needed."""
DEFERRED_ELSEWHERE = {"datasets", "polars", "py3langid"}
"""Third-party packages that one kind of input needs and every other run should not pay for."""
HELP_BUDGET_S = 0.5

MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in MODULES]
each_module = pytest.mark.parametrize("path", MODULES, ids=NAMES)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def is_for_type_checkers(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


@each_module
def test_imports_point_strictly_down(path: Path) -> None:
    """A module imports its own room and lower floors; rooms of one floor do not see each other."""
    room = room_of(path)
    if (
        room == "__init__"
    ):  # names for type checkers alone: importing the package must import nothing
        at_run_time = ast.Module(
            [node for node in tree_of(path).body if not is_for_type_checkers(node)], []
        )
        assert not [name for name in imported_names(at_run_time) if name.startswith("prefpipe")]
        return
    for name in imported_names(tree_of(path)):
        pieces = name.split(".")
        if pieces[0] != "prefpipe" or name == "prefpipe.__version__":
            continue
        target = next((piece for piece in pieces[1:] if piece in FLOORS), None)
        assert target is not None, f"{path} imports {name}, which has no floor"
        if target != room:
            assert FLOORS[target] < FLOORS[room], (
                f"{path} (floor {FLOORS[room]}) imports {name} (floor {FLOORS[target]})"
            )


def test_rooms_of_one_floor_are_apart() -> None:
    """The rule above forbids imports between rooms of one floor; this names the pairs, so that none gets an exception."""
    floors = {floor: {room for room in FLOORS if FLOORS[room] == floor} for floor in APART_FLOORS}
    seen = {
        (room_of(path), piece)
        for path in MODULES
        for name in imported_names(tree_of(path))
        if name.startswith("prefpipe.")
        for piece in name.split(".")[1:2]
    }
    assert not [
        (a, b)
        for rooms in floors.values()
        for a in rooms
        for b in rooms
        if a != b and (a, b) in seen
    ]


@each_module
def test_imports_inside_functions_stay_at_the_doorstep(path: Path) -> None:
    """Lazy at the doorstep, eager inside the room: elsewhere only packages that one kind of input needs."""
    if room_of(path) in DOORSTEPS:
        return
    deferred = {
        name.split(".")[0]
        for function in functions_of(tree_of(path))
        for name in imported_names(function)
    }
    assert deferred <= DEFERRED_ELSEWHERE, (
        f"{path} imports {deferred - DEFERRED_ELSEWHERE} inside a function"
    )


@each_module
def test_no_function_takes_a_crowd_of_arguments(path: Path) -> None:
    """At most 8 arguments a function (``self`` not counted): more is an object that nobody has named yet."""
    for function in functions_of(tree_of(path)):
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        n_arguments = sum(argument.arg not in ("self", "cls") for argument in arguments)
        assert n_arguments <= MAX_ARGUMENTS, (
            f"{path}: {function.name} takes {n_arguments} arguments"
        )


@each_module
def test_names_say_something(path: Path) -> None:
    """No module, package or class is called after nothing in particular."""
    words = {piece.removesuffix(".py") for piece in path.relative_to(PACKAGE).parts}
    words |= {
        node.name.lower() for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef)
    }
    vague = {word for word in words for piece in word.split("_") if piece in FORBIDDEN_NAMES}
    assert not vague
    suffixes = ("manager", "handler", "helper", "utils")
    assert not [word for word in words if word.endswith(suffixes)]


@each_module
def test_every_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)), f"{path} has no docstring"


@each_module
def test_nothing_prints(path: Path) -> None:
    """Text leaves through the console; the one ``print`` is what ``--version`` is for."""
    prints = [
        node
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    allowed = 1 if path == PACKAGE / "cli" / "main.py" else 0
    assert len(prints) <= allowed, f"{path} prints in line {prints[0].lineno}"


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


def command_names() -> list[list[str]]:
    from prefpipe.cli.reference import commands

    return [[], ["models"], *(path.split()[1:] for path, _ in commands())]


@pytest.mark.parametrize("words", command_names(), ids=lambda words: " ".join(words) or "prefpipe")
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    """``prefpipe X --help`` answers without PyTorch, Arrow or NumPy in the process."""
    code = (
        "import json, sys\nfrom prefpipe.cli.main import run\n"
        "code = run(sys.argv[1:])\nsys.stderr.write(json.dumps([code, sorted({n.partition('.')[0] for n in sys.modules})]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--help"], capture_output=True, text=True, check=True
    )
    code_and_modules = json.loads(done.stderr)
    assert code_and_modules[0] == 0
    assert not HEAVY & set(code_and_modules[1])
    assert "Usage:" in done.stdout


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
