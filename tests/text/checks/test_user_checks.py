"""A user's own function is found by module or entry point, called, and blamed by name."""

import textwrap

import pytest

from prefpipe.errors import InputError
from prefpipe.text.checks.grading import CheckedResponse
from prefpipe.text.checks.user_checks import PythonCheck, load_function

MODULE = """
    import numpy as np
    def asks_back(response, messages, columns):
        return response.endswith("?")
    def near_length(response, messages, columns):
        return max(0.0, 1 - abs(len(response) - columns["length"]) / columns["length"])
    def repeats_prompt(response, messages, columns):
        messages[0]["content"] += "!"  # a copy: nobody else sees it
        return np.float32(0.25) if response == messages[0]["content"][:-1] else np.bool_(False)
    def too_much(response, messages, columns):
        return 7
    def nothing(response, messages, columns):
        pass
    def breaks(response, messages, columns):
        raise KeyError("length")
    answer = 42
"""


@pytest.fixture(autouse=True)
def _module(tmp_path, monkeypatch):
    (tmp_path / "my_own_checks.py").write_text(textwrap.dedent(MODULE))
    (tmp_path / "my_broken_checks.py").write_text("def f(:\n")
    installed = tmp_path / "my_plugin-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[prefpipe.checks]\nasks_back = my_own_checks:asks_back\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    load_function.cache_clear()


def test_a_function_of_a_module_grades():
    check = PythonCheck(function="my_own_checks:near_length")
    assert check.grade(CheckedResponse("x" * 15, columns={"length": 10})) == (0.5, "returned 0.5")


def test_a_function_installed_as_entry_point_is_known_by_name():
    check = PythonCheck(function="asks_back")
    assert [check.grade(CheckedResponse(text)).score for text in ("Why?", "So.")] == [1.0, 0.0]


def test_numbers_of_other_libraries_are_numbers_and_the_conversation_is_a_copy():
    messages = [{"role": "user", "content": "echo"}]
    check = PythonCheck(function="my_own_checks:repeats_prompt")
    assert check.grade(CheckedResponse("echo", messages)).score == 0.25
    assert check.grade(CheckedResponse("other", messages)).score == 0.0
    assert messages == [{"role": "user", "content": "echo"}]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_own_checks:missing", "cannot be imported: AttributeError: .*'missing'"),
        (
            "no_such_module_here:f",
            "cannot be imported: ModuleNotFoundError: No module named 'no_such_module_here'",
        ),
        ("my_broken_checks:f", "cannot be imported: SyntaxError"),
        ("my_own_checks:answer", "is a int, not a function"),
        ("ask_back", r"not an entry point .*\(did you mean 'asks_back'\?\); installed: asks_back"),
        (":", "cannot be imported"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name(name, message):
    with pytest.raises(
        ValueError, match=f"'function' '{name}' {message}|'function' '{name}' is {message}"
    ):
        PythonCheck(function=name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_much", "returned 7, not a number in"),
        ("nothing", "returned None, not a number in"),
        ("breaks", "raised KeyError: 'length'"),
    ],
)
def test_what_a_function_does_wrong_is_told_with_its_name(name, message):
    with pytest.raises(InputError, match=f"check function 'my_own_checks:{name}' {message}"):
        PythonCheck(function=f"my_own_checks:{name}").grade(CheckedResponse("text"))
