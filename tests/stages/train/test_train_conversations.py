"""Conversations of a prompt: what they share is the prompt, the rest is the response, and together they are what score reads."""

import pytest
from support.tiny_models import make_tiny_tokenizer

from prefpipe.errors import InputError
from prefpipe.stages.train.conversations import conversations_of, shared_length
from prefpipe.text.chat_template import ChatTemplate

TURNS = [{"role": "user", "content": "Say something."}]


def row(i, response, **changes):
    return {
        "prompt_id": "p",
        "sample_idx": i,
        "role": "negative" if i else "positive",
        "reward": -float(i),
        "messages": TURNS,
        "response": response,
        "beats": None,
    } | changes


def test_prompt_and_response_together_are_the_conversation():
    """The first two answers share their first word, the third does not.

    The prompt ends where all three part.
    """
    tokenizer = make_tiny_tokenizer()
    answers = ["yes, I do", "yes, I did", "no"]
    (group,) = conversations_of(
        [row(i, answer) for i, answer in enumerate(answers)], ChatTemplate(tokenizer)
    )
    expected = [ChatTemplate(tokenizer).conversation_ids(TURNS, answer) for answer in answers]
    assert [[*group.prompt_token_ids, *each.token_ids] for each in group.responses] == expected
    assert tokenizer.decode(group.prompt_token_ids).endswith("assistant\n")


def test_a_response_that_is_the_beginning_of_another_keeps_a_token_of_its_own():
    assert shared_length([[1, 2, 3], [1, 2, 3, 4]]) == 2
    assert shared_length([[1, 2], [3, 2]]) == 0
    assert shared_length([[1, 2, 3]]) == 2


def test_pairs_and_rejected_prompts_are_read_as_everywhere():
    rows = [
        row(0, "a", beats=[{"sample_idx": 1, "margin": 1.0}]),
        row(1, "b", beats=[]),
        row(0, None, prompt_id="q", role=None),
    ]
    (group,) = conversations_of(rows, ChatTemplate(make_tiny_tokenizer()))
    assert [each.beats for each in group.responses] == [[1], []]


def test_a_response_that_the_template_refuses_is_there_with_its_problem_and_costs_the_others_nothing():
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = (
        "{{ raise_exception('no bad words') if 'bad' in messages[-1].content }}"
        + tokenizer.chat_template
    )
    (group,) = conversations_of([row(0, "bad"), row(1, "a"), row(2, "b")], ChatTemplate(tokenizer))
    assert [each.problem for each in group.responses] == [
        "the chat template refuses its conversation: no bad words",
        None,
        None,
    ]
    assert group.responses[0].token_ids == []
    assert tokenizer.decode(group.prompt_token_ids).endswith("assistant\n")
    alone = conversations_of([row(1, "a"), row(2, "b")], ChatTemplate(tokenizer))[0]
    assert [each.token_ids for each in group.responses[1:]] == [
        each.token_ids for each in alone.responses
    ]


def test_conversations_that_begin_differently_are_refused():
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[-1].content }}"
    with pytest.raises(
        InputError, match="the conversations of prompt p begin with different tokens"
    ):
        conversations_of([row(0, "a"), row(1, "b")], ChatTemplate(tokenizer))
