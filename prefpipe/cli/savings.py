"""``prefpipe savings``: what it saves to train on the kept groups instead of on every usable candidate."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from prefpipe.cli.commands import command_from
from prefpipe.cli.standings import STRICT_HELP, not_done
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.maths.compute.accelerators import ACCELERATORS

MODEL_PANEL = "What is trained, and how"
MACHINE_PANEL = "On what"
PLAN_PANEL = "Before any run, instead of GROUPS"
HINT = "run `prefpipe savings --help`"
REQUIRED_OF_A_PLAN = ("prompts", "n", "mean_prompt_tokens", "mean_response_tokens")
MODEL_HELP = "the model to be trained: a folder, org/name\\[@revision] in the local cache, bundled:NAME, or its size, 8B or 135M"
PLAN = (*REQUIRED_OF_A_PLAN, "k", "positives")


def _flag(text: str, metavar: str | None, panel: str, *names: str) -> Any:
    return typer.Option(
        *names, help=text, metavar=metavar, rich_help_panel=panel, show_default=False
    )


@dataclass(frozen=True, kw_only=True)
class SavingsFlags:
    """What can be given to ``prefpipe savings``."""

    groups: Annotated[
        Path | None,
        typer.Argument(
            metavar="GROUPS",
            show_default=False,
            help="folder written by select; without it see below",
        ),
    ] = None
    model: Annotated[str, _flag(MODEL_HELP, "MODEL", MODEL_PANEL)]
    epochs: Annotated[float, _flag("passes over the groups \\[default: 1]", "X", MODEL_PANEL)] = 1.0
    lora: Annotated[
        bool, _flag("train adapters: frozen weights need no gradient", None, MODEL_PANEL, "--lora")
    ] = False
    gradient_checkpointing: Annotated[
        bool, _flag("activations are computed twice", None, MODEL_PANEL, "--gradient-checkpointing")
    ] = False
    reference: Annotated[
        bool,
        _flag(
            "the objective has a reference policy: one forward pass more in all",
            None,
            MODEL_PANEL,
            "--reference",
        ),
    ] = False
    shared_prompt: Annotated[
        bool,
        _flag(
            "count a prompt once a group, as `prefpipe train` computes it where the model allows; else once a response "
            "\\[default: once a group]",
            None,
            MODEL_PANEL,
            "--shared-prompt/--no-shared-prompt",
        ),
    ] = TrainConfig.shared_prompt
    gpu: Annotated[
        str | None, _flag(f"the GPU: {', '.join(ACCELERATORS)}", "NAME", MACHINE_PANEL)
    ] = None
    tflops: Annotated[
        float | None, _flag("peak dense TFLOP/s of another GPU", "X", MACHINE_PANEL)
    ] = None
    mfu: Annotated[
        float, _flag("share of the peak that training reaches \\[default: 0.4]", "X", MACHINE_PANEL)
    ] = 0.4
    price_per_hour: Annotated[
        float | None, _flag("price of a GPU-hour, any currency: adds the cost", "X", MACHINE_PANEL)
    ] = None
    prompts: Annotated[int | None, _flag("prompts", "N", PLAN_PANEL)] = None
    n: Annotated[int | None, _flag("candidates a prompt", "N", PLAN_PANEL, "--n")] = None
    k: Annotated[
        int | None, _flag(f"negatives kept \\[default: {SelectConfig.k}]", "N", PLAN_PANEL, "--k")
    ] = None
    positives: Annotated[
        int | None, _flag(f"positives kept \\[default: {SelectConfig.positives}]", "N", PLAN_PANEL)
    ] = None
    mean_prompt_tokens: Annotated[
        float | None, _flag("mean length of a prompt, in tokens", "X", PLAN_PANEL)
    ] = None
    mean_response_tokens: Annotated[
        float | None, _flag("mean length of a response, in tokens", "X", PLAN_PANEL)
    ] = None
    strict: Annotated[bool, typer.Option("--strict", help=STRICT_HELP)] = False
    as_json: Annotated[bool, typer.Option("--json", help="print JSON to stdout")] = False


def _savings(flags: SavingsFlags) -> None:
    """Say what it saves to train on the kept groups instead of on every usable candidate: tokens, FLOP, GPU-hours, cost.

    From the groups that select wrote, or before any run from numbers and mean lengths.
    """
    from prefpipe.errors import UsageError

    problems = _problems(flags)
    if problems:
        raise UsageError("; ".join(problems), hint=HINT)
    from prefpipe.cli import pages
    from prefpipe.maths.compute.training_compute import Recipe
    from prefpipe.pages.savings import savings_page
    from prefpipe.stages.savings import savings as savings_of

    unfinished = not_done([flags.groups], strict=flags.strict)
    basis = _basis(flags)  # before the model, whose libraries take seconds to load
    recipe = Recipe(flags.epochs, flags.gradient_checkpointing, flags.lora, flags.reference)
    found = savings_of(basis, _model(flags.model), recipe, _machine(flags))
    if flags.as_json:
        pages.pipe_json({**found, "not_done": unfinished})
    else:
        pages.show(savings_page(found, width=pages.width()), not_done=unfinished)


savings = command_from(SavingsFlags, _savings)


def _basis(flags: SavingsFlags) -> Any:
    from prefpipe.artifacts.store import open_input
    from prefpipe.maths.compute.training_compute import Plan
    from prefpipe.stages.savings import basis_of_groups, basis_of_plan

    if flags.groups is not None:
        return basis_of_groups(
            open_input(flags.groups, schema="groups", name="GROUPS"),
            shared_prompt=flags.shared_prompt,
        )
    given = _plan(flags)
    plan = Plan(
        int(given["prompts"]),
        int(given["n"]),
        int(given["k"]),
        int(given["positives"]),
        given["mean_prompt_tokens"],
        given["mean_response_tokens"],
    )
    return basis_of_plan(plan, shared_prompt=flags.shared_prompt)


def _plan(flags: SavingsFlags) -> dict[str, Any]:
    """Return what describes a selection that has not been run, with select's own defaults."""
    given = {name: getattr(flags, name) for name in PLAN if getattr(flags, name) is not None}
    return {"k": SelectConfig.k, "positives": SelectConfig.positives} | given


