"""A whole conversation as token ids: what a reward model reads, in training and in scoring alike.

One function for both, so that a score means the same before and after a model was saved. The tokenizer is handed in.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from prefpipe.text.surrogates import replace_lone_surrogates


def conversation_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]], response: str) -> list[int]:
    """Return the ids of the templated conversation, the response as a finished turn and what the template adds behind it.

    The template writes the beginning of sequence itself, so none is added. Half characters are read as the replacement sign.

    Args:
        tokenizer: of transformers, with a chat template.
        messages: the conversation up to the response.
        response: the response's text.

    Errors:
        Whatever the template raises: it is a program of the model's author.
    """
    turns = [{"role": turn["role"], "content": replace_lone_surrogates(turn["content"])} for turn in messages]
    turns.append({"role": "assistant", "content": replace_lone_surrogates(response)})
    encoded = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, add_generation_prompt=False)
    return list(encoded["input_ids"])
