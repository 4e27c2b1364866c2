"""Thoughts told apart from answers, by the markers of a model."""

import pytest
from support.chat_templates import MARKERS, TEMPLATES

from prefpipe.text.thoughts import (
    USUAL,
    ThoughtMarkers,
    find_markers,
    is_opened,
    read_markers,
    split_thought,
    without_thoughts,
)

THINK = USUAL[0]


@pytest.mark.parametrize(
    ("text", "opened", "answer", "thought"),
    [
        ("Chad.", False, "Chad.", None),
        ("  Chad. ", False, "  Chad. ", None),
        ("<think>\nHm.\n</think>\n\nChad.", False, "Chad.", "Hm."),
        ("\n<think>Hm.</think>Chad.", False, "Chad.", "Hm."),
        ("Hm.\n</think>\n\nChad.", True, "Chad.", "Hm."),
        # the model writes the start although the template has
        ("<think>Hm.</think>Chad.", True, "Chad.", "Hm."),
        # cut off
        ("<think>\nHm", False, "", "Hm"),
        ("Hm", True, "", "Hm"),
        ("", True, "", ""),
        ("", False, "", None),
        # no thought, and an answer that speaks of markers
        ("A </think> B", False, "A </think> B", None),
        ("It writes <think>.", False, "It writes <think>.", None),
        ("<think>Hm.</think>Use </think> here.", False, "Use </think> here.", "Hm."),
        # a thought without a word
        ("<think>\n\n</think>\n\nChad.", False, "Chad.", None),
    ],
)
def test_what_was_thought_and_what_was_said(text, opened, answer, thought):
    assert split_thought(text, THINK, opened=opened) == (answer, thought)


@pytest.mark.parametrize(
    ("template", "added", "found"),
    [
        (TEMPLATES["qwen3"], [], THINK),
        (TEMPLATES["r1"], [], THINK),
        (TEMPLATES["plain"], MARKERS, THINK),
        (TEMPLATES["plain"], MARKERS[:1], None),
        (TEMPLATES["llama"], [], None),
        (TEMPLATES["gemma"], ["<pad>"], None),
        ("{{ '[THINK]' }}[/THINK]", [], ThoughtMarkers("[THINK]", "[/THINK]")),
    ],
)
def test_markers_are_found_in_the_template_or_the_tokenizer(template, added, found):
    assert find_markers(template, added) == found


def test_markers_can_be_named():
    assert read_markers("auto") is None
    assert read_markers("none") is None
    assert read_markers("<a> .. </a>") == ("<a>", "</a>")
    for text in ("", "<a>", "..", "<a>..", "..</a>", "<a>..<a>"):
        with pytest.raises(ValueError, match="two markers"):
            read_markers(text)


def test_a_template_or_a_begun_answer_opens_the_thought():
    question = {"role": "user", "content": "Hi <think>"}

    def begun(text):
        return [question, {"role": "assistant", "content": text}]

    assert is_opened([question], "assistant\n<think>\n", THINK)
    assert not is_opened([question], "assistant\n<think>\n\n</think>\n\n", THINK)
    assert not is_opened([question], "Hi <think><|im_end|>\nassistant\n", THINK)
    # a template that writes nothing behind a turn: the marker is the user's word
    asked = {"role": "user", "content": "What is <think>"}
    assert not is_opened([asked], "What is <think>\n", THINK)
    assert not is_opened([asked], "is <think>", THINK)
    assert is_opened([asked], "What is <think>\nassistant\n<think>\n", THINK)
    assert is_opened([{"role": "user", "content": "<think>"}], "assistant\n<think>\n", THINK)
    assert is_opened(begun("<think>\nHm"), "<think>\nHm", THINK)
    assert not is_opened(begun("<think>Hm</think> A"), "A", THINK)


def test_earlier_answers_lose_their_thoughts():
    question = {"role": "user", "content": "Q </think> q"}
    said = {"role": "assistant", "content": "<think>Hm.</think>\n\nA."}
    plain = {"role": "assistant", "content": "A."}
    assert without_thoughts([question, said, question], THINK) == [question, plain, question]
    assert without_thoughts([question, said], THINK) == [question, said], "a begun answer stays"
