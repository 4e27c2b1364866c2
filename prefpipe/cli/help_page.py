"""The text of ``--help`` and ``--help-all``: plain, as wide as the terminal, no word cut.

A page has a usage line, what the command does, examples, and flags grouped by task. ``--help``
shows the common flags and ends with the number of the others.
"""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from prefpipe.artifacts.storage.location import Url
from prefpipe.configs.command import OUTPUT_HEADING, CommandConfig
from prefpipe.configs.options import resolved_types, scalar_type
from prefpipe.configs.stage import StageConfig

NARROWEST, WIDEST = 40, 120
INDENT = "  "
OF_EVERY_STAGE = ("config", "json")
"""Flags that a stage's command has beside those of its config."""
ALL_FLAGS = "--help-all"
ROWS_NOTE = (
    "Flags marked * change the rows: an output folder made with another value is refused unless "
    "you pass --overwrite."
)
LONGEST_CHOICES = 24
"""Characters of a flag and its choices that stand beside each other; more are in the sentence."""
ONE_OF_MANY = "NAME"
BRACKET = re.compile(r"\[default: [^\]]{1,30}\]")
NO_BREAK = "\x00"
WORDS_BY_TYPE = {int: "N", float: "X", Path: "PATH", Url: "PATH"}


class Entry(NamedTuple):
    """An argument, a flag or a command: how it is typed, and what it does."""

    names: str
    meaning: str


class Summary(NamedTuple):
    """What a group's page says of a command: a sentence, and the names of its own commands."""

    name: str
    sentence: str
    commands: Sequence[str]


class Section(NamedTuple):
    """Entries under a heading."""

    heading: str
    entries: Sequence[Entry]
    are_commands: bool = False


class Page(NamedTuple):
    """What a page of help shows, from top to bottom; empty pieces are left out."""

    usage: str
    description: str
    examples: Sequence[str]
    sections: Sequence[Section]
    last_lines: Sequence[str]


def command_page(
    path: str, command: Any, config_class: type[CommandConfig], *, is_all: bool
) -> Page:
    """Return the page of a command.

    Args:
        path: the command as it is typed, ``prefpipe eval win-rate``.
        command: the command as click has it.
        config_class: what can be given to it, and which of it is common.
        is_all: show every flag.
    """
    parameters = {parameter.name: parameter for parameter in command.params}
    common = config_class.common_names()
    types = resolved_types(config_class)
    kinds = {item.name: scalar_type(types[item.name]) for item in fields(config_class)}
    is_stage = issubclass(config_class, StageConfig)

    sections = []
    arguments = [each for each in command.params if is_argument(each)]
    if arguments:
        helps = {item.name: str(item.metadata["help"]) for item in fields(config_class)}
        entries = [Entry(metavar_of(each, kinds), _plain(helps[each.name])) for each in arguments]
        sections.append(Section("Arguments", entries))

    n_hidden = 0
    for heading, items in config_class.sections().items():
        names = [item.name for item in items]
        if heading == OUTPUT_HEADING:
            names += [name for name in OF_EVERY_STAGE if name in parameters]
        shown = [name for name in names if is_all or name in common or name in OF_EVERY_STAGE]
        n_hidden += len(names) - len(shown)

        changes_rows = {item.name for item in items if item.metadata["identity"]}
        starred = changes_rows if is_all and is_stage else set()
        entries = [
            flag_entry(parameters[name], kinds, is_starred=name in starred) for name in shown
        ]
        if entries:
            sections.append(Section(heading, entries))

    last_lines = []
    description = _plain(command.help)
    if is_all and is_stage:
        # above the flags: the mark is met there first
        description = f"{description}\n\n{ROWS_NOTE}"
    if n_hidden:
        flags = "flag" if n_hidden == 1 else "flags"
        last_lines.append(f"{n_hidden} more {flags}: {path} {ALL_FLAGS}")
    return Page(
        usage=usage(path, command),
        description=description,
        examples=config_class.examples,
        sections=sections,
        last_lines=last_lines,
    )


