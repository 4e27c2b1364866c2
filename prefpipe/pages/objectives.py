"""The page of ``prefpipe objectives``: a table or blocks of all objectives, or all of one."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

WIDE = 120
"""Columns of a terminal from which a table can be read; below, an objective is a block of lines."""
INDENT = " " * 4


def list_page(rows: Sequence[Mapping[str, Any]], *, width: int) -> Iterator[RenderableType]:
    """Yield what is printed of all objectives."""
    if width >= WIDE:
        yield _table(rows)
        yield from _options_of_all(rows, width)
        return
    for facts in rows:
        yield from _block(facts, width)
    yield from _options_of_all(rows, width)


def one_page(facts: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield what is printed of one objective: facts, knobs and the docstring of its loss."""
    yield Text.assemble((facts["name"], "bold"), f": {facts['summary']}\n")

    reads = [what for what in ("roles", "rewards") if facts[f"reads_{what}"]]
    lines = {
        "trains": f"a {facts['trains']}",
        "score": facts["score"],
        "compares": facts["comparison"],
        "target": facts["target"],
        "reference": _needs_reference(facts),
        "reads": " and ".join(reads),
        "formula": facts["formula"],
        "source": facts["source"],
    }
    for heading, value in lines.items():
        yield Text.assemble((f"{heading:<11}", "bold"), value)

    for knob in facts["knobs"]:
        meaning = f"{_shown(knob['default'])}; {knob['range']}; {knob['meaning']}"
        yield Text.assemble((f"{knob['name']:<10} ", "bold"), meaning)
    for option in facts["goes_with"]:
        yield Text.assemble(("goes with  ", "bold"), _goes_with(option))
    yield Text("\n" + facts["documentation"])


def _options_of_all(rows: Sequence[Mapping[str, Any]], width: int) -> Iterator[Text]:
    """Yield what goes with all the objectives that train the same thing, each flag once."""
    options: dict[str, Mapping[str, Any]] = {}
    for facts in rows:
        for option in facts["goes_with"]:
            options.setdefault(option["flag"], option)

    for option in options.values():
        trains = " and ".join(f"a {what}" for what in option["trains"])
        title = f"With every objective of {trains}: {_goes_with(option)}"
        yield Text(textwrap.fill(title, width, subsequent_indent=INDENT))


def _goes_with(option: Mapping[str, Any]) -> str:
    return f"{option['flag']}; {option['formula']}; {option['meaning']}; {option['source']}"


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0), expand=True)
    for heading in ("objective", "score", "compares", "reference"):
        table.add_column(heading, no_wrap=True)
    for heading, ratio in (("knobs and defaults", 3), ("formula", 5), ("paper", 2)):
        table.add_column(heading, ratio=ratio)

    for facts in rows:
        cells = (
            facts["score"],
            facts["comparison"],
            _needs_reference(facts),
            _defaults(facts),
            facts["formula"],
            facts["source"],
        )
        table.add_row(Text(facts["name"], style="bold"), *map(Text, cells))
    return table


def _block(facts: Mapping[str, Any], width: int) -> Iterator[Text]:
    summary = f"{facts['name']}: {facts['summary']}"
    # wrapped before it is styled: a style is of characters by their number
    title = Text(textwrap.fill(summary, width, subsequent_indent=INDENT))
    title.stylize("bold", 0, len(facts["name"]))
    yield title

    kind = (
        f"score {facts['score']}, compares {facts['comparison']}, "
        f"reference {_needs_reference(facts)}"
    )
    for line in (kind, _defaults(facts), facts["formula"], facts["source"]):
        if line:
            wrapped = textwrap.fill(line, width, initial_indent=INDENT, subsequent_indent=INDENT)
            yield Text(wrapped)


def _defaults(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{knob['name']} {_shown(knob['default'])}" for knob in facts["knobs"])


def _needs_reference(facts: Mapping[str, Any]) -> str:
    return "yes" if facts["needs_reference"] else "no"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
