"""``prefpipe import`` as it is typed: what is on disk after it, what it refuses, and that the other commands take it."""

import json
import random
import re
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest
from support.finished_run import command
from support.interchange_files import SKY, lines
from support.pipelines import assert_only_parts, identities_of, open_artifact, rows_of, table_of

from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.run_record import read_run_record
from prefpipe.cli.main import run
from prefpipe.cli.signals import stop_request
from prefpipe.configs.import_files import FORMATS
from prefpipe.status.checker import StatusChecker

N_PROMPTS, N = 6, 4


def long_rows(n_prompts: int = N_PROMPTS, n: int = N) -> list[dict[str, Any]]:
    return [
        {
            "prompt_id": f"p{i}",
            "prompt": f"question {i}",
            "response": f"answer {i} {'abcdefgh'[j] * (1 + j)}",
            "model": f"m{j % 2}",
            "judge": round((i * 7 + j * 5) % 11 / 10, 3),
            "topic": f"t{i % 2}",
        }
        for i in range(n_prompts)
        for j in range(n)
    ]


def words(source: str, out: Path, *more: str) -> list[str]:
    return [
        "import",
        source,
        "-o",
        str(out),
        "--format",
        "rows",
        "--reward-column",
        "judge",
        "--part-size",
        "2",
        *more,
    ]


@pytest.fixture
def source(tmp_path: Path) -> str:
    return lines(tmp_path / "rows.jsonl", *long_rows())


def test_candidates_and_scores_on_disk(tmp_path: Path, source: str) -> None:
    command(words(source, tmp_path / "run"))
    candidates, scores = tmp_path / "run" / "candidates", tmp_path / "run" / "scores"
    rows = rows_of(candidates)
    assert [(row["prompt_id"], row["sample_idx"]) for row in rows] == [
        (f"p{i}", j) for i in range(N_PROMPTS) for j in range(N)
    ]
    assert rows[5] == {
        "prompt_id": "p1",
        "sample_idx": 1,
        "messages": [{"role": "user", "content": "question 1"}],
        "response": "answer 1 bb",
        "model": "m1",
        "prompt_token_ids": None,
        "response_token_ids": None,
        "n_prompt_tokens": None,
        "n_response_tokens": None,
        "finish_reason": None,
        "logp": None,
        "temperature": None,
        "seed": None,
        "duplicate_of": None,
        "status": "ok",
        "reason": None,
        "topic": "t1",
    }
    assert rows_of(scores)[5] == {
        "prompt_id": "p1",
        "sample_idx": 1,
        "scorer": "judge",
        "reward": 0.1,
        "detail": None,
        "status": "ok",
        "reason": None,
    }
    identity = read_run_record(candidates).identity
    assert read_run_record(scores).identity["candidates"] == identity
    assert read_run_record(scores).identity["scorers"] == [{"name": "judge", "kind": "import"}]
    parts = open_artifact(scores)
    assert [dict(parts.footer(i).parents) for i in range(3)] == [
        {"candidates": open_artifact(candidates).footer(i).data_sha256} for i in range(3)
    ]
    assert_only_parts(candidates)
    assert_only_parts(scores)


def test_statuses_of_responses_and_scores(tmp_path: Path, capsys) -> None:
    """Nothing vanishes: what has no text or no score is a row that says why."""
    cases = [
        ("fine", "stop", 1.0, "ok", "ok"),
        (" \n", None, 0.5, "empty", "ok"),
        ("cut", "length", None, "truncated", "unrated"),
        (None, "error", 2.0, "error", "no_response"),
        ("x", None, float("nan"), "ok", "not_finite"),
        ("fine", None, float("inf"), "ok", "not_finite"),
    ]
    rows = [
        {
            "prompt": "q",
            "sample_idx": number,
            "response": text,
            "finish_reason": reason,
            "judge": score,
        }
        for number, (text, reason, score, _, _) in enumerate(cases)
    ]
    assert run([*words(lines(tmp_path / "a.jsonl", *rows), tmp_path / "run"), "--json"]) == 0
    candidates, scores = (
        rows_of(tmp_path / "run" / "candidates"),
        rows_of(tmp_path / "run" / "scores"),
    )
    assert [row["status"] for row in candidates] == [case[3] for case in cases]
    assert [row["status"] for row in scores] == [case[4] for case in cases]
    assert [row["reward"] for row in scores] == [1.0, 0.5, None, None, None, None]
    assert all((row["reason"] is None) == (row["status"] == "ok") for row in candidates + scores)
    assert [row["duplicate_of"] for row in candidates] == [None, None, None, None, None, 0]
    assert {row["model"] for row in candidates} == {"imported"}
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert facts["counts"] == {"empty": 1, "error": 1, "ok": 3, "truncated": 1}
    assert facts["scores"] == {"no_response": 1, "not_finite": 2, "ok": 2, "unrated": 1}
    assert facts["rewards"] == {"judge": {"n": 2, "lowest": 0.5, "highest": 1.0}}
    assert (
        "scores of judge: 2, 0.5 to 1, median 0.75, 1 no_response, 2 not_finite, 1 unrated"
        in printed.err
    )


