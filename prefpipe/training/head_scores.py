"""From a batch to the scores of a reward model.

It is a sequence classifier with one output, read at each conversation's last token. The model is
called as a whole, so wrappers (DDP, FSDP, autocast, adapters) stay in force, and a padded batch is
computed by the very code that `score` runs. In a packed row the head sees the last token of every
response and nothing else.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prefpipe.errors import ModelError
from prefpipe.training.forward import prepare_packing, unwrap, without_adapters
from prefpipe.training.shared_prompt import Layout


class HeadScores(NamedTuple):
    """The scores of responses, (S,).

    ``n_tokens``: tokens of each response, after the group's shared ones.
    """

    scores: Tensor
    n_tokens: Tensor


def head_scores(model: nn.Module, batch: Mapping[str, Any]) -> HeadScores:
    """Return the scores of a batch's responses, (S,) float32, packed or padded as they come."""
    read = _packed_scores if "layout" in batch else _padded_scores
    scores = read(model, batch)
    return HeadScores(scores, batch["response_mask"].sum(-1))


def share_conversations(model: nn.Module) -> str | None:
    """Prepare a reward model as `share_prompts` prepares a policy."""
    if score_head(model) is getattr(without_adapters(model), "classifier", None):
        return "an encoder's prompt attends to the response, so it differs for each response"
    return prepare_packing(
        model,
        lambda batch: head_scores(model, batch).scores,
        pad_token_id=int(unwrap(model).config.get_text_config().pad_token_id),
    )


def score_head(model: nn.Module) -> Any:
    """Return the head of hidden states to scores: ``score``, or an encoder's ``classifier``.

    Raises:
        ModelError: the classifier has neither.
    """
    inside = without_adapters(model)
    for name in ("score", "classifier"):
        if isinstance(getattr(inside, name, None), nn.Module):
            return getattr(inside, name)
    raise ModelError(
        f"{type(inside).__name__} has no score head named `score` or `classifier`",
        hint="start from a causal language model, or from an encoder of the BERT family",
    )


def _padded_scores(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    scores: Tensor = output.logits  # (S, 1)
    return scores[:, 0].float()


def _packed_scores(model: nn.Module, packed: Mapping[str, Any]) -> Tensor:
    with _read_ends(model, packed["layout"]):
        output = model(
            input_ids=packed["input_ids"],
            position_ids=packed["position_ids"],
            use_cache=False,
            packed_layout=packed["layout"],
        )
    scores: Tensor = output.logits  # (1, S)
    return scores[0].float()


@contextmanager
def _read_ends(model: nn.Module, layout: Layout) -> Iterator[None]:
    """Let the head score each response's last token, and a packed row's logits be the S scores.

    A classifier reads the head's output at one token of each row, and a packed row has only one
    such token: so the head returns all scores at every token.
    """
    head = score_head(model)
    project = head.forward
    ends: list[int] = []
    for group in layout.groups:
        ends += [span.start + span.length - 1 for span in group.responses]

    def score(hidden: Tensor) -> Tensor:
        last_hidden = hidden[0][torch.tensor(ends, device=hidden.device)]
        scores: Tensor = project(last_hidden)[:, 0]  # (S,)
        return scores[None, None].expand(1, hidden.shape[1], len(ends))

    head.forward = score
    try:
        yield
    finally:
        del head.forward
