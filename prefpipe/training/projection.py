"""Log-probabilities of response tokens without the logits tensor.

With a vocabulary of 49,000 to 256,000 the logits of a group are larger than everything else in its
step. Here the output projection runs over a few hundred tokens at a time, keeps only the
log-probabilities, and is computed again in the backward pass.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prefpipe.maths.compute.training_memory import KEPT_LOGITS
from prefpipe.maths.objectives.logps import token_entropies, token_logps

CHUNK_LOGITS = 2**25
"""Logits of one chunk if they are computed again: 128 MiB in float32."""

NEUTRAL = {
    "final_logit_softcapping": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "lm_head_multiplier": 1.0,
}
"""Configuration settings that change logits, and the value that changes nothing."""


def chunked_token_logps(
    project: Callable[[Tensor], Tensor],
    hidden: Tensor,
    labels: Tensor,
    *,
    n_vocabulary: int,
    entropy: bool = False,
) -> Tensor:
    """Return the log-probability of each label, (M, 1) float32.

    With ``entropy`` the entropy of its distribution is the second column, (M, 2).

    Args:
        project: the output projection, (m, H) to (m, V).
        hidden: (M, H), the hidden states that predict the labels.
        labels: (M,).
        n_vocabulary: V, which decides the size of a chunk.
        entropy: add the entropies, nats, without gradients.
    """

    def score(some_hidden: Tensor, some_labels: Tensor) -> Tensor:
        logits = project(some_hidden)
        logps = token_logps(logits, some_labels)
        if not entropy:
            return logps[:, None].clone()
        return torch.stack([logps, token_entropies(logits, some_labels, logps)], -1)

    if len(labels) * n_vocabulary <= KEPT_LOGITS:
        return score(hidden, labels)

    size = max(1, CHUNK_LOGITS // n_vocabulary)
    chunks = []
    for start in range(0, len(labels), size):
        chunk = slice(start, start + size)
        chunks.append(checkpoint(score, hidden[chunk], labels[chunk], use_reentrant=False))
    return torch.cat(chunks)


def changes_logits(config: Any) -> str | None:
    """Return what a model does to its logits after the projection; None for nothing.

    If it does anything, the whole logits are needed.
    """
    text = getattr(config, "text_config", config)
    for name, neutral in NEUTRAL.items():
        value = getattr(text, name, neutral)
        if value is not None and value != neutral:
            return f"{name} = {value}"
    return None


@contextmanager
def scoring_head(
    model: nn.Module, predictors: Tensor, labels: Tensor, *, entropy: bool = False
) -> Iterator[None]:
    """Make the model's output projection return `chunked_token_logps` instead of logits.

    The model is still called as a whole, so wrappers (DDP, FSDP, autocast, adapters) stay in force.

    Args:
        model: a causal language model, unwrapped.
        predictors: (M,) tokens of the packed row whose output predicts each label.
        labels: (M,).
        entropy: as in `chunked_token_logps`.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    project = head.forward

    def score(hidden: Tensor) -> Tensor:
        scores = chunked_token_logps(
            project,
            hidden[0][predictors],
            labels,
            n_vocabulary=head.weight.shape[0],
            entropy=entropy,
        )
        return scores.clone()

    head.forward = score
    try:
        yield
    finally:
        # Only the attribute set on this head is removed: its class has the real one.
        del head.forward
