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
MIB, GIB = 2.0**20, 2.0**30
MESSAGE_LIMIT = 600
BELOW = (1, 0, 0, 0)
"""Padding of a section below another one."""
MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations", "output")


def check_page(check: Mapping[str, Any], *, width: int) -> Iterator[RenderableType]:
    """Yield the page of a check.

    It says what was looked at, the findings, lengths against the limit, and what a step takes.

    Args:
        check: what `prefpipe.stages.check.run.check` returned.
        width: columns of the terminal.
    """
    training = check["training"]
    yield Text(visible(f"{check['groups']} for {training['model']}"), style="bold")
    ids = "stored token ids" if check["stored_ids_fit"] else "tokens made again"
    yield Text(
        f"{check['n_groups']:,} groups, {check['n_responses']:,} responses, "
        f"{check['pairs']['n']:,} pairs, {ids}; {check['n_groups_left']:,} groups can be trained "
        f"on at --max-length {training['max_length']:,}"
    )

    for finding in check["findings"]:
        yield _finding(finding, max(width, 60))
    if not check["findings"]:
        yield Text("nothing was found to be wrong", style="green")

    if check["lengths"]["n"]:
        yield Padding(distribution_plot(Distribution(**check["lengths"])), BELOW, expand=False)
        yield Text(f"  {check['n_over_limit']:,} beyond the limit of {training['max_length']:,}")
    yield Padding(_figures(check), BELOW, expand=False)

    if check["step"] is not None:
        yield Padding(_step(check["step"]), BELOW, expand=False)
        yield Text(
            "memory is a rough count of weights, gradients, optimizer and activations: "
            "leave a third on top",
            style="dim",
        )


def _finding(finding: Mapping[str, Any], width: int) -> Text:
    severity = finding["severity"]
    text = Text()
    text.append(f"{severity:<{len(INDENT)}}", style=STYLES[severity])
    # the severity stands where the first line would be indented
    text.append(_indented(finding["message"], width).lstrip())
    if finding["hint"]:
        text.append("\n" + _indented(f"hint: {finding['hint']}", width), style="dim")
    return text


def _indented(message: str, width: int) -> str:
    line = visible_line(message, MESSAGE_LIMIT)
    return textwrap.fill(line, width, initial_indent=INDENT, subsequent_indent=INDENT)


def _figures(check: Mapping[str, Any]) -> Table:
    """Return rewards against lengths, pairs and ends in a few lines."""
    table = _table()
    correlation = check["reward_and_length"]
    within, over_all = _rho(correlation["within_prompts"]), _rho(correlation["over_all"])
    spearman = f"Spearman {within} within prompts, {over_all} over all"
    table.add_row("reward and length", spearman)

    pairs = check["pairs"]
    n_unequal = pairs["chosen_longer"] + pairs["chosen_shorter"]
    if n_unequal:
        share = f"in {pairs['chosen_longer'] / n_unequal:.0%}"
        table.add_row("chosen is longer", f"{share} of {n_unequal:,} pairs of different length")
    ties = f"{pairs['tied']:,} of {pairs['n']:,} pairs; {pairs['inverted']:,} inverted"
    table.add_row("ties", ties)

    reasons = []
    for name, count in sorted(check["finish_reasons"].items()):
        reasons.append(f"{count:,} {visible_line(name, 20)}")
    table.add_row("finish reasons", ", ".join(reasons) or "none")
    return table


def _step(step: Mapping[str, Any]) -> Table:
    """Return what a step and a pass take: tokens, memory, work and, on a known machine, time."""
    table = _table()
    table.add_row(
        "per step",
        f"{step['global_batch_size']:,} prompts, about {step['n_tokens_a_step']:,} tokens, "
        f"{step['n_tokens_at_once']:,} at once on a device; "
        f"steps per pass: {step['n_steps_a_pass']:,}",
    )

    memory = step["memory_bytes"]
    parts = ", ".join(f"{name} {_memory(memory[name])}" for name in MEMORY_PARTS)
    table.add_row("memory, about", f"{_memory(memory['total'])} ({parts})")

    work = f"{_flop(step['flop_a_step'])} per step, {_flop(step['flop_a_pass'])} per pass"
    if step["flop_reference"]:
        work += f", {_flop(step['flop_reference'])} for the reference, once"
    table.add_row("work", work)

    machine = step["machine"]
    if machine is not None:
        step_time, pass_time = _time(machine["step_s"]), _time(machine["pass_hours"] * 3600)
        table.add_row(
            "time, about",
            f"{step_time} per step, {pass_time} per pass on one {machine['name']} at "
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


def _memory(n_bytes: float) -> str:
    if n_bytes >= GIB / 10:
        return f"{n_bytes / GIB:.1f} GiB"
    return f"{n_bytes / MIB:.1f} MiB"


def _flop(value: float) -> str:
    unit, scale = flop_unit(value)
    return f"{figure(value / scale)} {unit}"


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
