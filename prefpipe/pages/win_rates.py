"""What ``prefpipe eval win-rate`` computed as a page for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prefpipe.text.numbers import interval, number
from prefpipe.text.untrusted import visible_line

PERCENT = "{:.2%}"
TITLE_LIMIT, NOTE_LIMIT = 200, 400


def win_rates_page(win_rates: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield a block for every file and for every difference.

    Args:
        win_rates: what `prefpipe.stages.evaluate.win_rates.win_rates` returned.
    """
    confidence = win_rates["confidence"]
    for result in win_rates["results"]:
        yield from _result(result, confidence)
        yield Text("")
    for difference in win_rates["differences"]:
        yield from _difference(difference, confidence)
        yield Text("")
    yield Text(
        f"intervals: {confidence:.0%} bootstrap over prompts, "
        f"seed {win_rates['bootstrap_seed']}, {win_rates['bootstrap_draws']:,} resamples of means, "
        f"{win_rates['bootstrap_draws_of_fits']:,} of fits; se: standard error over prompts",
        style="dim",
    )


def _result(result: Mapping[str, Any], confidence: float) -> Iterator[RenderableType]:
    """Yield the figures of one file, what they are of, and what a reader should know."""
    recipe, raw = result["recipe"], result["win_rate"]
    against = f" against {recipe['baseline']}" if recipe["baseline"] else ""
    title = f"{result['name']}{against}, {raw['n']:,} prompts"
    if result["n_rows"] != raw["n"]:
        title += f", {result['n_rows']:,} rows"
    yield Text(visible_line(title, TITLE_LIMIT), style="bold")

    yield _figures(result, confidence)

    judges = ", ".join(recipe["judges"]) or "the file does not say"
    prompts = recipe["prompts_sha256"][:12]
    source = f"judge: {judges}; prompts {prompts}; file {recipe['file']}"
    yield Text(visible_line(source, TITLE_LIMIT), style="dim")
    for note in result["notes"]:
        yield _note(note)


def _figures(result: Mapping[str, Any], confidence: float) -> Table:
    table = _table(confidence)

    def add(name: str, values: Mapping[str, Any], remark: str) -> None:
        table.add_row(name, interval(values, PERCENT), number(values["se"], PERCENT), remark)

    raw, controlled = result["win_rate"], result["length_controlled"]
    add("win rate, ties half", raw, "")
    score = result["arena_hard_score"]
    if score is not None:
        add("Arena-Hard's score", score, "clear verdicts count three times")
    if controlled is not None:
        penalty = f"C = {controlled['penalty_c']:g} ({controlled['penalty_from']})"
        add(controlled["name"], controlled, penalty)
    # with verdicts missing there are two estimands: AlpacaEval's above, which predicts them
    judged = result["length_controlled_judged_rows"]
    if judged is not None:
        name = judged["name"].replace("win rate", "win rate of judged rows", 1)
        add(name, judged, "std and mean without the missing")

    counts = f"{raw['n_wins']:,} won, {raw['n_draws']:,} drawn, {raw['n_losses']:,} lost"
    table.add_row("share of rows won, draws half", number(raw["discrete"], PERCENT), "", counts)

    length, baseline_length = result["mean_length_chars"], result["mean_baseline_length_chars"]
    if length is not None and baseline_length is not None:
        shares = ""
        if controlled is not None:
            longer, shorter = controlled["share_longer"], controlled["share_shorter"]
            shares = f"longer in {longer:.1%}, shorter in {shorter:.1%}"
        lengths = f"{length:.0f}, baseline {baseline_length:.0f}"
        table.add_row("characters per response", lengths, "", shares)
    return table


def _difference(difference: Mapping[str, Any], confidence: float) -> Iterator[RenderableType]:
    """Yield by how much one file's figures are higher than another's, paired by prompt."""
    names = f"{difference['name']} minus {difference['from']}"
    title = f"{names}, paired on {difference['n_prompts']:,} prompts"
    yield Text(visible_line(title, TITLE_LIMIT), style="bold")

    table = _table(confidence)
    for name in ("win_rate", "length_controlled"):
        values = difference[name]
        if values is not None:
            label = "win rate" if name == "win_rate" else "length-controlled win rate"
            shown = interval(values, PERCENT, signed=True)
            table.add_row(label, shown, number(values["se"], PERCENT), "")
    yield table

    if "reason" in difference:
        yield _note(f"no difference: {difference['reason']}")
    for line in difference["recipe_differences"]:
        yield _note(f"compared with --force although not of the same recipe: {line}")


def _note(note: str) -> Text:
    return Text(visible_line(f"note: {note}", NOTE_LIMIT), style="yellow")


def _table(confidence: float) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", f"figure and {confidence:.0%} interval", "se", ""):
        table.add_column(title)
    return table
