"""The tokenizer and chat template of a model folder: which files, and the hash of what they mean.

A trained policy's folder must have the tokenizer hash of the model it came from, or ``train`` would tokenise again
what ``generate`` stored. So the hash covers what turns text into ids, and not what saving a tokenizer rewrites.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from prefpipe.artifacts.file_hashes import hash_files
from prefpipe.models.json_files import read_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
SETTINGS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
)


def find_tokenizer_files(folder: Path) -> list[Path]:
    """Return the files that hold a vocabulary, ``tokenizer.json`` first; an empty list without a tokenizer."""
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return found + sorted(folder.glob("*.tiktoken"))


def hash_tokenizer(folder: Path) -> str | None:
    """Return the sha256 of what turns text into ids, or None when the folder has no tokenizer.

    ``tokenizer.json`` counts by its meaning, the vocabulary files when it is absent. Of ``tokenizer_config.json``
    the special tokens and the BOS and EOS habits count: its other keys name the version that wrote it.
    """
    files = find_tokenizer_files(folder)
    if not files:
        return None
    if files[0].name == "tokenizer.json":
        content: Any = _normalise(read_json(files[0]))
    else:
        content = hash_files(folder, files)
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        found = read_json(folder / name) if (folder / name).is_file() else {}
        settings |= {key: _token_text(found[key]) for key in SETTINGS if found.get(key) is not None}
    return sha256(json.dumps([content, settings], sort_keys=True).encode()).hexdigest()


def read_chat_template(folder: Path) -> str | None:
    """Return the text of the default chat template, looked for in the order that transformers looks."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = (
            read_json(folder / name).get("chat_template") if (folder / name).is_file() else None
        )
        if isinstance(template, str):
            return template
        if isinstance(template, list):  # several named templates
            named = {entry.get("name"): entry.get("template") for entry in template}
            return named.get("default")
    return None


def _normalise(content: dict[str, Any]) -> dict[str, Any]:
    """Drop what changes when a tokenizer is loaded and saved: padding, truncation, defaults, no-op steps."""
    model = {
        key: value
        for key, value in content.get("model", {}).items()
        if value not in (None, False, "")
    }
    merges = model.get("merges", [])
    model["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    post_processor = content.get("post_processor") or {}
    if post_processor.get("type") == "ByteLevel" or post_processor.get("special_tokens") == {}:
        post_processor = {}  # moves offsets at most; adds no token
    return content | {
        "padding": None,
        "truncation": None,
        "model": model,
        "post_processor": post_processor,
    }


def _token_text(value: Any) -> Any:
    """Return a special token's text, which is written plainly or as an AddedToken object."""
    return value.get("content") if isinstance(value, dict) else value
