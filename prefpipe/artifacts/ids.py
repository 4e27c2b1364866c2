"""Keys and seeds made from content, never from position.

The key of everything is ``(prompt_id, sample_idx)``. Seeds depend on the run's seed and the key alone, so
they are the same whatever the number of parts, shards, samples or restarts.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

PROMPT_ID_HEX_DIGITS = 16
SEED_BITS = 48  # exact in a JSON number (53 bits) and accepted by every engine


def prompt_id_of(messages: Sequence[Mapping[str, str]]) -> str:
    """Return the content hash of a conversation, its tools and tool calls included: 16 hexadecimal digits of a sha256."""
    turns: list[list[Any]] = []
    for turn in messages:
        carried = (
            "tool_calls",
            "tools",
            *(("name", "tool_call_id") if turn["role"] == "tool" else ()),
        )
        more = {key: turn[key] for key in carried if key in turn}
        turns.append([turn["role"], turn["content"], *([more] if more else [])])
    text = json.dumps(turns, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:PROMPT_ID_HEX_DIGITS]


def seed_for(run_seed: int, prompt_id: str, sample_idx: int) -> int:
    """Return the seed of one sample: 48 bits of ``sha256(run_seed, prompt_id, sample_idx)``."""
    digest = hashlib.sha256(json.dumps([run_seed, prompt_id, sample_idx]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)
