"""``--skip-bad-rows``: what comes out is what the file without those rows gives, and nothing vanishes without a count."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.pipelines import rows_of

from prefpipe.cli.main import run
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.import_files import ImportConfig

FAKE = ["--model", "fake", "--backend", "fake", "--n", "2"]
ROWS = [
    {"prompt_id": f"p{i // 2}", "prompt": f"q{i // 2}", "response": f"r{i}", "judge": i + 0.5}
    for i in range(8)
]


def json_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    return path


def facts(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["skipped_rows"]
    return found


def skipped(output: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in Path(f"{output}.skipped-rows.jsonl").read_text().splitlines()
    ]


BAD = {
    "broken JSON": ('{"prompt": }', "line 3", "broken JSON"),
    "a key twice": (
        '{"prompt": "q0", "response": "x", "judge": 1, "judge": 2}',
        "line 3",
        'the key "judge" occurs twice',
    ),
    "a list": ("[1]", "line 3", "a JSON object is needed, not list"),
    "no number": ({**ROWS[2], "judge": "N/A"}, "line 3", "`judge` is 'N/A', which is not a number"),
    "no response": ({**ROWS[2], "response": None}, "line 3", "`response` is null"),
    "an id of another prompt": (
        {**ROWS[2], "prompt_id": "p0"},
        "line 3",
        "prompt p0 has a different text here than at line 1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("row", "place", "reason"), BAD.values(), ids=BAD)
def test_an_import_is_that_of_the_file_without_the_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: Any, place: str, reason: str
) -> None:
    source = json_lines(tmp_path / "bad.jsonl", [*ROWS[:2], row, *ROWS[3:]])
    command = ["import", str(source), "--format", "rows", "--reward-column", "judge"]
    assert run([*command, "-o", str(tmp_path / "strict")]) == 1
    assert "--skip-bad-rows" in capsys.readouterr().err
    assert not (tmp_path / "strict").exists()

    assert run([*command, "-o", str(tmp_path / "out"), "--skip-bad-rows", "--json"]) == 0
    found = facts(capsys)
    assert found["n"] == 1
    assert found["file"] == str(tmp_path / "out.skipped-rows.jsonl")
    [left_out] = skipped(tmp_path / "out")
    assert (left_out["place"], left_out["file"]) == (place, str(source))
    assert reason in left_out["reason"]
    assert left_out["row"] == row

    whole = json_lines(tmp_path / "whole.jsonl", [*ROWS[:2], *ROWS[3:]])
    assert (
        run(
            [
                "import",
                str(whole),
                "--format",
                "rows",
                "--reward-column",
                "judge",
                "-o",
                str(tmp_path / "whole"),
            ]
        )
        == 0
    )
    for kind in ("candidates", "scores"):
        assert rows_of(tmp_path / "out" / kind) == rows_of(tmp_path / "whole" / kind)


def test_faults_that_show_one_after_the_other_are_all_left_out_and_counted_by_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken lines hide bad values, and these hide contradictions between rows."""
    bad = [
        {**ROWS[0], "judge": "N/A"},
        "{",
        {**ROWS[1], "judge": "none"},
        {**ROWS[1], "prompt": "another"},
    ]
    source = json_lines(tmp_path / "bad.jsonl", [*ROWS, *bad])
    command = [
        "import",
        str(source),
        "--format",
        "rows",
        "--reward-column",
        "judge",
        "-o",
        str(tmp_path / "out"),
        "--skip-bad-rows",
    ]
    assert run([*command, "--json"]) == 0
    found = facts(capsys)
    assert found["n"] == 4
    assert found["by_reason"]["`judge` is ..., which is not a number"] == 2
    assert sorted(row["place"] for row in skipped(tmp_path / "out")) == [
        "line 10",
        "line 11",
        "line 12",
        "line 9",
    ]
    record = json.loads((tmp_path / "out" / "candidates" / "run.json").read_text())
    assert record["context"]["skipped_rows"] == found["by_reason"]
    assert record["identity"]["skip_bad_rows"] is True
    assert len(rows_of(tmp_path / "out" / "candidates")) == 8


