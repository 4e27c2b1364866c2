"""From a batch to the scores of a reward model: a sequence classifier with one output, read at each conversation's last token.

The model is called as a whole, so wrappers (DDP, FSDP, autocast, adapters) stay in force, and a padded batch is computed by
the very code that `score` runs. In a packed row the head sees the last token of every response and nothing else.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prefpipe.errors import ModelError
from prefpipe.training.forward import prepare_packing, unwrap
from prefpipe.training.shared_prompt import Layout


class HeadScores(NamedTuple):
    """What a reward model says of each response, (S,): ``scores``, and ``n_tokens`` behind what the group shares."""

    scores: Tensor
    n_tokens: Tensor


def head_scores(model: nn.Module, batch: Mapping[str, Any]) -> HeadScores:
    """Return the scores of a batch's responses one after the other, each (S,), float32, packed or padded as they come."""
    packed = "layout" in batch
    scores = (
        _packed_scores(model, batch)
        if packed
        else _padded_scores(model, batch["input_ids"], batch["attention_mask"])
    )
    return HeadScores(scores, batch["response_mask"].sum(-1))


def share_conversations(model: nn.Module) -> str | None:
    """Prepare a reward model so that groups are computed packed, or say why they cannot be; as `share_prompts` does."""
    if score_head(model) is getattr(_inside(model), "classifier", None):
        return "an encoder's prompt looks at the response behind it, so it is another one for each"
    return prepare_packing(
        model,
        padded=lambda batch: _padded_scores(model, batch["input_ids"], batch["attention_mask"]),
        packed=lambda batch: _packed_scores(model, batch),
        pad_token_id=int(unwrap(model).config.get_text_config().pad_token_id),
    )


def score_head(model: nn.Module) -> Any:
    """Return the module that makes scores of hidden states: ``score``, or ``classifier`` of encoders.

    Raises:
        ModelError: the classifier has neither.
    """
    inside = _inside(model)
    for name in ("score", "classifier"):
        if isinstance(getattr(inside, name, None), nn.Module):
            return getattr(inside, name)
    raise ModelError(
        f"{type(inside).__name__} has no score head: neither `score` nor `classifier`",
        hint="start from a causal language model, or from an encoder of the BERT family",
    )


def _inside(model: nn.Module) -> Any:
    """Return the classifier inside wrappers and adapters."""
    inside: Any = unwrap(model)
    return inside.get_base_model() if hasattr(inside, "get_base_model") else inside


def _padded_scores(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    found: Tensor = model(input_ids=input_ids, attention_mask=attention_mask).logits  # (S, 1)
    return found[:, 0].float()


def _packed_scores(model: nn.Module, packed: Mapping[str, Any]) -> Tensor:
    with _read_ends(model, packed["layout"]):
        found: Tensor = model(
            input_ids=packed["input_ids"],
            position_ids=packed["position_ids"],
            use_cache=False,
            packed_layout=packed["layout"],
        ).logits  # (1, S)
    return found[0].float()


@contextmanager
def _read_ends(model: nn.Module, layout: Layout) -> Iterator[None]:
    """Let the head score the last token of each response, and a packed row's logits be those S scores.

    A classifier takes the head's output at one token of each row, and a packed row has one such token only: so the
    head says all scores at every token.
    """
    head = score_head(model)
    project = head.forward
    places = [span.start + span.length - 1 for group in layout.groups for span in group.responses]

    def score(hidden: Tensor) -> Tensor:
        scores: Tensor = project(hidden[0][torch.tensor(places, device=hidden.device)])[
            :, 0
        ]  # (S,)
        return scores[None, None].expand(1, hidden.shape[1], len(places))

    head.forward = score
    try:
        yield
    finally:
        del head.forward
