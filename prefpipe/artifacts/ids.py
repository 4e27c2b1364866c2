"""Keys and seeds made from content, never from position.

The key of everything is ``(prompt_id, sample_idx)``. Seeds depend on the run's seed and the key
alone, so they are the same whatever the number of parts, shards, samples or restarts.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

PROMPT_ID_HEX_DIGITS = 16
SEED_BITS = 48
"""Exact in a JSON number (53 bits) and accepted by every engine."""
CARRIED = ("tool_calls", "tools")
CARRIED_BY_TOOLS = (*CARRIED, "name", "tool_call_id")
"""What belongs to a turn beside its role and content, in the order in which it is hashed."""


def prompt_id_of(messages: Sequence[Mapping[str, str]]) -> str:
    """Return the content hash of a conversation: 16 hexadecimal digits of a sha256.

    Its tools and tool calls are part of it.
    """
    turns: list[list[Any]] = []
    for message in messages:
        turn: list[Any] = [message["role"], message["content"]]
        keys = CARRIED_BY_TOOLS if message["role"] == "tool" else CARRIED
        carried = {key: message[key] for key in keys if key in message}
        # without them a turn hashes as it did before tools were carried
        if carried:
            turn.append(carried)
        turns.append(turn)
    text = json.dumps(turns, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:PROMPT_ID_HEX_DIGITS]


def seed_for(run_seed: int, prompt_id: str, sample_idx: int) -> int:
    """Return the seed of one sample: 48 bits of ``sha256(run_seed, prompt_id, sample_idx)``."""
    digest = hashlib.sha256(json.dumps([run_seed, prompt_id, sample_idx]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)
