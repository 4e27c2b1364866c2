"""Separates a model's thoughts from its answer by the markers around them.

The markers are those of its chat template or tokenizer. A template may open the thought itself, so
that a response has only the end marker; a response that was cut off may have only the start.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.text.begun_turns import is_begun

FIELD = "thoughts"
"""Identity key of a sampling model's two markers, if it has any."""
AUTO, NONE, BETWEEN = "auto", "none", ".."


class ThoughtMarkers(NamedTuple):
    """The texts before and after a thought."""

    start: str
    end: str


USUAL = (
    ThoughtMarkers("<think>", "</think>"),
    ThoughtMarkers("<thinking>", "</thinking>"),
    ThoughtMarkers("<thought>", "</thought>"),
    ThoughtMarkers("<reasoning>", "</reasoning>"),
    ThoughtMarkers("[THINK]", "[/THINK]"),
    ThoughtMarkers("<seed:think>", "</seed:think>"),
    ThoughtMarkers("<|START_THINKING|>", "<|END_THINKING|>"),
    ThoughtMarkers("<|begin_of_thought|>", "<|end_of_thought|>"),
    ThoughtMarkers("◁think▷", "◁/think▷"),
)
"""Markers of published models, in search order."""


def read_markers(text: str) -> ThoughtMarkers | None:
    """Return the markers that a user names, ``<think>..</think>``; None for ``auto`` and ``none``.

    Raises:
        ValueError: the text does not hold two markers.
    """
    if text in (AUTO, NONE):
        return None
    start, _, end = (part.strip() for part in text.partition(BETWEEN))
    if not start or not end or start == end:
        raise ValueError(
            f"must be {AUTO}, {NONE} or two markers, such as '<think>{BETWEEN}</think>', "
            f"not {text!r}"
        )
    return ThoughtMarkers(start, end)


def find_markers(template: str, added_tokens: Collection[str]) -> ThoughtMarkers | None:
    """Return the markers of a model; None if none are found.

    Either its template writes the end marker, or both are added tokens.

    Args:
        template: the source of its chat template.
        added_tokens: the added tokens of its tokenizer.
    """
    for markers in USUAL:
        if markers.end in template or set(markers) <= set(added_tokens):
            return markers
    return None


def is_opened(messages: Sequence[Mapping[str, Any]], prompt: str, markers: ThoughtMarkers) -> bool:
    """Return whether a response begins inside a thought.

    Args:
        messages: the prompt's.
        prompt: the end of its rendered text.
        markers: the model's markers.
    """
    if is_begun(messages):
        begun = messages[-1]["content"]
        return bool(begun.rfind(markers.start) > begun.rfind(markers.end))
    end = prompt.rstrip()
    if not end.endswith(markers.start):
        return False
    # A template may write nothing after a turn: then the marker belongs to the turn's author.
    last = str(messages[-1]["content"]).strip() if messages else ""
    return last == markers.start or not last or not end.endswith(last[-len(end) :])


def split_thought(text: str, markers: ThoughtMarkers, *, opened: bool) -> tuple[str, str | None]:
    """Return the answer of a response, and the thought before it.

    The answer is ``""`` if the thought has no end. The thought is None if there is none or it is
    empty. White space around both is stripped if there are markers.

    Args:
        text: the whole sampled text.
        markers: the model's markers.
        opened: whether the prompt has opened the thought.
    """
    thought, end, answer = text.partition(markers.end)
    has_start = thought.lstrip().startswith(markers.start)
    if not (has_start or opened):
        # An end without a start belongs to the answer.
        return text, None
    thought = thought.lstrip().removeprefix(markers.start).strip()
    return (answer.strip(), thought or None) if end else ("", thought)


def without_thoughts(
    messages: Sequence[dict[str, str]], markers: ThoughtMarkers
) -> list[dict[str, str]]:
    """Return a prompt without the thoughts of its earlier answers."""
    turns = []
    for number, turn in enumerate(messages):
        content = turn["content"]
        is_answer = turn["role"] == "assistant" and number < len(messages) - 1
        if is_answer and markers.end in content:
            answer = content.rpartition(markers.end)[2].lstrip("\n")
            turns.append({**turn, "content": answer})
        else:
            turns.append(turn)
    return turns
