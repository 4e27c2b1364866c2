"""What made an artifact, on the terminal."""

import shlex
import subprocess

import pytest

from prefpipe.pages.overview import _shell_word, _value


@pytest.mark.parametrize("word", ["a b", "\n", "\nUser:", "it's\n", "a\\n\n'\\'", "--k"])
def test_a_word_of_a_command_stands_on_one_line_and_is_read_back(word: str) -> None:
    shown = _shell_word(word)
    assert "\n" not in shown
    assert "\n" in word or shown == shlex.quote(word)
    echoed = subprocess.run(
        ["bash", "-c", f"printf '%s.' {shown}"], capture_output=True, text=True, check=True
    )
    assert echoed.stdout == f"{word}."


def test_a_stop_text_that_begins_with_a_newline_is_seen() -> None:
    assert _value(["\n", "\nUser:"]) == r"\n,\nUser:"
