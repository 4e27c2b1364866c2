"""A model folder is described by its content.

A bad one is refused in a sentence that names it.
"""

import json
import shutil
from dataclasses import replace

import pytest
from support.tiny_models import make_tiny_adapter, make_tiny_causal_lm, make_tiny_reward_model

from prefpipe.errors import ModelError
from prefpipe.models.files import (
    find_adapter_base,
    inspect_model,
    require_chat_template,
    require_tokenizer,
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder with a tiny model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    make_tiny_causal_lm(folder / "policy")
    make_tiny_reward_model(folder / "reward")
    make_tiny_adapter(folder / "adapter", folder / "policy")
    return folder


@pytest.fixture
def models(originals, tmp_path, monkeypatch):
    """The same, to damage; with a cache of its own."""
    monkeypatch.setenv("PREFPIPE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(originals, tmp_path / "models")
    return tmp_path / "models"


def edit_json(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(
        json.dumps({key: value for key, value in (content | changes).items() if value is not None})
    )


def test_the_kind_is_read_from_the_folder(models):
    kinds = {
        name: inspect_model(models / name, name).kind for name in ("policy", "reward", "adapter")
    }
    assert kinds == {
        "policy": "causal-lm",
        "reward": "sequence-classification",
        "adapter": "adapter",
    }


def test_the_same_content_under_another_path_and_name_has_the_same_identity(models):
    shutil.copytree(models / "policy", models / "elsewhere")
    first = inspect_model(models / "policy", "policy")
    second = inspect_model(models / "elsewhere", "other-name", revision="abc")
    assert first.identity() == second.identity()
    assert replace(first, requested="other").identity() == first.identity()


@pytest.mark.parametrize(
    ("file", "changes", "moved"),
    [
        ("config.json", {"rope_theta": 5.0}, "content_hash"),
        ("generation_config.json", {"eos_token_id": 7}, "content_hash"),
        ("tokenizer_config.json", {"eos_token": "<|bos|>"}, "tokenizer_hash"),
    ],
)
def test_one_change_moves_one_hash(models, file, changes, moved):
    before = inspect_model(models / "policy", "policy").identity()
    edit_json(models / "policy" / file, **changes)
    after = inspect_model(models / "policy", "policy").identity()
    assert {key for key in before if before[key] != after[key]} == {moved}


def test_one_bit_of_the_weights_moves_the_content_hash(models):
    before = inspect_model(models / "policy", "policy")
    weights = models / "policy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    after = inspect_model(models / "policy", "policy")
    assert before.content_hash != after.content_hash
    assert before.tokenizer_hash == after.tokenizer_hash


def test_the_template_moves_only_its_own_hash(models):
    before = inspect_model(models / "policy", "policy").identity()
    (models / "policy" / "chat_template.jinja").write_text("{{ messages }}")
    after = inspect_model(models / "policy", "policy").identity()
    assert {key for key in before if before[key] != after[key]} == {"chat_template_hash"}


def test_an_adapter_stands_on_its_base_and_borrows_its_tokenizer(models):
    adapter, base = (
        inspect_model(models / "adapter", "adapter"),
        inspect_model(models / "policy", "policy"),
    )
    assert adapter.base is not None
    assert adapter.base.content_hash == base.content_hash != adapter.content_hash
    assert adapter.identity()["base_content_hash"] == base.content_hash
    assert (adapter.tokenizer_hash, adapter.chat_template_hash) == (
        base.tokenizer_hash,
        base.chat_template_hash,
    )
    require_chat_template(adapter)


def test_the_base_of_an_adapter_may_lie_beside_it(models):
    edit_json(models / "adapter" / "adapter_config.json", base_model_name_or_path="../policy")
    assert inspect_model(models / "adapter", "adapter").base is not None


def test_shards_count_through_their_index(models):
    folder = models / "policy"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert inspect_model(folder, "policy").kind == "causal-lm"
    index["weight_map"]["other"] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="lacks 1 of 2 weight files, first model-00002-of-00002"):
        inspect_model(folder, "policy")


def test_a_missing_folder_is_named(models):
    with pytest.raises(
        ModelError, match=r"no model folder at .*/absent .asked for as 'absent'."
    ) as caught:
        inspect_model(models / "absent", "absent")
    assert "org/name" in caught.value.hint


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("config.json", "no config.json in the model folder"),
        ("model.safetensors", "no model.safetensors in the model folder"),
    ],
)
def test_a_missing_file_is_named(models, removed, message):
    (models / "policy" / removed).unlink()
    with pytest.raises(ModelError, match=f"{message} .*/policy"):
        inspect_model(models / "policy", "policy")


