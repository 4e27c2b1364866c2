"""The map of a prompt's candidates as a page for the terminal."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from prefpipe.pages.candidate_grid import Grid, lay_out, points_of
from prefpipe.pages.one_prompt import ROLE_STYLES, body, heading, listed, worth_knowing
from prefpipe.text.numbers import figure
from prefpipe.text.untrusted import visible_line

NARROW = 40
PILES_SHOWN = 8
OTHER_STYLE = "cyan"
INDENT = "      "


def candidate_map_page(found: Mapping[str, Any], *, width: int) -> Iterator[RenderableType]:
    """Yield the map of ``with_coordinates``, what it shows and hides, and what each chosen candidate is.

    Args:
        found: what ``with_coordinates`` returned.
        width: columns of the terminal.
    """
    width = max(width, NARROW)
    yield heading(found)
    yield body(found["messages"][-1]["content"], width, full=False)
    grid = lay_out(points_of(found["candidates"]), width - 2)
    yield Text()
    yield from _frame(grid)
    for line in (_variance(found["map"]), *_key(grid, found)):
        yield Text(textwrap.fill(line, width, subsequent_indent="  "), style="dim")
    chosen = [entry for entry in found["candidates"] if entry["role"] is not None]
    if chosen:
        yield Text()
    for entry in sorted(chosen, key=lambda entry: entry["role"] != "positive"):
        yield _chosen(entry, width)


def _frame(grid: Grid) -> Iterator[Text]:
    edge = f"+{'-' * grid.n_columns}+"
    yield Text(edge, style="dim")
    for row in grid.rows:
        text = Text("|", style="dim")
        for label in row:
            text.append(" " * (label.column - len(text) + 1))
            role = label.pile.points[0].role
            text.append(label.text, style=f"not dim {ROLE_STYLES.get(role or '', OTHER_STYLE)}")
        text.append(" " * (grid.n_columns - len(text) + 1) + "|")
        yield text
    yield Text(edge, style="dim")


def _variance(facts: Mapping[str, Any]) -> str:
    across, up = facts["shares"]
    if facts["n_points"] == 1:
        return "one candidate has an embedding: there is nothing to tell it apart from"
    if across == 0:
        return f"all {facts['n_points']} embeddings are the same: there is nothing to tell apart"
    return (
        f"2 of {facts['n_dimensions']:,} dimensions: they show {across + up:.0%} of the variance of the embeddings "
        f"({across:.0%} across, {up:.0%} upwards), the rest is not to be seen; one scale in both directions"
    )


def _key(grid: Grid, found: Mapping[str, Any]) -> Iterator[str]:
    entries = found["candidates"]
    n_others = sum(entry["role"] is None and entry["x"] is not None for entry in entries)
    has_chosen = any(entry["role"] is not None for entry in entries)
    words = "P positive   n negative   . not kept" if has_chosen else ". a candidate"
    yield f"{words} ({n_others:,})   each with its sample where there is room"
    piles = grid.piles()
    if piles:
        names = [[point.name for point in pile.points] for pile in piles]
        yield f"+2 means 2 more in that place; together are: {_pile_words(names)}"
    missing = [entry["sample_idx"] for entry in entries if entry["x"] is None]
    if missing:
        yield f"without an embedding, so not on the map: {listed(missing)}"


def _pile_words(piles: Sequence[Sequence[str]]) -> str:
    shown = ["(" + " ".join(names) + ")" for names in piles[:PILES_SHOWN]]
    more = f" and {len(piles) - PILES_SHOWN} more places" if len(piles) > PILES_SHOWN else ""
    return "  ".join(shown) + more


def _chosen(entry: Mapping[str, Any], width: int) -> Text:
    """Return a chosen candidate's letter and sample, its reward and what it stands for, and how its text begins."""
    letter = "P" if entry["role"] == "positive" else "n"
    reward = "no reward" if entry["reward"] is None else f"reward {figure(entry['reward'])}"
    told = textwrap.fill(
        "   ".join([entry["role"], reward, *worth_knowing(entry)]),
        width - len(INDENT),
        break_on_hyphens=False,
    ).replace("\n", f"\n{INDENT}")
    text = Text()
    text.append(
        f"{letter + str(entry['sample_idx']):<{len(INDENT)}}", style=ROLE_STYLES[entry["role"]]
    )
    text.append(told)
    if entry["x"] is None:
        text.append(f"\n{INDENT}not on the map: it has no embedding", style="yellow")
    if entry["response"]:
        text.append(
            f"\n{INDENT}{visible_line(entry['response'], width - len(INDENT))}", style="dim"
        )
    return text
