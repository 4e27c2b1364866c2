"""``prefpipe savings``: from groups and before any run, and every combination of flags that does not go together."""

import json
from pathlib import Path

import pytest
from support.finished_run import N_PROMPTS, K, N, original
from support.pipelines import rows_of
from support.tiny_models import make_tiny_causal_lm

from prefpipe.cli.main import run as prefpipe
from prefpipe.configs.train import TrainConfig
from prefpipe.maths.compute.accelerators import ACCELERATORS

PLAN = [
    "--prompts",
    "100",
    "--n",
    "16",
    "--k",
    "3",
    "--mean-prompt-tokens",
    "50",
    "--mean-response-tokens",
    "150",
]


def savings(capsys, *words: object) -> str:
    capsys.readouterr()  # what making models and runs said
    assert prefpipe(["savings", *map(str, words)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def found(capsys, *words: object) -> dict:
    return json.loads(savings(capsys, *words, "--json"))


def refused(capsys, *words: object) -> str:
    capsys.readouterr()
    assert prefpipe(["savings", *map(str, words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hint: " in captured.err
    return captured.err


def test_groups_are_compared_with_the_candidates_they_came_from(capsys) -> None:
    """Counted here from the rows themselves; every candidate of the finished run is usable."""
    folder = original() / "run"
    told = found(
        capsys,
        folder / "groups",
        "--model",
        "1M",
        "--tflops",
        "1",
        "--mfu",
        "1",
        "--no-shared-prompt",
    )
    for side, rows in (
        ("pool", rows_of(folder / "candidates")),
        ("kept", rows_of(folder / "groups")),
    ):
        n_tokens = sum(row["n_prompt_tokens"] + row["n_response_tokens"] for row in rows)
        assert told[side]["n_tokens"] == n_tokens
        assert told[side]["flop"] == 6e6 * n_tokens
        assert told[side]["gpu_hours"] == pytest.approx(6e6 * n_tokens / 1e12 / 3600)
    assert told["pool"]["n_responses"] == N_PROMPTS * N
    assert told["kept"]["n_responses"] == N_PROMPTS * (K + 1)
    page = savings(
        capsys,
        folder / "groups",
        "--model",
        "1M",
        "--tflops",
        "1",
        "--mfu",
        "1",
        "--no-shared-prompt",
    )
    assert f"{told['saved']['n_tokens']:,}" in page
    assert f"{told['saved_share']:.1%}" in page


def test_the_squares_of_lengths_are_those_of_the_rows(capsys, tmp_path: Path) -> None:
    model = make_tiny_causal_lm(tmp_path / "model")
    folder = original() / "run"
    told = found(capsys, folder / "groups", "--model", model, "--gpu", "h100", "--no-shared-prompt")
    rows = rows_of(folder / "groups")
    lengths = [(row["n_prompt_tokens"], row["n_response_tokens"]) for row in rows]
    shape = told["model"]
    assert told["kept"]["flop"] == 3 * sum(
        2 * shape["n_layer_parameters"] * (p + y)
        + 2 * shape["n_output_parameters"] * y
        + shape["attention_width"] * (p + y) ** 2
        for p, y in lengths
    )
    once = found(capsys, folder / "groups", "--model", model, "--gpu", "h100")
    firsts = {row["prompt_id"]: row["n_prompt_tokens"] for row in rows}
    assert (
        once["kept"]["n_prompt_tokens"] == once["pool"]["n_prompt_tokens"] == sum(firsts.values())
    )


def test_before_any_run(capsys) -> None:
    told = found(capsys, "--model", "8B", "--gpu", "H100", *PLAN)
    assert told["pool"]["n_responses"] == 1600
    assert told["kept"]["n_responses"] == 400
    assert told["pool"]["n_tokens"] == 100 * 50 + 1600 * 150
    assert told["pool"]["flop"] == 6 * 8e9 * (100 * 50 + 1600 * 150)
    assert told["machine"] == {
        "name": "NVIDIA H100 SXM",
        "peak_tflops": 989.5,
        "dtype": "bf16",
        "mfu": 0.4,
        "price_per_hour": None,
    }
    assert told["source"]["plan"]["positives"] == 1


@pytest.mark.slow
def test_flags_change_what_they_say(capsys) -> None:
    plain = found(capsys, "--model", "8B", "--gpu", "a100", *PLAN)["pool"]
    for flags, factor in (
        (["--epochs", "2"], 2),
        (["--lora"], 2 / 3),
        (["--gradient-checkpointing"], 4 / 3),
        (["--reference"], 4 / 3),
        (["--no-shared-prompt"], 16 * 200 / (50 + 16 * 150)),
    ):
        assert found(capsys, "--model", "8B", "--gpu", "a100", *PLAN, *flags)["pool"][
            "flop"
        ] == pytest.approx(factor * plain["flop"])
    half = found(
        capsys, "--model", "8B", "--gpu", "a100", *PLAN, "--mfu", "0.2", "--price-per-hour", "3"
    )["pool"]
    assert half["gpu_hours"] == pytest.approx(2 * plain["gpu_hours"])
    assert half["cost"] == pytest.approx(3 * half["gpu_hours"])


def test_prompts_are_counted_as_train_computes_them(capsys) -> None:
    """Once a group, which is the default of ``train``; the page says which."""
    words = ["--model", "8B", "--gpu", "a100", *PLAN]
    assert found(capsys, *words) == found(capsys, *words, "--shared-prompt")
    assert found(capsys, *words)["recipe"]["shared_prompt"] is TrainConfig.shared_prompt is True
    assert "prompts computed once per group" in savings(capsys, *words)
    assert "prompts computed once per response" in savings(capsys, *words, "--no-shared-prompt")


def test_a_folder_named_like_a_size_is_a_folder(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_tiny_causal_lm(tmp_path / "8B")
    assert found(capsys, "--model", "8B", "--gpu", "a100", *PLAN)["model"]["n_parameters"] < 1e6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--gpu", "h100"],
            "GROUPS, or --prompts, --n, --mean-prompt-tokens, --mean-response-tokens is needed",
        ),
        (
            ["--gpu", "h100", "--n", "8"],
            "GROUPS, or --prompts, --mean-prompt-tokens, --mean-response-tokens is needed",
        ),
        (PLAN, "one of --gpu and --tflops is needed"),
        ([*PLAN, "--gpu", "h100", "--tflops", "3"], "--gpu and --tflops exclude each other"),
        ([*PLAN, "--gpu", "h10"], "--gpu must be one of h100, h200"),
        ([*PLAN, "--gpu", "h100", "--mfu", "40"], "--mfu must be above 0 and at most 1, not 40"),
        ([*PLAN, "--gpu", "h100", "--mfu", "nan"], "--mfu takes a finite number, not nan"),
        ([*PLAN, "--gpu", "h100", "--epochs", "0"], "--epochs must be above 0, not 0"),
        ([*PLAN, "--gpu", "h100", "--epochs", "inf"], "--epochs takes a finite number, not inf"),
        ([*PLAN, "--tflops", "-1"], "--tflops must be above 0, not -1"),
        (
            [*PLAN, "--gpu", "h100", "--price-per-hour", "-1"],
            "--price-per-hour must be 0 or more, not -1",
        ),
        (
            [*PLAN, "--gpu", "h100", "--k", "16"],
            "--k 16 and --positives 1 keep more than the 16 candidates of --n",
        ),
        ([*PLAN, "--gpu", "h100", "--n", "1"], "--n must be 2 or more, not 1"),
        ([*PLAN, "--gpu", "h100", "--k", "0"], "--k must be 1 or more, not 0"),
        (
            [*PLAN, "--gpu", "h100", "--mean-prompt-tokens", "0"],
            "--mean-prompt-tokens must be above 0, not 0",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_refused(capsys, flags: list[str], message: str) -> None:
    assert message in refused(capsys, "--model", "8B", *flags)


def test_groups_and_a_plan_exclude_each_other(capsys) -> None:
    message = refused(
        capsys,
        original() / "run" / "groups",
        "--model",
        "8B",
        "--gpu",
        "h100",
        "--n",
        "8",
        "--k",
        "3",
    )
    assert "--n, --k describe a selection before it is run and do not go with GROUPS" in message


def test_all_problems_are_told_at_once(capsys) -> None:
    message = refused(capsys, "--model", "8B", "--mfu", "2")
    assert "--mfu must be" in message
    assert "--gpu and --tflops" in message
    assert "GROUPS, or" in message


def test_the_table_of_the_documentation_is_the_one_in_the_code(repository: Path) -> None:
    page = (repository / "docs" / "guides" / "savings.md").read_text(encoding="utf-8")
    for key, gpu in ACCELERATORS.items():
        assert f"| `{key}` | {gpu.name} | {gpu.tflops:,g} | {gpu.source} |" in page


def test_the_example_of_the_documentation_is_what_the_command_prints(
    repository: Path, capsys, monkeypatch
) -> None:
    page = (repository / "docs" / "guides" / "savings.md").read_text(encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "300")
    words = (
        page.partition("prefpipe savings --model 8B")[2]
        .partition("```")[0]
        .replace("\\\n", " ")
        .split()
    )
    printed = [line.rstrip() for line in savings(capsys, "--model", "8B", *words).splitlines()]
    shown = page.partition("```text\n")[2].partition("```")[0].splitlines()
    assert printed == shown


def test_a_model_is_needed(capsys) -> None:
    assert "--model" in refused(capsys, "--gpu", "h100", *PLAN)


def test_other_artifacts_and_unknown_models_are_refused(capsys) -> None:
    assert (
        prefpipe(["savings", str(original() / "run" / "scores"), "--model", "8B", "--gpu", "h100"])
        == 1
    )
    assert "GROUPS:" in capsys.readouterr().err
    assert prefpipe(["savings", "--model", "nowhere", "--gpu", "h100", *PLAN]) == 1
    assert "a size such as 8B or 135M" in capsys.readouterr().err
