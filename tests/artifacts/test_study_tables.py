"""The tables of a study: read back as they were written, small, and refused where they are something else."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefpipe.artifacts.study_tables import (
    EXACT,
    RESULTS,
    RUNS,
    SCHEMA_KEY,
    read_study_table,
    write_study_table,
)
from prefpipe.errors import InputError


def row(**values: Any) -> dict[str, Any]:
    key = {"prompt_id": "p", "arm": "a", "seed": 0, "budget": "prompts"}
    return key | {"n_rated": 2, "base_n_rated": 2} | values


def test_rows_come_back_and_other_readers_see_plain_numbers(tmp_path: Path) -> None:
    path = tmp_path / "results.parquet"
    write_study_table(path, RESULTS, [row(reward=0.1 + 0.2, self_bleu=1 / 3), row(prompt_id="q")])
    table = read_study_table(path, (RESULTS,))
    assert table.schema.names == RESULTS.column_names
    frame = pl.read_parquet(path)
    assert frame["reward"].to_list() == [0.1 + 0.2, None]
    assert frame["self_bleu"].to_list() == [float(np.float32(1 / 3)), None]
    assert frame["self_bleu"].dtype == pl.Float64


def test_rewards_keep_all_their_digits() -> None:
    names = {column.name for column in RESULTS.columns}
    assert names >= EXACT
    assert {name for name in names if "reward" in name} <= EXACT


def test_an_empty_table_has_its_columns(tmp_path: Path) -> None:
    write_study_table(tmp_path / "runs.parquet", RUNS, [])
    assert read_study_table(tmp_path / "runs.parquet", (RUNS,)).num_rows == 0


def test_the_rows_of_a_study_are_small(tmp_path: Path) -> None:
    """8 arms, 5 seeds, 2 budgets, 120 prompts: a third of the 2 MB that all studies have together."""
    rng = np.random.default_rng(0)
    path = tmp_path / "results.parquet"
    base = {f"p{prompt:064d}": rng.uniform(size=6).tolist() for prompt in range(120)}
    rows = []
    for arm in range(8):
        for seed in range(5):
            for budget in ("prompts", "response_tokens"):
                for prompt, of_base in base.items():
                    drawn = rng.uniform(size=5).tolist()
                    names = (
                        "repetition",
                        "self_bleu",
                        "distinct_2",
                        "log_ratio",
                        "log_ratio_tokens",
                    )
                    values = dict(zip(names, drawn, strict=True))
                    names = ("reward", "lowest_reward", "n_tokens", "length_chars", "self_bleu")
                    values |= {
                        f"base_{name}": each for name, each in zip(names, of_base, strict=False)
                    }
                    values["reward"] = int(rng.integers(200)) / 200
                    values["preference"] = int(rng.integers(9)) / 8
                    key = {"prompt_id": prompt, "arm": f"arm-{arm}", "seed": seed, "budget": budget}
                    rows.append(row(**values) | key)
    write_study_table(path, RESULTS, rows)
    assert path.stat().st_size < 700_000


@pytest.mark.parametrize("broken", ["gone", "text", "schema", "version", "column", "type"])
def test_what_is_no_such_table_is_refused(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "results.parquet"
    write_study_table(path, RESULTS, [row()])
    table = pq.read_table(path)
    said = {
        "gone": "does not exist",
        "text": "cannot be read",
        "schema": "is of schema of no study; this release reads study_results/1",
        "version": "is of schema study_results/99",
        "column": "has no column `reward`",
        "type": "column `seed` is of string; study_results/1 has int32",
    }
    if broken == "gone":
        path.unlink()
    elif broken == "text":
        path.write_text("no parquet")
    elif broken == "schema":
        pq.write_table(table.replace_schema_metadata(None), path)
    elif broken == "version":
        pq.write_table(table.replace_schema_metadata({SCHEMA_KEY: "study_results/99"}), path)
    elif broken == "column":
        pq.write_table(table.drop_columns(["reward"]), path)
    else:
        place = table.schema.get_field_index("seed")
        metadata = table.schema.metadata
        table = table.set_column(place, "seed", table["seed"].cast(pa.string()))
        pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(InputError, match=said[broken]):
        read_study_table(path, (RESULTS,))
