"""Rows of ``groups`` as whole conversations: what a reward model is trained on.

Each response is formatted with its prompt by the reward model's own chat template, as `score` does,
so the stored token ids of the policy do not matter. The common beginning of a prompt's
conversations is the group's prompt, computed once; the rest, including the end of the turn, is the
response.
"""

from collections.abc import Sequence
from typing import NamedTuple

from prefpipe.errors import InputError
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.text.chat_template import ChatTemplate
from prefpipe.text.control_tokens import TemplateError
from prefpipe.training.groups import Group, Response
from prefpipe.training.reward_model import check_ends


class _Conversation(NamedTuple):
    """A prompt and a response as one sequence of tokens.

    There are no tokens if the template refuses the conversation; ``problem`` says why.
    """

    row: Row
    ids: list[int]
    problem: str | None


def conversations_of(rows: Sequence[Row], template: ChatTemplate) -> list[Group]:
    """Return the groups that select kept.

    A response that the template refuses is included with its ``problem``.

    Args:
        rows: of ``groups``, rejected prompts among them.
        template: of the reward model, its tokenizer with a pad token.

    Raises:
        InputError: the template ends a conversation with the pad token; or conversations of one
            prompt have no first token in common.
    """
    conversations: dict[str, list[_Conversation]] = {}
    for row in rows:
        if row["role"] is None:
            continue
        try:
            ids = template.rated_ids(row["messages"], row["response"])
            problem = None
            check_ends(row["prompt_id"], ids, template.tokenizer.pad_token_id)
        except TemplateError as error:
            ids = []
            problem = f"the chat template refuses its conversation: {error.why}"
        of_prompt = conversations.setdefault(row["prompt_id"], [])
        of_prompt.append(_Conversation(row, ids, problem))
    return [_group(prompt_id, of_prompt) for prompt_id, of_prompt in conversations.items()]


def shared_length(sequences: Sequence[Sequence[int]]) -> int:
    """Return the length of the common prefix, which excludes the last token of every sequence."""
    longest = min(len(ids) for ids in sequences) - 1
    for place in range(longest):
        if len({ids[place] for ids in sequences}) > 1:
            return place
    return longest


def _group(prompt_id: str, conversations: Sequence[_Conversation]) -> Group:
    readable = [each.ids for each in conversations if each.problem is None]
    n_shared = shared_length(readable) if readable else 0
    if readable and n_shared < 1:
        raise InputError(
            f"the conversations of prompt {prompt_id} begin with different tokens",
            hint="correct the chat template: every conversation of a prompt must begin with the "
            "same prompt tokens",
        )

    responses = []
    for row, ids, problem in conversations:
        beats = None
        if row["beats"] is not None:
            beats = [pair["sample_idx"] for pair in row["beats"]]
        responses.append(
            Response(
                row["sample_idx"],
                ids[n_shared:],
                row["reward"],
                row["role"],
                beats=beats,
                problem=problem,
            )
        )
    prompt_ids = readable[0][:n_shared] if readable else []
    return Group(prompt_id, prompt_ids, responses)
