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
    """Turn a GGUF file or a bundled model into a Hugging Face folder."""

    command: ClassVar[str] = "models convert"
    examples: ClassVar[tuple[str, ...]] = ("prefpipe models convert model.gguf -o models/model",)

    reference: str = _reference()
    output: Path | None = option(
        None, flag="-o", metavar="DIR", help="folder to write; default: the cache"
    )
    as_json: bool = json_option()


@dataclass(frozen=True, kw_only=True)
class ListConfig(CommandConfig):
    """List the models that are installed as Python packages."""

    command: ClassVar[str] = "models list"
    examples: ClassVar[tuple[str, ...]] = ("prefpipe models list",)

    as_json: bool = json_option()


@dataclass(frozen=True, kw_only=True)
class ShowConfig(CommandConfig):
    """Show a model's place, kind, hashes and chat template."""

    command: ClassVar[str] = "models show"
    examples: ClassVar[tuple[str, ...]] = ("prefpipe models show Qwen/Qwen3-4B",)

    reference: str = _reference()
    trust_remote_code: bool = option(False, help="fetch Python code that comes with the model")
    as_json: bool = json_option()
