"""``prefpipe check``: what is wrong with groups as training data, before a GPU is asked for."""

from typing import TYPE_CHECKING

import typer

from prefpipe.cli.not_done import not_done
from prefpipe.configs.check import CheckConfig
from prefpipe.maths.compute.accelerators import ACCELERATORS

<<<<<<< HEAD
if TYPE_CHECKING:
    from prefpipe.stages.check.run import Machine


def check(config: CheckConfig) -> None:
    """Print what was found, and exit with 1 where an error is among it."""
    from prefpipe.artifacts.store import open_input
    from prefpipe.cli import stdout

    # before libraries that take seconds to load
    groups = open_input(config.groups, schema="groups", name="GROUPS")
    unfinished = not_done([config.groups], strict=config.strict)

    from prefpipe.pages.check import check_page
    from prefpipe.stages.check.run import Training
    from prefpipe.stages.check.run import check as check_groups

    training = Training(**{name: getattr(config, name) for name in Training._fields})
    facts = check_groups(groups, training, _machine(config))
    if config.as_json:
        stdout.pipe_json({**facts, "not_done": unfinished})
    else:
        stdout.show(check_page(facts, width=stdout.width()), not_done=unfinished)

    has_errors = any(finding["severity"] == "error" for finding in facts["findings"])
    raise typer.Exit(int(has_errors))


def _machine(config: CheckConfig) -> "Machine | None":
    from prefpipe.stages.check.run import Machine

    if config.tflops is not None:
        return Machine("GPU", config.tflops, config.mfu)
    if config.gpu is None:
        return None
    gpu = ACCELERATORS[config.gpu.lower()]
    return Machine(gpu.name, gpu.tflops, config.mfu)
=======
DATA_PANEL = "The training that is looked ahead to, as given to `prefpipe train`"
MACHINE_PANEL = "On what, for the time of a step"
HINT = "run `prefpipe check --help`"
ON_TOO_LONG = ("drop", "truncate", "error")


def _flag(text: str, metavar: str | None, panel: str, *names: str) -> Any:
    return typer.Option(
        *names, help=text, metavar=metavar, rich_help_panel=panel, show_default=False
    )


@dataclass(frozen=True, kw_only=True)
class CheckFlags:
    """What can be given to ``prefpipe check``."""

    groups: Annotated[
        Path, typer.Argument(metavar="GROUPS", show_default=False, help="folder written by select")
    ]
    model: Annotated[
        str,
        _flag(
            "the policy to start from: its tokenizer, chat template and configuration are read",
            "MODEL",
            DATA_PANEL,
        ),
    ]
    max_length: Annotated[
        int, _flag("longest prompt plus response, in tokens \\[default: 2048]", "N", DATA_PANEL)
    ] = TrainConfig.max_length
    on_too_long: Annotated[
        str,
        _flag(
            "what to do with a longer response \\[default: drop]", "|".join(ON_TOO_LONG), DATA_PANEL
        ),
    ] = TrainConfig.on_too_long
    objective: Annotated[
        str, _flag("what is optimised \\[default: ampo]", "|".join(OBJECTIVES), DATA_PANEL)
    ] = DEFAULTS["policy"]
    gamma: Annotated[
        float | None,
        _flag(
            "of mmpo: nats of margin a unit of reward, for the targets; default the objective's",
            "X",
            DATA_PANEL,
        ),
    ] = None
    global_batch_size: Annotated[
        int | None, _flag("prompts an optimizer step; default the objective's", "N", DATA_PANEL)
    ] = None
    max_batch_tokens: Annotated[
        int, _flag("tokens a device computes at once \\[default: 16384]", "N", DATA_PANEL)
    ] = TrainConfig.max_batch_tokens
    lora_r: Annotated[
        int, _flag("rank of LoRA adapters, 0 trains all weights \\[default: 0]", "N", DATA_PANEL)
    ] = 0
    bf16: Annotated[bool, _flag("compute in bfloat16", None, DATA_PANEL, "--bf16")] = False
    gradient_checkpointing: Annotated[
        bool,
        _flag(
            "compute activations twice to keep fewer in memory",
            None,
            DATA_PANEL,
            "--gradient-checkpointing",
        ),
    ] = False
    gpu: Annotated[
        str | None, _flag(f"the GPU: {', '.join(ACCELERATORS)}", "NAME", MACHINE_PANEL)
    ] = None
    tflops: Annotated[
        float | None, _flag("peak dense TFLOP/s of another GPU", "X", MACHINE_PANEL)
    ] = None
    mfu: Annotated[
        float, _flag("share of the peak that training reaches \\[default: 0.4]", "X", MACHINE_PANEL)
    ] = 0.4
    strict: Annotated[bool, typer.Option("--strict", help=STRICT_HELP)] = False
    as_json: Annotated[bool, typer.Option("--json", help="print JSON to stdout")] = False


