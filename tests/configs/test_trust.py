"""Plans and config files that let code of others run are named before anything runs."""

from pathlib import Path

import pytest
import yaml
from support.pipelines import write_prompts

from prefpipe.cli.main import run as prefpipe
from prefpipe.configs.trust import trust_warnings_of_plan

PLAN = {
    "rounds": 2,
    "prompts": "prompts.jsonl",
    "model": "fake",
    "generate": {"backend": "fake", "n": 2, "part_size": 2, "max_tokens": 8},
    "score": {"scorer": "fake"},
    "select": {"strategy": "best-worst"},
    "train": {"max_steps": 1, "report_to": "none"},
}
PYTHON_WARNING = (
    "warning: the plan plan.yaml lets prompts files run Python with your rights "
    "(score: trust_python_checks)"
)


def _errors(folder: Path, capfd: pytest.CaptureFixture[str], **changed: object) -> str:
    """Return what a dry run of the plan prints on stderr."""
    (folder / "plan.yaml").write_text(yaml.safe_dump({**PLAN, **changed}))
    assert prefpipe(["rounds", "plan.yaml", "-o", "run", "--dry-run"]) == 0
    out, err = capfd.readouterr()
    assert "warning" not in out
    return err


def test_a_plan_that_turns_on_trust_is_named_in_a_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 4)
    monkeypatch.chdir(tmp_path)
    assert _errors(tmp_path, capfd) == ""

    score = {"scorer": "fake", "trust-python-checks": True}
    assert _errors(tmp_path, capfd, score=score).splitlines() == [PYTHON_WARNING]

    generate = {**PLAN["generate"], "trust_remote_code": False}  # type: ignore[dict-item]
    changes = {2: {"generate": {"trust_remote_code": True}}}
    (line,) = _errors(tmp_path, capfd, generate=generate, changes=changes).splitlines()
    assert line == (
        "warning: the plan plan.yaml lets models run the Python code that comes with them with "
        "your rights (changes: 2: generate: trust_remote_code)"
    )


def test_trust_that_is_off_is_not_named() -> None:
    values = {"score": {"trust_python_checks": "false", "trust_remote_code": None}, "seeds": [0]}
    assert trust_warnings_of_plan(Path("plan.yaml"), values) == []


def test_the_trainer_of_a_study_is_named_with_its_arm() -> None:
    values = {"arms": {"ours": None, "dpo": {"trainer": "python their.py {groups}"}}}
    (line,) = trust_warnings_of_plan(Path("plan.yaml"), values)
    assert line == (
        "warning: the plan plan.yaml runs commands of its own with your rights "
        "(arms: dpo: trainer: python their.py {groups})"
    )


def test_a_config_file_is_named_and_a_typed_flag_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_prompts(tmp_path / "prompts.jsonl", 2)
    generate = ["generate", "prompts.jsonl", "-o", "run/candidates", "--model", "fake"]
    assert prefpipe([*generate, "--backend", "fake", "--max-tokens", "4"]) == 0
    capfd.readouterr()
    (tmp_path / "score.yaml").write_text("trust_python_checks: true\n")
    warning = (
        "warning: the config file score.yaml lets prompts files run Python with your rights "
        "(trust_python_checks)"
    )

    score = ["score", "run/candidates", "--scorer", "fake", "--config", "score.yaml"]
    assert prefpipe([*score, "-o", "run/scores"]) == 0
    assert capfd.readouterr().err.splitlines()[0] == warning

    assert prefpipe([*score, "-o", "run/again", "--trust-python-checks"]) == 0
    assert warning not in capfd.readouterr().err
