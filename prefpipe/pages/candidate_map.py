"""The map of a prompt's candidates as a page for the terminal."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from prefpipe.pages.candidate_grid import LETTERS, Grid, Pile, lay_out, points_of
from prefpipe.pages.one_prompt import ROLE_STYLES, body, heading, listed, selection_details
from prefpipe.text.numbers import figure
from prefpipe.text.untrusted import visible_line

NARROW = 40
PILES_SHOWN = 8
OTHER_STYLE = "cyan"
INDENT = "      "


def candidate_map_page(prompt: Mapping[str, Any], *, width: int) -> Iterator[RenderableType]:
    """Yield the map, what it shows and hides, and what each chosen candidate is.

    Args:
        prompt: what `prefpipe.stages.inspect.candidate_map.with_coordinates` returned.
        width: columns of the terminal.
    """
    width = max(width, NARROW)
    yield heading(prompt)
    yield body(prompt["messages"][-1]["content"], width, full=False)

    grid = lay_out(points_of(prompt["candidates"]), width - 2)
    yield Text()
    yield from _frame(grid)
    for line in (_variance(prompt["map"]), *_key(grid, prompt["candidates"])):
        yield Text(textwrap.fill(line, width, subsequent_indent="  "), style="dim")

    chosen = [entry for entry in prompt["candidates"] if entry["role"] is not None]
    if chosen:
        yield Text()
    for entry in sorted(chosen, key=lambda entry: entry["role"] != "positive"):
        yield _chosen(entry, width)


def _frame(grid: Grid) -> Iterator[Text]:
    edge = Text(f"+{'-' * grid.n_columns}+", style="dim")
    yield edge
    for row in grid.rows:
        text = Text("|", style="dim")
        for label in row:
            role = label.pile.points[0].role
            style = OTHER_STYLE if role is None else ROLE_STYLES[role]
            # + 1 for the frame's own edge, which is in the text already
            text.append(" " * (label.column - len(text) + 1))
            # the frame's style holds for the whole line
            text.append(label.text, style=f"not dim {style}")
        text.append(" " * (grid.n_columns - len(text) + 1) + "|")
        yield text
    yield edge


def _variance(axes: Mapping[str, Any]) -> str:
    """Say how much of the embeddings the two axes show."""
    across, up = axes["shares"]
    if axes["n_points"] == 1:
        return "one candidate has an embedding: there is nothing to tell it apart from"
    if across == 0:
        return f"all {axes['n_points']} embeddings are the same: there is nothing to tell apart"
    return (
        f"2 of {axes['n_dimensions']:,} dimensions: they show {across + up:.0%} of the variance of "
        f"the embeddings ({across:.0%} across, {up:.0%} upwards), the rest is not to be seen; "
        "one scale in both directions"
    )


def _key(grid: Grid, entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what the signs on the grid mean, and who is not to be seen on it."""
    n_others = sum(entry["role"] is None and entry["x"] is not None for entry in entries)
    has_chosen = any(entry["role"] is not None for entry in entries)
    letters = "P positive   n negative   . not kept" if has_chosen else ". a candidate"
    yield f"{letters} ({n_others:,})   each with its sample where there is room"

    piles = grid.piles()
    if piles:
        yield f"+2 means 2 more in that place; together are: {_listed_piles(piles)}"
    missing = [entry["sample_idx"] for entry in entries if entry["x"] is None]
    if missing:
        yield f"without an embedding, so not on the map: {listed(missing)}"


def _listed_piles(piles: Sequence[Pile]) -> str:
    shown = []
    for pile in piles[:PILES_SHOWN]:
        names = " ".join(point.name for point in pile.points)
        shown.append(f"({names})")

    n_more = len(piles) - PILES_SHOWN
    more = f" and {n_more} more places" if n_more > 0 else ""
    return "  ".join(shown) + more


def _chosen(entry: Mapping[str, Any], width: int) -> Text:
    """Return a chosen candidate: its reward, what it stands for, and how its text begins."""
    role, room = entry["role"], width - len(INDENT)
    name = f"{LETTERS[role]}{entry['sample_idx']}"
    reward = "no reward" if entry["reward"] is None else f"reward {figure(entry['reward'])}"
    details = "   ".join([role, reward, *selection_details(entry)])
    lines = textwrap.wrap(details, room, break_on_hyphens=False)

    text = Text()
    # a sample of an earlier round has a number of six digits
    text.append(f"{name:<{max(len(INDENT), len(name) + 1)}}", style=ROLE_STYLES[role])
    text.append(f"\n{INDENT}".join(lines))
    if entry["x"] is None:
        text.append(f"\n{INDENT}not on the map: it has no embedding", style="yellow")
    if entry["response"]:
        text.append(f"\n{INDENT}{visible_line(entry['response'], room)}", style="dim")
    return text
