"""Folders that look like models from outside, and that no engine can load: they have no tokenizer."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_model_shell(folder: Path) -> Path:
    """Write a configuration and weights to a folder; return it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    save_file({"weight": np.zeros(1, np.float32)}, folder / "model.safetensors")
    return folder
