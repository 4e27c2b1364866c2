"""``prefpipe eval win-rate`` as it is typed, and ``prefpipe eval`` with commands beside the stage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from support.alpaca_files import annotation, annotations, difficulty_table, gamed_table
from support.interchange_files import lines

from prefpipe.cli.main import run

QUICK = ("--bootstrap-draws", "200", "--bootstrap-fits", "20")


def figures(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["eval", "win-rate", *words, *QUICK, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def published(tmp_path: Path, data_dir: Path) -> Path:
    """The folder of AlpacaEval's own files for two models of the leaderboard."""
    candidates = pl.read_parquet(data_dir / "alpaca_candidates.parquet")
    baseline = pl.read_parquet(data_dir / "alpaca_baseline.parquet").sort("prompt_id")
    for model in ("claude-2", "alpaca-7b"):
        rows = candidates.filter(pl.col("model") == model).sort("prompt_id")
        values = [
            {
                "instruction": prompt,
                "output_1": theirs,
                "generator_1": "gpt4_1106_preview",
                "output_2": ours,
                "generator_2": model,
                "annotator": "weighted_alpaca_eval_gpt4_turbo",
                "preference": 1 + preference,
                "raw_completion": None,
            }
            for prompt, theirs, ours, preference in zip(
                rows["prompt"],
                baseline["response"],
                rows["response"],
                rows["preference"],
                strict=True,
            )
        ]
        (tmp_path / f"{model}.json").write_text(json.dumps(values))
    table = baseline.select(pl.col("prompt_id").alias(""), "instruction_difficulty")
    table.write_csv(tmp_path / "instruction_difficulty.csv")
    gamed = pl.read_parquet(data_dir / "alpaca_lc_gamed_surrogate.parquet").rename(
        {"preference_surrogate": "preference"}
    )
    gamed.write_csv(tmp_path / "df_gamed.csv")
    return tmp_path


@pytest.mark.slow
def test_alpaca_eval_files_give_the_published_figures(
    published: Path, data_dir: Path, capsys
) -> None:
    """From annotations.json and the two tables to the leaderboard's line."""
    known = {
        row["model"]: row
        for row in pl.read_parquet(data_dir / "alpaca_leaderboard_known.parquet").to_dicts()
    }
    beside = [
        "--difficulty",
        f"{published}/instruction_difficulty.csv",
        "--regularising-rows",
        f"{published}/df_gamed.csv",
    ]
    found = figures(capsys, f"{published}/claude-2.json", f"{published}/alpaca-7b.json", *beside)
    for result in found["results"]:
        row = known[result["name"]]
        assert 100 * result["win_rate"]["mean"] == pytest.approx(row["win_rate"], abs=1e-8)
        assert 100 * result["win_rate"]["se"] == pytest.approx(row["standard_error"], abs=1e-8)
        assert (result["win_rate"]["n_wins"], result["win_rate"]["n_draws"]) == (
            row["n_wins"],
            row["n_draws"],
        )
        assert result["length_controlled"]["name"] == "length-controlled win rate"
        assert 100 * result["length_controlled"]["mean"] == pytest.approx(
            row["length_controlled_winrate"], abs=0.25
        )
        assert int(result["mean_length_chars"]) == row["avg_length"]
    difference = found["differences"][0]
    assert difference["length_controlled"]["mean"] == pytest.approx(
        found["results"][1]["length_controlled"]["mean"]
        - found["results"][0]["length_controlled"]["mean"]
    )
    exact = figures(
        capsys,
        f"{published}/claude-2.json",
        *beside,
        "--penalty-c",
        str(known["claude-2"]["glm_C"]),
    )
    controlled = exact["results"][0]["length_controlled"]
    assert 100 * controlled["mean"] == pytest.approx(
        known["claude-2"]["length_controlled_winrate"], abs=0.02
    )


