"""What a slip of the hand must not cost: values refused before any work, older results kept, corrected commands accepted."""

import json
import shutil
from pathlib import Path

import pytest
from support.pipelines import write_prompts
from support.tiny_models import make_tiny_causal_lm

from prefpipe.cli.main import run

GENERATE = [
    "--backend",
    "fake",
    "--model",
    "fake",
    "--n",
    "4",
    "--part-size",
    "2",
    "--max-tokens",
    "100",
]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Candidates, scores and groups of four prompts."""
    folder = tmp_path_factory.mktemp("chain")
    write_prompts(folder / "p.jsonl", 4)
    assert run(["generate", f"{folder}/p.jsonl", "-o", f"{folder}/c", *GENERATE]) == 0
    assert run(["score", f"{folder}/c", "-o", f"{folder}/s", "--scorer", "fake"]) == 0
    assert (
        run(
            [
                "select",
                f"{folder}/c",
                "--scores",
                f"{folder}/s",
                "-o",
                f"{folder}/g",
                "--strategy",
                "bottom-k",
                "--k",
                "2",
            ]
        )
        == 0
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            "generate p.jsonl -o x --model fake --n 99999999999999999999",
            "--n must be within 1 and 100000",
        ),
        (
            "generate p.jsonl -o x --model fake --temperature nan",
            "--temperature takes finite numbers",
        ),
        (
            "generate p.jsonl -o x --model fake --grace-seconds -1",
            "--grace-seconds must be within 0 and 86400, not -1.0",
        ),
        (
            "embed c -o x --model fake --grace-seconds inf",
            "--grace-seconds takes a finite number, not inf",
        ),
        (
            "generate p.jsonl -o x --model fake --part-size 0",
            "--part-size must be 1 or more, not 0",
        ),
        ("generate p.jsonl -o x --model fake --backend gpu", "--backend must be one of auto, vllm"),
        ("generate p.jsonl -o x --model fake --allow-partial", "No such option: --allow-partial"),
        (
            "train g -o x --model m --load-in-4bit",
            "--load-in-4bit needs --lora-r: 4-bit weights are not trained",
        ),
        (
            "select c --scores s -o x --strategy bottom-k --min-margin inf",
            "--min-margin takes a finite number, not inf",
        ),
        (
            "select c --scores s -o x --strategy best-worst --positives 2",
            "keeps one pair, so --positives must be 1",
        ),
        (
            "select c --scores s -o x --strategy random --seed -1",
            "--seed must be 0 or more, not -1",
        ),
        ("score c -o x --scorer checks:zz", "checks takes no target, and 'zz' was given"),
        ("score c -o x --scorer z=fake", "`z` is a function of --reward"),
        (
            "train g -o x --model m --learning-rate inf",
            "--learning-rate takes a finite number, not inf",
        ),
        ("train g -o x --model m --report-to nope", "--report-to must be one of tensorboard"),
        (
            "eval --policy c --baseline c -o x --bootstrap-seed -1",
            "--bootstrap-seed must be 0 or more",
        ),
        (
            "eval --policy c --baseline c -o x --bootstrap-draws 99999999999",
            "--bootstrap-draws must be within 1 and 10000000",
        ),
        (
            "eval --policy c --baseline c -o x --scorer fake --reward nope",
            "--reward 'nope' names `nope`; --scorer gives: fake",
        ),
    ],
)
def test_a_bad_value_is_refused_before_any_work(
    chain: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    told: str,
) -> None:
    """Exit 2, the value in the message, and no folder is made."""
    monkeypatch.chdir(chain)
    assert run(command.split()) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (chain / "x").exists()


def test_overwriting_with_a_reward_that_cannot_be_computed_keeps_the_old_groups(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """log(x / (1 - x)) of a reward above 1 is refused before anything is thrown away."""
    shutil.copytree(chain / "g", tmp_path / "g")
    before = sorted(path.name for path in (tmp_path / "g").iterdir())
    command = [
        "select",
        f"{chain}/c",
        "--scores",
        f"{chain}/s",
        "-o",
        f"{tmp_path}/g",
        "--strategy",
        "bottom-k",
    ]
    assert run([*command, "--reward", "logit(2 + fake)", "--overwrite"]) == 2
    assert "logit of" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "g").iterdir()) == before


@pytest.mark.slow
def test_a_failed_first_attempt_does_not_block_the_corrected_one(
    chain: Path, tmp_path: Path
) -> None:
    """The record of a run that made nothing is replaced; one that made a part is not."""
    out = tmp_path / "t"
    command = [
        "train",
        f"{chain}/g",
        "-o",
        str(out),
        "--model",
        str(make_tiny_causal_lm(tmp_path / "m")),
        "--global-batch-size",
        "2",
    ]
    assert run([*command, "--max-length", "5"]) == 1
    assert (out / "run.json").exists()
    assert run([*command, "--max-steps", "1"]) == 0
    assert run([*command, "--max-steps", "2"]) == 2


@pytest.mark.slow
def test_status_sees_that_a_model_was_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Candidates of a model folder whose weights have changed since are stale, and say why."""
    write_prompts(tmp_path / "p.jsonl", 2)
    model = make_tiny_causal_lm(tmp_path / "m", seed=0)
    command = [
        "generate",
        f"{tmp_path}/p.jsonl",
        "-o",
        f"{tmp_path}/c",
        "--model",
        str(model),
        "--n",
        "2",
        "--max-tokens",
        "4",
    ]
    assert run([*command, "--max-error-rate", "1"]) == 0
    assert run(["status", f"{tmp_path}/c", "--json"]) == 0
    shutil.rmtree(model)
    make_tiny_causal_lm(tmp_path / "m", seed=1)
    capsys.readouterr()
    assert run(["status", f"{tmp_path}/c", "--json"]) == 4
    report = json.loads(capsys.readouterr().out)[0]
    assert report["state"] == "stale"
    assert "has changed since" in " ".join(report["reasons"])