def test_progress_in_a_log_says_once_what_is_done_of_each_folder(
    tmp_path: Path, source: str, capsys
) -> None:
    command(words(source, tmp_path / "run"))
    printed = capsys.readouterr().err.splitlines()
    ends = [line for line in printed if "3 of 3 parts done" in line]
    assert [line.partition(": ")[0] for line in ends] == ["import", "import, scores"]


def test_without_scores_there_is_no_scores_folder(tmp_path: Path, capsys) -> None:
    assert (
        run(
            [
                "import",
                lines(tmp_path / "a.jsonl", *long_rows()),
                "-o",
                f"{tmp_path}/run",
                "--format",
                "rows",
                "--model-name",
                "m",
            ]
        )
        == 0
    )
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path}/run\n"
    assert "the file has no scores: rate the candidates with `prefpipe score`" in printed.err
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["candidates"]


def test_the_same_command_again_keeps_what_is_there_and_makes_what_is_not(
    tmp_path: Path, source: str, capsys
) -> None:
    command(words(source, tmp_path / "run"))
    folders = [tmp_path / "run" / name for name in ("candidates", "scores")]
    before = [identities_of(folder) for folder in folders]
    tables = [table_of(folder) for folder in folders]
    open_artifact(folders[0]).part_path(1).unlink()
    damaged = open_artifact(folders[1]).part_path(2)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    command(words(source, tmp_path / "run"))
    after = [identities_of(folder) for folder in folders]
    changed = [
        {name for name in old if old[name] != new[name]}
        for old, new in zip(before, after, strict=True)
    ]
    assert changed == [{"part-00001-of-00003.parquet"}, {"part-00002-of-00003.parquet"}]
    assert [table_of(folder).to_pylist() for folder in folders] == [
        table.to_pylist() for table in tables
    ]
    assert "candidates: 2 of 3 parts are finished and kept" in capsys.readouterr().err


@pytest.mark.slow
def test_another_configuration_or_file_is_refused_with_what_differs(
    tmp_path: Path, source: str, capsys
) -> None:
    command(words(source, tmp_path / "run"))
    for more, line in (
        (["--model-name", "other"], 'model_name: "imported" on disk, "other" requested'),
        (["--part-size", "3"], "part_size: 2 on disk, 3 requested"),
        (["--reward-column", "j2=judge"], "reward_column:"),
    ):
        assert run([*words(source, tmp_path / "run"), *more]) == 2
        assert line in capsys.readouterr().err
    lines(tmp_path / "rows.jsonl", *long_rows(), *long_rows(1, 1))
    lines(tmp_path / "rows.jsonl", *long_rows(N_PROMPTS, N + 1))
    assert run(words(source, tmp_path / "run")) == 2
    assert "source: " in capsys.readouterr().err
    assert run([*words(source, tmp_path / "run"), "--overwrite"]) == 0
    assert len(rows_of(tmp_path / "run" / "scores")) == N_PROMPTS * (N + 1)


def test_a_bad_file_costs_no_older_result(tmp_path: Path, source: str, capsys) -> None:
    command(words(source, tmp_path / "run"))
    before = identities_of(tmp_path / "run" / "candidates")
    lines(tmp_path / "rows.jsonl", *long_rows(), {"prompt": "q"})
    assert run([*words(source, tmp_path / "run"), "--overwrite"]) == 1
    assert "line 25: `prompt_id` is empty" in capsys.readouterr().err
    assert identities_of(tmp_path / "run" / "candidates") == before


def test_overwriting_scores_with_a_file_that_has_none_leaves_no_old_scores(
    tmp_path: Path, source: str
) -> None:
    command(words(source, tmp_path / "run"))
    bare = [
        "import",
        source,
        "-o",
        str(tmp_path / "run"),
        "--format",
        "rows",
        "--part-size",
        "2",
        "--overwrite",
    ]
    command(bare)
    assert not (tmp_path / "run" / "scores").exists()


def test_a_stop_is_obeyed_after_a_part_and_the_rest_is_made_later(
    tmp_path: Path, source: str, monkeypatch, capsys
) -> None:
    seen = []
    monkeypatch.setattr(
        type(stop_request), "__call__", lambda _self: len(seen) >= 1 or seen.append(1) is not None
    )
    assert run(words(source, tmp_path / "run")) == 75
    assert "import stopped on request: 1 parts made now, 2 left" in capsys.readouterr().err
    monkeypatch.undo()
    command(words(source, tmp_path / "run"))
    assert len(rows_of(tmp_path / "run" / "scores")) == N_PROMPTS * N


