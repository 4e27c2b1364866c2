"""``--overwrite=stale``: a script of six commands is run again with another knob, and makes again what depends on it."""

from pathlib import Path

import pytest
from support.finished_run import command
from support.pipelines import identities_of, open_artifact, write_json_lines

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.cli.main import run as prefpipe
from prefpipe.cli.overwrite_flag import spelled_out, without_stale
from prefpipe.configs.embed import EmbedConfig
from prefpipe.errors import UsageError

STAGES = ("candidates", "scores", "embeddings", "groups", "policy", "eval")
TINY = (
    "--max-steps",
    "2",
    "--global-batch-size",
    "2",
    "--report-to",
    "none",
    "--learning-rate",
    "1e-2",
    "--warmup-ratio",
    "0",
)


def script(
    folder: Path,
    *,
    temperature: str = "0.8",
    k: str = "2",
    flag: str = "--overwrite=stale",
    beta: str = "5",
) -> None:
    """Run the quickstart's six commands with fakes; training and evaluation are of a tiny model."""
    from support.tiny_models import make_tiny_causal_lm

    model = folder / "model"
    if not model.exists():
        make_tiny_causal_lm(model)
        write_json_lines(folder / "prompts.jsonl", [{"prompt": f"question {i}"} for i in range(4)])
    prompts, sampling = (
        str(folder / "prompts.jsonl"),
        ["--temperature", temperature, "--max-tokens", "8"],
    )
    at = {name: str(folder / name) for name in STAGES}
    for words in (
        ["generate", prompts, "-o", at["candidates"], "--backend", "fake", "--model", "fake", "--n", "4", "--part-size", "2",
         *sampling],
        ["score", at["candidates"], "-o", at["scores"], "--scorer", "fake"],
        ["embed", at["candidates"], "-o", at["embeddings"], "--model", "fake"],
        ["select", at["candidates"], "--scores", at["scores"], "--embeddings", at["embeddings"], "-o", at["groups"], "--k", k],
        ["train", at["groups"], "-o", at["policy"], "--model", str(model), "--beta", beta, *TINY],
        ["eval", "--policy", at["policy"], "--baseline", str(model), "--prompts", prompts, "-o", at["eval"], "--scorer", "fake",
         "--max-tokens", "8", "--device", "cpu", "--dtype", "float32"],
    ):  # fmt: skip
        command([*words, flag])


