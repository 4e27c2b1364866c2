"""What a tired person meets: a bare command, a tracker that is not there, JSON after a run with failures, a base that moved."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from support.finished_run import command
from support.pipelines import open_artifact, write_json_lines, write_prompts
from support.tiny_models import make_tiny_adapter, make_tiny_causal_lm
from support.two_rounds import copy_to

from prefpipe.cli.main import run as prefpipe
from prefpipe.errors import ModelError, UsageError
from prefpipe.models.files import inspect_model
from prefpipe.models.location import locate_model
from prefpipe.training.settings import require_trackers


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ([], "generate"),
        (["models"], "convert"),
        (["eval"], "win-rate"),
        (["--config-is-no-command"], None),
    ],
)
def test_a_bare_command_prints_its_help_and_no_empty_error(
    words: list[str], shown: str | None, capsys
) -> None:
    assert prefpipe(words) == 2
    captured = capsys.readouterr()
    if shown is None:
        assert "No such option" in captured.err
        return
    assert "Usage:" in captured.out
    assert shown in captured.out
    assert captured.err == ""


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["scroe", "x"], "score"),
        (["eval", "winrate", "x"], "win-rate"),
        (["stats"], "status"),
        (["win-rate", "x"], "prefpipe eval win-rate --help"),
        (["rewardbench"], "prefpipe eval rewardbench --help"),
        (["convert", "x"], "prefpipe models convert --help"),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest_one(
    words: list[str], near: str, capsys
) -> None:
    assert prefpipe(words) == 2
    assert near in capsys.readouterr().err


def test_eval_without_what_it_needs_says_what_that_is(capsys) -> None:
    assert prefpipe(["eval", "--json"]) == 2
    assert "needs --output, --policy, --baseline" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "comet_ml", "clearml"])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(
    tracker: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    """Whether the packages are installed here or not: nothing of that name is found."""
    monkeypatch.setattr(
        "prefpipe.training.settings.find_spec", lambda name: None if name == tracker else object()
    )
    folder = copy_to(tmp_path)
    words = [
        "train",
        str(folder / "groups"),
        "-o",
        str(folder / "new"),
        "--model",
        str(folder / "models" / "start"),
    ]
    assert prefpipe([*words, "--report-to", tracker]) == 2
    err = capsys.readouterr().err
    assert f"error: --report-to {tracker}: the package {tracker} is not installed" in err
    assert f"hint: pip install {tracker.replace('_', '-')}" in err
    assert not (folder / "new").exists()


def test_trackers_that_need_no_package_pass() -> None:
    require_trackers(("tensorboard",))
    require_trackers(("none",))
    with pytest.raises(UsageError):
        require_trackers(("tensorboard", "no_such_package_for_sure"))


def prompts(folder: Path) -> str:
    rows = [{"prompt": f"q {i}", "checks": [{"type": "words", "min": 1}]} for i in range(4)]
    return str(write_json_lines(folder / "prompts.jsonl", rows))


def printed_at_3(words: list[str], capsys) -> dict:
    """Run a command that must exit with 3 and return the JSON that it prints."""
    capsys.readouterr()
    assert prefpipe([*words, "--json"]) == 3
    captured = capsys.readouterr()
    assert "error: " in captured.err
    return json.loads(captured.out)


@pytest.mark.slow
def test_json_is_printed_at_3_by_every_stage_that_can_exit_so(tmp_path: Path, capsys) -> None:
    """Half of the fake's rows fail: 3, and the counts are those of the parts on disk."""
    candidates, at = str(tmp_path / "c"), lambda name: str(tmp_path / name)
    words = [
        "generate",
        prompts(tmp_path),
        "-o",
        candidates,
        "--backend",
        "fake",
        "--model",
        "fake:error_rate=0.5",
        "--n",
        "8",
    ]
    summary = printed_at_3(words, capsys)
    assert summary["counts"] == dict(sorted(open_artifact(tmp_path / "c").counts().items()))
    assert summary["n_rows"] == 32
    assert 0 < summary["counts"]["error"] < 32

    ratings = write_json_lines(
        tmp_path / "r.jsonl", [{"prompt_id": "none", "sample_idx": 0, "rating": 1}]
    )
    rows = open_artifact(tmp_path / "c").read_all().to_pylist()
    first = next(row for row in rows if row["status"] == "ok")
    write_json_lines(
        ratings, [{"prompt_id": first["prompt_id"], "sample_idx": first["sample_idx"], "rating": 1}]
    )
    summary = printed_at_3(
        ["score", candidates, "-o", at("s"), "--scorer", f"ratings:{ratings}"], capsys
    )
    assert summary["counts"]["ok"] == 1
    assert summary["path"] == at("s")

    pairs = write_json_lines(
        tmp_path / "pairs.jsonl",
        [
            {
                "prompt": f"q{i}",
                "chosen": "a",
                "rejected": "b",
                "score_chosen": None if i else 1.0,
                "score_rejected": 0.0,
            }
            for i in range(4)
        ],
    )
    summary = printed_at_3(
        ["eval", "rewardbench", "--pairs", str(pairs), "-o", at("p"), "--bootstrap-draws", "10"],
        capsys,
    )
    assert summary["n_pairs"] == 4
    assert summary["n_scored"] == 1
    assert json.loads((tmp_path / "p" / "summary.json").read_text())["n_scored"] == 1


