"""``eval --workers`` hands its workers on to what it runs inside: both sides are sampled and rated by them."""

import json
from pathlib import Path

import pytest
from support.pipelines import write_prompts

from prefpipe.cli.main import run


@pytest.mark.slow
def test_the_figures_are_those_of_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 12)
    words = [
        "eval",
        "--policy",
        "fake:max_model_len=4096",
        "--baseline",
        "fake",
        "--prompts",
        prompts,
    ]
    words += ["--backend", "fake", "--scorer", "fake", "--n", 2, "--part-size", 3]
    parts = []
    for output, more in (("one", ()), ("two", ("--workers", 2))):
        assert run([str(word) for word in (*words, *more, "-o", tmp_path / output)]) == 0
        parts.append(
            {
                str(path.relative_to(tmp_path / output)): path.read_bytes()
                for path in (tmp_path / output).rglob("part-*")
            }
        )
    assert len(parts[0]) == 2 * (4 + 4) + 1
    assert parts[0] == parts[1]
    figures = [
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two")
    ]
    assert figures[0] == figures[1]
    assert capsys.readouterr().err.count("worker 1 (pid") >= 2
