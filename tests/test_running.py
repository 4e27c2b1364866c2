"""``prefpipe.run``: what the command does, from Python."""

import json
import shutil
from pathlib import Path

import pytest
from support.pipelines import assert_same_artifact, write_prompts

import prefpipe
from prefpipe.artifacts.run_record import read_run_record
from prefpipe.cli.main import run as run_words
from prefpipe.errors import ErrorRateError, FingerprintError, UsageError
from prefpipe.status.checker import standing_of

GENERATE = {"backend": "fake", "model": "fake", "n": 6, "part_size": 4}


def run_cli(*words: object) -> None:
    assert run_words(list(map(str, words))) == 0


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "prompts.jsonl", 10)


def test_the_whole_pipeline_is_what_the_commands_make(prompts: Path, tmp_path: Path) -> None:
    run, cli = tmp_path / "run", tmp_path / "cli"
    prefpipe.run("generate", prompts, output=run / "candidates", **GENERATE)
    prefpipe.run("score", run / "candidates", scorer=["fake"], output=run / "scores")
    prefpipe.run("embed", candidates=run / "candidates", model="fake", output=run / "embeddings")
    made = prefpipe.run(
        "select",
        str(run / "candidates"),
        scores=str(run / "scores"),
        embeddings=run / "embeddings",
        output=run / "groups",
        reward="fake",
        k=2,
        quiet=True,
    )

    words = ["--backend", "fake", "--model", "fake", "--n", 6, "--part-size", 4]
    run_cli("generate", prompts, "-o", cli / "candidates", *words)
    candidates = cli / "candidates"
    run_cli("score", candidates, "--scorer", "fake", "-o", cli / "scores")
    run_cli("embed", candidates, "--model", "fake", "-o", cli / "embeddings")
    sides = ["--scores", cli / "scores", "--embeddings", cli / "embeddings"]
    run_cli("select", candidates, *sides, "-o", cli / "groups", "--reward", "fake", "--k", 2)
    for kind in ("candidates", "scores", "embeddings", "groups"):
        assert_same_artifact(run / kind, cli / kind)

    assert (made.stage, made.path, made.n_parts_made) == ("select", run / "groups", 3)
    assert made.counts == {"ok": 30}
    assert made.read().height == made.n_rows == 30
    json.dumps(dict(made.facts))


def test_the_recorded_command_goes_on(prompts: Path, tmp_path: Path) -> None:
    """A switch, a list, a negative number and a path with a space: `status` names what a shell runs."""
    output = tmp_path / "my run" / "candidates"
    prefpipe.run("generate", prompts, output=output, quiet=True, temperature=0.5, **GENERATE)
    record = read_run_record(output)
    assert record.command[:3] == ["prefpipe", "generate", str(prompts)]
    expected = sorted(output.glob("part-*"))
    contents = [part.read_bytes() for part in expected]
    expected[1].unlink()

    command = standing_of(output).command
    assert command is not None
    again = prefpipe.run("generate", prompts, output=output, temperature=0.5, **GENERATE)
    assert (again.n_parts_made, again.n_parts_kept) == (1, 2)
    assert [part.read_bytes() for part in expected] == contents
    with pytest.raises(FingerprintError, match="temperature"):
        prefpipe.run("generate", prompts, output=output, temperature=0.6, **GENERATE)


@pytest.mark.parametrize(
    ("stage", "inputs", "values", "words"),
    [
        ("selekt", (), {}, "did you mean `select`"),
        ("rounds", (), {}, "no stage is called 'rounds'"),
        ("select", ("a", "b"), {}, "takes 1 arguments"),
        ("select", ("a",), {"candidates": "b"}, "`candidates` is given twice"),
        ("select", ("a",), {"stratgy": "coreset"}, "unknown value `stratgy`.*`strategy`"),
        ("select", ("a",), {}, "needs --output, --scores"),
        ("select", ("a",), {"output": "o", "scores": "s", "k": "many"}, "--k takes"),
        ("select", ("a",), {"output": "o", "scores": "s", "k": -1}, "--k must be"),
    ],
)
def test_what_cannot_be_used(stage: str, inputs: tuple, values: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        prefpipe.run(stage, *inputs, **values)


def test_none_is_what_was_not_given(prompts: Path, tmp_path: Path) -> None:
    first = prefpipe.run("generate", prompts, output=tmp_path / "a", **GENERATE)
    again = prefpipe.run("generate", prompts, output=tmp_path / "a", top_p=None, **GENERATE)
    assert (first.n_parts_made, again.n_parts_made, again.n_parts_kept) == (3, 0, 3)


def test_too_many_failed_rows_are_an_error(prompts: Path, tmp_path: Path) -> None:
    values = GENERATE | {"model": "fake:error_rate=0.9"}
    with pytest.raises(ErrorRateError):
        prefpipe.run("generate", prompts, output=tmp_path / "a", **values)
    assert not standing_of(tmp_path / "a").is_done or prefpipe.read(tmp_path / "a").height == 60


def test_quiet_prints_nothing(
    prompts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prefpipe.run("generate", prompts, output=tmp_path / "loud", **GENERATE)
    loud = capfd.readouterr()
    assert loud.out == ""
    assert "10 prompts" in loud.err
    prefpipe.run("generate", prompts, output=tmp_path / "quiet", quiet=True, **GENERATE)
    quiet = capfd.readouterr()
    assert (quiet.out, quiet.err) == ("", "")


def test_html_holds_no_markup_of_the_data(prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "<b>x"
    made = prefpipe.run("generate", prompts, output=output, quiet=True, **GENERATE)
    html = made._repr_html_()
    assert "<b>x" not in html
    assert "&lt;b&gt;x" in html
    assert "60 rows" in html
    shutil.rmtree(output)


@pytest.mark.parametrize("name", ["half \udcff", "nul \0"])
def test_what_no_record_can_hold_is_refused(name: str, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not UTF-8|character NUL"):
        prefpipe.run("generate", prompts, output=tmp_path / name, **GENERATE)
    with pytest.raises(UsageError, match=r"is not UTF-8|character NUL"):
        prefpipe.run("generate", prompts, output=tmp_path / "run", stop=["x", name], **GENERATE)
    assert list(tmp_path.iterdir()) == [prompts]


def test_a_stage_that_is_no_text_is_refused_and_a_traceback_shows_the_hint() -> None:
    with pytest.raises(UsageError, match=r"no stage is called \['eval', 'rewardbench'\]") as caught:
        prefpipe.run(["eval", "rewardbench"])  # type: ignore[arg-type]
    assert caught.value.__notes__ == [f"hint: {caught.value.hint}"]
