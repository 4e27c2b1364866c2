"""The Parquet files of a trained policy, beside the model itself."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prefpipe.artifacts.atomic import atomic_write
from prefpipe.artifacts.schemas import Column, Schema
from prefpipe.training.measures import MEASURE_MEANINGS, PAIR_MEANINGS

METRICS_FILE = "metrics.parquet"

POLICY = Schema(
    "policy",
    1,
    (
        Column("prompt_id", pa.string(), False, "key of the prompt"),
        Column(
            "sample_idx",
            pa.int32(),
            True,
            "number of the response; null in the one row of a prompt that select rejected",
        ),
        Column("role", pa.string(), True, "`positive` or `negative`"),
        Column("reward", pa.float64(), True, "reward that select used"),
        Column(
            "n_tokens",
            pa.int32(),
            False,
            "response tokens trained or evaluated on, 0 when left out",
        ),
        Column(
            "ref_logp",
            pa.float64(),
            True,
            "summed log-probability under the reference policy; null without a reference",
        ),
        Column(
            "status",
            pa.string(),
            False,
            "`ok` or `truncated`: trained on; `held_out`: evaluated on; else why neither",
        ),
        Column("reason", pa.string(), True, "the particulars of a status other than `ok`"),
    ),
)

METRICS = Schema(
    "metrics",
    2,
    (
        Column("step", pa.int64(), False, "optimizer steps taken"),
        Column("epoch", pa.float64(), False, "passes over the groups"),
        Column(
            "split",
            pa.string(),
            False,
            "`train`: mean since the row before; `eval`: all evaluation groups",
        ),
        *(
            Column(name, pa.float64(), True, meaning)
            for name, meaning in (MEASURE_MEANINGS | PAIR_MEANINGS).items()
        ),
        Column("grad_norm", pa.float64(), True, "norm of the gradient before clipping"),
        Column("learning_rate", pa.float64(), True, "of the step just taken"),
        Column("n_tokens", pa.int64(), True, "response tokens trained on since the row before"),
        Column("n_prompts", pa.int64(), True, "prompts trained on since the row before"),
        Column(
            "tokens_per_s",
            pa.float64(),
            True,
            "prompt and response tokens computed a second, all processes together, without "
            "evaluation and saving",
        ),
        Column(
            "prompt_tokens_saved",
            pa.float64(),
            True,
            "share of prompt tokens that need no computation because each prompt goes through the "
            "model once, in [0, 1]",
        ),
    ),
)


def write_table(path: Path, schema: Schema, rows: list[dict[str, object]], key: str = "") -> None:
    """Replace a Parquet file as a whole; ``key`` identifies its inputs."""
    arrow = schema.arrow().with_metadata({"prefpipe.schema": schema.tag, "prefpipe.key": key})
    with atomic_write(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=arrow), file)