def _check(flags: CheckFlags) -> None:
    """Look at groups as training data for a model: tokens, lengths, ties, copies, length bias, memory and time of a step.

    Loads no weights and needs no GPU. Exits with 1 when an error was found, with 0 when there are warnings and notes only.
    """
    from prefpipe.errors import UsageError

    problems = _problems(flags)
    if problems:
        raise UsageError("; ".join(problems), hint=HINT)
    from prefpipe.artifacts.store import open_input
    from prefpipe.cli import pages

    groups = open_input(
        flags.groups, schema="groups", name="GROUPS"
    )  # before libraries that take seconds to load
    unfinished = not_done([flags.groups], strict=flags.strict)
    from prefpipe.pages.check import check_page
    from prefpipe.stages.check.run import PlannedTraining, check

    training = PlannedTraining(**{name: getattr(flags, name) for name in PlannedTraining._fields})
    found = check(groups, training, _machine(flags))
    if flags.as_json:
        pages.pipe_json({**found, "not_done": unfinished})
    else:
        pages.show(check_page(found, width=pages.width()), not_done=unfinished)
    raise typer.Exit(int(any(finding["severity"] == "error" for finding in found["findings"])))


check = command_from(CheckFlags, _check)


def _machine(flags: CheckFlags) -> Any:
    from prefpipe.stages.savings import Machine

    if flags.tflops is not None:
        return Machine("GPU", flags.tflops, None, flags.mfu)
    if flags.gpu is None:
        return None
    gpu = ACCELERATORS[flags.gpu.lower()]
    return Machine(gpu.name, gpu.tflops, gpu.dtype, flags.mfu)


def _problems(flags: CheckFlags) -> list[str]:
    """Return everything wrong with the flags, in sentences."""
    checks = (
        (flags.max_length >= 2, f"--max-length must be 2 or more, not {flags.max_length}"),
        (
            flags.on_too_long in ON_TOO_LONG,
            f"--on-too-long must be one of {', '.join(ON_TOO_LONG)}, not {flags.on_too_long!r}",
        ),
        (
            flags.objective in OBJECTIVES,
            f"--objective must be one of {', '.join(OBJECTIVES)}, not {flags.objective!r}",
        ),
        (
            flags.gamma is None or flags.objective == "mmpo",
            "--gamma is looked at with --objective mmpo alone",
        ),
        (
            flags.gamma is None or (isfinite(flags.gamma) and flags.gamma >= 0),
            f"--gamma must be 0 or more, not {flags.gamma}",
        ),
        (
            flags.global_batch_size is None or flags.global_batch_size >= 1,
            "--global-batch-size must be 1 or more",
        ),
        (
            flags.max_batch_tokens >= 1,
            f"--max-batch-tokens must be 1 or more, not {flags.max_batch_tokens}",
        ),
        (flags.lora_r >= 0, f"--lora-r must be 0 or more, not {flags.lora_r}"),
        (
            flags.gpu is None or flags.gpu.lower() in ACCELERATORS,
            f"--gpu must be one of {', '.join(ACCELERATORS)}, not {flags.gpu!r} (another GPU: --tflops)",
        ),
        (flags.gpu is None or flags.tflops is None, "--gpu and --tflops exclude each other"),
        (
            flags.tflops is None or (isfinite(flags.tflops) and flags.tflops > 0),
            f"--tflops must be above 0, not {flags.tflops}",
        ),
        (
            isfinite(flags.mfu) and 0 < flags.mfu <= 1,
            f"--mfu must be above 0 and at most 1, not {flags.mfu:g}",
        ),
    )
    return [sentence for holds, sentence in checks if not holds]
>>>>>>> main
