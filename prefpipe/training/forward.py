"""From a batch to the log-probabilities of its responses: the one place where the policy is run.

The output projection sees only the positions that predict a response token. With a vocabulary of 49,000 the logits are the
largest tensor of a small model's step, and those of prompts and padding would be thrown away.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prefpipe.maths.logps import ResponseLogps, sum_response_logps, token_logps
from prefpipe.training.batches import pad_sequences
from prefpipe.training.groups import Group, Key


def sequence_logps(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, ended: Tensor | None = None
) -> ResponseLogps:
    """Return the summed log-probability and token count of each sequence's response, and the probability of its end.

    Args:
        model: a causal language model, wrapped for parallel training or not.
        input_ids: (S, T), padded on the right.
        attention_mask: (S, T), 0 at padding.
        response_mask: (S, T) bool; position 0 is never a response token, as nothing predicts it.
        ended: (S,) bool, whether the response's last token is an end-of-sequence token; without it there is no ``end_probs``.

    Returns:
        ``logps`` (S,) float32, ``n_tokens`` (S,) and ``end_probs`` (S,).
    """
    predicting = torch.zeros_like(response_mask)
    predicting[:, :-1] = response_mask[:, 1:]
    with _project_only(model, predicting):
        logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits  # (N, V)
    return sum_response_logps(token_logps(logits, input_ids[response_mask]), response_mask, ended)


def group_logps(model: nn.Module, batch: Mapping[str, Tensor]) -> ResponseLogps:
    """Return the log-probabilities of a batch's responses by group, each (P, R), 0 where there is no response."""
    flat = sequence_logps(model, batch["input_ids"], batch["attention_mask"], batch["response_mask"], batch.get("ended"))
    slots = batch["slots"]
    rows, exists = slots.clamp(min=0), slots >= 0

    def by_group(values: Tensor) -> Tensor:
        return torch.where(exists, values[rows], torch.zeros_like(values[rows]))

    end_probs = None if flat.end_probs is None else by_group(flat.end_probs)
    return ResponseLogps(by_group(flat.logps), by_group(flat.n_tokens), end_probs)


@torch.no_grad()
def reference_logps(
    model: nn.Module,
    groups: Sequence[Group],
    *,
    pad_token_id: int,
    bf16: bool = False,
    max_batch_tokens: int = 8192,
    advance: Callable[[int], None] = lambda _n: None,
) -> dict[Key, tuple[float, int]]:
    """Return the summed log-probability and token count of every response under a frozen policy, by key.

    Responses are sorted by length and batched up to ``max_batch_tokens`` padded tokens, so the result does not depend on
    the training batch. Dropout is off; the model's mode is restored.

    Args:
        model: the reference policy, usually the policy before its first step.
        groups: what ``prepare_groups`` kept.
        pad_token_id: any token; padding is masked.
        bf16: compute under bfloat16 autocast, as training will.
        max_batch_tokens: padded tokens of one forward pass; one response always fits.
        advance: called with the number of responses done.
    """
    pending = [
        ((group.prompt_id, response.sample_idx), (group.prompt_token_ids, response.token_ids))
        for group in groups
        for response in group.responses
    ]
    pending.sort(key=lambda item: len(item[1][0]) + len(item[1][1]), reverse=True)
    device = next(model.parameters()).device
    result: dict[Key, tuple[float, int]] = {}
    was_training = model.training
    model.eval()
    while pending:
        longest = len(pending[0][1][0]) + len(pending[0][1][1])
        size = max(1, max_batch_tokens // longest)
        chunk, pending = pending[:size], pending[size:]
        batch = pad_sequences([sequence for _, sequence in chunk], pad_token_id)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logps, n_tokens, _ = sequence_logps(model, **{name: values.to(device) for name, values in batch.items()})
        for (key, _), logp, n in zip(chunk, logps.tolist(), n_tokens.tolist(), strict=True):
            result[key] = (logp, n)
        advance(len(chunk))
    model.train(was_training)
    return result


@contextmanager
def _project_only(model: nn.Module, positions: Tensor) -> Iterator[None]:
    """Let the output projection see the hidden states at ``positions`` (S, T) only; logits come out as (N, V).

    A hook, so that the model is still called as a whole: wrappers (DDP, FSDP, autocast, adapters) and what a model does to
    its logits afterwards (soft caps, scales) stay in force.
    """
    head = _unwrap(model).get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _head, inputs: (inputs[0][positions], *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def _unwrap(model: Any) -> Any:
    while hasattr(model, "module"):
        model = model.module
    return model