def test_status_understands_an_import_and_sees_a_changed_file(
    tmp_path: Path, source: str, capsys
) -> None:
    command(words(source, tmp_path / "run"))
    assert run(["status", f"{tmp_path}/run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in printed if line.startswith("done")] == ["import", "import"]
    open_artifact(tmp_path / "run" / "scores").part_path(0).unlink()
    assert run(["status", f"{tmp_path}/run"]) == 4
    assert "--array" not in capsys.readouterr().out
    lines(tmp_path / "rows.jsonl", *long_rows(), *long_rows(1, 1))
    report = StatusChecker().check(tmp_path / "run" / "candidates")
    assert report.state == "stale"
    assert report.reasons == [f"its source, {source}, has changed since"]
    Path(source).unlink()
    report = StatusChecker().check(tmp_path / "run" / "candidates")
    assert report.state == "done"
    assert report.notes == [f"its source, {source}, no longer exists"]


@pytest.mark.slow
def test_the_other_commands_take_it(tmp_path: Path, source: str) -> None:
    """Imported scores, scores of one's own, embeddings, selection and the views."""
    out = tmp_path / "run"
    command(words(source, out))
    candidates = str(out / "candidates")
    command(["score", candidates, "-o", f"{out}/fakes", "--scorer", "fake"])
    command(["embed", candidates, "-o", f"{out}/embeddings", "--model", "fake"])
    for scores, name in (("scores", "coreset"), ("fakes", "bottom-k")):
        command(
            [
                "select",
                candidates,
                "--scores",
                f"{out}/{scores}",
                "--embeddings",
                f"{out}/embeddings",
                "-o",
                f"{out}/{name}",
                "--strategy",
                name,
                "--k",
                "2",
            ]
        )
        groups = rows_of(out / name)
        assert len({row["prompt_id"] for row in groups}) == N_PROMPTS
        assert groups[0]["topic"] == "t0"
    rewards = {
        (row["prompt_id"], row["sample_idx"]): row["reward"] for row in rows_of(out / "scores")
    }
    assert all(
        row["reward"] == rewards[row["prompt_id"], row["sample_idx"]]
        for row in rows_of(out / "coreset")
    )
    assert run(["inspect", f"{out}/scores"]) == 0
    assert run(["inspect", f"{out}/coreset", "--prompt-id", "p1"]) == 0
    assert run(["status", str(out)]) == 0


@pytest.mark.slow
def test_eval_takes_imported_candidates_as_a_side(tmp_path: Path, source: str, capsys) -> None:
    command(words(source, tmp_path / "a"))
    better = [row | {"judge": row["judge"] + 1} for row in long_rows()]
    command(words(lines(tmp_path / "better.jsonl", *better), tmp_path / "b"))
    sides = [
        "--policy",
        f"{tmp_path}/b/candidates",
        "--policy-scores",
        f"{tmp_path}/b/scores",
        "--baseline",
        f"{tmp_path}/a/candidates",
        "--baseline-scores",
        f"{tmp_path}/a/scores",
    ]
    capsys.readouterr()
    assert run(["eval", *sides, "-o", f"{tmp_path}/eval", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["win_rate"]["mean"] > 0.9


def test_a_batch_in_any_order_gives_the_same_artifact(tmp_path: Path) -> None:
    requests = [
        {
            "custom_id": f"r{i}",
            "body": {"model": "m", "messages": [{"role": "user", "content": f"q{i % 3}"}]},
        }
        for i in range(9)
    ]
    answers = [
        {
            "custom_id": f"r{i}",
            "response": {
                "status_code": 200,
                "body": {
                    "choices": [
                        {"index": 0, "message": {"content": f"a{i}"}, "finish_reason": "stop"}
                    ]
                },
            },
        }
        for i in range(9)
        if i != 4
    ]
    sent = lines(tmp_path / "in.jsonl", *requests)
    found = []
    for seed in range(3):
        out = tmp_path / str(seed)
        source = lines(
            tmp_path / f"out{seed}.jsonl", *random.Random(seed).sample(answers, len(answers))
        )
        command(["import", source, "-o", str(out), "--format", "openai-batch", "--requests", sent])
        found.append(rows_of(out / "candidates"))
    assert found[0] == found[1] == found[2]
    assert [row["status"] for row in found[0]].count("error") == 1
    assert read_run_record(tmp_path / "0" / "candidates").identity["requests"]


@pytest.mark.slow
def test_the_alpaca_eval_pool_is_imported_whole(tmp_path: Path, data_dir: Path) -> None:
    """805 prompts with 32 responses each: integer ids become text, columns of the prompt pass through."""
    command(
        [
            "import",
            str(data_dir / "alpaca_candidates.parquet"),
            "-o",
            str(tmp_path),
            "--format",
            "rows",
            "--reward-column",
            "preference",
        ]
    )
    expected = pl.read_parquet(data_dir / "alpaca_candidates.parquet")
    found = pl.read_parquet(sorted((tmp_path / "candidates").glob("part-*")))
    scores = pl.read_parquet(sorted((tmp_path / "scores").glob("part-*")))
    assert found["response"].to_list() == expected["response"].to_list()
    assert found["prompt_id"].to_list() == expected["prompt_id"].cast(pl.String).to_list()
    assert scores["reward"].to_list() == expected["preference"].to_list()
    assert found["duplicate_of"].is_not_null().sum() == 313
    assert {"dataset", "annotation_index"} <= set(found.columns)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "n"),
    [
        (
            "wildbench_scores_1to10",
            [
                "--prompt-id-column",
                "session_id",
                "--prompt-column",
                "session_id",
                "--reward-column",
                "score_1_10",
            ],
            12_120,
        ),
        (
            "realsumm_human",
            [
                "--prompt-id-column",
                "doc_id",
                "--prompt-column",
                "source",
                "--model-column",
                "system",
                "--reward-column",
                "litepyramid_recall",
            ],
            2_400,
        ),
        (
            "summeval_human",
            [
                "--prompt-id-column",
                "doc_id",
                "--prompt-column",
                "source",
                "--model-column",
                "system",
                "--reward-column",
                "score",
                "--reward-column",
                "fluency",
            ],
            1_600,
        ),
    ],
)
def test_other_public_pools_are_imported_by_the_names_of_their_columns(
    tmp_path: Path, data_dir: Path, name: str, options: list[str], n: int
) -> None:
    command(
        [
            "import",
            str(data_dir / f"{name}.parquet"),
            "-o",
            str(tmp_path),
            "--format",
            "rows",
            *options,
        ]
    )
    assert table_of(tmp_path / "candidates").num_rows == n


@pytest.mark.slow
def test_the_output_may_be_where_the_file_is_and_not_inside_a_folder_that_is_read(
    tmp_path: Path, source: str, capsys
) -> None:
    command(words(source, tmp_path))
    saved = tmp_path / "saved"
    datasets.Dataset.from_list(long_rows()).save_to_disk(str(saved))
    assert run(words(str(saved), saved / "run")) == 2
    assert "lie inside each other" in capsys.readouterr().err
    command(words(str(saved), tmp_path / "run"))
    assert rows_of(tmp_path / "run" / "scores") == rows_of(tmp_path / "scores")
    assert run(["status", f"{tmp_path}/run"]) == 0


def test_the_key_of_a_prompt_does_not_depend_on_the_format(tmp_path: Path) -> None:
    rows = {"prompt": SKY[0]["content"], "response": "x"}
    command(
        ["import", lines(tmp_path / "a.jsonl", rows), "-o", f"{tmp_path}/a", "--format", "rows"]
    )
    assert rows_of(tmp_path / "a" / "candidates")[0]["prompt_id"] == prompt_id_of(SKY)


DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "guides" / "interchange.md"
IMPORTS = DOCUMENT.read_text(encoding="utf-8").partition("\n## Export\n")[0]
EXAMPLES = [
    (name, line)
    for name, block in re.findall(
        r"^### ([\w-]+).*?^```json\n(.*?)^```", IMPORTS, re.MULTILINE | re.DOTALL
    )
    for line in block.splitlines()
]


@pytest.mark.parametrize(
    ("name", "line"), EXAMPLES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(EXAMPLES)]
)
def test_the_examples_of_the_documentation_are_read(tmp_path: Path, name: str, line: str) -> None:
    options = ["--reward-column", "judge"] if name == "rows" else []
    if name == "wide":
        responses, marks = (
            (["answer_a", "answer_b"], ["mark_a", "mark_b"])
            if "answer_a" in line
            else (["answers"], ["marks"])
        )
        options = ["--prompt-column", "question"]
        options += [word for column in responses for word in ("--response-column", column)]
        options += [word for column in marks for word in ("--score-column", column)]
    if name == "openai-batch":
        request = {"custom_id": json.loads(line)["custom_id"], "body": {"messages": SKY}}
        options = ["--requests", lines(tmp_path / "in.jsonl", request)]
    command(
        [
            "import",
            lines(tmp_path / "a.jsonl", line),
            "-o",
            f"{tmp_path}/run",
            "--format",
            name,
            *options,
        ]
    )
    assert rows_of(tmp_path / "run" / "candidates")
    assert (tmp_path / "run" / "scores").exists() == (
        name not in ("openai-batch", "alpaca-eval", "arena-hard")
    )


def test_every_format_has_an_example() -> None:
    assert {name for name, _ in EXAMPLES} == set(FORMATS) - {"jsonl"}
