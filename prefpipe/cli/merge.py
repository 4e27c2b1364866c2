"""``prefpipe merge``: a LoRA adapter and its base become a model folder, checked."""

from pathlib import Path
from typing import Annotated

import typer

CHOICES = ("auto", "float32", "bfloat16", "float16")

ADAPTER = typer.Argument(
    metavar="ADAPTER",
    help="a LoRA adapter: what `train --lora-r` wrote, another folder, or org/name\\[@revision]",
)
OUTPUT = typer.Option("--output", "-o", metavar="DIR", help="folder of the model to write")
MODEL = typer.Option(
    "--model",
    metavar="BASE",
    help="the base to merge into, instead of the one that the adapter names",
)
DTYPE = typer.Option(
    "--dtype",
    metavar="|".join(CHOICES),
    help="number format of the weights; auto: as the base is stored",
)
OVERWRITE = typer.Option(
    "--overwrite",
    help="replace a model that the output folder holds; --overwrite=stale, in a script, "
    "is the same",
)
TRUST_REMOTE_CODE = typer.Option(
    "--trust-remote-code", help="run Python code that comes with the model"
)
AS_JSON = typer.Option("--json", help="print the figures as JSON to stdout")


def merge(
    adapter: Annotated[str, ADAPTER],
    output: Annotated[Path, OUTPUT],
    model: Annotated[str | None, MODEL] = None,
    dtype: Annotated[str, DTYPE] = "auto",
    overwrite: Annotated[bool, OVERWRITE] = False,
    trust_remote_code: Annotated[bool, TRUST_REMOTE_CODE] = False,
    as_json: Annotated[bool, AS_JSON] = False,
) -> None:
    """Merge a LoRA adapter into its base, check that it changed and agrees with the adapter,
    and write a whole model.
    """  # noqa: D205 - one sentence, as the help prints it
    from prefpipe.artifacts.atomic import require_free
    from prefpipe.errors import UsageError

    if dtype not in CHOICES:
        raise UsageError(
            f"--dtype must be one of {', '.join(CHOICES)}, not {dtype!r}",
            hint="run `prefpipe merge --help`",
        )
    # before libraries that take seconds to load, and before a base is fetched
    if not overwrite:
        require_free(output, "choose a new folder with -o, or pass --overwrite")

    from prefpipe.cli import console, pages
    from prefpipe.cli.signals import stop_request
    from prefpipe.models.location import locate_model
    from prefpipe.stages.merge import MergeRequest
    from prefpipe.stages.merge import merge as run_merge
    from prefpipe.stages.shared.runtime import Runtime

    files = locate_model(adapter, trust_remote_code=trust_remote_code, base=model)
    request = MergeRequest(
        output, dtype, overwrite, base_given=model is not None, trust_remote_code=trust_remote_code
    )
    runtime = Runtime(log=console.log, should_stop=stop_request, finishing=stop_request.finishing)
    figures = run_merge(files, request, runtime)

    # The model has its name: the command is done.
    with stop_request.finishing():
        if as_json:
            pages.pipe_json(figures)
        else:
            pages.pipe(str(output))
