"""``merged_from.json``: which adapter and base a merged model was made of, for ``status``.

A merged model is an ordinary model without ``run.json``. Everything sampled, rated or trained with
it is out of date as soon as its adapter or base is, and only this file records which they were.
"""

import json
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from prefpipe.artifacts.atomic import atomic_write
from prefpipe.models.files import ModelFiles

FILE_NAME = "merged_from.json"


@dataclass(frozen=True)
class MergedPart:
    """A folder that a model was merged from.

    ``role``: adapter or base; ``reference``: as the user or the adapter named it; ``path``: where
    it was; ``content_hash``: of its weights and configuration.
    """

    role: str
    reference: str
    path: str
    content_hash: str


@dataclass(frozen=True)
class MergeRecord:
    """Where a merged model was written, on which machine, and the folders it was merged from.

    Models of the hub and bundled ones are not listed: they do not change under their name here.
    ``round``: of training, the latest of what it was made of.
    """

    output: str
    host: str
    made_of: tuple[MergedPart, ...]
    round: int = 0

    def write_to(self, folder: Path) -> None:
        """Write the file."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        with atomic_write(folder / FILE_NAME) as file:
            file.write(text.encode())


def merge_record_of(
    output: Path, parts: Sequence[tuple[str, ModelFiles]], *, of_round: int = 0
) -> MergeRecord:
    """Return the record of a merge of ``parts``, each a role and a model.

    ``of_round``: the latest round of training among the parts.
    """
    made_of = []
    for role, model in parts:
        # what is named by a path can be made again under it
        if Path(model.requested).expanduser().is_dir():
            path = str(model.path.absolute())
            made_of.append(MergedPart(role, model.requested, path, model.content_hash))
    return MergeRecord(str(output.absolute()), socket.gethostname(), tuple(made_of), of_round)


def read_merge_record(folder: Path) -> MergeRecord | None:
    """Return the record of a merged model, None if there is none or it is damaged.

    The model works without it.
    """
    try:
        values = json.loads((folder / FILE_NAME).read_bytes())
        parts = tuple(MergedPart(**each) for each in values["made_of"])
        # a merge of an earlier release says no round
        of_round = int(values.get("round", 0))
        return MergeRecord(str(values["output"]), str(values["host"]), parts, of_round)
    except (OSError, ValueError, KeyError, TypeError):
        return None
