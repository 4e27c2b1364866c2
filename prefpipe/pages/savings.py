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

SIDES = {"pool": "full pool", "kept": "kept groups", "saved": "saved"}
FLOP_UNITS = (
    ("ZFLOP", 1e21),
    ("EFLOP", 1e18),
    ("PFLOP", 1e15),
    ("TFLOP", 1e12),
    ("GFLOP", 1e9),
    ("MFLOP", 1e6),
)
BILLION, MILLION = 1e9, 1e6


def savings_page(found: Mapping[str, Any], *, width: int) -> Iterator[RenderableType]:
    """Yield the page of ``savings``: the figures, then what they rest on.

    Args:
        found: what ``savings`` returned.
        width: columns of the terminal.
    """
    source = found["source"]
    name = (
        visible_line(source["groups"], 200) if "groups" in source else _plan_words(source["plan"])
    )
    yield Text(name, style="bold")
    yield Padding(_figures(found), (1, 0, 1, 0), expand=False)
    for line in (_assumptions(found), _model(found["model"]), *found["notes"]):
        wrapped = textwrap.fill(visible_line(line, 600), max(40, width), subsequent_indent="  ")
        yield Text(wrapped, style="dim")


def _plan_words(plan: Mapping[str, Any]) -> str:
    return (
        f"{plan['n_prompts']:,} prompts x {plan['n']:,} candidates, {plan['positives']:,} positive and {plan['k']:,} "
        f"negative kept; {figure(plan['mean_prompt_tokens'])} + {figure(plan['mean_response_tokens'])} tokens"
    )


def _figures(found: Mapping[str, Any]) -> Table:
    """Return a row for each measure: of the full pool, of what is kept, and what that saves."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for title in SIDES.values():
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    unit, scale = flop_unit(found["pool"]["flop"])
    tokens = "tokens" if found["recipe"]["epochs"] == 1 else "tokens a pass"
    measures = [
        ("prompts", "n_prompts", _whole),
        ("responses", "n_responses", _whole),
        (tokens, "n_tokens", _whole),
        (unit, "flop", lambda flop: _amount(flop / scale)),
        ("GPU-hours", "gpu_hours", _amount),
    ]
    if found["pool"]["cost"] is not None:
        measures.append(("cost", "cost", _amount))
    for title, name, words in measures:
        pool, kept, saved = (found[side][name] for side in SIDES)
        table.add_row(
            Text(title, style="bold"),
            words(pool),
            words(kept),
            words(saved),
            f"{saved / pool:.1%}" if saved else "",
        )
    return table


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def flop_unit(flop: float) -> tuple[str, float]:
    """Return the unit in which a number of FLOP has one to three digits before the point, and its size."""
    return next(((name, scale) for name, scale in FLOP_UNITS if flop >= scale), FLOP_UNITS[-1])


def _amount(value: float) -> str:
    """Return a number with at least three digits that count, and no more than two behind the point from 1 on."""
    if value == 0 or abs(value) >= 1:
        return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.3g}"


def _assumptions(found: Mapping[str, Any]) -> str:
    """Return the one line that says which formula was taken and how fast the machine is thought to be."""
    recipe, machine = found["recipe"], found["machine"]
    weights = 2 if recipe["lora"] else 3
    words = [
        f"{weights} x forward"
        + (" (LoRA: no gradient of frozen weights)" if recipe["lora"] else "")
    ]
    if recipe["gradient_checkpointing"]:
        words.append("+ 1 x forward (gradient checkpointing)")
    if recipe["reference"]:
        words.append("+ 1 x forward in all (reference)")
    prompt = "once a group" if recipe["shared_prompt"] else "once a response"
    epochs = f"{recipe['epochs']:g} {'epoch' if recipe['epochs'] == 1 else 'epochs'}"
    price = "" if machine["price_per_hour"] is None else f", {machine['price_per_hour']:g} an hour"
    dense = f" dense {machine['dtype']}" if machine["dtype"] else ""
    return (
        f"assumed: {epochs} of {' '.join(words)}, prompts computed {prompt}; {machine['name']}, {machine['peak_tflops']:,g} "
        f"TFLOP/s{dense} x mfu {machine['mfu']:g}{price}"
    )


def _model(model: Mapping[str, Any]) -> str:
    name = visible_line(model["name"], 120)
    if not model["attention_width"] and not model["n_output_parameters"]:
        return (
            f"model: {name}, {_count(model['n_parameters'])} parameters, all of them multiplied with every token; no "
            "attention term: a size does not say how wide it is"
        )
    meets = model["n_active_parameters"]
    active = "" if meets == model["n_parameters"] else f", {_count(meets)} of them for one token"
    attention = ", attention by (prompt + response)^2" if model["attention_width"] else ""
    layers, output = _count(model["n_layer_parameters"]), _count(model["n_output_parameters"])
    return (
        f"model: {name}, {_count(model['n_parameters'])} parameters{active}; {layers} multiplied with every token, {output} "
        f"(output projection) with response tokens{attention}"
    )


def _count(n: float) -> str:
    for unit, scale in (("B", BILLION), ("M", MILLION), ("K", 1e3)):
        if n >= scale:
            return f"{n / scale:.4g}{unit}"
    return f"{n:.0f}"
