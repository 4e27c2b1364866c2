"""A damaged safetensors file is seen before anything loads it."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from prefpipe.errors import ModelError
from prefpipe.models.weights import check_safetensors


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(
        {"a": np.arange(10.0), "b": np.ones((2, 3), np.float16)}, path, metadata={"format": "pt"}
    )
    return path


def test_check_safetensors_passes_a_whole_file(whole):
    assert check_safetensors(whole) == whole


def test_every_truncation_is_refused(whole):
    data = whole.read_bytes()
    for n_bytes in range(len(data)):
        whole.write_bytes(data[:n_bytes])
        with pytest.raises(ModelError, match="is broken"):
            check_safetensors(whole)


def test_extra_bytes_are_refused(whole):
    whole.write_bytes(whole.read_bytes() + b"x")
    with pytest.raises(ModelError, match="its header promises"):
        check_safetensors(whole)


@pytest.mark.parametrize(
    "header", [b"not json", b"[]", b'{"a": 1}', b'{"a": {"data_offsets": []}}']
)
def test_a_header_that_is_not_safetensors_is_refused(whole, header):
    whole.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="its header is not safetensors JSON"):
        check_safetensors(whole)


@pytest.mark.parametrize("shape", [[3], [1]], ids=["larger", "smaller"])
def test_a_header_whose_shape_disagrees_with_its_offsets_is_refused(whole, shape):
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}
    header = json.dumps({"a": tensor}).encode()
    whole.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ModelError, match="is broken: its header is inconsistent"):
        check_safetensors(whole)


def test_a_git_lfs_pointer_is_recognised(whole):
    whole.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelError, match="is a Git LFS pointer") as caught:
        check_safetensors(whole)
    assert "git lfs pull" in caught.value.hint
