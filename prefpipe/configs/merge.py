"""The flags of ``prefpipe merge``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, get_args

from prefpipe.configs.answers import json_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import Dtype, option


@dataclass(frozen=True, kw_only=True)
class MergeConfig(CommandConfig):
    """Merge a LoRA adapter into its base model.

    Checks that the weights changed and that the merged model agrees with base and adapter.
    """

    command: ClassVar[str] = "merge"
    examples: ClassVar[tuple[str, ...]] = ("prefpipe merge run/policy -o run/merged",)

    adapter: str = option(
        positional=True,
        metavar="ADAPTER",
        help="LoRA adapter: a folder that `train --lora-r` or another tool wrote, or "
        "org/name[@revision]",
    )
    output: Path = option(flag="-o", metavar="DIR", help="folder of the model to write")
    model: str | None = option(
        None,
        metavar="BASE",
        help="base to merge into, instead of the one that the adapter names",
    )
    dtype: Dtype = option(
        "auto",
        choices=get_args(Dtype),
        help="number format of the weights; auto: that of the base",
    )
    overwrite: bool = option(
        False,
        help="replace a model in the output folder; --overwrite=stale does the same",
    )
    trust_remote_code: bool = option(False, help="run Python code that comes with the model")
    as_json: bool = json_option("print the figures as JSON to stdout")
