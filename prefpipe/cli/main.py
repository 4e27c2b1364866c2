"""One command from its words to its exit code: the one place where errors become exit codes.

0 done; 1 failed; 2 bad usage, config or fingerprint clash; 3 finished, error rate above the limit;
4 input incomplete; 75 stopped early, safe to run again; 130 interrupted.
"""

import os
import sys
from collections.abc import Iterator

from prefpipe.cli import completion
from prefpipe.cli.app import ALL_COMMANDS, app
from prefpipe.cli.launched_processes import prints_the_error
from prefpipe.cli.overwrite_flag import spelled_out, without_stale
from prefpipe.cli.signals import stop_request
from prefpipe.errors import PrefpipeError, UsageError
from prefpipe.surrogates import has_lone_surrogates

DISK_HINT = (
    "look at the disk and its permissions, then run the same command again; what is finished is "
    "kept"
)


def main() -> None:
    """Run the command line in a process that has imported this already.

    `prefpipe.__main__` is the entry of one that has not.
    """
    stop_request.run(lambda: run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    for word in arguments:
        # it would be written into run.json, and into pages, at the end of the work
        if has_lone_surrogates(word):
            name = word.encode(errors="backslashreplace").decode()
            wrong = UsageError(f"{name} is not UTF-8", hint="rename the file or folder")
            return _end_with(wrong, arguments)

    if completion.is_asked():
        completion.prepare()

    # `rounds` and `study` hand the flag on to stages
    takes_overwrite = [
        "rounds",
        "study",
        *(name for name in ALL_COMMANDS if ALL_COMMANDS[name].is_stage),
    ]
    is_stage = bool(arguments) and arguments[0] in takes_overwrite
    words = spelled_out(arguments) if is_stage else without_stale(arguments)
    words = completion.with_shell(words)
    try:
        code = app(words, prog_name="prefpipe", standalone_mode=False)
    except PrefpipeError as error:
        return _end_with(error, arguments)
    except BrokenPipeError:
        # whoever read the output has what it wanted; the interpreter would flush into it once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # typer brings click along without its names: what it raises for a wrong flag is known by
        # what it can do
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stdout.write(f"{error}\n")
            return 2
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            return _end_of_wrong_usage(error.format_message(), error.exit_code, arguments)

        from prefpipe.artifacts.atomic import disk_failure
        from prefpipe.artifacts.storage.unreadable import failure_of_bucket

        unread = failure_of_bucket(error)
        if unread is not None:
            return _end_with(unread, arguments)
        failure = disk_failure(error)
        if failure is not None:  # a disk or a permission that no message was written for
            place = f"{failure.filename}: " if failure.filename else ""
            named = PrefpipeError(f"{place}{failure.strerror or failure}", hint=DISK_HINT)
            return _end_with(named, arguments)
        # a bug: its traceback is wanted, from one process of several
        if not prints_the_error(arguments):
            return 1
        raise
    return code if isinstance(code, int) else 0


def _end_with(error: PrefpipeError, arguments: list[str]) -> int:
    """Print an error, and return its exit code."""
    from prefpipe.cli import stderr

    if prints_the_error(arguments):
        stderr.show_error(error)
    return error.exit_code


def _end_of_wrong_usage(message: str, exit_code: int, arguments: list[str]) -> int:
    """Print what was wrong with the words, and return the exit code."""
    if not message.strip():
        return exit_code  # a group without a command: its help is printed already

    command = list(_command_named(arguments))
    if arguments and command[:1] not in ([], arguments[:1]):
        # the hint knows better: it is a command of a group
        message = message.partition(" Did you mean")[0]
    help_command = " ".join(["prefpipe", *command, "--help"])
    sys.stderr.write(f"error: {message}\n\nhint: run `{help_command}`\n")
    return exit_code


def _command_named(arguments: list[str]) -> Iterator[str]:
    """Yield the words of the command that was meant: ``eval win-rate`` and not ``eval`` alone."""
    if not arguments:
        return
    first, *rest = arguments
    if first in ALL_COMMANDS:
        yield first
        yield from (word for word in rest[:1] if word in ALL_COMMANDS[first].commands)
        return

    # `prefpipe win-rate` is one of eval's
    for name, listed in ALL_COMMANDS.items():
        if first in listed.commands:
            yield from (name, first)
            return
