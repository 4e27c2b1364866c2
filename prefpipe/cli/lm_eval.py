"""``prefpipe eval lm-eval``: the command that evaluates a trained model on the benchmarks of lm-evaluation-harness."""

from typing import Annotated

import typer

DEFAULT_TASKS = "ifeval,gsm8k,mmlu,truthfulqa_mc2"


def lm_eval(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="folder that train wrote, whole or adapter, or org/name[@revision]",
        ),
    ],
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            metavar="NAMES",
            show_default=False,
            help=f"tasks, comma-separated \\[default: {DEFAULT_TASKS}]",
        ),
    ] = DEFAULT_TASKS,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            show_default=False,
            help="folder of the results \\[default: lm_eval]",
        ),
    ] = "lm_eval",
    batch_size: Annotated[
        str,
        typer.Option(
            "--batch-size",
            metavar="N|auto",
            show_default=False,
            help="sequences at once \\[default: auto]",
        ),
    ] = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            metavar="NAME",
            show_default=False,
            help="of the weights \\[default: the checkpoint's]",
        ),
    ] = "auto",
) -> None:
    """Print the command with which lm-evaluation-harness evaluates a trained model; nothing is run.

    Whether preference training cost knowledge or reasoning is what its tasks show: run it for the model before and after.
    """
    from prefpipe.cli.console import pipe
    from prefpipe.errors import UsageError
    from prefpipe.stages.evaluate.lm_eval_command import lm_eval_command

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise UsageError("--tasks names no task", hint="run `lm_eval ls tasks` for all")
    if batch_size.partition(":")[0] != "auto" and not (
        batch_size.isdigit() and int(batch_size) > 0
    ):
        raise UsageError(f"--batch-size must be auto or 1 or more, not {batch_size}")
    pipe(lm_eval_command(model, names, output=output, batch_size=batch_size, dtype=dtype))
