"""Lines of a shell script that a command prints for a person."""

from collections.abc import Iterator, Sequence

from prefpipe.configs.recorded_commands import Word
from prefpipe.text.untrusted import visible_line

WIDTH = 110
"""Columns after which a command continues on a new line."""
LONGEST_COMMENT = 400


def comment(text: str) -> str:
    """Return a comment of exactly one line: the shell would run a second line."""
    return f"# {visible_line(text, LONGEST_COMMENT)}"


def flag_and_value(argument: Word, value: str) -> str:
    """Return a flag with its value, or an argument alone.

    Args:
        argument: an argument of the command, with a value.
        value: the value, quoted for the shell.
    """
    if not argument.flag:
        return value
    return f"{argument.flag}{'=' if argument.is_joined else ' '}{value}"


def command_lines(head: str, words: Sequence[str]) -> Iterator[str]:
    """Yield one command, broken between words; a flag and its value are one word.

    Args:
        head: the command's own words.
        words: the words after it, quoted for the shell.
    """
    line = head
    for word in words:
        if len(line) + 1 + len(word) > WIDTH - 2:
            yield f"{line} \\"
            line = f"    {word}"
        else:
            line += f" {word}"
    yield line
