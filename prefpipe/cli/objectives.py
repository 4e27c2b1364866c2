"""``prefpipe objectives``: what ``--objective`` can be, with formula, knobs and paper."""

import inspect
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from prefpipe.maths.objectives.registry import Objective

WIDE = 120
"""Columns of a terminal from which a table can be read; below, each objective is a block of lines."""
INDENT = " " * 4


def objectives(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="one of them, with all that is known of it"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON to stdout")] = False,
) -> None:
    """List the objectives with score, comparison, knobs, formula and paper, or explain one.

    The last ones, with score reward_head, are those of train --target reward, where mmpo-reward is called mmpo.
    """
    from prefpipe.cli import pages
    from prefpipe.maths.objectives.registry import ALL_OBJECTIVES, find_objective

    if name is None:
        rows = [_facts(each) for each in ALL_OBJECTIVES.values()]
        if as_json:
            pages.pipe_json(rows)
        else:
            pages.show(_table(rows) if pages.width() >= WIDE else _blocks(rows, pages.width()))
        return
    objective = find_objective(name)
    facts = _facts(objective) | {"documentation": _documentation(objective)}
    if as_json:
        pages.pipe_json(facts)
    else:
        pages.show(_page(facts))


def _facts(objective: "Objective") -> dict[str, Any]:
    knobs = [
        {"name": knob.name, "default": knob.default, "range": knob.range, "meaning": knob.help}
        for knob in objective.knobs
    ]
    names = (
        "name",
        "trains",
        "score",
        "comparison",
        "target",
        "needs_reference",
        "reads_roles",
        "reads_rewards",
    )
    facts = {name: getattr(objective, name) for name in names}
    return facts | {
        "knobs": knobs,
        "formula": objective.formula,
        "source": objective.source,
        "summary": objective.summary,
    }


def _documentation(objective: "Objective") -> str:
    from prefpipe.maths.objectives.losses import LOSSES

    return inspect.getdoc(LOSSES[objective.name]) or ""


def _defaults(facts: dict[str, Any]) -> str:
    shown = {knob["name"]: knob["default"] for knob in facts["knobs"]}
    return ", ".join(
        f"{name} {str(value).lower() if isinstance(value, bool) else value}"
        for name, value in shown.items()
    )


def _reference(facts: dict[str, Any]) -> str:
    return "yes" if facts["needs_reference"] else "no"


def _table(rows: list[dict[str, Any]]) -> "Iterator[RenderableType]":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0), expand=True)
    for heading in ("objective", "score", "compares", "reference"):
        table.add_column(heading, no_wrap=True)
    for heading, ratio in (("knobs and defaults", 3), ("formula", 5), ("paper", 2)):
        table.add_column(heading, ratio=ratio)
    for facts in rows:
        cells = (
            facts["score"],
            facts["comparison"],
            _reference(facts),
            _defaults(facts),
            facts["formula"],
            facts["source"],
        )
        table.add_row(Text(facts["name"], style="bold"), *map(Text, cells))
    yield table


def _blocks(rows: list[dict[str, Any]], width: int) -> "Iterator[RenderableType]":
    from rich.text import Text

    for facts in rows:
        title = Text(
            textwrap.fill(f"{facts['name']}: {facts['summary']}", width, subsequent_indent=INDENT)
        )
        title.stylize("bold", 0, len(facts["name"]))
        yield title
        words = (
            f"score {facts['score']}, compares {facts['comparison']}, reference {_reference(facts)}"
        )
        for line in (words, _defaults(facts), facts["formula"], facts["source"]):
            if line:
                yield Text(
                    textwrap.fill(line, width, initial_indent=INDENT, subsequent_indent=INDENT)
                )


def _page(facts: dict[str, Any]) -> "Iterator[RenderableType]":
    from rich.text import Text

    yield Text.assemble((facts["name"], "bold"), f": {facts['summary']}\n")
    lines = {
        "trains": f"a {facts['trains']}",
        "score": facts["score"],
        "compares": facts["comparison"],
        "target": facts["target"],
        "reference": _reference(facts),
        "reads": " and ".join(word for word in ("roles", "rewards") if facts[f"reads_{word}"]),
        "formula": facts["formula"],
        "source": facts["source"],
    }
    for heading, value in lines.items():
        yield Text.assemble((f"{heading:<11}", "bold"), value)
    for knob in facts["knobs"]:
        default = (
            str(knob["default"]).lower() if isinstance(knob["default"], bool) else knob["default"]
        )
        yield Text.assemble(
            (f"{knob['name']:<11}", "bold"), f"{default}; {knob['range']}; {knob['meaning']}"
        )
    yield Text("\n" + facts["documentation"])
