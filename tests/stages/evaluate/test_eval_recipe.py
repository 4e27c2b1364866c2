"""eval of imported sides, and the length-controlled figure beside the raw one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.interchange_files import lines

from prefpipe.cli.main import run
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.length_control import length_controlled_win_rate

pytestmark = pytest.mark.slow

N_PROMPTS = 30


def rows(
    name: str, *, longer: int = 0, prompts: range = range(N_PROMPTS), system: str | None = None
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(len(name) + longer)
    found = []
    for i in prompts:
        turns = ([{"role": "system", "content": system}] if system else []) + [
            {"role": "user", "content": f"question {i}"}
        ]
        length = int(rng.integers(20, 120)) + longer
        found.append(
            {
                "prompt_id": f"p{i}",
                "messages": turns,
                "response": "x" * length,
                "model": name,
                "judge": length / 100 + rng.normal(0, 0.3),
            }
        )
    return found


def imported(folder: Path, name: str, **more: Any) -> Path:
    """Import a file of its own and return the folder."""
    source = lines(folder / f"{name}.jsonl", *rows(name, **more))
    assert (
        run(
            [
                "import",
                source,
                "-o",
                f"{folder}/{name}",
                "--format",
                "rows",
                "--reward-column",
                "judge",
                "--model-name",
                name,
            ]
        )
        == 0
    )
    return folder / name


def compare(folder: Path, policy: str, baseline: str, out: str, *more: str) -> list[str]:
    return [
        "eval",
        "--policy",
        f"{folder}/{policy}/candidates",
        "--policy-scores",
        f"{folder}/{policy}/scores",
        "--baseline",
        f"{folder}/{baseline}/candidates",
        "--baseline-scores",
        f"{folder}/{baseline}/scores",
        "-o",
        f"{folder}/{out}",
        "--bootstrap-draws",
        "200",
        *more,
    ]


def summary(folder: Path, out: str) -> dict[str, Any]:
    return json.loads((folder / out / "summary.json").read_text())


@pytest.mark.slow
def test_two_imports_of_the_same_prompts_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files, model names and column choices differ between imports, and none of them is the recipe; nothing needs --force."""
    imported(tmp_path, "policy", longer=40)
    imported(tmp_path, "baseline")
    assert run(compare(tmp_path, "policy", "baseline", "eval")) == 0
    told = capsys.readouterr().err
    assert "imported, so the sampling is not known: policy, baseline" in told
    assert "only the name shows that both sides have the same rater: judge" in told
    found = summary(tmp_path, "eval")
    assert found["n_compared"] == N_PROMPTS
    recipe = found["recipe"]
    assert len(recipe["prompts_sha256"]) == 64
    assert recipe["scorers"] == [{"name": "judge", "kind": "import"}]
    assert "numpy" in recipe["versions"]


@pytest.mark.slow
def test_imports_of_other_prompts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(tmp_path, "policy")
    imported(tmp_path, "fewer", prompts=range(5, N_PROMPTS + 2))
    assert run(compare(tmp_path, "policy", "fewer", "eval")) == 2
    told = capsys.readouterr().err
    assert "prompts: 5 of 30 are only in the policy, the first is p0" in told
    assert "prompts: 2 of 27 are only in the baseline, the first is p30" in told
    assert run(compare(tmp_path, "policy", "fewer", "eval", "--force")) == 0
    assert summary(tmp_path, "eval")["n_compared"] == 25


def test_the_same_ids_with_another_text_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A system prompt on one side alone is another task, though the prompts' ids are the same."""
    imported(tmp_path, "policy")
    imported(tmp_path, "told", system="Be brief.")
    assert run(compare(tmp_path, "policy", "told", "eval")) == 2
    assert (
        "prompts: 30 differ in text between the sides (check the system prompt), the first is p0"
        in capsys.readouterr().err
    )


def test_scores_of_another_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(tmp_path, "policy")
    source = lines(tmp_path / "other.jsonl", *rows("other"))
    assert (
        run(
            [
                "import",
                source,
                "-o",
                f"{tmp_path}/other",
                "--format",
                "rows",
                "--reward-column",
                "human=judge",
            ]
        )
        == 0
    )
    assert run(compare(tmp_path, "policy", "other", "eval")) == 2
    assert "scorers" in capsys.readouterr().err


