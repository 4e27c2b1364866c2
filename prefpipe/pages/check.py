"""What ``prefpipe check`` found as a page for the terminal, readable without colour."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prefpipe.maths.statistics.distribution import Distribution
from prefpipe.pages.distribution import distribution_plot
from prefpipe.pages.savings import flop_unit
from prefpipe.text.numbers import figure
from prefpipe.text.untrusted import visible, visible_line

STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
INDENT = " " * 9
GIB = 2.0**30
MESSAGE_LIMIT = 600


def check_page(found: Mapping[str, Any], *, width: int) -> Iterator[RenderableType]:
    """Yield the page of a check: what was looked at, the findings, lengths against the limit, and the step.

    Args:
        found: what ``prefpipe.stages.check.run.check`` returned.
        width: columns of the terminal.
    """
    training = found["training"]
    yield Text(visible(f"{found['groups']} for {training['model']}"), style="bold")
    ids = "stored token ids" if found["stored_ids_fit"] else "tokens made again"
    yield Text(
        f"{found['n_groups']:,} groups, {found['n_responses']:,} responses, {found['pairs']['n']:,} pairs, {ids}; "
        f"{found['n_groups_left']:,} groups can be trained on at --max-length {training['max_length']:,}"
    )
    for finding in found["findings"]:
        yield _finding(finding, max(width, 60))
    if not found["findings"]:
        yield Text("nothing was found to be wrong", style="green")
    if found["lengths"]["n"]:
        yield Padding(
            distribution_plot(Distribution(**found["lengths"])), (1, 0, 0, 0), expand=False
        )
        yield Text(f"  {found['n_over_limit']:,} beyond the limit of {training['max_length']:,}")
    yield Padding(_figures(found), (1, 0, 0, 0), expand=False)
    if found["step"] is not None:
        yield Padding(_step(found["step"]), (1, 0, 0, 0), expand=False)
        yield Text(
            "memory is a rough count of weights, gradients, optimizer and activations: leave a third on top",
            style="dim",
        )


def _finding(finding: Mapping[str, Any], width: int) -> Text:
    text = Text()
    text.append(f"{finding['severity']:<9}", style=STYLES[finding["severity"]])
    message = visible_line(finding["message"], MESSAGE_LIMIT)
    text.append(
        textwrap.fill(message, width, initial_indent=INDENT, subsequent_indent=INDENT).lstrip()
    )
    if finding["hint"]:
        hint = visible_line(f"hint: {finding['hint']}", MESSAGE_LIMIT)
        text.append(
            "\n" + textwrap.fill(hint, width, initial_indent=INDENT, subsequent_indent=INDENT),
            style="dim",
        )
    return text


def _figures(found: Mapping[str, Any]) -> Table:
    """Return rewards against lengths, pairs and ends in a few lines."""
    pairs, rho = found["pairs"], found["reward_and_length"]
    n_apart = pairs["chosen_longer"] + pairs["chosen_shorter"]
    table = _table()
    table.add_row(
        "reward and length",
        f"Spearman {_rho(rho['within_prompts'])} within prompts, {_rho(rho['over_all'])} over all",
    )
    if n_apart:
        table.add_row(
            "chosen is longer",
            f"in {pairs['chosen_longer'] / n_apart:.0%} of {n_apart:,} pairs of different length",
        )
    table.add_row(
        "ties", f"{pairs['tied']:,} of {pairs['n']:,} pairs; {pairs['inverted']:,} inverted"
    )
    ends = ", ".join(
        f"{count:,} {visible_line(name, 20)}"
        for name, count in sorted(found["finish_reasons"].items())
    )
    table.add_row("finish reasons", ends or "none")
    return table


def _step(step: Mapping[str, Any]) -> Table:
    table = _table()
    memory, machine = step["memory_bytes"], step["machine"]
    parts = ", ".join(
        f"{name} {_gib(memory[name])}"
        for name in ("weights", "gradients", "optimizer", "activations", "output")
    )
    table.add_row(
        "a step",
        f"{step['global_batch_size']:,} prompts, about {step['n_tokens_a_step']:,} tokens, "
        f"{step['n_tokens_at_once']:,} at once on a device; steps a pass: {step['n_steps_a_pass']:,}",
    )
    table.add_row("memory, about", f"{_gib(memory['total'])} ({parts})")
    table.add_row(
        "work",
        f"{_flop(step['flop_a_step'])} a step, {_flop(step['flop_a_pass'])} a pass"
        + (
            f", {_flop(step['flop_reference'])} for the reference, once"
            if step["flop_reference"]
            else ""
        ),
    )
    if machine is not None:
        table.add_row(
            "time, about",
            f"{_time(machine['step_s'])} a step, {_time(machine['pass_hours'] * 3600)} a pass on "
            f"one {machine['name']} at "
            f"{machine['mfu']:.0%} of {machine['tflops']:,g} TFLOP/s",
        )
    for note in step["notes"]:
        table.add_row("", visible_line(note, 200))
    return table


def _table() -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    return table


def _rho(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / GIB:.1f} GiB" if n_bytes >= GIB / 10 else f"{n_bytes / 2**20:.1f} MiB"


def _flop(value: float) -> str:
    unit, scale = flop_unit(value)
    return f"{figure(value / scale)} {unit}"


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