def group_page(
    context: Any,
    group: Any,
    headings: Mapping[str, Sequence[str]],
    examples: Sequence[str],
    own: Page | None,
) -> Page:
    """Return the page of a group: its commands, then what it takes itself.

    Args:
        context: click's context of the group.
        group: the group as click has it.
        headings: headings over the commands, with the names under each.
        examples: command lines to show.
        own: the page of what the group runs without a command, if anything.
    """
    path = context.command_path
    summaries = group.summaries(context)
    commands = commands_of(summaries, headings)
    if own is not None:
        return own._replace(sections=[*own.sections, *commands])

    flags = [flag_entry(each, {}) for each in group.params if ALL_FLAGS not in each.opts]
    sections = [*commands, Section("Flags", flags)] if flags else commands
    return Page(
        usage=f"{path} COMMAND ...",
        description=_plain(group.help),
        examples=examples,
        sections=sections,
        last_lines=[
            f"{path} COMMAND --help explains a command; {ALL_FLAGS} lists all its flags.",
            *_lines_of_groups(path, summaries),
        ],
    )


def _lines_of_groups(path: str, summaries: Sequence[Summary]) -> Iterator[str]:
    """Yield a line for each command that has commands too: ``prefpipe eval`` has ``win-rate``."""
    for summary in summaries:
        if summary.commands:
            yield f"{path} {summary.name} has commands too: {', '.join(summary.commands)}."


def commands_of(
    summaries: Sequence[Summary], headings: Mapping[str, Sequence[str]]
) -> list[Section]:
    """Return a group's commands under their headings, each with the first sentence of its help."""
    visible = {each.name: Entry(each.name, each.sentence) for each in summaries}
    sections = []
    for heading, names in headings.items():
        entries = [visible.pop(name) for name in names if name in visible]
        if entries:
            sections.append(Section(heading, entries, are_commands=True))
    if visible:
        heading = "More commands" if sections else "Commands"
        sections.append(Section(heading, list(visible.values()), are_commands=True))
    return sections


def flag_entry(parameter: Any, kinds: Mapping[str, type], *, is_starred: bool = False) -> Entry:
    """Return a flag with its names, the word for its value, and its help."""
    opts = sorted(parameter.opts, key=len)
    names = ", ".join([*opts, *parameter.secondary_opts])
    meaning = _plain(parameter.help)
    word = metavar_of(parameter, kinds)
    if _are_too_many(word, names):
        sentence, bracket, rest = meaning.partition(" [")
        meaning = f"{sentence}; one of {', '.join(word.split('|'))}{bracket}{rest}"
        word = ONE_OF_MANY
    if word:
        names += word if word.startswith("[=") else f" {word}"
    return Entry(f"{names} *" if is_starred else names, meaning)


def metavar_of(parameter: Any, kinds: Mapping[str, type]) -> str:
    """Return the word that stands for a value, "" of a switch."""
    if getattr(parameter, "is_flag", False):
        return ""
    if parameter.metavar:
        return str(parameter.metavar)
    if is_argument(parameter):
        return str(parameter.name.upper())
    return WORDS_BY_TYPE.get(kinds.get(parameter.name, str), "TEXT")


def _are_too_many(choices: str, names: str) -> bool:
    """Return whether choices would not fit beside their flag."""
    return "|" in choices and len(names) + len(choices) > LONGEST_CHOICES


def is_argument(parameter: Any) -> bool:
    """Return whether it is an argument rather than a flag."""
    return bool(parameter.param_type_name == "argument")


def usage(path: str, command: Any) -> str:
    """Return ``prefpipe score CANDIDATES --scorer ... [OPTIONS]``: required values stand first."""
    arguments, flags = [], []
    for parameter in command.params:
        word = str(parameter.metavar or parameter.name.upper())
        if _are_too_many(word, parameter.opts[0]):
            word = ONE_OF_MANY
        if is_argument(parameter):
            arguments.append(word)
        elif parameter.required or "[required]" in (parameter.help or ""):
            has_letter = len(parameter.opts[-1]) == 2
            flags += [parameter.opts[-1 if has_letter else 0], word]

    # the words of another command stand last, behind its own mark
    if not command.context_settings.get("allow_interspersed_args", True):
        return " ".join([path, *flags, "[OPTIONS] --", *arguments])
    return " ".join([path, *arguments, *flags, "[OPTIONS]"])