def test_an_imported_baseline_goes_with_a_sampled_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One's own model against answers from elsewhere, both rated by the same checks: nothing is known that differs."""
    prompts = [
        {
            "prompt_id": f"p{i}",
            "prompt": f"question {i}",
            "checks": [{"type": "words", "min": 1, "max": 20}],
        }
        for i in range(8)
    ]
    lines(tmp_path / "prompts.jsonl", *prompts)
    answers = [row | {"response": "a few words " * (i + 1)} for i, row in enumerate(prompts)]
    source = lines(tmp_path / "answers.jsonl", *answers)
    assert run(["import", source, "-o", f"{tmp_path}/theirs", "--format", "rows"]) == 0
    compare_with = [
        "eval",
        "--policy",
        "fake",
        "--backend",
        "fake",
        "--prompts",
        f"{tmp_path}/prompts.jsonl",
        "--max-tokens",
        "50",
        "--baseline",
        f"{tmp_path}/theirs/candidates",
        "--scorer",
        "checks",
        "-o",
        f"{tmp_path}/eval",
    ]
    capsys.readouterr()
    assert run([*compare_with, "--bootstrap-draws", "100"]) == 0
    assert "imported, so the sampling is not known: baseline" in capsys.readouterr().err


@pytest.mark.slow
def test_the_length_controlled_figure_stands_beside_the_raw_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rater that likes length, and a policy that writes 40 characters more: at equal lengths less is left of it."""
    imported(tmp_path, "policy", longer=40)
    imported(tmp_path, "baseline")
    capsys.readouterr()
    assert run(compare(tmp_path, "policy", "baseline", "eval")) == 0
    told = capsys.readouterr().err
    assert "length-controlled, no difficulty" in told
    assert "not AlpacaEval's length-controlled win rate" in told
    found = summary(tmp_path, "eval")
    controlled, raw = found["length_controlled"], found["win_rate"]
    assert (
        controlled["name"]
        == "length-controlled win rate without difficulty term and regularising rows"
    )
    assert controlled["mean"] < raw["mean"]
    assert controlled["low"] < controlled["mean"] < controlled["high"]
    ours, theirs = rows("policy", longer=40), rows("baseline")
    preferences = [float(a["judge"] > b["judge"]) for a, b in zip(ours, theirs, strict=True)]
    lengths = [[len(row["response"]) for row in side] for side in (ours, theirs)]
    expected = length_controlled_win_rate(preferences, *lengths, bootstrap=Bootstrap(0.95, 200, 0))
    assert controlled["mean"] == pytest.approx(expected.mean)
    assert controlled["se"] == pytest.approx(expected.se)
    assert (controlled["low"], controlled["high"]) == pytest.approx((expected.low, expected.high))


def test_a_missing_length_controlled_figure_has_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(tmp_path, "policy", prompts=range(1))
    imported(tmp_path, "baseline", prompts=range(1))
    assert run(compare(tmp_path, "policy", "baseline", "eval")) == 0
    assert "no length-controlled win rate: 1 prompts" in capsys.readouterr().err
    assert summary(tmp_path, "eval")["length_controlled"]["mean"] is None


@pytest.mark.slow
def test_a_finished_folder_gets_the_new_figures_when_run_again(tmp_path: Path) -> None:
    """The per-prompt table of an earlier release is kept; the summary is made from it each time."""
    imported(tmp_path, "policy", longer=5)
    imported(tmp_path, "baseline")
    assert run(compare(tmp_path, "policy", "baseline", "eval")) == 0
    part = next((tmp_path / "eval").glob("part-*.parquet"))
    before = (part.read_bytes(), summary(tmp_path, "eval"))
    old = {key: value for key, value in before[1].items() if key != "length_controlled"}
    (tmp_path / "eval" / "summary.json").write_text(json.dumps(old))
    assert run(compare(tmp_path, "policy", "baseline", "eval")) == 0
    assert (part.read_bytes(), summary(tmp_path, "eval")) == before