def _model(reference: str) -> Any:
    from prefpipe.maths.compute.training_compute import ModelShape, parse_size
    from prefpipe.stages.savings import TrainedModel

    size = None if Path(reference).is_dir() else parse_size(reference)
    if size is not None:
        return TrainedModel(reference, ModelShape(size), round(size), round(size))
    from prefpipe.models.shape import named_shape

    found = named_shape(reference)
    return TrainedModel(
        reference, found.shape, found.n_parameters, found.n_active_parameters, found.notes
    )


def _machine(flags: SavingsFlags) -> Any:
    from prefpipe.stages.savings import Machine

    if flags.tflops is not None:
        return Machine("another GPU", flags.tflops, None, flags.mfu, flags.price_per_hour)
    gpu = ACCELERATORS[str(flags.gpu).lower()]
    return Machine(gpu.name, gpu.tflops, gpu.dtype, flags.mfu, flags.price_per_hour)


def _problems(flags: SavingsFlags) -> list[str]:
    """Return everything wrong with the flags, in sentences."""
    found = [
        f"{_words(name)} must be {rule}, not {value:g}"
        for name, value, holds, rule in _ranges(flags)
        if not holds
    ]
    if (flags.gpu is None) == (flags.tflops is None):
        found.append(
            "one of --gpu and --tflops is needed"
            if flags.gpu is None
            else "--gpu and --tflops exclude each other"
        )
    if flags.gpu is not None and flags.gpu.lower() not in ACCELERATORS:
        found.append(
            f"--gpu must be one of {', '.join(ACCELERATORS)}, not {flags.gpu!r} (another GPU: --tflops)"
        )
    given = [name for name in PLAN if getattr(flags, name) is not None]
    if flags.groups is not None and given:
        found.append(
            f"{', '.join(map(_words, given))} describe a selection before it is run and do not go with GROUPS"
        )
    if flags.groups is None:
        missing = [_words(name) for name in REQUIRED_OF_A_PLAN if getattr(flags, name) is None]
        if missing:
            found.append(f"GROUPS, or {', '.join(missing)} is needed")
        found += _plan_problems(_plan(flags))
    return found


def _ranges(flags: SavingsFlags) -> list[tuple[str, float, bool, str]]:
    """Return flag, value, whether it is within its range, and the range in words, of every number that was given."""
    rules: Mapping[str, tuple[Any, str]] = {
        "epochs": (lambda x: x > 0, "above 0"),
        "mfu": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
        "tflops": (lambda x: x > 0, "above 0"),
        "price_per_hour": (lambda x: x >= 0, "0 or more"),
        "prompts": (lambda x: x >= 1, "1 or more"),
        "n": (lambda x: x >= 2, "2 or more"),
        "k": (lambda x: x >= 1, "1 or more"),
        "positives": (lambda x: x >= 1, "1 or more"),
        "mean_prompt_tokens": (lambda x: x > 0, "above 0"),
        "mean_response_tokens": (lambda x: x > 0, "above 0"),
    }
    given = {name: getattr(flags, name) for name in rules if getattr(flags, name) is not None}
    return [
        (name, value, isfinite(value) and rules[name][0](value), rules[name][1])
        for name, value in given.items()
    ]


def _plan_problems(plan: Mapping[str, Any]) -> list[str]:
    if "n" in plan and plan["n"] >= 2 and plan["k"] + plan["positives"] > plan["n"]:
        return [
            f"--k {plan['k']} and --positives {plan['positives']} keep more than the {plan['n']} candidates of --n"
        ]
    return []


def _words(name: str) -> str:
    return "--" + name.replace("_", "-")
