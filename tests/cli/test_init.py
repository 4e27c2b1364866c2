"""``prefpipe init``: settings that load as they are, and a script that runs as it is."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.tiny_models import make_tiny_causal_lm

from prefpipe.cli.main import run
from prefpipe.configs.init import STAGE_NAMES, InitConfig
from prefpipe.configs.plan_sections import SECTIONS
from prefpipe.configs.stages import STAGES
from prefpipe.configs.workers import WorkersConfig
from prefpipe.stages.init.run_files import stage_values
from prefpipe.stages.init.stage_yaml import stage_yaml, written

SAMPLE_DATA = Path(__file__).resolve().parent.parent.parent / "sample_data"
BY_NAME = {config_class.stage: config_class for config_class in STAGES}
each_stage = pytest.mark.parametrize("stage", STAGE_NAMES)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def without_comments_of_settings(text: str) -> str:
    """A file whose every setting has lost its ``#``, but for those without a default."""
    return re.sub(r"^#(\w+: (?! |null$).*)$", r"\1", text, flags=re.MULTILINE)


@each_stage
def test_a_stages_file_loads_as_it_is(stage: str, capsys) -> None:
    assert run(["init", stage]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{stage}.yaml\n"
    assert f"prefpipe {stage} --config {stage}.yaml" in captured.err

    config = BY_NAME[stage].from_sources({}, Path(f"{stage}.yaml"))
    values = stage_values(InitConfig())[stage]
    assert config == BY_NAME[stage].from_values(values)


@each_stage
def test_defaults_that_lose_their_comment_change_nothing(stage: str) -> None:
    assert run(["init", stage]) == 0
    path = Path(f"{stage}.yaml")
    before = BY_NAME[stage].from_sources({}, path)
    loaded = without_comments_of_settings(path.read_text())
    path.write_text(loaded)
    assert BY_NAME[stage].from_sources({}, path) == before

    defaults = [item for item in fields(BY_NAME[stage]) if item.default not in (MISSING, None)]
    assert {item.name for item in defaults} <= yaml.safe_load(loaded).keys()


@each_stage
def test_a_file_has_every_field_once_the_common_ones_first(stage: str) -> None:
    assert run(["init", stage]) == 0
    text = Path(f"{stage}.yaml").read_text()
    common, _, rare = text.partition("# --- Rare settings ---")
    for item in fields(BY_NAME[stage]):
        assert len(re.findall(rf"^#?{item.name}: ", text, re.MULTILINE)) == 1
        assert " ".join(str(item.metadata["help"]).split()) in " ".join(
            text.replace("\n# ", " ").split()
        )
        is_common = item.name in BY_NAME[stage].common_names()
        part = common if is_common else rare
        assert re.search(rf"^#?{item.name}: ", part, re.MULTILINE)


@pytest.mark.parametrize(
    "value",
    [
        *(1, 0.8, 1e-6, True, None, "a: b", "#", "yes", "1e3", ("a", "b, c"), (), Path("a b/c")),
        *(
            "",
            " a ",
            "a\nb",
            "a\n\n b\n",
            "\t",
            "- x",
            "'",
            '"',
            "{a}",
            "[",
            "é 日本 \u2028\x85",
            "~",
        ),
        *("0x1f", "1_0", "2026-01-01", "<<", "!x", "&a", "*a", "%", "@", "`", "|", ">", "?", "= a"),
    ],
)
def test_a_value_is_written_as_it_is_read(value: Any) -> None:
    wanted = list(value) if isinstance(value, tuple) else value
    wanted = str(wanted) if isinstance(wanted, Path) else wanted
    text = written(value)
    assert "\n" not in text
    assert yaml.safe_load(f"key: {text}") == {"key": wanted}


def test_a_setting_may_be_given_to_the_file() -> None:
    text = stage_yaml(BY_NAME["select"], {"strategy": "bottom-k"})
    assert "\nstrategy: bottom-k\n" in text
    assert "\n#k: 7\n" in text
    assert "#scores:  (required)" in text


def test_flags_fill_the_placeholders() -> None:
    assert run(["init", "eval", "--model", "org/m", "--scorer", "checks", "--heldout", "h"]) == 0
    values = yaml.safe_load(Path("eval.yaml").read_text())
    assert (values["baseline"], values["scorer"], values["prompts"]) == ("org/m", ["checks"], "h")


@pytest.mark.parametrize("words", [["select"], []])
def test_nothing_is_replaced(words: list[str], capsys) -> None:
    """And nothing is written beside a file that is there already."""
    place = "select.yaml" if words else "out/run.sh"
    Path("out").mkdir()
    Path(place).write_text("mine")
    assert run(["init", *words, *([] if words else ["-o", "out"])]) == 2
    captured = capsys.readouterr()
    assert f"error: {place} exists already" in captured.err
    assert "hint: choose another folder with -o" in captured.err
    assert Path(place).read_text() == "mine"
    assert [path.name for path in Path("out").rglob("*")] == ([] if words else ["run.sh"])


def test_a_flag_without_a_place_is_refused(capsys) -> None:
    assert run(["init", "select", "--scorer", "checks"]) == 2
    assert "--scorer has no place in the settings of select" in capsys.readouterr().err
    assert run(["init", "selct"]) == 2
    said = capsys.readouterr().err
    assert "error: STAGE must be one of generate, " in said
    assert "did you mean `select`" in said
    assert not list(Path().iterdir())


def test_a_run_has_a_script_settings_and_a_plan(capsys) -> None:
    assert run(["init"]) == 0
    assert capsys.readouterr().out == "my-run\n"
    names = {str(path.relative_to("my-run")) for path in Path("my-run").rglob("*.*")}
    assert names == {"run.sh", "rounds.yaml", *(f"settings/{stage}.yaml" for stage in SECTIONS)}
    assert os.access("my-run/run.sh", os.X_OK)
    assert subprocess.run(["bash", "-n", "my-run/run.sh"], check=False).returncode == 0


ODD_NAMES = (
    *(
        "-dash",
        "sp ace",
        "new\nline",
        "q'u\"o",
        "ünï-日本",
        "$(touch harm)`touch harm`",
        "#x",
        "a}b",
    ),
    "a; touch harm; echo",
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_reaches_the_plan_and_the_commands_as_it_is(
    name: str, tmp_path: Path, capsys
) -> None:
    assert run(["init", "-o", name, "--prompts", name, "--heldout", name, "--model", name]) == 0
    values = yaml.safe_load((tmp_path / name / "rounds.yaml").read_text())
    assert (values["prompts"], values["model"], values["eval"]["prompts"]) == (name, name, name)

    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "prefpipe"
    stub.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    stub.chmod(0o755)
    # as the command says it
    script = capsys.readouterr().err.partition("then run: ")[2].rstrip("\n")
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"PATH": f"{stub.parent}{os.pathsep}{os.environ['PATH']}", "CDPATH": "."},
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.split("\0")
    place = f"./{name}" if name.startswith("-") else name
    assert words[:6] == ["generate", place, "-o", f"{place}/run/candidates", "--model", place]
    assert words[7] == f"{tmp_path}/{name}/settings/generate.yaml"
    assert words[words.index("--prompts") + 1] == place
    assert not (tmp_path / "harm").exists()


def test_a_dry_run_without_a_model_to_train_is_refused(capsys) -> None:
    assert run(["init", "--backend", "fake", "--model", "m"]) == 2
    said = capsys.readouterr().err
    assert "--backend fake samples without a model, but `train` needs one: no model at 'm'" in said
    assert "hint: " in said
    assert not list(Path().iterdir())


@pytest.mark.slow
def test_the_script_and_the_plan_run_as_they_are(tmp_path: Path) -> None:
    """On the sample data, with the fake engine and a tiny model; the places need quoting."""
    make_tiny_causal_lm(tmp_path / "a möd\nel's")
    shutil.copy(SAMPLE_DATA / "prompts.jsonl", '-p "1".jsonl')
    words = ["init", "-o", "my run", "--model", "a möd\nel's", "--backend", "fake"]
    words += ["--prompts", '-p "1".jsonl']
    words += ["--heldout", str(SAMPLE_DATA / "heldout.jsonl")]
    assert run(words) == 0

    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "my run/run.sh"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("\ndone     ") + done.stdout.startswith("done") >= 6

    plan = ["rounds", "my run/rounds.yaml", "-o", "my run/rounds", "--dry-run"]
    done = subprocess.run(
        ["prefpipe", *plan], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\nprefpipe train ") == 2


def test_the_key_on_is_a_flag_and_no_truth_value() -> None:
    """YAML 1.1 reads ``on: ray`` as ``true: ray``."""
    assert run(["init", "generate"]) == 0
    path = Path("generate.yaml")
    path.write_text(
        path.read_text().replace("#on: null", "on: ray").replace("#workers: null", "workers: 2")
    )
    config = BY_NAME["generate"].from_sources({}, path)
    assert isinstance(config, WorkersConfig)
    assert (config.on, config.workers) == ("ray", "2")
