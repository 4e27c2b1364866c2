"""eval on existing candidates and on models, with figures recomputed by hand from the Parquet."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support.tiny_models import make_tiny_causal_lm, make_tiny_encoder

from prefpipe.cli.main import run


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two candidates folders on the same twelve prompts, from two seeds of the fake, rated by checks."""
    folder = tmp_path_factory.mktemp("sides")
    prompts = [
        {
            "prompt_id": f"p{i}",
            "prompt": f"Say {i}",
            "checks": [{"type": "words", "min": 1, "max": 20}],
        }
        for i in range(12)
    ]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)) + "\n")
    for name, seed in (("a", 1), ("b", 2)):
        sample = [
            "generate",
            f"{folder}/prompts.jsonl",
            "-o",
            f"{folder}/{name}",
            "--backend",
            "fake",
            "--model",
            "fake",
        ]
        assert (
            run(
                [
                    *sample,
                    "--n",
                    "3",
                    "--seed",
                    str(seed),
                    "--part-size",
                    "5",
                    "--max-tokens",
                    "200",
                ]
            )
            == 0
        )
        assert (
            run(
                ["score", f"{folder}/{name}", "-o", f"{folder}/{name}-scores", "--scorer", "checks"]
            )
            == 0
        )
    return folder


def arguments(folder: Path, out: str, *more: str) -> list[str]:
    return [
        "eval",
        "--policy",
        f"{folder}/a",
        "--baseline",
        f"{folder}/b",
        "--policy-scores",
        f"{folder}/a-scores",
        "--baseline-scores",
        f"{folder}/b-scores",
        "-o",
        f"{folder}/{out}",
        *more,
    ]


def rewards(folder: Path, name: str) -> dict[str, np.ndarray]:
    rows = pl.read_parquet(sorted((folder / f"{name}-scores").glob("part-*.parquet")))
    return {key[0]: group["reward"].to_numpy() for key, group in rows.group_by("prompt_id")}


@pytest.mark.slow
def test_figures_agree_with_a_recomputation_from_the_scores(sides: Path) -> None:
    """Win rate = mean over prompts of the share of pairs won, ties half; se = s / sqrt(P) with ddof 1."""
    assert run(arguments(sides, "eval")) == 0
    figures = json.loads((sides / "eval" / "summary.json").read_text())
    ours, theirs = rewards(sides, "a"), rewards(sides, "b")
    wins = [
        ((a[:, None] > b) + 0.5 * (a[:, None] == b)).mean()
        for a, b in ((ours[key], theirs[key]) for key in ours)
    ]
    assert figures["win_rate"]["mean"] == pytest.approx(np.mean(wins))
    assert figures["win_rate"]["se"] == pytest.approx(np.std(wins, ddof=1) / np.sqrt(12))
    gaps = [ours[key].mean() - theirs[key].mean() for key in ours]
    assert figures["reward"]["difference"]["mean"] == pytest.approx(np.mean(gaps))
    assert figures["reward"]["difference"]["se"] == pytest.approx(
        np.std(gaps, ddof=1) / np.sqrt(12)
    )
    assert figures["win_rate"]["low"] <= figures["win_rate"]["mean"] <= figures["win_rate"]["high"]


@pytest.mark.slow
def test_swapping_the_sides_gives_one_minus_the_win_rate(sides: Path) -> None:
    assert run(arguments(sides, "eval")) == 0
    swapped = [
        "eval",
        "--policy",
        f"{sides}/b",
        "--baseline",
        f"{sides}/a",
        "--policy-scores",
        f"{sides}/b-scores",
        "--baseline-scores",
        f"{sides}/a-scores",
        "-o",
        f"{sides}/swapped",
    ]
    assert run(swapped) == 0
    first, second = (
        json.loads((sides / name / "summary.json").read_text()) for name in ("eval", "swapped")
    )
    assert first["win_rate"]["mean"] == pytest.approx(1 - second["win_rate"]["mean"])


