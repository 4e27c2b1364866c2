"""The savings of a selection as a page for the terminal."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prefpipe.text.numbers import figure
from prefpipe.text.untrusted import visible_line

COLUMNS = {"pool": "full pool", "kept": "kept groups", "saved": "saved"}
FLOP_UNITS = (
    ("ZFLOP", 1e21),
    ("EFLOP", 1e18),
    ("PFLOP", 1e15),
    ("TFLOP", 1e12),
    ("GFLOP", 1e9),
    ("MFLOP", 1e6),
)
COUNT_UNITS = (("B", 1e9), ("M", 1e6), ("K", 1e3))


def savings_page(savings: Mapping[str, Any], *, width: int) -> Iterator[RenderableType]:
    """Yield the page of savings: the figures, then what they rest on.

    Args:
        savings: what `prefpipe.stages.savings.savings` returned.
        width: columns of the terminal.
    """
    yield Text(_title(savings["source"]), style="bold")
    yield Padding(_figures(savings), (1, 0, 1, 0), expand=False)
    for line in (_assumptions(savings), _model(savings["model"]), *savings["notes"]):
        shown = visible_line(line, 600)
        wrapped = textwrap.fill(shown, max(40, width), subsequent_indent="  ")
        yield Text(wrapped, style="dim")


def flop_unit(flop: float) -> tuple[str, float]:
    """Return the unit in which FLOP have one to three digits before the point, and its size."""
    for name, scale in FLOP_UNITS:
        if flop >= scale:
            return name, scale
    return FLOP_UNITS[-1]


def _title(source: Mapping[str, Any]) -> str:
    if "groups" in source:
        return visible_line(source["groups"], 200)
    plan = source["plan"]
    prompt, response = figure(plan["mean_prompt_tokens"]), figure(plan["mean_response_tokens"])
    return (
        f"{plan['n_prompts']:,} prompts x {plan['n']:,} candidates, "
        f"{plan['positives']:,} positive and {plan['k']:,} negative kept; "
        f"{prompt} + {response} tokens"
    )


def _figures(savings: Mapping[str, Any]) -> Table:
    """Return a row for each measure: of the full pool, of what is kept, and what that saves."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for title in (*COLUMNS.values(), ""):
        table.add_column(title, justify="right", no_wrap=True)

    # one unit for all columns, that of the largest
    unit, scale = flop_unit(savings["pool"]["flop"])
    tokens = "tokens" if savings["recipe"]["epochs"] == 1 else "tokens per pass"
    measures = [
        ("prompts", "n_prompts", _whole),
        ("responses", "n_responses", _whole),
        (tokens, "n_tokens", _whole),
        (unit, "flop", lambda flop: _amount(flop / scale)),
        ("GPU-hours", "gpu_hours", _amount),
    ]
    if savings["pool"]["cost"] is not None:
        measures.append(("cost", "cost", _amount))

    for title, name, shown in measures:
        pool, kept, saved = (savings[column][name] for column in COLUMNS)
        share = f"{saved / pool:.1%}" if saved else ""
        table.add_row(Text(title, style="bold"), shown(pool), shown(kept), shown(saved), share)
    return table


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _amount(value: float) -> str:
    """Return a number with three digits that count; from 1 on at most two behind the point."""
    if 0 < abs(value) < 1:
        return f"{value:.3g}"
    if abs(value) < 1000:
        return f"{value:,.2f}"
    return f"{value:,.0f}"


def _assumptions(savings: Mapping[str, Any]) -> str:
    """Return which formula was taken and how fast the machine is thought to be."""
    recipe, machine = savings["recipe"], savings["machine"]
    passes = "3 x forward"
    if recipe["lora"]:
        passes = "2 x forward (LoRA: no gradient of frozen weights)"
    if recipe["gradient_checkpointing"]:
        passes += " + 1 x forward (gradient checkpointing)"
    if recipe["reference"]:
        passes += " + 1 x forward in all (reference)"

    epochs = f"{recipe['epochs']:g} {'epoch' if recipe['epochs'] == 1 else 'epochs'}"
    prompts = "once per group" if recipe["shared_prompt"] else "once per response"
    dtype = f" dense {machine['dtype']}" if machine["dtype"] else ""
    price = ""
    if machine["price_per_hour"] is not None:
        price = f", {machine['price_per_hour']:g} per hour"
    return (
        f"assumed: {epochs} of {passes}, prompts computed {prompts}; "
        f"{machine['name']}, {machine['peak_tflops']:,g} TFLOP/s{dtype} "
        f"x mfu {machine['mfu']:g}{price}"
    )


def _model(model: Mapping[str, Any]) -> str:
    """Return the line about the model: its parameters, and what each is multiplied with."""
    name = visible_line(model["name"], 120)
    n_parameters, n_active = model["n_parameters"], model["n_active_parameters"]
    size = f"model: {name}, {_count(n_parameters)} parameters"
    if not model["attention_width"] and not model["n_output_parameters"]:
        return (
            f"{size}, all of them multiplied with every token; no attention term: a size does not "
            "say how wide it is"
        )

    if n_active != n_parameters:
        size += f", {_count(n_active)} of them for one token"
    layers, output = _count(model["n_layer_parameters"]), _count(model["n_output_parameters"])
    attention = ", attention by (prompt + response)^2" if model["attention_width"] else ""
    return (
        f"{size}; {layers} multiplied with every token, {output} (output projection) with response "
        f"tokens{attention}"
    )


def _count(n: float) -> str:
    for unit, scale in COUNT_UNITS:
        if n >= scale:
            return f"{n / scale:.4g}{unit}"
    return f"{n:.0f}"
