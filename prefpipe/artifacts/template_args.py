"""The arguments that the chat template was given when candidates were sampled, by their record.

They are recorded with each model that sampled, like the template's date. Later stages that format
the same prompts take them from there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.storage.location import Location
from prefpipe.errors import PrefpipeError

FIELD = "template_args"


def recorded_args(identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the template arguments with which candidates were sampled.

    None if no model run by prefpipe sampled them, as in imported files.

    Args:
        identity: of candidates, or of what was made of them.
    """
    candidates = identity.get("groups") or identity
    candidates = candidates.get("candidates") or candidates
    samplers = candidates.get("models") if isinstance(candidates, Mapping) else None
    if not samplers:
        return None

    # one flag holds for all models of a run
    args: dict[str, Any] = {}
    for sampler in samplers:
        args |= sampler.get(FIELD) or {}
    return args


def args_of_parent(folder: Location) -> dict[str, Any] | None:
    """Return `recorded_args` of an artifact; None if none can be read, which its reader reports."""
    try:
        return recorded_args(read_run_record(folder).identity)
    except PrefpipeError:
        return None


def args_of_policy(folder: Path) -> dict[str, Any] | None:
    """Return the template arguments of the prompts that a model was trained on.

    None for a model that prefpipe did not train.
    """
    try:
        identity = read_run_record(folder).identity
    except PrefpipeError:
        return None
    model = identity.get("model")
    if identity.get("stage") != "train" or not isinstance(model, Mapping):
        return None
    return dict(model.get(FIELD) or {})