def test_the_page_says_what_it_is_and_is_not(tmp_path: Path, capsys) -> None:
    assert run(["eval", "win-rate", str(annotations(tmp_path / "a.json")), *QUICK]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "model against gpt4_1106_preview, 40 prompts" in told
    assert "win rate, ties half" in told
    assert "length-controlled win rate without difficulty term" in told
    assert (
        "note: without difficulty term and regularising rows: this is not AlpacaEval's "
        "length-controlled win rate" in told
    )
    assert "95% bootstrap over prompts, seed 0" in told
    assert "judge: weighted_alpaca_eval_gpt4_turbo" in told


def test_a_result_carries_its_recipe(tmp_path: Path, capsys) -> None:
    path = annotations(tmp_path / "a.json")
    table = difficulty_table(tmp_path / "d.csv")
    found = figures(
        capsys,
        str(path),
        "--difficulty",
        str(table),
        "--regularising-rows",
        str(gamed_table(tmp_path / "g.csv")),
    )
    recipe = found["results"][0]["recipe"]
    assert recipe["judges"] == ["weighted_alpaca_eval_gpt4_turbo"]
    assert len(recipe["prompts_sha256"]) == len(recipe["file_sha256"]) == 64
    assert recipe["difficulty"] == str(table)
    assert set(recipe["versions"]) == {"prefpipe", "numpy"}
    assert found["results"][0]["length_controlled"]["penalty_from"] == "cross-validation"
    assert found["results"][0]["length_controlled"]["n_regularising"] == 20


def test_missing_preferences_are_refused_or_counted(tmp_path: Path, capsys) -> None:
    rows = [annotation(i, None if i == 3 else 1 + (i % 3) / 2) for i in range(12)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert run(["eval", "win-rate", f"{tmp_path}/a.json"]) == 1
    assert "1 of 12 rows have no preference" in capsys.readouterr().err
    found = figures(capsys, f"{tmp_path}/a.json", "--allow-missing")["results"][0]
    assert (found["n_rows"], found["n_rows_missing"], found["win_rate"]["n"]) == (11, 1, 11)
    kept = [(i % 3) / 2 for i in range(12) if i != 3]
    assert found["win_rate"]["mean"] == pytest.approx(np.mean(kept))
    assert "1 of 12 rows have no preference and are left out of the win rate" in found["notes"]


def test_rows_of_one_prompt_are_one_cluster(tmp_path: Path, capsys) -> None:
    """Two raters a prompt: the error is over prompts."""
    values = np.random.default_rng(3).uniform(size=(10, 2))
    rows = [
        {
            "prompt_id": f"p{i}",
            "preference": float(values[i, j]),
            "rater": "r",
            "length_chars": 5 + i * j,
            "baseline_length_chars": 9,
        }
        for j in range(2)
        for i in range(10)
    ]
    found = figures(capsys, lines(tmp_path / "r.jsonl", *rows))["results"][0]
    means = values.mean(axis=1)
    assert found["win_rate"]["se"] == pytest.approx(means.std(ddof=1) / np.sqrt(10))
    assert (found["win_rate"]["n"], found["n_rows"], found["length_controlled"]["n"]) == (
        10,
        20,
        10,
    )


def test_files_are_paired_by_prompt_whatever_their_order(tmp_path: Path, capsys) -> None:
    first = annotations(tmp_path / "first.json", model="first", seed=1)
    rows = json.loads(annotations(tmp_path / "second.json", model="second", seed=2).read_text())
    found = figures(capsys, str(first), f"{tmp_path}/second.json")
    (tmp_path / "turned.json").write_text(json.dumps(rows[::-1]))
    turned = figures(capsys, str(first), f"{tmp_path}/turned.json")
    assert turned["differences"] == found["differences"]
    assert found["differences"][0]["name"] == "second"
    assert found["differences"][0]["n_prompts"] == 40
    assert found["differences"][0]["length_controlled"] is not None


@pytest.mark.slow
def test_another_judge_or_other_prompts_are_not_compared_without_force(
    tmp_path: Path, capsys
) -> None:
    first = annotations(tmp_path / "first.json", model="first")
    rows = json.loads(annotations(tmp_path / "x.json", model="second").read_text())
    (tmp_path / "judge.json").write_text(
        json.dumps([row | {"annotator": "another"} for row in rows])
    )
    assert run(["eval", "win-rate", str(first), f"{tmp_path}/judge.json", *QUICK]) == 2
    told = capsys.readouterr().err
    assert "were not made by the same recipe" in told
    assert "judges" in told
    (tmp_path / "fewer.json").write_text(json.dumps(rows[:30]))
    assert run(["eval", "win-rate", str(first), f"{tmp_path}/fewer.json", *QUICK]) == 2
    told = capsys.readouterr().err
    assert f"prompts: 10 of 40 are in {first} alone, the first is 'Explain item 30.'" in told
    found = figures(capsys, str(first), f"{tmp_path}/fewer.json", "--force")
    assert found["differences"][0]["n_prompts"] == 30
    assert found["differences"][0]["length_controlled"] is None
    assert found["differences"][0]["recipe_differences"] == [
        f"prompts: 10 of 40 are in {first} alone, the first is 'Explain item 30.'"
    ]
    assert run(["eval", "win-rate", str(first), f"{tmp_path}/fewer.json", "--force", *QUICK]) == 0
    assert (
        "note: compared with --force although not of the same recipe: prompts: 10 of 40"
        in " ".join(capsys.readouterr().out.split())
    )


def test_without_lengths_the_raw_rate_stands_alone(tmp_path: Path, capsys) -> None:
    rows = [{"prompt": f"p{i}", "preference": i / 10, "response": "x" * i} for i in range(10)]
    source = lines(tmp_path / "r.jsonl", *rows)
    result = figures(capsys, source)["results"][0]
    assert result["length_controlled"] is None
    assert (
        "no length-controlled win rate: the file does not hold the baseline's responses or their lengths"
        in result["notes"]
    )
    outputs = lines(
        tmp_path / "o.jsonl",
        *({"instruction": f"p{i}", "output": "y" * (3 + i % 4)} for i in range(11)),
    )
    result = figures(capsys, source, "--baseline-outputs", outputs)["results"][0]
    assert result["length_controlled"]["mean_baseline_length"] == np.mean(
        [3 + i % 4 for i in range(10)]
    )
    assert (
        "the baseline's responses are matched by `instruction`; 1 prompts of that file are not annotated"
        in result["notes"]
    )


@pytest.mark.slow
def test_the_folder_of_an_evaluation_can_be_read(tmp_path: Path, capsys) -> None:
    """What `prefpipe eval` wrote: the same win rate, and the same length-controlled one."""
    prompts = lines(
        tmp_path / "p.jsonl",
        *(
            {
                "prompt_id": f"p{i}",
                "prompt": f"Say {i}",
                "checks": [{"type": "words", "min": 1, "max": 9}],
            }
            for i in range(12)
        ),
    )
    sides = [
        "--policy",
        "fake",
        "--baseline",
        "fake:max_model_len=4096",
        "--backend",
        "fake",
        "--prompts",
        prompts,
        "--n",
        "2",
    ]
    assert (
        run(
            [
                "eval",
                *sides,
                "--scorer",
                "checks",
                "-o",
                f"{tmp_path}/e",
                "--max-tokens",
                "40",
                "--bootstrap-draws",
                "200",
            ]
        )
        == 0
    )
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    result = figures(capsys, f"{tmp_path}/e")["results"][0]
    assert result["win_rate"]["mean"] == summary["win_rate"]["mean"]
    assert result["win_rate"]["low"] == summary["win_rate"]["low"]
    assert result["recipe"]["judged_by"]["stage"] == "eval"
    assert result["recipe"]["judges"] == ["checks"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--scale", "0-2"), "--scale must be one of 0-1, 1-2, not '0-2'"),
        (("--penalty-c", "0"), "--penalty-c must be above 0, not 0.0"),
        (("--confidence", "95"), "--confidence must be above 0 and below 1, not 95"),
        (("--bootstrap-fits", "0"), "--bootstrap-fits must be within"),
    ],
)
def test_flags_out_of_range_exit_with_2(tmp_path: Path, capsys, flags, message) -> None:
    assert run(["eval", "win-rate", str(annotations(tmp_path / "a.json")), *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_stage_and_the_commands_beside_it_do_not_mix(capsys) -> None:
    """A flag of the stage before a command would be ignored; it is refused."""
    assert run(["eval", "--policy", "x", "win-rate", "y"]) == 2
    assert "--policy is a flag of `prefpipe eval`, not of `win-rate`" in capsys.readouterr().err
    assert run(["eval", "--json"]) == 2
    assert "`prefpipe eval` needs --output, --policy, --baseline" in capsys.readouterr().err
    assert run(["eval", "win-rates"]) == 2
    assert "hint: run `prefpipe eval --help`" in capsys.readouterr().err
    assert run(["eval", "win-rate"]) == 2
    assert "hint: run `prefpipe eval win-rate --help`" in capsys.readouterr().err


@pytest.mark.slow
def test_the_order_of_a_file_changes_no_figure(tmp_path: Path, capsys) -> None:
    """Nor does it change resamples and folds; difficulties are matched by the prompt's text."""
    rows = json.loads(annotations(tmp_path / "a.json").read_text())
    table = tmp_path / "d.json"
    table.write_text(
        json.dumps(
            [{"instruction": row["instruction"], "difficulty": i % 7} for i, row in enumerate(rows)]
        )
    )
    found = [
        figures(capsys, f"{tmp_path}/a.json", *more)["results"][0]
        for more in ((), ("--difficulty", str(table)))
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows[::-1]))
    again = [
        figures(capsys, f"{tmp_path}/a.json", *more)["results"][0]
        for more in ((), ("--difficulty", str(table)))
    ]
    for one, other in zip(found, again, strict=True):
        assert one["win_rate"] == other["win_rate"]
        assert one["length_controlled"] == other["length_controlled"]


@pytest.mark.slow
def test_alpaca_evals_prompts_in_another_order_are_not_matched_by_row(
    published: Path, capsys
) -> None:
    """Each difficulty would be a neighbour's, and claude-2 at 35.0 instead of 28.2."""
    rows = json.loads((published / "claude-2.json").read_text())
    (published / "turned.json").write_text(json.dumps(rows[::-1]))
    words = [
        "eval",
        "win-rate",
        f"{published}/turned.json",
        "--difficulty",
        f"{published}/instruction_difficulty.csv",
    ]
    assert run([*words, *QUICK]) == 1
    assert (
        "turned.json has AlpacaEval's prompts in a different order from AlpacaEval's tables"
        in capsys.readouterr().err
    )


def test_prompts_that_differ_in_form_alone_are_told(tmp_path: Path, capsys) -> None:
    for name, prompt in (("c", "caf\u00e9"), ("d", "cafe\u0301 ")):
        lines(
            tmp_path / f"{name}.jsonl",
            *({"prompt": f"{prompt}{i}", "preference": 0.5} for i in range(3)),
        )
    assert run(["eval", "win-rate", f"{tmp_path}/c.jsonl", f"{tmp_path}/d.jsonl", *QUICK]) == 2
    assert (
        "prompts: 3 of these differ only in white space or Unicode form"
        not in capsys.readouterr().err
    )
    lines(
        tmp_path / "d.jsonl", *({"prompt": f"cafe\u0301{i} ", "preference": 0.5} for i in range(3))
    )
    assert run(["eval", "win-rate", f"{tmp_path}/c.jsonl", f"{tmp_path}/d.jsonl", *QUICK]) == 2
    assert (
        "prompts: 3 of these differ only in white space or Unicode form" in capsys.readouterr().err
    )


def test_one_id_for_two_prompts_is_refused_in_a_file_and_between_files(
    tmp_path: Path, capsys
) -> None:
    """Two data sets that both number their prompts from 0 are not the same prompts."""
    rows = [{"prompt_id": f"p{i}", "prompt": f"text {i}", "preference": 0.5} for i in range(4)]
    first = lines(tmp_path / "a.jsonl", *rows)
    other = lines(
        tmp_path / "b.jsonl", *({**row, "prompt": f"other {i}"} for i, row in enumerate(rows))
    )
    assert run(["eval", "win-rate", first, other, *QUICK]) == 2
    assert (
        "prompts: 4 have another text under the same prompt_id, the first is 'p0'"
        in capsys.readouterr().err
    )
    both = lines(tmp_path / "c.jsonl", rows[0], rows[1] | {"prompt_id": "p0"})
    assert run(["eval", "win-rate", both, *QUICK]) == 1
    assert (
        "line 2: prompt_id 'p0' named a different prompt in an earlier row"
        in capsys.readouterr().err
    )


def test_rows_that_stand_twice_are_told(tmp_path: Path, capsys) -> None:
    rows = json.loads(annotations(tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps([*rows, *rows[:10]]))
    assert (
        "10 rows repeat another row: same prompt, lengths, judge and preference"
        in (figures(capsys, f"{tmp_path}/a.json")["results"][0]["notes"])
    )


@pytest.mark.parametrize(
    ("is_flat", "preference"),
    [(True, lambda i: float(i > 4)), (False, lambda i: 0.4 + 0.05 * (i % 3))],
)
def test_a_fit_that_runs_to_an_end_says_not_to_believe_its_error(
    tmp_path: Path, capsys, is_flat, preference
) -> None:
    """0.0% ± 0.0% where length alone tells wins from losses; 44% ± 1.5% with an interval from 0% to 50%."""
    rows = [
        {
            "prompt": f"p{i}",
            "preference": preference(i),
            "length_chars": 50 + (10 if is_flat else 1) * i,
            "baseline_length_chars": 75 + i % 3 if is_flat else 100 + 7 * i,
        }
        for i in range(12 if is_flat else 8)
    ]
    result = figures(capsys, lines(tmp_path / "r.jsonl", *rows), "--bootstrap-fits", "50")[
        "results"
    ][0]
    assert (result["length_controlled"]["mean"] < 1e-3) == is_flat
    assert any("where its standard error means nothing" in note for note in result["notes"])


def test_another_scale_is_hinted_at(tmp_path: Path, capsys) -> None:
    source = lines(
        tmp_path / "r.jsonl", *({"prompt": f"p{i}", "preference": 1 + i / 4} for i in range(4))
    )
    assert run(["eval", "win-rate", source]) == 1
    assert "name the scale of the preferences with --scale 0-1|1-2" in capsys.readouterr().err
    lines(tmp_path / "r.jsonl", *({"prompt": f"p{i}", "preference": i} for i in range(3)))
    assert run(["eval", "win-rate", source, "--scale", "1-2"]) == 1, (
        "0 is a draw in AlpacaEval's old files alone"
    )
    assert "line 1: `preference` is 0, and this file's are 1 to 2" in capsys.readouterr().err


def judged(n: int, **changes: Any) -> list[dict[str, Any]]:
    """Rows of one's own format: every third prompt is lost."""
    return [
        {
            "prompt_id": f"p{i}",
            "preference": float(i % 3 > 0),
            "length_chars": 100 + 7 * i,
            "baseline_length_chars": 120,
        }
        | changes
        for i in range(n)
    ]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (judged(12, length_chars=100), "differ from the baseline's by -20 in every row"),
        (judged(1), "there is one prompt"),
    ],
)
def test_a_length_figure_that_cannot_be_had_leaves_the_win_rate(
    tmp_path: Path, capsys, rows, reason
) -> None:
    found = figures(capsys, lines(tmp_path / "a.jsonl", *rows))["results"][0]
    assert found["win_rate"]["mean"] == pytest.approx(np.mean([row["preference"] for row in rows]))
    assert found["length_controlled"] is None
    assert any(
        "no length-controlled win rate" in note and reason in note for note in found["notes"]
    ), found["notes"]


def test_too_few_prompts_for_cross_validation_leave_the_win_rate(tmp_path: Path, capsys) -> None:
    rows = [row | {"difficulty": 0.1 * i} for i, row in enumerate(judged(4))]
    found = figures(capsys, lines(tmp_path / "a.jsonl", *rows))["results"][0]
    assert found["win_rate"]["mean"] == 0.5
    assert any("too few for 5 folds" in note for note in found["notes"])


def test_files_without_a_common_prompt_have_their_own_figures_with_force(
    tmp_path: Path, capsys
) -> None:
    one = lines(tmp_path / "a.jsonl", *judged(12))
    other = lines(
        tmp_path / "b.jsonl", *[row | {"prompt_id": f"q{i}"} for i, row in enumerate(judged(9))]
    )
    found = figures(capsys, one, other, "--force")
    assert [result["win_rate"]["n"] for result in found["results"]] == [12, 9]
    assert found["differences"][0]["win_rate"] is None
    assert "have no prompt in common" in found["differences"][0]["reason"]
    assert run(["eval", "win-rate", one, other, "--force", *QUICK]) == 0
    assert "no difference" in capsys.readouterr().out


def test_the_length_figure_with_missing_rows_is_alpaca_evals_and_ours_has_its_own_name(
    tmp_path: Path, capsys
) -> None:
    rows = [
        row | {"preference": None if i in (2, 7) else row["preference"]}
        for i, row in enumerate(judged(14))
    ]
    rows[7]["length_chars"] = 4000
    found = figures(capsys, lines(tmp_path / "a.jsonl", *rows), "--allow-missing")["results"][0]
    known = [row for row in rows if row["preference"] is not None]
    alone = figures(capsys, lines(tmp_path / "known.jsonl", *known))["results"][0]
    assert (found["length_controlled"]["n"], found["length_controlled"]["n_missing"]) == (14, 2)
    assert found["length_controlled_judged_rows"]["mean"] == alone["length_controlled"]["mean"]
    assert found["length_controlled"]["mean"] != alone["length_controlled"]["mean"]
    assert alone["length_controlled_judged_rows"] is None
    capsys.readouterr()
    assert run(["eval", "win-rate", f"{tmp_path}/a.jsonl", "--allow-missing", *QUICK]) == 0
    assert "length-controlled win rate of judged rows" in " ".join(capsys.readouterr().out.split())


def test_a_pipe_gets_the_table_unfolded(tmp_path: Path, capsys, monkeypatch) -> None:
    words = ["eval", "win-rate", str(annotations(tmp_path / "a.json")), *QUICK]
    monkeypatch.delenv("COLUMNS")
    assert run(words) == 0
    label = "length-controlled win rate without difficulty term"
    assert any(line.startswith(label) for line in capsys.readouterr().out.splitlines())

    # who asks for a width gets it
    monkeypatch.setenv("COLUMNS", "60")
    assert run(words) == 0
    assert label not in capsys.readouterr().out
