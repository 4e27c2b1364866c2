"""What of a folder is shared, and what stays behind."""

from pathlib import Path

import pytest
from support.shared_run import add_what_stays, tree_of, write_model, write_run

from prefpipe.errors import InputError
from prefpipe.stages.sharing.belongings import (
    Belongings,
    belongings_of,
    contents_of,
    is_safe_name,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "home")


def shared(folder: Path, **settings: bool) -> Belongings:
    return belongings_of(folder, is_report=lambda path: path.name == "report.html", **settings)


def names(found: Belongings) -> set[str]:
    return {file.name for file in found.files}


def test_all_of_artifacts_and_models_and_nothing_else(run: Path) -> None:
    belonging = set(tree_of(run))
    assert names(shared(run)) == belonging
    add_what_stays(run)
    found = shared(run)
    assert names(found) == belonging
    assert found.strangers == ["model/pytorch_model.bin", "notes.txt", "prompts.jsonl"]
    assert found.secrets == [".env", "model/hf_token.txt", "token"]
    assert found.n_working == 5


def test_all_files_are_not_the_secrets(run: Path) -> None:
    belonging = set(tree_of(run))
    add_what_stays(run)
    found = shared(run, all_files=True)
    more = {"notes.txt", "prompts.jsonl", "run.log", "model/pytorch_model.bin"}
    assert names(found) == belonging | more
    assert found.secrets == [".env", "model/hf_token.txt", "token"]


@pytest.mark.parametrize(
    "name",
    [".env", ".env.local", "prod.env", "token", "TOKEN", "token.json", "hf_token", "id_rsa", "key.pem",
     "aws-credentials.json", "client_secret.json", "openai_api_key.txt", ".netrc"],
)  # fmt: skip
def test_names_of_secrets(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x", encoding="utf-8")
    assert shared(tmp_path, all_files=True).secrets == [name]


def test_a_tokenizer_is_no_token(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", 10)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        (model / name).write_text("{}", encoding="utf-8")
    found = shared(model)
    assert names(found) == set(tree_of(model))
    assert found.secrets == []


def test_checkpoints_with_the_state_of_the_optimizer(tmp_path: Path) -> None:
    policy = write_model(tmp_path / "policy", 10)
    for name in ("optimizer.pt", "rng_state.pth", "trainer_state.json", "training_args.bin"):
        path = policy / "checkpoint-8" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x", encoding="utf-8")
    sharded = policy / "checkpoint-8" / "optimizer_0"
    sharded.mkdir()
    for name in ("__0_0.distcp", ".metadata"):
        (sharded / name).write_text("x", encoding="utf-8")
    assert names(shared(policy)) == set(tree_of(policy))
    assert names(shared(policy / "checkpoint-8")) == set(tree_of(policy / "checkpoint-8"))
    without = shared(policy, checkpoints=False)
    assert not any("checkpoint" in name for name in names(without))
    assert without.n_working == 6
    # the same names elsewhere are nobody's
    (policy / "optimizer.pt").write_text("x", encoding="utf-8")
    assert shared(policy).strangers == ["optimizer.pt"]


def test_code_belongs_to_a_model_that_names_it(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", 10)
    (model / "modeling_mine.py").write_text("x", encoding="utf-8")
    assert shared(model).strangers == ["modeling_mine.py"]
    (model / "config.json").write_text('{"auto_map": {}}', encoding="utf-8")
    assert shared(model).strangers == []


def test_reports_and_no_other_pages(run: Path) -> None:
    for name in ("report.html", "saved.html"):
        (run / name).write_text("<html>", encoding="utf-8")
    found = shared(run)
    assert "report.html" in names(found)
    assert found.strangers == ["saved.html"]


def test_links_are_followed_and_named(run: Path, tmp_path: Path) -> None:
    (run / "groups").rename(tmp_path / "elsewhere")
    (run / "groups").symlink_to(tmp_path / "elsewhere")
    weights = run / "model" / "model.safetensors"
    weights.rename(tmp_path / "blob")
    weights.symlink_to(tmp_path / "blob")
    found = shared(run)
    assert found.links == ["groups", "model/model.safetensors"]
    assert {"groups/run.json", "model/model.safetensors"} <= names(found)


def test_links_that_lead_nowhere_or_round(run: Path) -> None:
    (run / "again").symlink_to(run)
    with pytest.raises(InputError, match=r"again is a link to .*, which it lies in"):
        shared(run)
    (run / "again").unlink()
    (run / "gone").symlink_to(run / "nothing")
    with pytest.raises(InputError, match=r"gone is a link to .*nothing, which is not there"):
        shared(run)


def test_what_a_folder_holds(run: Path) -> None:
    contents = contents_of(run, shared(run).files)
    assert contents.keys() == {"candidates", "scores", "embeddings", "groups", "model"}
    model = contents_of(run / "model", shared(run / "model").files)
    assert model == {".": contents["model"]}


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/../b", "/x", "a//b", "a/", "C:/x", "a\\b", "a\nb", "a\0b"]
)
def test_names_that_lead_out(name: str) -> None:
    assert not is_safe_name(name)


@pytest.mark.parametrize("name", ["a", "a/b", "a b/ä.parquet", "..a", "a..b"])
def test_names_that_stay_inside(name: str) -> None:
    assert is_safe_name(name)
