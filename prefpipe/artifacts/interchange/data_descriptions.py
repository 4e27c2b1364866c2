"""Description files beside a data file, by which a trainer finds it.

``dataset_info.json`` for LLaMA-Factory, a piece of a config for axolotl.
"""

import json
from pathlib import Path

from prefpipe.artifacts.storage.location import Location

DATA_FILE = "preferences.jsonl"
DATASET_NAME = "prefpipe"
DESCRIPTIONS = {"llama-factory": "dataset_info.json", "axolotl": "axolotl.yaml"}
"""Format to the name of the file that describes the data."""

AXOLOTL_TURN = "[[dummy_message]]"
"""The user turn that axolotl puts before a response when it templates it."""
AXOLOTL_HEADS = (
    f"<|im_start|>user\n{AXOLOTL_TURN}<|im_end|>\n<|im_start|>assistant\n",
    (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        f"<|im_end|>\n<|im_start|>user\n{AXOLOTL_TURN}<|im_end|>\n<|im_start|>assistant\n"
    ),
    (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        f"<|im_end|>\n<|im_start|>user\n{AXOLOTL_TURN}<|im_end|>\n<|im_start|>assistant\n"
    ),
    (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        f"{AXOLOTL_TURN}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    f"<bos><start_of_turn>user\n{AXOLOTL_TURN}<end_of_turn>\n<start_of_turn>model\n",
    f"<s>[INST] {AXOLOTL_TURN} [/INST]",
    f"<|user|>\n{AXOLOTL_TURN}<|end|>\n<|assistant|>\n",
)
"""What chat templates write before a response that axolotl templates.

Those of ChatML, Qwen 2.5, SmolLM2, Llama 3, Gemma, Mistral and Phi.
"""


def is_lost_in_template(response: str) -> bool:
    """Return whether axolotl would cut a response at the wrong place.

    It templates ``[a user turn, the response]`` and keeps everything from the first place where the
    response's text stands: of ``user`` that is the name of the user's role, so that the policy
    would learn to write the template. An empty response stands at the very beginning.
    """
    return any((head + response).find(response) < len(head) for head in AXOLOTL_HEADS)


def description(kind: str, folder: Location) -> bytes:
    """Return the text that describes ``DATA_FILE`` in a folder to the tool."""
    return _dataset_info() if kind == "llama-factory" else _axolotl(folder)


def other_names(content: bytes) -> list[str]:
    """Return the data sets of a ``dataset_info.json`` that are not of an export.

    Of a file that cannot be read, what it is.
    """
    try:
        entries = json.loads(content)
    except ValueError:
        return ["invalid JSON"]
    if not isinstance(entries, dict):
        return ["something other than a JSON object"]
    return [name for name in entries if name != DATASET_NAME]


def _dataset_info() -> bytes:
    entry = {
        "file_name": DATA_FILE,
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    return (json.dumps({DATASET_NAME: entry}, indent=2) + "\n").encode()


def _axolotl(folder: Location) -> bytes:
    # quoted as JSON, which YAML reads: a path may hold any sign
    place = folder / DATA_FILE
    name = place.as_posix() if isinstance(place, Path) else str(place)
    path = json.dumps(name, ensure_ascii=False)
    first_comment = (
        "# A piece of an axolotl config; base_model, chat_template, the learning settings and the "
        "rest stand beside it."
    )

    # written by hand, so that it can hold comments
    lines = [
        first_comment,
        "# The path holds where axolotl is started from the folder in which `prefpipe export` was.",
        "rl: dpo",
        "datasets:",
        f"  - path: {path}",
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
