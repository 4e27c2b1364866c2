"""Conversations that a chat template wrote into one text: back to turns, exactly, or not at all.

A templated text taken for plain text would be formatted by a template again when it is sampled or
trained on, without a warning. Two kinds are recognised here: the markers of chat templates, and
scripts with the speakers' names (``Human:`` and ``Assistant:``). Lists of turns that were written
into a text are in ``serialised_turns``.

A text that only mentions such markers has no turn in it; for other cases use
``--prompts-are-text``.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from prefpipe.artifacts.conversations import Turns

MARKERS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end_of_turn|>",
    "<|end|>",
    "<|eot|>",
    "<|header_start|>",
    "<|START_OF_TURN_TOKEN|>",
    "<\uff5cUser\uff5c>",
    "<\uff5cAssistant\uff5c>",
    "GPT4 Correct User:",
    "<extra_id_0>System",
    "<extra_id_1>User",
    "<extra_id_1>Assistant",
    "<|prompter|>",
)
"""What chat templates write around turns and people do not."""
BEGINNINGS = (*MARKERS, "\n\nHuman:")
"""What a templated prompt can begin with.

The last, Anthropic's of hh-rlhf, may occur inside an ordinary prompt.
"""
BOS = ("<|begin_of_text|>", "<s>", "<bos>", "<|startoftext|>")

TURN_HEADERS = re.compile(
    r"""<\|im_start\|>\ *(?:(?:system|developer|user|assistant|tool)\ *\n|assistant\s*\Z)
      | <\|(?:start_header_id|header_start)\|>\ *\w+\ *<\|(?:end_header_id|header_end)\|>
      | <start_of_turn>\ *(?:system|user|model)\b
      | \[INST\].*?\[/INST\]\s*(?:</s>|\Z)
      | <<SYS>>\s*\n.*?<</SYS>>
      | ^<\|(?:system|user|assistant|prompter)\|>
            (?=[\ \t\r]*\n|.*?<\|(?:end|assistant|endoftext)\|>)
      | <\|START_OF_TURN_TOKEN\|><\|
      | <\uff5c(?:hy_)?(?:User|Assistant)\uff5c>
      | ^GPT4\ Correct\ (?:User|Assistant):
      | <extra_id_[01]>(?:System|User|Assistant)\n
      | <SPECIAL_1[012]>(?:System|User|Assistant)\n
      | <\|start\|>\w+[^<\n]*(?:<\|channel\|>\w+)?<\|message\|>
      | <\|start_of_role\|>\w+<\|end_of_role\|>
      | \[\|(?:system|user|assistant)\|\]
      | <\|im_(?:system|user|assistant)\|>\w*<\|im_middle\|>
      | <(?:seed:bos|beginning_of_sentence)>\ *(?:system|user|assistant|ai)\b
      | <\|turn>(?:system|user|model)\n
      | \[gMASK\]\s*<sop>
      | <reserved_10[67]>""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
"""The header of a turn as a template writes it.

A text that holds one has turns in it, wherever it stands. A text that speaks of templates names the
markers without what stands around them, the end of the line after a role above all.
"""
SIGNS_OF_HEADERS = ("<", "[", "GPT4")
"""What every header of a turn has in it: a text without is not searched."""
LLAMA_DATES = re.compile(r"\ACutting Knowledge Date: [^\n]*\nToday Date: [^\n]*\n\n")
"""What the template of Llama 3.1 and later puts before the system turn, or in its place."""


class Template(NamedTuple):
    """How a template writes: a turn, the beginning of the answer, and its names of the roles."""

    name: str
    bos: str
    turn: re.Pattern[str]
    answer: str
    roles: dict[str, str]


ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
TEMPLATES = (
    Template(
        "ChatML",
        "",
        re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n?", re.DOTALL),
        "<|im_start|>assistant\n",
        ROLES,
    ),
    Template(
        "Llama 3",
        "<|begin_of_text|>",
        re.compile(
            r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>", re.DOTALL
        ),
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ROLES,
    ),
    Template(
        "Gemma",
        "<bos>",
        re.compile(r"<start_of_turn>(\w+)\n(.*?)<end_of_turn>\n?", re.DOTALL),
        "<start_of_turn>model\n",
        {"user": "user", "model": "assistant"},
    ),
    Template(
        "Human and Assistant",
        "",
        re.compile(r"\n\n(Human|Assistant): ?(.*?)(?=\n\n(?:Human|Assistant):|\Z)", re.DOTALL),
        "\n\nAssistant:",
        {"Human": "user", "Assistant": "assistant"},
    ),
)
HH_RLHF = TEMPLATES[3]


