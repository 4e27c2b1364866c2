"""What ``prefpipe eval by-round`` computed, as a page for the terminal and as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prefpipe.text.numbers import interval
from prefpipe.text.untrusted import visible_line

DIFFERENCES = (("to_baseline", "minus the baseline"), ("to_previous", "minus the round before"))
NOTE_LIMIT = 400


def by_round_page(figures: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield a table a measure: a row a round, its mean and the two paired differences.

    Args:
        figures: what `prefpipe.stages.evaluate.by_round.figures_by_round` returned.
    """
    for measure in figures["measures"].values():
        yield Text(f"{measure['label']}, {measure['n_prompts']:,} prompts", style="bold")
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("round", "mean", *(title for _, title in DIFFERENCES)):
            table.add_column(name, no_wrap=True)
        for entry in measure["rounds"]:
            table.add_row(_round(entry), *_cells(entry, measure["form"]))
        yield table
        yield Text("")
    for line in _lines(figures):
        yield Text(visible_line(line, NOTE_LIMIT), style="dim")


def by_round_markdown(figures: Mapping[str, Any]) -> str:
    """Return three tables, a row a round and a column a measure: means and both differences.

    Args:
        figures: as in `by_round_page`, with ``not_done``.
    """
    measures = list(figures["measures"].values())
    blocks = []
    for place, title in enumerate(("mean", *(title for _, title in DIFFERENCES))):
        rows: dict[int, list[str]] = {}
        for column, measure in enumerate(measures):
            for entry in measure["rounds"]:
                row = rows.setdefault(entry["round"], [""] * len(measures))
                row[column] = _cells(entry, measure["form"])[place]
        shown = {number: row for number, row in sorted(rows.items()) if any(row)}
        if shown:
            head = [title, *(measure["label"] for measure in measures)]
            body = [[_round({"round": number}), *row] for number, row in shown.items()]
            blocks.append(_markdown_table(head, body))
    lines = [*_lines(figures), *_marks(figures)]
    return "\n\n".join([*blocks, *(visible_line(line, NOTE_LIMIT) for line in lines)])


def _cells(entry: Mapping[str, Any], form: str) -> list[str]:
    """Return the mean of a round and its differences, "" where there is none."""
    cells = [interval(entry, form)]
    for key, _ in DIFFERENCES:
        cells.append(interval(entry[key], form, signed=True) if key in entry else "")
    return cells


def _round(entry: Mapping[str, Any]) -> str:
    return str(entry["round"]) if entry["round"] else "baseline"


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the figures are of, and what a reader should know."""
    runs, level = figures["runs"], figures["confidence"]
    over = "prompts" if len(runs) == 1 else f"{len(runs)} seeds and prompts"
    prompts = sorted({measure["n_prompts"] for measure in figures["measures"].values()})
    counted = " or ".join(f"{n:,}" for n in prompts)
    yield (
        f"{counted} held-out prompts, the same in every round; "
        f"reward {figures['reward_expression']}; {level:.0%} bootstrap intervals over {over}, "
        f"{figures['bootstrap_draws']:,} resamples, seed {figures['bootstrap_seed']}; "
        "differences are paired"
    )
    yield from (f"note: {note}" for note in figures["notes"])


def _marks(figures: Mapping[str, Any]) -> Iterator[str]:
    for item in figures["not_done"]:
        yield f"NOT DONE: from {item['path']}, which is {item['state']}"
