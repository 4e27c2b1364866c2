"""What an import string names, and the files of a model that is named."""

from importlib import import_module
from typing import Any


def load(reference: str) -> Any:
    """Return what an import string ``package.module:name`` names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def locate(reference: str, *, trust_remote_code: bool = False) -> Any:
    """Return the files of a model given as a folder, ``org/name[@revision]``, GGUF file or ``bundled:NAME``."""
    return load("prefpipe.models.location:locate_model")(
        reference, trust_remote_code=trust_remote_code
    )
