"""The wide form: responses and scores in columns or lists that are named."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.finished_run import command
from support.interchange_files import lines
from support.pipelines import rows_of

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.cli.main import run

WIDE = [
    {
        "q": "Name a lake.",
        "a1": "Lake Chad.",
        "a2": "The Nile.",
        "s1": 4,
        "s2": 1.5,
        "h1": 0,
        "h2": 1,
        "topic": "water",
    },
    {
        "q": "Name a sea.",
        "a1": "The Alps.",
        "a2": "The Black Sea.",
        "s1": None,
        "s2": 5,
        "h1": 1,
        "h2": 0,
        "topic": "water",
    },
]
COLUMNS = ("--prompt-column", "q", "--response-column", "a1", "--response-column", "a2")


def imported(
    source: str, folder: Path, *words: str, kind: str = "wide"
) -> dict[tuple[str, str], Any]:
    """Return the scores of each response by its prompt and text."""
    command(["import", source, "-o", str(folder), "--format", kind, *words])
    scores: dict[Any, dict[str, Any]] = {}
    for row in rows_of(folder / "scores") if (folder / "scores").exists() else []:
        scores.setdefault((row["prompt_id"], row["sample_idx"]), {})[row["scorer"]] = row["reward"]
    return {
        (row["messages"][0]["content"], row["response"]): scores.get(
            (row["prompt_id"], row["sample_idx"]), {}
        )
        for row in rows_of(folder / "candidates")
    }


@pytest.mark.parametrize("kind", ["wide", "rows"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_wide_responses_are_numbered_in_the_order_of_their_columns(
    tmp_path: Path, suffix: str, kind: str
) -> None:
    source = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        lines(source, *WIDE)
    else:
        frame = pl.DataFrame(WIDE)
        frame.write_csv(source) if suffix == "csv" else frame.write_parquet(source)
    found = imported(
        str(source),
        tmp_path / "run",
        *COLUMNS,
        "--score-column",
        "s1",
        "--score-column",
        "s2",
        kind=kind,
    )
    assert found == {
        ("Name a lake.", "Lake Chad."): {"score": 4.0},
        ("Name a lake.", "The Nile."): {"score": 1.5},
        ("Name a sea.", "The Alps."): {"score": None},
        ("Name a sea.", "The Black Sea."): {"score": 5.0},
    }
    assert {row["topic"] for row in rows_of(tmp_path / "run" / "candidates")} == {"water"}


def test_several_scorers_each_with_a_column_for_every_response(tmp_path: Path) -> None:
    words = [f"--score-column={name}" for name in ("s=s1", "h=h1", "s=s2", "h=h2")]
    found = imported(lines(tmp_path / "a.jsonl", *WIDE), tmp_path / "run", *COLUMNS, *words)
    assert found["Name a lake.", "The Nile."] == {"s": 1.5, "h": 1.0}


@pytest.mark.parametrize("as_text", [False, True])
def test_wide_takes_one_column_of_lists(tmp_path: Path, as_text: bool) -> None:
    """In CSV, and often in Parquet, lists are JSON text."""
    row: dict[str, Any] = {
        "prompt": "Name a lake.",
        "outs": ["Lake Chad.", "The Nile.", "Elbe."],
        "marks": [4, 1, None],
        "by": ["a", "b", "c"],
    }
    if as_text:
        row = {
            name: json.dumps(value) if isinstance(value, list) else value
            for name, value in row.items()
        }
    words = ("--response-column", "outs", "--score-column", "mark=marks")
    found = imported(
        lines(tmp_path / "a.jsonl", row),
        tmp_path / "run",
        *words,
        *(() if as_text else ("--model-column", "by")),
    )
    assert list(found.values()) == [{"mark": 4.0}, {"mark": 1.0}, {"mark": None}]
    if not as_text:
        assert [each["model"] for each in rows_of(tmp_path / "run" / "candidates")] == [
            "a",
            "b",
            "c",
        ]


def test_a_null_response_is_left_out_and_counted(tmp_path: Path, capsys) -> None:
    rows = [WIDE[0], {**WIDE[1], "a1": None}]
    found = imported(lines(tmp_path / "a.jsonl", *rows), tmp_path / "run", *COLUMNS)
    assert len(found) == 3
    assert "responses that are null, and left out: `a1` 1" in capsys.readouterr().err


def test_a_response_that_is_rated_in_several_rows_has_the_mean(tmp_path: Path, capsys) -> None:
    """As in Vicuna's evaluation, where one model's answer is judged against several others'."""
    rows = [WIDE[0], {**WIDE[0], "a2": "Loch Ness.", "s1": 2, "s2": 4}]
    words = ("--score-column", "s1", "--score-column", "s2")
    found = imported(lines(tmp_path / "a.jsonl", *rows), tmp_path / "run", *COLUMNS, *words)
    assert found == {
        ("Name a lake.", "Lake Chad."): {"score": 3.0},
        ("Name a lake.", "The Nile."): {"score": 1.5},
        ("Name a lake.", "Loch Ness."): {"score": 4.0},
    }
    assert "1 responses occur in 2 rows each" in capsys.readouterr().err


