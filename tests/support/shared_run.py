"""A run to push: artifacts of the real commands, a model with weights in several pieces, and what must stay behind."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from support import finished_run

PIECE = 5 * 2**20
"""S3 takes no smaller pieces, but for the last."""
CANARY = "canary-of-a-token-0123"


def write_model(folder: Path, n_bytes: int = PIECE + 1000, seed: int = 0) -> Path:
    """Write what is a model to everybody who does not load it."""
    folder.mkdir(parents=True)
    weights = np.random.default_rng(seed).integers(0, 256, n_bytes, dtype=np.uint8)
    save_file({"weight": weights}, folder / "model.safetensors")
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 2, "hidden_size": 4}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    return folder


def write_run(folder: Path) -> Path:
    """Write a run with four artifacts and a model; return its folder."""
    run = finished_run.copy_to(folder)
    write_model(run / "model")
    return run


def add_what_stays(run: Path) -> None:
    """Add files that belong to no artifact and no model: notes, claims, logs, secrets."""
    for name in (
        "notes.txt",
        "prompts.jsonl",
        ".env",
        "token",
        "model/hf_token.txt",
        "candidates/claims/part-00001.json",
        "candidates/.part-00001-of-00003.parquet.ab.elsewhere.1.tmp",
        "locks/all.seed-0",
        "run.log",
        "model/tensorboard/events.out.tfevents.1.host.2.0",
        "model/pytorch_model.bin",
    ):
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CANARY, encoding="utf-8")


def tree_of(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by its path in it, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
