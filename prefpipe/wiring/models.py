"""The files of a model that a configuration names, and the day that its chat template is told."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.template_dates import date_for_run
from prefpipe.configs.stage import TemplatedConfig

if TYPE_CHECKING:
    from prefpipe.models.files import ModelFiles


def locate(reference: str, *, trust_remote_code: bool = False) -> "ModelFiles":
    """Return the files of a folder, ``org/name[@revision]``, GGUF file or ``bundled:NAME``."""
    from prefpipe.models.location import locate_model

    return locate_model(reference, trust_remote_code=trust_remote_code)


def template_date(config: TemplatedConfig, parents: Sequence[Path] = ()) -> str:
    """Return the day that a run's chat templates are told; a run that goes on has it on record.

    A run that may be out of date asks its parents first: where they were made again on another day,
    so is it. Its own record comes after them, because a day that has passed alone makes nothing out
    of date.
    """
    if config.overwrite is Overwrite.STALE:
        return date_for_run(config.template_date, None, [*parents, config.output])

    own_record = None if config.overwrite else config.output
    return date_for_run(config.template_date, own_record, parents)