@pytest.mark.slow
def test_the_interval_is_the_same_every_time(sides: Path) -> None:
    """The bootstrap is seeded; another seed is another artifact."""
    assert run(arguments(sides, "eval")) == 0
    before = (sides / "eval" / "summary.json").read_text()
    assert run(arguments(sides, "eval")) == 0
    assert (sides / "eval" / "summary.json").read_text() == before
    # in a process of its own nothing else has imported what the finished path needs
    again = subprocess.run(
        [sys.executable, "-m", "prefpipe", *arguments(sides, "eval")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (again.returncode, again.stdout.strip()) == (0, f"{sides}/eval"), again.stderr
    assert run(arguments(sides, "eval", "--bootstrap-seed", "1")) == 2


@pytest.mark.slow
def test_sides_sampled_differently_are_refused(
    sides: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another temperature is another recipe; --force compares all the same."""
    sample = [
        "generate",
        f"{sides}/prompts.jsonl",
        "-o",
        f"{sides}/hot",
        "--backend",
        "fake",
        "--model",
        "fake",
        "--n",
        "3",
    ]
    assert run([*sample, "--temperature", "1.5", "--part-size", "5", "--max-tokens", "200"]) == 0
    compare = [
        "eval",
        "--policy",
        f"{sides}/hot",
        "--baseline",
        f"{sides}/b",
        "--scorer",
        "checks",
        "--baseline-scores",
        f"{sides}/b-scores",
        "-o",
        f"{sides}/hot-eval",
    ]
    assert run(compare) == 2
    told = capsys.readouterr().err
    assert "the recipes of the two sides differ" in told
    assert "temperature: [0.8] for the baseline, [1.5] for the policy" in told
    assert run([*compare, "--force"]) == 0


def test_a_model_needs_prompts(sides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(
            [
                "eval",
                "--policy",
                "fake",
                "--baseline",
                f"{sides}/b",
                "--backend",
                "fake",
                "-o",
                f"{sides}/x",
            ]
        )
        == 2
    )
    assert (
        "--policy fake is not a candidates folder, so it is read as a model, which needs "
        "--prompts" in capsys.readouterr().err
    )


def test_several_scorers_need_a_reward_before_anything_is_sampled(
    sides: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "eval",
        "--policy",
        "fake",
        "--baseline",
        "fake",
        "--backend",
        "fake",
        "--prompts",
        f"{sides}/prompts.jsonl",
        "--scorer",
        "a=fake",
        "--scorer",
        "b=fake",
        "-o",
        f"{sides}/two",
    ]
    assert run(command) == 2
    told = capsys.readouterr().err
    assert "--reward is needed: --scorer gives a, b" in told
    assert "--reward 'a + b'" in told
    assert not (sides / "two").exists()


@pytest.mark.parametrize("baseline", ["nowhere", "bare"])
def test_a_baseline_that_cannot_be_sampled_stops_before_the_policy_is(
    sides: Path, tmp_path: Path, baseline: str, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = make_tiny_causal_lm(tmp_path / "policy")
    make_tiny_encoder(tmp_path / "bare")  # without a chat template
    command = [
        "eval",
        "--policy",
        str(policy),
        "--baseline",
        f"{tmp_path}/{baseline}",
        "--prompts",
        f"{sides}/prompts.jsonl",
    ]
    assert run([*command, "--scorer", "fake", "-o", f"{tmp_path}/out"]) == 1
    assert (
        "no model at" if baseline == "nowhere" else "no chat template"
    ) in capsys.readouterr().err
    assert run([*command, "-o", f"{tmp_path}/out"]) == 2
    assert "--scorer or --policy-scores is needed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_models_are_sampled_and_rated_through_the_same_stages(sides: Path) -> None:
    """A model against itself with one seed: every pair ties, win rate 1/2 with no spread."""
    command = [
        "eval",
        "--policy",
        "fake",
        "--baseline",
        "fake",
        "--backend",
        "fake",
        "--prompts",
        f"{sides}/prompts.jsonl",
    ]
    assert (
        run(
            [
                *command,
                "--scorer",
                "checks",
                "-o",
                f"{sides}/self",
                "--n",
                "1",
                "--max-tokens",
                "200",
            ]
        )
        == 0
    )
    figures = json.loads((sides / "self" / "summary.json").read_text())
    assert figures["win_rate"]["mean"] == 0.5
    assert figures["reward"]["difference"]["mean"] == 0
    assert (sides / "self" / "policy" / "scores" / "run.json").exists()


def test_a_prompt_without_a_reward_is_counted_and_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two prompts of three carry checks: the third has status no_policy_reward and no preference."""
    rows = [
        {
            "prompt_id": f"p{i}",
            "prompt": "x",
            "checks": [{"type": "words", "max": 9}] if i else None,
        }
        for i in range(3)
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    command = [
        "eval",
        "--policy",
        "fake",
        "--baseline",
        "fake",
        "--backend",
        "fake",
        "--prompts",
        f"{tmp_path}/p.jsonl",
    ]
    assert (
        run(
            [
                *command,
                "--scorer",
                "checks",
                "-o",
                f"{tmp_path}/e",
                "--max-error-rate",
                "1",
                "--max-tokens",
                "50",
            ]
        )
        == 0
    )
    table = pl.read_parquet(tmp_path / "e" / "part-00000-of-00001.parquet")
    assert table.filter(pl.col("prompt_id") == "p0").select("status", "preference").row(0) == (
        "no_policy_reward",
        None,
    )
    figures = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert (figures["n_prompts"], figures["n_compared"]) == (3, 2)


@pytest.mark.slow
def test_a_reward_over_several_scorers_is_evaluated_for_models_too(
    sides: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The expression is checked before anything is sampled; f + g of two fakes of one seed is twice either."""
    command = [
        "eval",
        "--policy",
        "fake",
        "--baseline",
        "fake",
        "--backend",
        "fake",
        "--prompts",
        f"{sides}/prompts.jsonl",
        "--n",
        "1",
        "--max-tokens",
        "50",
        "--scorer",
        "f=fake",
        "--scorer",
        "g=fake",
        "-o",
        f"{sides}/both",
    ]
    assert run([*command, "--reward", "f + h"]) == 2
    assert "names `h`; --scorer gives: f, g" in capsys.readouterr().err
    assert not (sides / "both").exists()
    assert run([*command, "--reward", "f + g"]) == 0
    figures = json.loads((sides / "both" / "summary.json").read_text())
    one = pl.read_parquet(
        sides / "both" / "policy" / "scores" / "part-00000-of-00001.parquet"
    ).filter(pl.col("scorer") == "f")
    assert figures["reward"]["policy"]["mean"] == pytest.approx(2 * one["reward"].mean())