class Script(NamedTuple):
    """How a conversation is written out: the speakers' names, and what may be between two turns."""

    user: str
    assistant: str
    between: str = r"\n+"


SCRIPTS = (
    Script("Human:", "Assistant:"),
    Script("User:", "Assistant:"),
    Script("### Human:", "### Assistant:", r"\s*"),
    Script("### User:", "### Assistant:", r"\s*"),
    Script("USER:", "ASSISTANT:", r"(?:\s+|</s>\s*)"),
)
VICUNA_PREFACE = re.compile(r"\A(A chat between a [^\n]*?[.!])\s+(?=USER:)")
"""The system prompt that Vicuna's template writes before the first turn."""
ALPACA_PREFACE = re.compile(r"\ABelow is an instruction that describes a task\b[^\n]*\n+")
ALPACA = re.compile(r"\A### Instruction:\n(.*?)\n+### Response:\s*\Z", re.DOTALL)
HELPSTEER_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def marker_of(text: str) -> str | None:
    """Return the first marker of a chat template that a text holds, or None."""
    return next((marker for marker in MARKERS if marker in text), None)


def is_templated(text: str) -> bool:
    """Return whether a text holds a conversation's turns.

    It begins with a marker, has a turn's header in it, or is a script.
    """
    return (
        begins_templated(text)
        or _holds_header(text)
        or script_of(text) is not None
        or _is_alpaca(text)
    )


def begins_templated(text: str) -> bool:
    """Return whether a text begins as a templated prompt does.

    With a marker, after a token for its beginning at most.
    """
    rest = text.lstrip()
    for token in BOS:
        rest = rest.removeprefix(token).lstrip()
    # hh-rlhf's beginning is line breaks, which `rest` has lost
    return text.startswith(BEGINNINGS) or rest.startswith(MARKERS)


def _holds_header(text: str) -> bool:
    return any(sign in text for sign in SIGNS_OF_HEADERS) and TURN_HEADERS.search(text) is not None


def script_of(text: str) -> Script | None:
    """Return the script that a text begins as, None if it is none.

    It has the user's name first and then the assistant's.
    """
    rest = _without_preface(text)
    for script in SCRIPTS:
        if not rest.startswith(script.user):
            continue
        answer = f"{script.between}{re.escape(script.assistant)}"
        if re.search(answer, rest) is not None:
            return script
    return None


def _is_alpaca(text: str) -> bool:
    rest = ALPACA_PREFACE.sub("", text.strip())
    return rest.startswith("### Instruction:") and rest.endswith("### Response:")


def _without_preface(text: str) -> str:
    return VICUNA_PREFACE.sub("", text.lstrip())


def untemplated(text: str) -> tuple[Turns, str | None]:
    """Return the turns that a templated prompt was made of, and why they cannot be known exactly.

    ChatML, Llama 3, Gemma and hh-rlhf mark every turn, so that turns can be read back; so do
    scripts, Alpaca's instructions without an input, and HelpSteer2's prompts. The text must be
    turns and the beginning of the answer, and nothing else. Mistral's and others' do not say where
    a system prompt ends: they are refused.
    """
    for template in TEMPLATES:
        turns = _read_template(text, template)
        if turns is not None:
            return turns, None
    for read in (_read_script, _read_alpaca, _read_helpsteer):
        turns = read(text)
        if turns is not None:
            return turns, None

    script = script_of(text)
    if script is not None and not begins_templated(text) and not _holds_header(text):
        return [], (
            f"it is a conversation written as text (`{script.user}` and `{script.assistant}`) "
            "whose turns cannot be read back exactly"
        )
    return [], (
        f"it went through a chat template ({_first_marker(text)}) whose turns cannot be read back "
        "exactly"
    )