def test_a_file_of_bad_rows_alone_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = json_lines(tmp_path / "bad.jsonl", ["{", "["])
    assert (
        run(["generate", str(source), "-o", str(tmp_path / "out"), *FAKE, "--skip-bad-rows"]) == 1
    )
    assert "line 1: broken JSON" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_column_is_no_row_that_could_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = json_lines(tmp_path / "p.jsonl", [{"question": "q"}])
    assert (
        run(["generate", str(source), "-o", str(tmp_path / "out"), *FAKE, "--skip-bad-rows"]) == 1
    )
    assert "neither `prompt` nor `messages`" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_prompts_of_every_kind_of_file_are_sampled_without_the_bad_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    rows = [
        {"prompt_id": "a", "prompt": "A?", "n": 1},
        {"prompt_id": "b", "prompt": "", "n": 2},
        {"prompt_id": "c", "prompt": "C?", "n": 3},
    ]
    path = tmp_path / f"p{suffix}"
    if suffix == ".jsonl":
        json_lines(path, rows)
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    elif suffix == ".csv":
        path.write_text('prompt_id,prompt,n\na,A?,1\nb,"",2\nc,C?,3\n')
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert (
        run(
            ["generate", str(path), "-o", str(tmp_path / "out"), *FAKE, "--skip-bad-rows", "--json"]
        )
        == 0
    )
    assert facts(capsys)["by_reason"] == {"`prompt`: the prompt is empty": 1}
    assert [(row["prompt_id"], row["n"]) for row in rows_of(tmp_path / "out")] == [
        ("a", 1),
        ("a", 1),
        ("c", 3),
        ("c", 3),
    ]
    [left_out] = skipped(tmp_path / "out")
    assert (left_out["row"]["prompt_id"], str(left_out["row"]["n"])) == ("b", "2")
    # a second run keeps the parts, and a run that finds nothing to leave out removes the list
    assert (
        run(
            ["generate", str(path), "-o", str(tmp_path / "out"), *FAKE, "--skip-bad-rows", "--json"]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["n_parts_kept"] == 1
    good = json_lines(tmp_path / "good.jsonl", [rows[0]])
    assert (
        run(
            [
                "generate",
                str(good),
                "-o",
                str(tmp_path / "out"),
                *FAKE,
                "--skip-bad-rows",
                "--json",
                "--overwrite",
            ]
        )
        == 0
    )
    assert facts(capsys) == {"n": 0, "file": None, "by_reason": {}}
    assert not (tmp_path / "out.skipped-rows.jsonl").exists()


@pytest.mark.slow
def test_ratings_and_pairs_leave_bad_rows_out_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = json_lines(tmp_path / "p.jsonl", [{"prompt_id": "a", "prompt": "A?"}])
    assert run(["generate", str(prompts), "-o", str(tmp_path / "cand"), *FAKE]) == 0
    ratings = json_lines(
        tmp_path / "r.jsonl",
        [
            {"prompt_id": "a", "sample_idx": 0, "rating": 3},
            {"prompt_id": "a", "sample_idx": 1, "rating": "n/a"},
        ],
    )
    score = [
        "score",
        str(tmp_path / "cand"),
        "-o",
        str(tmp_path / "sc"),
        "--scorer",
        f"ratings:{ratings}",
    ]
    assert run(score) == 1
    assert "--skip-bad-rows" in capsys.readouterr().err
    assert run([*score, "--skip-bad-rows", "--json", "--max-error-rate", "1"]) == 0
    assert facts(capsys)["by_reason"] == {"`rating` is ..., which is not a number": 1}
    assert [(row["reward"], row["status"]) for row in rows_of(tmp_path / "sc")] == [
        (3.0, "ok"),
        (None, "unrated"),
    ]

    pairs = json_lines(
        tmp_path / "pairs.jsonl",
        [
            {
                "prompt": "A?",
                "chosen": "x",
                "rejected": "y",
                "score_chosen": 2,
                "score_rejected": 1,
            },
            {
                "prompt": "B?",
                "chosen": "x",
                "rejected": "y",
                "score_chosen": "high",
                "score_rejected": 1,
            },
        ],
    )
    command = ["eval", "calibration", "--pairs", str(pairs), "-o", str(tmp_path / "cal")]
    assert run(command) == 1
    capsys.readouterr()
    assert run([*command, "--skip-bad-rows", "--json"]) == 0
    assert facts(capsys)["by_reason"] == {"`score_chosen` is ..., which is not a number": 1}
    assert len(rows_of(tmp_path / "cal")) == 1


def test_the_flag_is_in_the_identity_only_where_it_is_given(tmp_path: Path) -> None:
    for config_class, values in (
        (GenerateConfig, {"prompts": "p", "model": ("fake",), "backend": "fake"}),
        (ImportConfig, {"source": "s", "format": "trl"}),
    ):
        config = config_class(output=tmp_path / "o", **values)  # type: ignore[arg-type]
        assert "skip_bad_rows" not in config.identity()
        assert (
            config_class(output=tmp_path / "o", skip_bad_rows=True, **values).identity()[
                "skip_bad_rows"
            ]
            is True
        )  # type: ignore[arg-type]


def pair(chosen: str, rejected: str, score: float) -> dict[str, Any]:
    return {
        "prompt": "q",
        "chosen": chosen,
        "rejected": rejected,
        "score_chosen": score,
        "score_rejected": 1,
    }


CONTRADICTIONS = {
    "scores of pairs": (
        [pair("a", "b", 5), pair("a", "c", 4), pair("a", "d", 5)],
        ["--format", "trl"],
    ),
    "ratings that are refused": (
        [{"prompt": "q", "response": "a", "s": score} for score in (1, 5, 1)],
        ["--format", "rows", "--reward-column", "s", "--on-duplicate", "refuse"],
    ),
    "two texts under one key": (
        [{"prompt": "q", "response": text, "sample_idx": 0} for text in ("a", "c", "a")],
        ["--format", "rows"],
    ),
}


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize(("rows", "flags"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_rows_that_contradict_each_other_are_left_out_together_whatever_their_order(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[Any],
    flags: list[str],
    is_reversed: bool,
) -> None:
    other = {**pair("x", "y", 3), "prompt": "other", "response": "x", "s": 2, "sample_idx": 0}
    source = json_lines(tmp_path / "in.jsonl", [*(rows[::-1] if is_reversed else rows), other])
    assert (
        run(
            [
                "import",
                str(source),
                *flags,
                "-o",
                str(tmp_path / "out"),
                "--skip-bad-rows",
                "--json",
            ]
        )
        == 0
    )
    assert facts(capsys)["n"] == 3
    assert {row["messages"][-1]["content"] for row in rows_of(tmp_path / "out" / "candidates")} == {
        "other"
    }
    assert [
        row["place"] for row in sorted(skipped(tmp_path / "out"), key=lambda row: row["place"])
    ] == [
        "line 1",
        "line 2",
        "line 3",
    ]


@pytest.mark.parametrize("values", [(1, 3, 1), (3, 1, 1), (1, 1, 3)])
def test_a_candidate_that_two_ratings_contradict_is_unrated(
    tmp_path: Path, values: tuple[int, ...]
) -> None:
    source = json_lines(
        tmp_path / "in.jsonl", [{"prompt": "q", "response": "a"}, {"prompt": "q", "response": "b"}]
    )
    assert run(["import", str(source), "--format", "rows", "-o", str(tmp_path / "out")]) == 0
    key = rows_of(tmp_path / "out" / "candidates")[0]["prompt_id"]
    rows = [{"prompt_id": key, "sample_idx": 0, "rating": value} for value in values]
    ratings = json_lines(
        tmp_path / "ratings.jsonl", [*rows, {"prompt_id": key, "sample_idx": 1, "rating": 2}]
    )
    command = [
        "score",
        str(tmp_path / "out" / "candidates"),
        "--scorer",
        f"ratings:{ratings}",
        "--skip-bad-rows",
    ]
    assert (
        run([*command, "-o", str(tmp_path / "scores")]) == 3
    )  # half of the candidates are unrated
    assert [(row["status"], row["reward"]) for row in rows_of(tmp_path / "scores")] == [
        ("unrated", None),
        ("ok", 2.0),
    ]


def test_rows_left_out_are_on_file_where_too_many_pairs_failed(tmp_path: Path) -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 2, "score_rejected": 1}
    rows = [pair, {**pair, "prompt": "r", "score_chosen": None}, {**pair, "score_chosen": "x"}]
    source = json_lines(tmp_path / "pairs.jsonl", rows)
    words = ["eval", "rewardbench", "--pairs", str(source), "-o", str(tmp_path / "out")]
    assert run([*words, "--skip-bad-rows", "--max-error-rate", "0"]) == 3

    (left_out,) = (tmp_path / "out.skipped-rows.jsonl").read_text().splitlines()
    assert json.loads(left_out)["place"] == "line 3"