def test_without_json_the_path_is_printed_at_3(tmp_path: Path, capsys) -> None:
    words = [
        "generate",
        prompts(tmp_path),
        "-o",
        str(tmp_path / "c"),
        "--backend",
        "fake",
        "--model",
        "fake:error_rate=0.5",
        "--n",
        "8",
    ]
    assert prefpipe(words) == 3
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'c'}\n"
    assert "the rows that succeeded are in" in captured.err


def test_nothing_is_printed_where_nothing_was_finished(tmp_path: Path, capsys) -> None:
    assert (
        prefpipe(
            [
                "score",
                str(tmp_path / "absent"),
                "-o",
                str(tmp_path / "s"),
                "--scorer",
                "checks",
                "--json",
            ]
        )
        == 1
    )
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_base_that_moved_is_named_to_merge_and_merge_does_it(tmp_path: Path, capsys) -> None:
    base = make_tiny_causal_lm(tmp_path / "base")
    adapter = make_tiny_adapter(tmp_path / "adapter", base)
    shutil.move(base, tmp_path / "moved")
    command_of_hint = f"prefpipe merge {adapter} --model BASE -o {adapter}-merged"
    for find in (locate_model, lambda name: inspect_model(Path(name), name)):
        with pytest.raises(ModelError) as caught:
            find(str(adapter))
        assert command_of_hint in str(caught.value.hint)
        assert "base_model_name_or_path" not in str(caught.value.hint)

    command(command_of_hint.replace("BASE", str(tmp_path / "moved")).split()[1:])
    assert inspect_model(Path(f"{adapter}-merged"), "merged").kind == "causal-lm"


@pytest.mark.slow
def test_an_adapter_that_names_no_base_is_merged_into_the_one_given(tmp_path: Path) -> None:
    base = make_tiny_causal_lm(tmp_path / "base")
    adapter = make_tiny_adapter(tmp_path / "adapter", base)
    config = json.loads((adapter / "adapter_config.json").read_text()) | {
        "base_model_name_or_path": None
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as caught:
        locate_model(str(adapter))
    assert f"prefpipe merge {adapter} --model BASE" in str(caught.value.hint)
    command(["merge", str(adapter), "--model", str(base), "-o", str(tmp_path / "merged")])
    assert inspect_model(tmp_path / "merged", "merged").kind == "causal-lm"


def pasted(hint: str) -> list[str]:
    """Return the words of a hint's command as a shell reads them: between backticks, or from ``prefpipe`` to the next comma."""
    line = (
        hint.partition("`")[2].partition("`")[0]
        or hint[hint.index("prefpipe ") :].partition(", ")[0]
    )
    return shlex.split(line)


@pytest.mark.slow
def test_a_command_in_a_hint_can_be_pasted_whatever_the_folder_is_called(
    tmp_path: Path, capsys
) -> None:
    name = 'it\'s $HOME "a b"'
    folder = copy_to(tmp_path / "plain").rename(tmp_path / name)
    candidates, groups, scores = folder / "candidates", folder / "groups", folder / "scores"
    capsys.readouterr()

    next(scores.glob("part-00001*")).unlink()
    assert (
        prefpipe(
            [
                "select",
                str(candidates),
                "--scores",
                str(scores),
                "-o",
                str(folder / "g"),
                "--strategy",
                "bottom-k",
            ]
        )
        == 4
    )
    assert pasted(capsys.readouterr().err.partition("hint:")[2]) == [
        "prefpipe",
        "status",
        str(scores),
    ]

    assert prefpipe(["report", str(folder), "-o", str(tmp_path / "r.html"), "--strict"]) == 1
    words = pasted(capsys.readouterr().err.partition("hint:")[2].strip())
    assert words[:2] == ["prefpipe", "status"]
    assert Path(words[2]).parent == folder

    for part in groups.glob("part-*"):
        part.unlink()
    assert (
        prefpipe(
            ["savings", str(groups), "--model", str(folder / "models" / "start"), "--gpu", "h100"]
        )
        != 0
    )
    assert pasted(capsys.readouterr().err.partition("hint:")[2]) == [
        "prefpipe",
        "status",
        str(groups),
    ]

    base = make_tiny_causal_lm(tmp_path / "base")
    adapter = make_tiny_adapter(folder / "adapter", base)
    shutil.move(base, tmp_path / "moved")
    with pytest.raises(ModelError) as caught:
        locate_model(str(adapter))
    words = pasted(str(caught.value.hint))
    assert words == [
        "prefpipe",
        "merge",
        str(adapter),
        "--model",
        "BASE",
        "-o",
        f"{adapter}-merged",
    ]


def test_a_tilde_in_a_configuration_file_is_the_home_folder(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_prompts(tmp_path / "p.jsonl", 2)
    (tmp_path / "g.yaml").write_text(
        "prompts: p.jsonl\noutput: ~/run/c\nmodel: m\nbackend: fake\nn: 2\n"
    )
    command(["generate", "--config", "g.yaml"])
    (tmp_path / "s.yaml").write_text(
        "candidates: ~/run/c\noutput: ~nobody-of-that-name/s\nscorer: fake\n"
    )
    command(["score", "--config", "s.yaml"])

    assert open_artifact(tmp_path / "home" / "run" / "c").read_all().num_rows == 4
    assert not (tmp_path / "~").exists()
    assert open_artifact(tmp_path / "~nobody-of-that-name" / "s").read_all().num_rows == 4
    next((tmp_path / "home" / "run" / "c").glob("part-*")).unlink()
    capsys.readouterr()
    assert prefpipe(["status", str(tmp_path / "home" / "run" / "c"), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)[0]["again"] == [
        ["prefpipe", "generate", "--config", "g.yaml"]
    ]
