"""``results.parquet`` and ``runs.parquet``: what a study measured, and the outcome of each run.

Both are plain Parquet for other tools' readers. Their footer carries the schema's tag under the key
``prefpipe.schema``.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prefpipe.artifacts.atomic import atomic_write
from prefpipe.artifacts.schemas import FLOAT, INT32, INT64, TEXT, Schema, optional, required
from prefpipe.errors import InputError

RESULTS_FILE, RUNS_FILE = "results.parquet", "runs.parquet"
SCHEMA_KEY = "prefpipe.schema"
RUN_STATES = ("done", "failed", "waiting")

_RUN_KEY = (
    required("arm", TEXT, "name of the arm, as the plan has it"),
    required("seed", INT32, "seed of the run"),
    required(
        "budget",
        TEXT,
        "budget at which the arm was judged: `prompts` or `response_tokens`, or `epoch-2`",
    ),
)
_OF_BOTH = {
    "reward": "mean reward of the responses",
    "lowest_reward": "lowest reward of the prompt's responses",
    "n_tokens": "mean tokens per response",
    "length_chars": "mean characters per response",
    "repetition": "mean share of repeated word 4-grams, in [0, 1]",
    "self_bleu": "self-BLEU of the prompt's responses, in [0, 1]; null for one",
    "distinct_2": "distinct word pairs over word pairs of all responses, in (0, 1]",
    "embedding_diversity": "mean cosine distance of two of the prompt's responses; null without "
    "embeddings",
}
_OF_BASE = "of the base model, the same responses in every row of the prompt"

RESULTS = Schema(
    "study_results",
    1,
    (
        required("prompt_id", TEXT, "key of the held-out prompt"),
        *_RUN_KEY,
        required("n_rated", INT32, "rated responses of the trained policy"),
        optional(
            "n_worst",
            INT32,
            "those with a reward below the plan's `worst_below`; null without one",
        ),
        optional(
            "preference",
            FLOAT,
            "share of pairs with a response of the base that the policy's wins, ties half, in "
            "[0, 1]",
        ),
        *(optional(name, FLOAT, f"{meaning}, policy") for name, meaning in _OF_BOTH.items()),
        optional(
            "log_ratio",
            FLOAT,
            "mean over the policy's responses of its summed log-probability minus the base's, nats "
            "per response",
        ),
        optional("log_ratio_tokens", FLOAT, "mean tokens of those responses"),
        required("base_n_rated", INT32, f"rated responses {_OF_BASE}"),
        optional("base_n_worst", INT32, f"those below `worst_below` {_OF_BASE}"),
        *(
            optional(f"base_{name}", FLOAT, f"{meaning}, {_OF_BASE}")
            for name, meaning in _OF_BOTH.items()
        ),
    ),
)
"""A row a held-out prompt, arm, seed and budget; every number but rewards and preferences is
rounded to seven digits, as float32 has them."""

PAIR_RESULTS = Schema(
    "study_pair_results",
    1,
    (
        required("prompt_id", TEXT, "key of the held-out prompt"),
        *_RUN_KEY,
        required("n_pairs", INT32, "pairs of its responses, over which the values are means"),
        optional("log_loss", FLOAT, "nats per pair, to the true probability; null without a score"),
        optional("excess_log_loss", FLOAT, "the part of it above the truth's own entropy"),
        optional(
            "scaled_log_loss",
            FLOAT,
            "log loss of differences over the temperature that fits the other half of the prompts",
        ),
        optional("brier", FLOAT, "squared distance from the true probability"),
        optional(
            "ece", FLOAT, "contribution of the prompt to the ECE of the run, which is the mean"
        ),
        optional(
            "accuracy",
            FLOAT,
            "share of labels, drawn with the true probability, that it gets right",
        ),
        optional(
            "agreement",
            FLOAT,
            "share of pairs whose better response scores higher, ties half; null without a pair "
            "that differs in quality",
        ),
    ),
)
"""The same of a plan with ``truth``, whose runs are judged by pairs of held-out responses."""

RUNS = Schema(
    "study_runs",
    1,
    (
        *_RUN_KEY,
        required("status", TEXT, "`done`, `failed` or `waiting` (not run yet, or not finished)"),
        optional("step", INT64, "optimiser step whose weights were judged; null if not known"),
        optional("prompts", INT64, "prompts trained on until then"),
        optional("response_tokens", INT64, "response tokens trained on until then"),
        optional(
            "trained_tokens",
            INT64,
            "prompt and response tokens computed by the whole training; null if not known",
        ),
        optional("seconds", FLOAT, "wall time of the run's finished steps, both budgets together"),
        optional("failed_step", TEXT, "name of the step that failed"),
        optional("exit_code", INT32, "its exit code; negative: the signal that ended it"),
    ),
)
"""A row an arm, seed and budget, of every run that the plan asks for."""

EXACT = frozenset({"reward", "lowest_reward", "preference", "base_reward", "base_lowest_reward"})
"""Columns kept with all digits: few values, many times each."""


def write_study_table(path: Path, schema: Schema, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a table as a whole.

    Numbers of columns that are not `EXACT` are rounded to float32's seven digits and written as
    float64, whose empty bytes take no space: readers compute with them in double precision.

    Raises:
        PrefpipeError: the disk is full, or the folder cannot be written to.
    """
    arrow = schema.arrow().with_metadata({SCHEMA_KEY: schema.tag})
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=arrow)
    rounded = [
        column.name
        for column in schema.columns
        if column.type == FLOAT and column.name not in EXACT
    ]
    for name in rounded:
        place = table.schema.get_field_index(name)
        values = table[name].cast(pa.float32()).cast(pa.float64())
        table = table.set_column(place, table.schema.field(name), values)

    with atomic_write(path) as file:
        pq.write_table(table, file, compression="zstd", compression_level=19)


def read_study_table(path: Path, schemas: Sequence[Schema]) -> pa.Table:
    """Return a table of one of the schemas, which its metadata names.

    Raises:
        InputError: there is none, it is damaged, of another schema or version, lacks a column or
            has one of another type.
    """
    hint = "run the `prefpipe study` command of this folder again: it writes the table again"
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", hint=hint) from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}", hint=hint) from (
            error
        )

    tag = (table.schema.metadata or {}).get(SCHEMA_KEY.encode(), b"").decode(errors="replace")
    schema = next((each for each in schemas if each.tag == tag), None)
    if schema is None:
        known = " or ".join(each.tag for each in schemas)
        raise InputError(
            f"{path} is of schema {tag or 'of no study'}; this release reads {known}", hint=hint
        )
    for column in schema.columns:
        if column.name not in table.column_names:
            raise InputError(f"{path} has no column `{column.name}`", hint=hint)
        kind = table.schema.field(column.name).type
        if not kind.equals(column.type):
            raise InputError(
                f"{path}: column `{column.name}` is of {kind}; {schema.tag} has {column.type}",
                hint=hint,
            )
    return table
