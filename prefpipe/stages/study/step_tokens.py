"""How many tokens a step sampled or trained on, to compute its tokens per second."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.store import Artifact
from prefpipe.errors import PrefpipeError
from prefpipe.training.tables import METRICS_FILE


def tokens_of(stage: str, output: Path) -> int | None:
    """Return the response tokens of a finished step, None if not known.

    They are those that `generate` and `eval` sampled, and those that `train` trained on, once per
    epoch.
    """
    count = _COUNTS.get(stage)
    if count is None:
        return None
    try:
        return count(output)
    except (PrefpipeError, OSError, ValueError, KeyError):
        return None


def _sampled(candidates: Path) -> int:
    artifact = Artifact(candidates, read_run_record(candidates))
    column = artifact.read_all(["n_response_tokens"])["n_response_tokens"]
    return int(pc.sum(column).as_py() or 0)


def _sampled_by_eval(output: Path) -> int:
    return _sampled(output / "policy" / "candidates")


def _trained_on(output: Path) -> int:
    table = pq.read_table(output / METRICS_FILE, columns=["split", "n_tokens"])
    of_training = table.filter(pc.equal(table["split"], "train"))
    return int(pc.sum(of_training["n_tokens"]).as_py() or 0)


_COUNTS: Mapping[str, Callable[[Path], int]] = {
    "generate": _sampled,
    "eval": _sampled_by_eval,
    "train": _trained_on,
}
