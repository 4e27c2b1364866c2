"""Prompts that went through a chat template: back to turns, exactly, or not at all.

A templated text taken for plain text would go through a template once more when it is sampled or trained on, and nothing
would say so.
"""

import re
from typing import NamedTuple

from prefpipe.artifacts.conversations import Turns

MARKERS = (
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|eot_id|>", "<|begin_of_text|>", "<start_of_turn>", "<end_of_turn>",
    "[INST]", "[/INST]", "<<SYS>>", "<|user|>", "<|assistant|>", "<|system|>", "<|end_of_turn|>", "<|end|>", "<|eot|>",
    "<|header_start|>", "<|START_OF_TURN_TOKEN|>", "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "GPT4 Correct User:",
)  # fmt: skip
"""What chat templates write around turns and people do not."""
BEGINNINGS = (*MARKERS, "\n\nHuman:")
"""What a templated prompt can begin with; the last, Anthropic's of hh-rlhf, may stand inside a prompt of one's own."""
BOS = ("<|begin_of_text|>", "<s>", "<bos>", "<|startoftext|>")
LLAMA_DATES = re.compile(r"\ACutting Knowledge Date: [^\n]*\nToday Date: [^\n]*\n\n")
"""What the template of Llama 3.1 and later puts before the system turn, or in its place."""


class Template(NamedTuple):
    """How a template writes: one turn, the beginning of the answer, and its own names of the roles."""

    name: str
    bos: str
    turn: re.Pattern[str]
    answer: str
    roles: dict[str, str]


ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
TEMPLATES = (
    Template("ChatML", "", re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n?", re.DOTALL), "<|im_start|>assistant\n", ROLES),
    Template(
        "Llama 3", "<|begin_of_text|>",
        re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>", re.DOTALL),
        "<|start_header_id|>assistant<|end_header_id|>\n\n", ROLES,
    ),
    Template(
        "Gemma", "<bos>", re.compile(r"<start_of_turn>(\w+)\n(.*?)<end_of_turn>\n?", re.DOTALL), "<start_of_turn>model\n",
        {"user": "user", "model": "assistant"},
    ),
    Template(
        "Human and Assistant", "", re.compile(r"\n\n(Human|Assistant): ?(.*?)(?=\n\n(?:Human|Assistant):|\Z)", re.DOTALL),
        "\n\nAssistant:", {"Human": "user", "Assistant": "assistant"},
    ),
)  # fmt: skip
HINT = "give the file the turns instead (`messages`, or a list of role and content in `prompt`)"


def marker_of(text: str) -> str | None:
    """Return the first marker of a chat template that a text holds, or None."""
    return next((marker for marker in MARKERS if marker in text), None)


def _first_marker(text: str) -> str:
    """Return the marker of a text that is templated, for messages."""
    return marker_of(text) or text.strip()[:20]


def begins_templated(text: str) -> bool:
    """Return whether a text begins as a templated prompt does: with a marker, after a token for its beginning at most."""
    rest = text.lstrip()
    for token in BOS:
        rest = rest.removeprefix(token).lstrip()
    return text.startswith(BEGINNINGS) or rest.startswith(MARKERS)


def untemplated(text: str) -> tuple[Turns, str | None]:
    """Return the turns that a templated prompt was made of and, where they cannot be told exactly, why not.

    ChatML, Llama 3, Gemma and hh-rlhf mark every turn, so that turns can be read back; the text must be turns and the
    beginning of the answer, and nothing else. Mistral's and others' do not say where a system prompt ends: they are refused.
    """
    for template in TEMPLATES:
        turns = _read(text, template)
        if turns is not None:
            return turns, None
    return [], f"it went through a chat template ({_first_marker(text)}) whose turns cannot be read back exactly; {HINT}"


def _read(text: str, template: Template) -> Turns | None:
    rest = text.removeprefix(template.bos)
    if not rest.endswith(template.answer):
        return None
    rest = rest.removesuffix(template.answer)
    turns: Turns = []
    place = 0
    while match := template.turn.match(rest, place):
        role, content = template.roles.get(match[1]), match[2]
        if role is None or marker_of(content) is not None:
            return None
        content = LLAMA_DATES.sub("", content) if role == "system" else content
        if content or role != "system":  # a system turn that held the template's dates alone is none
            turns.append({"role": role, "content": content})
        place = match.end()
    return turns if turns and place == len(rest) else None
