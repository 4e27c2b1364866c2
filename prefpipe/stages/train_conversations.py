"""Rows of ``groups`` as whole conversations: what a reward model is trained on.

Each response goes through the reward model's own chat template with its prompt, as `score` renders it, so stored token ids,
which are a policy's, do not matter. What the conversations of a prompt begin with in common is the group's prompt, computed
once; the rest, the end of the turn included, is the response.
"""

from collections.abc import Sequence
from typing import Any

import jinja2

from prefpipe.errors import InputError
from prefpipe.stages.candidate_rows import Row
from prefpipe.text.conversation_ids import conversation_ids
from prefpipe.training.groups import Group, Response
from prefpipe.training.reward_model import check_ends


def conversations_of(rows: Sequence[Row], tokenizer: Any) -> list[Group]:
    """Return the groups that select kept.

    Args:
        rows: of ``groups``, rejected prompts among them.
        tokenizer: with chat template and pad token.

    Errors:
        InputError: the template refuses a conversation, or ends it with the pad token; or conversations of one prompt have no
            first token in common.
    """
    members: dict[str, list[tuple[Row, list[int]]]] = {}
    for row in rows:
        if row["role"] is None:
            continue
        ids = _ids(row, tokenizer)
        check_ends(row["prompt_id"], ids, tokenizer.pad_token_id)
        members.setdefault(row["prompt_id"], []).append((row, ids))
    return [_group(prompt_id, found) for prompt_id, found in members.items()]


def shared_length(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all have in common, the last token of none among them."""
    longest = min(map(len, sequences)) - 1
    return next((place for place in range(longest) if len({ids[place] for ids in sequences}) > 1), longest)


def _group(prompt_id: str, members: list[tuple[Row, list[int]]]) -> Group:
    n_shared = shared_length([ids for _, ids in members])
    if n_shared < 1:
        raise InputError(f"the conversations of prompt {prompt_id} begin with different tokens",
                         hint="correct the chat template: a conversation begins with its prompt")  # fmt: skip
    responses = [
        Response(
            row["sample_idx"], ids[n_shared:], row["reward"], row["role"],
            beats=None if row["beats"] is None else [pair["sample_idx"] for pair in row["beats"]],
        )
        for row, ids in members
    ]  # fmt: skip
    return Group(prompt_id, members[0][1][:n_shared], responses)


def _ids(row: Row, tokenizer: Any) -> list[int]:
    try:
        return conversation_ids(tokenizer, row["messages"], row["response"])
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        raise InputError(f"prompt {row['prompt_id']}: the chat template refuses its conversation: {error}",
                         hint="choose a model whose template takes these turns, or pass --chat-template") from error  # fmt: skip
