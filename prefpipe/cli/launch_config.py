"""``prefpipe launch-config``: where the configurations for several GPUs are."""

from pathlib import Path
from typing import Annotated

import typer

from prefpipe.errors import UsageError

FOLDER = Path(__file__).resolve().parent.parent / "accelerate_configs"


def launch_config(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="ddp, fsdp2, zero2 or zero3")
    ] = None,
) -> None:
    """Print the path of a configuration of ``accelerate launch`` for train on several GPUs, or list them."""
    from prefpipe.cli import pages

    found = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    if name is None:
        pages.show_facts(
            {
                each: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
                for each, path in found.items()
            }
        )
        return
    if name not in found:
        raise UsageError(
            f"there is no configuration {name!r}",
            hint=f"take {', '.join(found)}, or a file of your own",
        )
    pages.pipe(str(found[name]))