def _first_marker(text: str) -> str:
    """Return the marker of a text that is templated, for messages."""
    marker = marker_of(text)
    if marker is not None:
        return marker
    header = TURN_HEADERS.search(text)
    beginning = text if header is None else header[0]
    return beginning.strip()[:20].split("\n")[0]


def _read_template(text: str, template: Template) -> Turns | None:
    rest = text.removeprefix(template.bos)
    if not rest.endswith(template.answer):
        return None
    return _read_turns(rest.removesuffix(template.answer), template)


def _read_turns(text: str, template: Template) -> Turns | None:
    """Return the turns of a text that is whole turns of a template and nothing else."""
    turns: Turns = []
    position = 0
    while match := template.turn.match(text, position):
        role, content = template.roles.get(match[1]), match[2]
        # with a marker inside, it is not sure that the turn ends where it seems to
        if role is None or marker_of(content) is not None:
            return None
        if role == "system":
            content = LLAMA_DATES.sub("", content)
        # a system turn that held the template's dates alone is none
        if content or role != "system":
            turns.append({"role": role, "content": content})
        position = match.end()
    return turns if turns and position == len(text) else None


def _take_turns(speakers: Sequence[str], first: str, second: str) -> bool:
    """Return whether two speakers take turns, the first one first."""
    expected = [first if number % 2 == 0 else second for number in range(len(speakers))]
    return list(speakers) == expected


def _read_script(text: str) -> Turns | None:
    """Return the turns of a script, from the user's first to the beginning of the answer."""
    preface = VICUNA_PREFACE.match(text.lstrip())
    rest = _without_preface(text).rstrip()
    for script in SCRIPTS:
        user, assistant = re.escape(script.user), re.escape(script.assistant)
        boundary = f"(?:\\A|{script.between})({user}|{assistant}) ?"
        # what is split at stays, as the group: speaker, text, speaker, text
        before, *pieces = re.split(boundary, rest)
        speakers, contents = pieces[::2], pieces[1::2]

        # the user's and the assistant's turns, the last one open for the answer
        is_open = bool(contents) and len(contents) % 2 == 0 and not contents[-1]
        if before or not is_open or not _take_turns(speakers, script.user, script.assistant):
            continue
        contents = contents[:-1]
        if not all(map(str.strip, contents)) or any(map(marker_of, contents)):
            continue

        turns = [{"role": "system", "content": preface[1]}] if preface is not None else []
        for number, content in enumerate(contents):
            role = "user" if number % 2 == 0 else "assistant"
            turns.append({"role": role, "content": content})
        return turns
    return None


def _read_alpaca(text: str) -> Turns | None:
    """Return Alpaca's instruction as a turn.

    Where it has an input, how the two belong together is not known.
    """
    match = ALPACA.match(ALPACA_PREFACE.sub("", text.strip()))
    if match is None:
        return None
    instruction = match[1]
    if "### " in instruction or not instruction.strip() or marker_of(instruction) is not None:
        return None
    return [{"role": "user", "content": instruction}]


def _read_helpsteer(text: str) -> Turns | None:
    """Return the turns of HelpSteer2's prompts.

    The first is the user's and bare, each later one has a line with its speaker.
    """
    first, *rest = HELPSTEER_TURN.split(text)
    speakers = ["User", *rest[::2]]
    contents = [first, *rest[1::2]]
    if not rest or not _take_turns(speakers, "User", "Assistant"):
        return None

    if speakers[-1] == "Assistant" and not contents[-1].strip():  # the beginning of the answer
        speakers, contents = speakers[:-1], contents[:-1]
    if speakers[-1] != "User" or not all(map(str.strip, contents)):
        return None
    if any("<extra_id_" in content for content in contents):
        return None
    return [
        {"role": speaker.lower(), "content": content}
        for speaker, content in zip(speakers, contents, strict=True)
    ]


def read_transcript(text: str) -> Turns | None:
    """Return the turns of a whole conversation in hh-rlhf's layout, answer included, or None."""
    turns = _read_turns(text, HH_RLHF)
    if turns is None or len(turns) == 1 or turns[-1]["role"] != "assistant":
        return None
    return turns
