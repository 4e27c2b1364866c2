"""``score --scorer checks`` on a prompts file of IFEval: its instructions are the checks, and what has none is named."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.finished_run import command
from support.interchange_files import lines
from support.pipelines import rows_of

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.cli.main import run

IDS = ["punctuation:no_comma", "length_constraints:number_words"]
KWARGS: list[dict[str, Any]] = [{}, {"relation": "at least", "num_words": 3}]
RESPONSES = {"One two three": 1.0, "One, two three": 0.5, "One, two": 0.0, "": 0.0}


def rows(
    ids: Any = IDS, kwargs: Any = KWARGS, prompt: str = "Count.", **more: Any
) -> list[dict[str, Any]]:
    texts = [text for text in RESPONSES if text]
    return [
        {
            "key": 1005,
            "prompt": prompt,
            "response": text,
            "instruction_id_list": ids,
            "kwargs": kwargs,
            **more,
        }
        for text in texts
    ]


def scored(source: str, folder: Path, *more: str) -> list[dict[str, Any]]:
    command(["import", source, "-o", str(folder), "--format", "rows"])
    command(
        [
            "score",
            str(folder / "candidates"),
            "-o",
            str(folder / "scores"),
            "--scorer",
            "checks",
            *more,
        ]
    )
    return rows_of(folder / "scores")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_reward_is_the_share_of_instructions_that_are_followed(
    tmp_path: Path, suffix: str
) -> None:
    """In Parquet, as on the hub, every object of ``kwargs`` has the keys of all others."""
    if suffix == "jsonl":
        source = lines(tmp_path / "a.jsonl", *rows())
    else:
        padded = [
            {"relation": None, "num_words": None, "keywords": None},
            {**KWARGS[1], "keywords": None},
        ]
        kind = pa.list_(
            pa.struct(
                [
                    ("relation", pa.string()),
                    ("num_words", pa.int64()),
                    ("keywords", pa.list_(pa.string())),
                ]
            )
        )
        held = rows(kwargs=padded)
        table = pa.Table.from_pylist(held)
        table = table.set_column(
            table.column_names.index("kwargs"),
            "kwargs",
            pa.array([row["kwargs"] for row in held], kind),
        )
        pq.write_table(table, tmp_path / "a.parquet")
        source = str(tmp_path / "a.parquet")
    found = scored(source, tmp_path / "run")
    assert [row["reward"] for row in found] == [1.0, 0.5, 0.0]
    assert [result["type"] for result in json.loads(found[0]["detail"])] == ["regex", "regex"]


def test_prompts_are_generated_for_and_scored_as_they_are(tmp_path: Path) -> None:
    prompts = [
        {"key": i, "prompt": f"Count to {i}.", "instruction_id_list": IDS, "kwargs": KWARGS}
        for i in range(3)
    ]
    source = lines(tmp_path / "input_data.jsonl", *prompts)
    command(
        [
            "generate",
            source,
            "-o",
            str(tmp_path / "c"),
            "--model",
            "fake",
            "--backend",
            "fake",
            "--n",
            "2",
        ]
    )
    command(["score", str(tmp_path / "c"), "-o", str(tmp_path / "s"), "--scorer", "checks"])
    assert {row["status"] for row in rows_of(tmp_path / "s")} == {"ok"}


def test_an_instruction_without_a_check_is_named_and_its_prompt_is_not_rated(
    tmp_path: Path, capsys
) -> None:
    held = rows() + rows(["punctuation:no_comma", "count:person_names"], [{}, {}], "Name them.")
    source = lines(tmp_path / "a.jsonl", *held)
    command(["import", source, "-o", str(tmp_path / "run"), "--format", "rows"])
    assert (
        run(
            [
                "score",
                str(tmp_path / "run/candidates"),
                "-o",
                str(tmp_path / "s"),
                "--scorer",
                "checks",
            ]
        )
        == 3
    )
    found = rows_of(tmp_path / "s")
    assert [row["status"] for row in found] == ["ok"] * 3 + ["bad_checks"] * 3
    assert "no check is known for the instruction 'count:person_names'" in found[3]["reason"]
    assert "3 bad_checks" in capsys.readouterr().err


def test_a_check_that_is_near_and_not_the_same_is_said(tmp_path: Path, capsys) -> None:
    source = lines(tmp_path / "a.jsonl", *rows(["change_case:english_lowercase"], [{}]))
    scored(source, tmp_path / "run")
    printed = capsys.readouterr().err
    assert (
        "checks: change_case:english_lowercase: 1 prompts; close to IFEval's rule, but not the "
        "same" in printed
    )


@pytest.mark.slow
def test_checks_of_the_prompts_own_come_first(tmp_path: Path) -> None:
    found = scored(
        lines(tmp_path / "a.jsonl", *rows(checks=[{"type": "chars", "max": 8, "strict": True}])),
        tmp_path / "run",
    )
    assert [row["reward"] for row in found] == [0.0, 0.0, 1.0]


@pytest.mark.slow
def test_scores_of_a_release_that_did_not_know_these_columns_are_not_kept_in_silence(
    tmp_path: Path,
) -> None:
    """Only where the columns are there: the fingerprint of every other run with checks stays."""
    scored(lines(tmp_path / "a.jsonl", *rows()), tmp_path / "with")
    plain = [{"prompt": "p", "response": "One", "checks": [{"type": "no_commas"}]}]
    scored(lines(tmp_path / "b.jsonl", *plain), tmp_path / "without")
    [there], [absent] = (
        read_run_record(tmp_path / name / "scores").identity["scorers"]
        for name in ("with", "without")
    )
    assert there["ifeval_version"] == 1
    assert "ifeval_version" not in absent
