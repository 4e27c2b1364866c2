"""The tokenizer and chat template of a model folder: which files, and the hash of what they mean.

A trained policy's folder must have the tokenizer hash of the model it came from, or ``train`` would
tokenise again what ``generate`` stored. So the hash covers everything that turns text into ids, but
not what saving a tokenizer rewrites.
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
    """Return the files that hold a vocabulary, ``tokenizer.json`` first; [] without a tokenizer."""
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return files + sorted(folder.glob("*.tiktoken"))


def hash_tokenizer(folder: Path) -> str | None:
    """Return the sha256 of what turns text into ids, or None when the folder has no tokenizer.

    ``tokenizer.json`` counts by its meaning, the vocabulary files when it is absent. Of
    ``tokenizer_config.json`` the special tokens and the BOS and EOS habits count: its other keys
    name the version that wrote it.
    """
    files = find_tokenizer_files(folder)
    if not files:
        return None

    if files[0].name == "tokenizer.json":
        vocabulary: Any = _normalise(read_json(files[0]))
    else:
        vocabulary = hash_files(folder, files)

    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        stored = _read_if_there(folder / name)
        for key in SETTINGS:
            if stored.get(key) is not None:
                settings[key] = _token_text(stored[key])
    return sha256(json.dumps([vocabulary, settings], sort_keys=True).encode()).hexdigest()


def read_chat_template(folder: Path) -> str | None:
    """Return the text of the default chat template, searched for in the order of transformers."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")

    for name in ("chat_template.json", "tokenizer_config.json"):
        template = _read_if_there(folder / name).get("chat_template")
        if isinstance(template, str):
            return template
        if isinstance(template, list):  # several named templates
            by_name = {entry.get("name"): entry.get("template") for entry in template}
            return by_name.get("default")
    return None


def added_tokens_of(folder: Path) -> set[str]:
    """Return the tokens that were added to a vocabulary, control tokens among them."""
    listed = _read_if_there(folder / "tokenizer.json").get("added_tokens") or []
    by_id = _read_if_there(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    return {str(token.get("content")) for token in (*listed, *by_id.values())}


def find_eos_ids(folder: Path, tokenizer_eos: int | None) -> set[int]:
    """Return every id that ends a response: the model's ``eos_token_id`` and the tokenizer's.

    The model may have one or several. ``generation_config.json`` counts when it names any, else
    ``config.json``: what transformers and vLLM read.
    """
    eos_ids: set[int] = set() if tokenizer_eos is None else {tokenizer_eos}
    for name in ("generation_config.json", "config.json"):
        value = _read_if_there(folder / name).get("eos_token_id")
        if value is not None:
            return eos_ids | (set(value) if isinstance(value, list) else {value})
    return eos_ids


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _normalise(content: dict[str, Any]) -> dict[str, Any]:
    """Drop what loading and saving changes: padding, truncation, defaults, steps without effect."""
    stored = content.get("model", {})
    model = {key: value for key, value in stored.items() if value not in (None, False, "")}
    # Older releases of tokenizers write a merge as one text, newer ones as a pair.
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
