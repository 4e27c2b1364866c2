"""The flags of ``prefpipe models convert``, ``list`` and ``show``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prefpipe.configs.answers import json_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


def _reference() -> Any:
    return option(
        positional=True,
        metavar="REFERENCE",
        help="folder, org/name[@revision], .gguf file or bundled:NAME",
    )


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(CommandConfig):
    """Turn a GGUF file or a bundled model into an ordinary Hugging Face folder, once."""

    command: ClassVar[str] = "models convert"

    reference: str = _reference()
    output: Path | None = option(
        None, flag="-o", metavar="DIR", help="folder to write; default the cache"
    )
    as_json: bool = json_option()


@dataclass(frozen=True, kw_only=True)
class ListConfig(CommandConfig):
    """List the models that come as Python packages, and where they are."""

    command: ClassVar[str] = "models list"

    as_json: bool = json_option()


@dataclass(frozen=True, kw_only=True)
class ShowConfig(CommandConfig):
    """Show where a model is, what kind it is, its hashes and its chat template."""

    command: ClassVar[str] = "models show"

    reference: str = _reference()
    trust_remote_code: bool = option(False, help="fetch Python code that comes with the model")
    as_json: bool = json_option()
