"""What stands beside a data file so that a trainer finds it: ``dataset_info.json``, or a piece of axolotl's config."""

import json
from pathlib import Path

DATA_FILE = "preferences.jsonl"
DATASET_NAME = "prefpipe"
DESCRIPTIONS = {"llama-factory": "dataset_info.json", "axolotl": "axolotl.yaml"}
"""Format to the name of the file that describes the data."""


def description(kind: str, folder: Path) -> bytes:
    """Return the text that describes ``DATA_FILE`` in a folder to the tool."""
    return _dataset_info() if kind == "llama-factory" else _axolotl(folder)


def other_names(content: bytes) -> list[str]:
    """Return the data sets of a ``dataset_info.json`` that are not of an export; of a file that cannot be read, its name."""
    try:
        found = json.loads(content)
    except ValueError:
        return ["something that is no JSON"]
    return [name for name in found if name != DATASET_NAME] if isinstance(found, dict) else ["something that is no object"]


def _dataset_info() -> bytes:
    entry = {
        "file_name": DATA_FILE, "ranking": True, "formatting": "sharegpt",
        "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
                 "system_tag": "system"},
    }  # fmt: skip
    return (json.dumps({DATASET_NAME: entry}, indent=2) + "\n").encode()


def _axolotl(folder: Path) -> bytes:
    lines = [
        "# A piece of an axolotl config; base_model, chat_template, the learning settings and the rest stand beside it.",
        "# The path holds where axolotl is started from the folder in which `prefpipe export` was.",
        "rl: dpo",
        "datasets:",
        f"  - path: {json.dumps((folder / DATA_FILE).as_posix(), ensure_ascii=False)}",
        "    ds_type: json",
        "    split: train",
        "    type: chat_template.default",
        "    field_messages: messages",
        "    field_chosen: chosen",
        "    field_rejected: rejected",
        "    message_property_mappings:",
        "      role: role",
        "      content: content",
    ]
    return ("\n".join(lines) + "\n").encode()
