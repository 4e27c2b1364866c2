"""Rows of ``groups`` as whole conversations: what a reward model is trained on.

Each response goes through the reward model's own chat template with its prompt, as `score` renders it, so stored token ids,
which are a policy's, do not matter. What the conversations of a prompt begin with in common is the group's prompt, computed
once; the rest, the end of the turn included, is the response.
"""

from collections.abc import Sequence

from prefpipe.errors import InputError
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.text.chat_template import ChatTemplate
from prefpipe.text.control_tokens import TemplateError
from prefpipe.training.groups import Group, Response
from prefpipe.training.reward_model import check_ends


def conversations_of(rows: Sequence[Row], template: ChatTemplate) -> list[Group]:
    """Return the groups that select kept; a response that the template refuses is there with its ``problem``.

    Args:
        rows: of ``groups``, rejected prompts among them.
        template: of the reward model, its tokenizer with a pad token.

    Raises:
        InputError: the template ends a conversation with the pad token; or conversations of one prompt have no first token in
            common.
    """
    members: dict[str, list[tuple[Row, list[int], str | None]]] = {}
    for row in rows:
        if row["role"] is None:
            continue
        ids: list[int] = []
        problem = None
        try:
            ids = template.rated_ids(row["messages"], row["response"])
        except TemplateError as error:
            problem = f"the chat template refuses its conversation: {error.why}"
        else:
            check_ends(row["prompt_id"], ids, template.tokenizer.pad_token_id)
        members.setdefault(row["prompt_id"], []).append((row, ids, problem))
    return [_group(prompt_id, found) for prompt_id, found in members.items()]


def shared_length(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all have in common, the last token of none among them."""
    longest = min(map(len, sequences)) - 1
    return next(
        (place for place in range(longest) if len({ids[place] for ids in sequences}) > 1), longest
    )


def _group(prompt_id: str, members: list[tuple[Row, list[int], str | None]]) -> Group:
    readable = [ids for _, ids, problem in members if problem is None]
    n_shared = shared_length(readable) if readable else 0
    if readable and n_shared < 1:
        raise InputError(
            f"the conversations of prompt {prompt_id} begin with different tokens",
            hint="correct the chat template: a conversation begins with its prompt",
        )
    responses = [
        Response(
            row["sample_idx"],
            ids[n_shared:],
            row["reward"],
            row["role"],
            beats=None if row["beats"] is None else [pair["sample_idx"] for pair in row["beats"]],
            problem=problem,
        )
        for row, ids, problem in members
    ]
    return Group(prompt_id, readable[0][:n_shared] if readable else [], responses)