def test_wide_takes_the_ids_of_the_file(tmp_path: Path) -> None:
    rows = [{**row, "key": f"k{number}"} for number, row in enumerate(WIDE)]
    imported(
        lines(tmp_path / "a.jsonl", *rows), tmp_path / "run", *COLUMNS, "--prompt-id-column", "key"
    )
    assert [
        (row["prompt_id"], row["sample_idx"]) for row in rows_of(tmp_path / "run" / "candidates")
    ] == [
        ("k0", 0),
        ("k0", 1),
        ("k1", 0),
        ("k1", 1),
    ]


@pytest.mark.parametrize(("words", "message"), [
    ((*COLUMNS, "--score-column", "s1"), "1 columns of score (s1) for 2 of responses (a1, a2)"),
    ((*COLUMNS, "--score-column", "a=s1", "--score-column", "b=s2"), "1 columns of a (s1) for 2 of responses"),
    ((*COLUMNS, "--reward-column", "s1"), "--reward-column is the score of one response per row"),
    ((*COLUMNS, "--response-column", "a1"), "--response-column names `a1` twice"),
    ((*COLUMNS, "--score-column", "s1", "--score-column", "no"), "has no column `no`; its columns are: q, a1"),
    (("--prompt-column", "q"), "needs --response-column"),
    (("--response-column", "a1", "--response-column", "a2"), "neither `prompt` nor `messages`"),
    ((*COLUMNS, "--score-column", "lambda=s1", "--score-column", "lambda=s2"), "`lambda` is no name for a scorer"),
])  # fmt: skip
def test_columns_that_do_not_fit_are_refused(
    tmp_path: Path, words: tuple[str, ...], message: str, capsys
) -> None:
    source = lines(tmp_path / "a.jsonl", *WIDE)
    assert run(["import", source, "-o", str(tmp_path / "run"), "--format", "wide", *words]) in (
        1,
        2,
    )
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("row", "message"), [
    ({"outs": ["a", "b"], "marks": [1]}, "line 1: `outs` holds 2 and `marks` 1: both lists must have the same length"),
    ({"outs": ["a", "b"], "marks": 3}, "line 1: `marks` is 3, which is not a list"),
    ({"outs": ["a", 7], "marks": [1, 2]}, "line 1: `outs[1]` is 7, which is not text"),
    ({"outs": ["a", "b"], "marks": [1, "good"]}, "line 1: `marks[1]` is 'good'"),
])  # fmt: skip
def test_lists_that_do_not_fit_are_refused_with_their_row(
    tmp_path: Path, row: dict[str, Any], message: str, capsys
) -> None:
    source = lines(tmp_path / "a.jsonl", {"prompt": "p", **row})
    words = ["--response-column", "outs", "--score-column", "marks"]
    assert run(["import", source, "-o", str(tmp_path / "run"), "--format", "wide", *words]) == 1
    assert message in capsys.readouterr().err


def test_rows_with_lists_are_pointed_to_the_wide_form(tmp_path: Path, capsys) -> None:
    source = lines(tmp_path / "a.jsonl", {"prompt": "p", "response": ["a", "b"]})
    assert run(["import", source, "-o", str(tmp_path / "run"), "--format", "rows"]) == 1
    assert (
        "hint: for a column of lists: --format wide --response-column response"
        in capsys.readouterr().err
    )


def test_the_fingerprint_of_the_long_form_is_as_it_was(tmp_path: Path) -> None:
    command(
        [
            "import",
            lines(tmp_path / "a.jsonl", {"prompt": "p", "r": "a"}),
            "-o",
            str(tmp_path / "run"),
            "--format",
            "rows",
            "--response-column",
            "r",
        ]
    )
    identity = read_run_record(tmp_path / "run" / "candidates").identity
    assert identity["response_column"] == "r"
    assert "score_column" not in identity


@pytest.mark.parametrize("printed", ["['4', 'five']", "['4' 'five']"], ids=["Python", "numpy"])
def test_lists_as_python_prints_them_are_never_one_response(
    tmp_path: Path, printed: str, capsys
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'prompt,answers\n2+2?,"{printed}"\n')
    assert (
        run(
            [
                "import",
                str(path),
                "-o",
                f"{tmp_path}/out",
                "--format",
                "wide",
                "--response-column",
                "answers",
            ]
        )
        == 1
    )
    assert "`answers` holds lists written as text that are not JSON" in capsys.readouterr().err


def test_models_and_answers_that_look_like_numbers_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,a,b,m,zip\n2+2?,4,007,01,01234\n3+3?,6,1.50,02,00501\n")
    words = ["--response-column", "a", "--response-column", "b", "--model-column", "m"]
    assert run(["import", str(path), "-o", f"{tmp_path}/out", "--format", "wide", *words]) == 0
    rows = rows_of(tmp_path / "out" / "candidates")
    assert [(row["response"], row["model"], row["zip"]) for row in rows] == [
        ("4", "01", "01234"),
        ("007", "01", "01234"),
        ("6", "02", "00501"),
        ("1.50", "02", "00501"),
    ]