@pytest.mark.parametrize(
    ("name", "weights"), [("policy", "model.safetensors"), ("adapter", "adapter_model.safetensors")]
)
@pytest.mark.parametrize("pickled", ["{}.bin", "{}.pt"])
def test_pickle_weights_are_refused(models, name, weights, pickled):
    stem = "pytorch_model" if name == "policy" else "adapter_model"
    (models / name / weights).rename(models / name / pickled.format(stem))
    with pytest.raises(
        ModelError, match=r"has only pickle weights .*, which prefpipe refuses"
    ) as caught:
        inspect_model(models / name, name)
    assert "safetensors" in caught.value.hint


def test_the_pickles_of_a_trainer_are_not_taken_for_weights(models):
    (models / "policy" / "model.safetensors").rename(models / "policy" / "training_args.bin")
    with pytest.raises(ModelError, match=r"no model.safetensors"):
        inspect_model(models / "policy", "policy")


def test_a_truncated_model_is_refused(models):
    weights = models / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(
        ModelError, match=r"model\.safetensors is broken: it has \d+ bytes, its header promises \d+"
    ):
        inspect_model(models / "policy", "policy")


def test_a_broken_config_is_named(models):
    (models / "policy" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"cannot read .*config\.json"):
        inspect_model(models / "policy", "policy")


def test_an_adapter_without_its_base_is_refused(models):
    shutil.rmtree(models / "policy")
    edit_json(
        models / "adapter" / "adapter_config.json", base_model_name_or_path=str(models / "policy")
    )
    with pytest.raises(
        ModelError, match=r"needs its base model '.*/policy', which is not on this disk"
    ):
        inspect_model(models / "adapter", "adapter")


def test_an_adapter_that_names_no_base_is_refused(models):
    edit_json(models / "adapter" / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(ModelError, match="does not name its base model"):
        find_adapter_base(models / "adapter")


def test_an_adapter_and_a_model_in_one_folder_are_refused(models):
    shutil.copytree(models / "adapter", models / "policy", dirs_exist_ok=True)
    with pytest.raises(ModelError, match="holds both an adapter and a full model"):
        inspect_model(models / "policy", "policy")


def test_a_missing_template_or_tokenizer_is_refused_only_where_it_is_needed(models):
    (models / "policy" / "chat_template.jinja").unlink()
    model = inspect_model(models / "policy", "policy")
    require_tokenizer(model)
    with pytest.raises(ModelError, match=r"no chat template in the model folder .*/policy"):
        require_chat_template(model)
    (models / "policy" / "tokenizer.json").unlink()
    model = inspect_model(models / "policy", "policy")
    with pytest.raises(ModelError, match=r"no tokenizer in the model folder .*/policy"):
        require_tokenizer(model)


def test_a_sentence_transformers_folder_counts_all_its_modules(models):
    folder = models / "policy"
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Dense"}]))
    (folder / "1_Dense").mkdir()
    (folder / "1_Dense" / "config.json").write_text("{}")
    shutil.copy(folder / "model.safetensors", folder / "1_Dense" / "model.safetensors")
    before = inspect_model(folder, "embedder")
    assert before.kind == "sentence-transformers"
    (folder / "1_Dense" / "config.json").write_text('{"bias": false}')
    assert inspect_model(folder, "embedder").content_hash != before.content_hash
