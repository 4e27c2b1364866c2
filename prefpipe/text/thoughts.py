"""What a model thinks before it answers, kept apart by the markers that it writes around it.

The markers are those of its chat template or tokenizer. A template may open the thought itself, so
that a response has the end alone; and a response that was cut off may have the start alone.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.text.begun_turns import is_begun

FIELD = "thoughts"
"""Of a model that sampled, in its run's identity: the two markers, where it has some."""
AUTO, NONE, BETWEEN = "auto", "none", ".."


class ThoughtMarkers(NamedTuple):
    """What stands before a thought, and what behind it."""

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
"""Markers of published models, in the order in which they are looked for."""


def read_markers(text: str) -> ThoughtMarkers | None:
    """Return the markers that a user names, ``<think>..</think>``; None for ``auto`` and ``none``.

    Raises:
        ValueError: there are not two.
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
    """Return the markers of a model, None where it shows none.

    Its template writes the end, or both are tokens that were added to its vocabulary.

    Args:
        template: the source of its chat template.
        added_tokens: of its tokenizer.
    """
    for markers in USUAL:
        if markers.end in template or set(markers) <= set(added_tokens):
            return markers
    return None


def is_opened(messages: Sequence[Mapping[str, Any]], prompt: str, markers: ThoughtMarkers) -> bool:
    """Return whether a response begins inside of a thought.

    Args:
        messages: the prompt's.
        prompt: the end of what the template wrote of it.
        markers: of the model.
    """
    if is_begun(messages):
        begun = messages[-1]["content"]
        return bool(begun.rfind(markers.start) > begun.rfind(markers.end))
    end = prompt.rstrip()
    if not end.endswith(markers.start):
        return False
    # a template may write nothing behind a turn: then the marker is a word of who wrote it
    last = str(messages[-1]["content"]).strip() if messages else ""
    return last == markers.start or not last or not end.endswith(last[-len(end) :])


def split_thought(text: str, markers: ThoughtMarkers, *, opened: bool) -> tuple[str, str | None]:
    """Return the answer of a response, and the thought before it.

    The answer is ``""`` where the thought has no end. The thought is None where there is none, or
    where it ended without a word. White space around both is left out, where there are markers.

    Args:
        text: all that was sampled.
        markers: of the model.
        opened: whether the prompt has opened the thought.
    """
    thought, end, answer = text.partition(markers.end)
    has_start = thought.lstrip().startswith(markers.start)
    if not (has_start or opened):
        # an end without a start belongs to the answer
        return text, None
    thought = thought.lstrip().removeprefix(markers.start).strip()
    return (answer.strip(), thought or None) if end else ("", thought)


def without_thoughts(
    messages: Sequence[dict[str, str]], markers: ThoughtMarkers
) -> list[dict[str, str]]:
    """Return a prompt whose earlier answers are without their thoughts."""
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
