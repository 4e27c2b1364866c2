"""Conversations that stand in one text: back to turns, exactly, or not at all.

A templated text taken for plain text would go through a template once more when it is sampled or trained on, and a list of turns
that was written into a text would be what the user says; nothing would say so. Three kinds are recognised: the markers of chat
templates, scripts with the speakers' names (``Human:`` and ``Assistant:``), and lists of turns as JSON or as Python prints
them. A text that merely speaks of such things has no turn in it; for the rest there is ``--prompts-are-text``.
"""

import ast
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.conversations import ROLES as OUR_ROLES
from prefpipe.artifacts.conversations import TOOL_ROLES, Turns
from prefpipe.artifacts.tables.strict_json import RepeatedKeyError, parse_json

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
"""What a templated prompt can begin with; the last, Anthropic's of hh-rlhf, may stand inside a prompt of one's own."""
BOS = ("<|begin_of_text|>", "<s>", "<bos>", "<|startoftext|>")

TURN_HEADERS = re.compile(
    r"""<\|im_start\|>\ *(?:(?:system|developer|user|assistant|tool)\ *\n|assistant\s*\Z)
      | <\|(?:start_header_id|header_start)\|>\ *\w+\ *<\|(?:end_header_id|header_end)\|>
      | <start_of_turn>\ *(?:system|user|model)\b
      | \[INST\].*?\[/INST\]\s*(?:</s>|\Z)
      | <<SYS>>\s*\n.*?<</SYS>>
      | ^<\|(?:system|user|assistant|prompter)\|>(?=[\ \t\r]*\n|.*?<\|(?:end|assistant|endoftext)\|>)
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
"""The header of a turn as a template writes it: a text that holds one has turns in it, wherever it stands. A text that speaks of
templates names the markers without what stands around them, the end of the line after a role above all."""
SIGNS_OF_HEADERS = ("<", "[", "GPT4")
"""What every header of a turn has in it: a text without is not searched."""
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
    """A conversation written out with the speakers' names: the names, and what may stand between two turns."""

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
LIST_OF_TURNS = re.compile(
    r"""\A\s*(?:\[|array\(\[)\s*\{\s*['"](?:role|content|from|value)['"]\s*:"""
)
"""How a list of turns begins that was written into a text, as JSON or as Python or numpy print it."""
KNOWN_ROLES = (*OUR_ROLES, *TOOL_ROLES, "developer")
SHAREGPT_NAMES = ("human", "gpt", "system", "user", "assistant", "tool")


def marker_of(text: str) -> str | None:
    """Return the first marker of a chat template that a text holds, or None."""
    return next((marker for marker in MARKERS if marker in text), None)


def _first_marker(text: str) -> str:
    """Return the marker of a text that is templated, for messages."""
    header = TURN_HEADERS.search(text)
    otherwise = text if header is None else header[0]
    return marker_of(text) or otherwise.strip()[:20].split("\n")[0]


def is_templated(text: str) -> bool:
    """Return whether a text holds a conversation's turns: it begins with a marker, has a turn's header in it, or is a script."""
    return (
        begins_templated(text)
        or _holds_header(text)
        or script_of(text) is not None
        or _is_alpaca(text)
    )


def _holds_header(text: str) -> bool:
    return any(sign in text for sign in SIGNS_OF_HEADERS) and TURN_HEADERS.search(text) is not None


def begins_templated(text: str) -> bool:
    """Return whether a text begins as a templated prompt does: with a marker, after a token for its beginning at most."""
    rest = text.lstrip()
    for token in BOS:
        rest = rest.removeprefix(token).lstrip()
    return text.startswith(BEGINNINGS) or rest.startswith(MARKERS)


def script_of(text: str) -> Script | None:
    """Return the script that a text begins as, with the user's name and then the assistant's; None where it is none."""
    rest = _without_preface(text)
    for script in SCRIPTS:
        names = re.escape(script.assistant)
        if rest.startswith(script.user) and re.search(f"{script.between}{names}", rest) is not None:
            return script
    return None


def _is_alpaca(text: str) -> bool:
    rest = ALPACA_PREFACE.sub("", text.strip())
    return rest.startswith("### Instruction:") and rest.endswith("### Response:")


def _without_preface(text: str) -> str:
    return VICUNA_PREFACE.sub("", text.lstrip())


def untemplated(text: str) -> tuple[Turns, str | None]:
    """Return the turns that a templated prompt was made of and, where they cannot be told exactly, why not.

    ChatML, Llama 3, Gemma and hh-rlhf mark every turn, so that turns can be read back; so do scripts, Alpaca's instructions
    without an input, and HelpSteer2's prompts. The text must be turns and the beginning of the answer, and nothing else.
    Mistral's and others' do not say where a system prompt ends: they are refused.
    """
    for template in TEMPLATES:
        turns = _read(text, template)
        if turns is not None:
            return turns, None

    for read in (_read_script, _read_alpaca, _read_helpsteer):
        turns = read(text)
        if turns is not None:
            return turns, None

    script = script_of(text)
    if script is not None and not begins_templated(text) and not _holds_header(text):
        return [], (
            f"it is a conversation written as text (`{script.user}` and `{script.assistant}`) whose turns cannot be read "
            "back exactly"
        )
    return (
        [],
        f"it went through a chat template ({_first_marker(text)}) whose turns cannot be read back exactly",
    )


def _read(text: str, template: Template) -> Turns | None:
    rest = text.removeprefix(template.bos)
    if not rest.endswith(template.answer):
        return None
    return _read_turns(rest.removesuffix(template.answer), template)


def _read_turns(text: str, template: Template) -> Turns | None:
    """Return the turns of a text that is whole turns of a template and nothing else."""
    turns: Turns = []
    place = 0
    while match := template.turn.match(text, place):
        role, content = template.roles.get(match[1]), match[2]
        if role is None or marker_of(content) is not None:
            return None
        content = LLAMA_DATES.sub("", content) if role == "system" else content
        if (
            content or role != "system"
        ):  # a system turn that held the template's dates alone is none
            turns.append({"role": role, "content": content})
        place = match.end()
    return turns if turns and place == len(text) else None


def _read_script(text: str) -> Turns | None:
    """Return the turns of a script whose speakers take turns, from the user's first to the beginning of the answer."""
    preface = VICUNA_PREFACE.match(text.lstrip())
    rest = _without_preface(text).rstrip()
    for script in SCRIPTS:
        names = {script.user: "user", script.assistant: "assistant"}
        boundary = (
            f"(?:\\A|{script.between})({re.escape(script.user)}|{re.escape(script.assistant)}) ?"
        )
        pieces = re.split(boundary, rest)
        speakers = [names[name] for name in pieces[1::2]]
        contents = pieces[2::2]

        takes_turns = speakers == [
            ("user", "assistant")[number % 2] for number in range(len(speakers))
        ]
        is_open = bool(speakers) and len(speakers) % 2 == 0 and not contents[-1]
        if pieces[0] or not takes_turns or not is_open or not all(map(str.strip, contents[:-1])):
            continue
        if any(marker_of(content) is not None for content in contents):
            continue

        turns = [
            {"role": role, "content": content}
            for role, content in zip(speakers[:-1], contents[:-1], strict=True)
        ]
        return [{"role": "system", "content": preface[1]}, *turns] if preface is not None else turns
    return None


def _read_alpaca(text: str) -> Turns | None:
    """Return Alpaca's instruction; where it has an input, how the two belong together is not known."""
    match = ALPACA.match(ALPACA_PREFACE.sub("", text.strip()))
    if (
        match is None
        or "### " in match[1]
        or not match[1].strip()
        or marker_of(match[1]) is not None
    ):
        return None
    return [{"role": "user", "content": match[1]}]


def _read_helpsteer(text: str) -> Turns | None:
    """Return the turns of HelpSteer2's prompts: the first is the user's and bare, each later one has a line with its speaker."""
    first, *rest = HELPSTEER_TURN.split(text)
    speakers = ["User", *rest[::2]]
    contents = [first, *rest[1::2]]
    if not rest or speakers != [
        ("User", "Assistant")[number % 2] for number in range(len(speakers))
    ]:
        return None

    if speakers[-1] == "Assistant" and not contents[-1].strip():  # the beginning of the answer
        speakers, contents = speakers[:-1], contents[:-1]
    if (
        speakers[-1] != "User"
        or not all(map(str.strip, contents))
        or any("<extra_id_" in content for content in contents)
    ):
        return None
    return [
        {"role": speaker.lower(), "content": content}
        for speaker, content in zip(speakers, contents, strict=True)
    ]


def read_transcript(text: str) -> Turns | None:
    """Return the turns of a whole conversation in hh-rlhf's layout, answer included; None where it is none."""
    turns = _read_turns(text, HH_RLHF)
    return (
        turns if turns is not None and turns[-1]["role"] == "assistant" and len(turns) > 1 else None
    )


def serialised_turns(text: str) -> tuple[list[Any] | None, str | None]:
    """Return the list of turns that stands in a text as JSON or as Python prints it, and why it cannot be read.

    Returns:
        The list and None; None and None where the text is no such list; None and a problem where it is one that cannot be read.
    """
    found = parsed_text(text)
    if found is None:
        is_like_one = LIST_OF_TURNS.match(text) is not None and text.rstrip().endswith(("]", ")"))
        return (
            None,
            "it is a list of turns written as text that cannot be read back"
            if is_like_one
            else None,
        )

    turns = [found] if isinstance(found, dict) else found
    if not turns or not all(isinstance(turn, dict) for turn in turns):
        return None, None
    if all(_is_turn(turn) for turn in turns):
        return turns, None
    if all(turn.get("from") in SHAREGPT_NAMES and "value" in turn for turn in turns):
        return (
            None,
            "it is a list of turns written as text, with `from` and `value` in place of `role` and `content`",
        )
    return None, None


def _is_turn(turn: dict[Any, Any]) -> bool:
    """Return whether an object is a turn, and not of a text of one's own that speaks of other roles."""
    return turn.get("role") in KNOWN_ROLES and ("content" in turn or "tool_calls" in turn)


def parsed_text(text: str) -> Any:
    """Return the list or object that a text holds as JSON or as a Python literal, None where it holds none."""
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] not in ("[]", "{}"):
        return None
    try:
        return parse_json(stripped)
    except RepeatedKeyError:
        return None
    except ValueError:
        pass
    if LIST_OF_TURNS.match(stripped) is None and not stripped.startswith("{"):
        return None
    try:
        return ast.literal_eval(stripped)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def all_serialised(columns: Sequence[Sequence[Any]]) -> bool:
    """Return whether every text of several columns is a list of turns that was written into it."""
    texts = [value for column in columns for value in column if isinstance(value, str)]
    return bool(texts) and all(serialised_turns(text)[0] is not None for text in texts)