def made(folder: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Return what identifies the parts of every stage, and of the sides of the evaluation."""
    names = [
        *STAGES,
        "eval/policy/candidates",
        "eval/baseline/candidates",
        "eval/policy/scores",
        "eval/baseline/scores",
    ]
    return {name: identities_of(folder / name) for name in names}


def changed(
    before: dict[str, dict[str, tuple[int, int]]], after: dict[str, dict[str, tuple[int, int]]]
) -> set[str]:
    """Return the stages of which a part was written again; of such a stage every part was."""
    again = {name for name in before if before[name] != after[name]}
    for name in again:
        assert not before[name].items() & after[name].items(), f"{name} was made again in part"
    return again


@pytest.mark.slow
def test_a_knob_remakes_what_is_below_it_and_nothing_else(tmp_path: Path) -> None:
    """Baseline sides do not depend on the pipeline's knobs: they stay in every case."""
    script(tmp_path)
    first = made(tmp_path)
    of_policy = {"policy", "eval", "eval/policy/candidates", "eval/policy/scores"}

    script(tmp_path)
    assert changed(first, made(tmp_path)) == set()

    script(tmp_path, temperature="0.9")
    second = made(tmp_path)
    assert changed(first, second) == {"candidates", "scores", "embeddings", "groups", *of_policy}
    assert open_artifact(tmp_path / "groups").record.identity["candidates"]["temperature"] == [0.9]

    script(tmp_path, temperature="0.9", k="1")
    third = made(tmp_path)
    assert changed(second, third) == {"groups", *of_policy}

    script(tmp_path, temperature="0.9", k="1", beta="6")
    fourth = made(tmp_path)
    assert changed(third, fourth) == of_policy

    script(tmp_path, temperature="0.9", k="1", beta="6")
    assert changed(fourth, made(tmp_path)) == set()
    assert prefpipe(["status", str(tmp_path)]) == 0


def make(folder: Path, *flags: str) -> list[str]:
    prompts = folder / "prompts.jsonl"
    if not prompts.exists():
        write_json_lines(prompts, [{"prompt": f"question {i}"} for i in range(6)])
    return [
        "generate",
        str(prompts),
        "-o",
        str(folder / "out"),
        "--backend",
        "fake",
        "--model",
        "fake",
        "--part-size",
        "2",
        *flags,
    ]


def test_a_bare_overwrite_still_makes_everything_again(tmp_path: Path) -> None:
    command(make(tmp_path))
    before = identities_of(tmp_path / "out")
    command(make(tmp_path, "--overwrite"))
    assert not before.items() & identities_of(tmp_path / "out").items()


def test_a_bare_overwrite_does_not_swallow_the_input(tmp_path: Path) -> None:
    command(make(tmp_path))
    command(
        [
            "score",
            "--overwrite",
            str(tmp_path / "out"),
            "-o",
            str(tmp_path / "scores"),
            "--scorer",
            "fake",
        ]
    )
    assert len(identities_of(tmp_path / "scores")) == 3


def test_a_killed_run_goes_on_with_stale_where_overwrite_would_start_again(tmp_path: Path) -> None:
    command(make(tmp_path, "--overwrite=stale"))
    (tmp_path / "out" / "part-00001-of-00003.parquet").unlink()
    before = identities_of(tmp_path / "out")
    command(make(tmp_path, "--overwrite=stale"))
    assert before.items() <= identities_of(tmp_path / "out").items()
    assert len(identities_of(tmp_path / "out")) == 3


def test_without_the_flag_another_configuration_is_refused_and_the_hint_names_it(
    tmp_path: Path, capsys
) -> None:
    command(make(tmp_path))
    assert prefpipe(make(tmp_path, "--seed", "1")) == 2
    assert "--overwrite=stale" in capsys.readouterr().err


@pytest.mark.slow
def test_shards_of_a_new_configuration_do_not_throw_away_one_another_s_parts(
    tmp_path: Path,
) -> None:
    """Shard 0 starts the new run; shard 1 finds the same run and keeps what shard 0 made."""
    command(make(tmp_path))
    flags = ("--seed", "1", "--overwrite=stale", "--num-shards", "2", "--shard-index")
    command(make(tmp_path, *flags, "0"))
    first = {
        name: place
        for name, place in identities_of(tmp_path / "out").items()
        if name.startswith(("part-00000", "part-00002"))
    }
    command(make(tmp_path, *flags, "1"))
    assert first.items() <= identities_of(tmp_path / "out").items()
    assert prefpipe(["status", str(tmp_path / "out")]) == 0


def test_changed_prompts_are_another_configuration(tmp_path: Path) -> None:
    command(make(tmp_path))
    write_json_lines(tmp_path / "prompts.jsonl", [{"prompt": f"other {i}"} for i in range(4)])
    command(make(tmp_path, "--overwrite=stale"))
    assert len(identities_of(tmp_path / "out")) == 2


def test_import_and_export_take_it_in_a_script(tmp_path: Path) -> None:
    """The import's file changes from scored to unscored: the scores of the first are gone, not left for the second."""
    rows = [
        {"prompt": "q", "response": text, "score": number} for number, text in enumerate(("a", "b"))
    ]
    source = write_json_lines(tmp_path / "rows.jsonl", rows)
    words = ["import", str(source), "-o", str(tmp_path / "in"), "--format", "rows"]
    command([*words, "--reward-column", "score", "--overwrite=stale"])
    before = identities_of(tmp_path / "in" / "scores")
    command([*words, "--reward-column", "score", "--overwrite=stale"])
    assert identities_of(tmp_path / "in" / "scores") == before
    command([*words, "--overwrite=stale"])
    assert not (tmp_path / "in" / "scores").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["score", "x", "--overwrite"], ["score", "x", "--overwrite=all"]),
        (["score", "--overwrite", "x"], ["score", "--overwrite=all", "x"]),
        (["score", "--overwrite=stale", "x"], ["score", "--overwrite=stale", "x"]),
        (["score", "--overwrite", "stale", "x"], ["score", "--overwrite=stale", "x"]),
        (
            ["score", "--overwrite", "--", "--overwrite"],
            ["score", "--overwrite=all", "--", "--overwrite"],
        ),
    ],
)
def test_the_flag_is_spelled_out(
    given: list[str], expected: list[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert spelled_out(given) == expected


def test_an_input_that_is_called_stale_is_an_input(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "stale").mkdir()
    monkeypatch.chdir(tmp_path)
    assert spelled_out(["score", "--overwrite", "stale"]) == ["score", "--overwrite=all", "stale"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, Overwrite.ALL),
        (False, Overwrite.NO),
        ("stale", Overwrite.STALE),
        ("all", Overwrite.ALL),
    ],
)
def test_yaml_and_python_say_it_as_before(
    value: object, expected: Overwrite, tmp_path: Path
) -> None:
    config = EmbedConfig(candidates=Path("c"), output=Path("e"), model="fake", overwrite=value)  # type: ignore[arg-type]
    assert config.overwrite is expected
    path = tmp_path / "embed.yaml"
    path.write_text(f"overwrite: {str(value).lower()}\n")
    flags = {"candidates": "c", "output": "e", "model": "fake"}
    assert EmbedConfig.from_sources(flags, path).overwrite is expected


def test_another_word_is_refused() -> None:
    with pytest.raises(UsageError, match="--overwrite takes no, stale or all, not 'old'"):
        EmbedConfig(candidates=Path("c"), output=Path("e"), model="fake", overwrite="old")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("merge run/policy -o m --overwrite=stale", "merge run/policy -o m --overwrite"),
        ("report run -o r.html --overwrite=stale", "report run -o r.html"),
        ("report run -o r.html --overwrite", "report run -o r.html --overwrite"),
        ("status run --overwrite=stale", "status run --overwrite=stale"),
    ],
)
def test_commands_without_a_record_take_the_flag_of_a_script(words: str, expected: str) -> None:
    assert without_stale(words.split()) == expected.split()


@pytest.mark.slow
def test_a_report_is_made_again_in_a_script_and_no_other_file_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json_lines(tmp_path / "prompts.jsonl", [{"prompt": "question"}])
    generate = [
        "generate",
        str(tmp_path / "prompts.jsonl"),
        "-o",
        str(tmp_path / "run" / "candidates"),
    ]
    command([*generate, "--backend", "fake", "--model", "fake", "--n", "2"])
    report = [
        "report",
        str(tmp_path / "run"),
        "-o",
        str(tmp_path / "report.html"),
        "--overwrite=stale",
    ]
    command(report)
    command(report)

    (tmp_path / "report.html").write_text("mine")
    assert prefpipe(report) == 2
    assert (tmp_path / "report.html").read_text() == "mine"
    assert "report.html" in capsys.readouterr().err