def first_sentence(text: str | None) -> str:
    """Return the first paragraph of a help text as one line, without its full stop."""
    paragraph = _plain(text).partition("\n\n")[0]
    return " ".join(paragraph.split()).removesuffix(".")


def render(page: Page, *, width: int | None = None, is_coloured: bool | None = None) -> str:
    """Return a page as text.

    Args:
        page: what to show.
        width: columns; default the terminal's, or ``COLUMNS``.
        is_coloured: whether headings and flags are bold; default on a terminal without
            ``NO_COLOR``.
    """
    width = terminal_width() if width is None else width
    bold = _bold if (_is_colourful() if is_coloured is None else is_coloured) else _as_it_is
    blocks = [_filled(f"Usage: {page.usage}", width, subsequent=" " * 7)]
    paragraphs = [" ".join(each.split()) for each in page.description.split("\n\n")]
    blocks += [_filled(each, width) for each in paragraphs if each]

    if page.examples:
        heading = "Example" if len(page.examples) == 1 else "Examples"
        lines = [bold(f"{heading}:")]
        for example in page.examples:
            lines += _command_lines(example, width)
        blocks.append("\n".join(lines))

    # one column for all flags, and one for all commands, so that the eye runs down one edge
    names: dict[bool, list[str]] = {True: [], False: []}
    for section in page.sections:
        names[section.are_commands] += [entry.names for entry in section.entries]
    for section in page.sections:
        column = _column_of_meanings(names[section.are_commands], width)
        lines = [bold(line) for line in textwrap.wrap(f"{section.heading}:", width)]
        for entry in section.entries:
            lines += _entry_lines(entry, column, width, bold)
        blocks.append("\n".join(lines))

    blocks += [_filled(line, width) for line in page.last_lines]
    return "\n\n".join(blocks)


def terminal_width() -> int:
    """Return the columns to fill."""
    return min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)


def _column_of_meanings(names: Sequence[str], width: int) -> int:
    """Return where the second column begins: behind the names that are not uncommonly long."""
    limit = 30 if width >= 76 else width // 3
    fitting = [len(each) for each in names if len(each) + len(INDENT) + 2 <= limit]
    return max(fitting, default=8) + len(INDENT) + 2


def _entry_lines(entry: Entry, column: int, width: int, bold: Any) -> Iterator[str]:
    """Yield the lines of an entry; a long name has a line of its own."""
    # `[default: 0.8]` stays on one line
    text = BRACKET.sub(lambda match: match[0].replace(" ", NO_BREAK), entry.meaning)
    meaning = []
    for paragraph in text.split("\n"):
        wrapped = textwrap.wrap(
            paragraph, max(width - column, 20), break_long_words=False, break_on_hyphens=False
        )
        meaning += [line.replace(NO_BREAK, " ") for line in wrapped]
    head = f"{INDENT}{entry.names}"
    if len(head) + 2 > column:
        yield f"{INDENT}{bold(entry.names)}"
    elif meaning:
        gap = " " * (column - len(head))
        yield f"{INDENT}{bold(entry.names)}{gap}{meaning.pop(0)}"
    else:
        yield f"{INDENT}{bold(entry.names)}"
    for line in meaning:
        yield " " * column + line


def _command_lines(command: str, width: int) -> Iterator[str]:
    """Yield a command line, broken before flags with a backslash, as it can be pasted."""
    pieces = command.replace(" -", "\n-").split("\n")
    line = INDENT + pieces[0]
    for piece in pieces[1:]:
        if len(line) + len(piece) + 3 > width:
            yield f"{line} \\"
            line = INDENT * 3 + piece
        else:
            line += f" {piece}"
    yield line


def _filled(text: str, width: int, *, subsequent: str = "") -> str:
    return textwrap.fill(
        text,
        width,
        subsequent_indent=subsequent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _plain(text: str | None) -> str:
    """Return a help text without what docstrings are written with."""
    return (text or "").replace("``", "`").replace("\\[", "[").strip()


def _is_colourful() -> bool:
    is_dumb = os.environ.get("TERM") == "dumb"
    # None: stdout is closed
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return is_terminal and not os.environ.get("NO_COLOR") and not is_dumb


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m"


def _as_it_is(text: str) -> str:
    return text
