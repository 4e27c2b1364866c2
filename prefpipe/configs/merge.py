"""The flags of ``prefpipe merge``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, get_args

from prefpipe.configs.answers import json_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import Dtype, option


@dataclass(frozen=True, kw_only=True)
class MergeConfig(CommandConfig):
    """Merge a LoRA adapter into its base, check the result, and write a whole model.

    It is checked that the model changed and that it agrees with the adapter.
    """

    command: ClassVar[str] = "merge"

    adapter: str = option(
        positional=True,
        metavar="ADAPTER",
        help="a LoRA adapter: what `train --lora-r` wrote, another folder, or org/name[@revision]",
    )
    output: Path = option(flag="-o", metavar="DIR", help="folder of the model to write")
    model: str | None = option(
        None,
        metavar="BASE",
        help="the base to merge into, instead of the one that the adapter names",
    )
    dtype: Dtype = option(
        "auto",
        choices=get_args(Dtype),
        help="number format of the weights; auto: as the base is stored",
    )
    overwrite: bool = option(
        False,
        help="replace a model that the output folder holds; --overwrite=stale, in a script, is "
        "the same",
    )
    trust_remote_code: bool = option(False, help="run Python code that comes with the model")
    as_json: bool = json_option("print the figures as JSON to stdout")
