"""What ``prefpipe eval win-rate`` found as a page for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prefpipe.text.numbers import interval, number
from prefpipe.text.untrusted import visible_line

PERCENT = "{:.2%}"


def win_rates_page(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield a block for every file and for every difference.

    Args:
        found: what ``prefpipe.stages.evaluate.win_rates.win_rates`` returned.
    """
    for result in found["results"]:
        yield from _result(result, found["confidence"])
        yield Text("")
    for difference in found["differences"]:
        yield from _difference(difference, found["confidence"])
        yield Text("")
    yield Text(
        f"intervals: {found['confidence']:.0%} bootstrap over prompts, seed {found['bootstrap_seed']}, "
        f"{found['bootstrap_draws']:,} resamples of means, {found['bootstrap_draws_of_fits']:,} of fits; se: standard error over "
        "prompts",
        style="dim",
    )


def _result(result: Mapping[str, Any], confidence: float) -> Iterator[RenderableType]:
    recipe, raw, controlled = result["recipe"], result["win_rate"], result["length_controlled"]
    against = f" against {recipe['baseline']}" if recipe["baseline"] else ""
    n_prompts = f"{raw['n']:,} prompts" + (
        f", {result['n_rows']:,} rows" if result["n_rows"] != raw["n"] else ""
    )
    yield Text(visible_line(f"{result['name']}{against}, {n_prompts}", 200), style="bold")
    table = _table(confidence)
    table.add_row("win rate, ties half", interval(raw, PERCENT), number(raw["se"], PERCENT), "")
    score = result["arena_hard_score"]
    if score is not None:
        table.add_row(
            "Arena-Hard's score",
            interval(score, PERCENT),
            number(score["se"], PERCENT),
            "clear verdicts count three times",
        )
    if controlled is not None:
        chosen = f"C = {controlled['penalty_c']:g} ({controlled['penalty_from']})"
        table.add_row(
            controlled["name"],
            interval(controlled, PERCENT),
            number(controlled["se"], PERCENT),
            chosen,
        )
    judged = result["length_controlled_judged_rows"]
    if judged is not None:
        name = judged["name"].replace("win rate", "win rate of judged rows", 1)
        table.add_row(
            name,
            interval(judged, PERCENT),
            number(judged["se"], PERCENT),
            "std and mean without the missing",
        )
    counts = f"{raw['n_wins']:,} won, {raw['n_draws']:,} drawn, {raw['n_losses']:,} lost"
    table.add_row("share of rows won, draws half", number(raw["discrete"], PERCENT), "", counts)
    ours, theirs = result["mean_length_chars"], result["mean_baseline_length_chars"]
    if ours is not None and theirs is not None:
        sides = (
            f"longer in {controlled['share_longer']:.1%}, shorter in {controlled['share_shorter']:.1%}"
            if controlled
            else ""
        )
        table.add_row("characters a response", f"{ours:.0f}, baseline {theirs:.0f}", "", sides)
    yield table
    judges = ", ".join(recipe["judges"]) or "the file does not say"
    yield Text(
        visible_line(
            f"judge: {judges}; prompts {recipe['prompts_sha256'][:12]}; file {recipe['file']}", 200
        ),
        style="dim",
    )
    for note in result["notes"]:
        yield Text(visible_line(f"note: {note}", 400), style="yellow")


def _difference(difference: Mapping[str, Any], confidence: float) -> Iterator[RenderableType]:
    title = f"{difference['name']} minus {difference['from']}, paired on {difference['n_prompts']:,} prompts"
    yield Text(visible_line(title, 200), style="bold")
    table = _table(confidence)
    for name, label in (
        ("win_rate", "win rate"),
        ("length_controlled", "length-controlled win rate"),
    ):
        values = difference[name]
        if values is not None:
            table.add_row(
                label, interval(values, PERCENT, signed=True), number(values["se"], PERCENT), ""
            )
    yield table
    if "reason" in difference:
        yield Text(
            visible_line(f"note: no difference: {difference['reason']}", 400), style="yellow"
        )
    for line in difference["recipe_differences"]:
        yield Text(
            visible_line(
                f"note: compared with --force although not of the same recipe: {line}", 400
            ),
            style="yellow",
        )


def _table(confidence: float) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column(f"figure and {confidence:.0%} interval")
    table.add_column("se")
    table.add_column("")
    return table
