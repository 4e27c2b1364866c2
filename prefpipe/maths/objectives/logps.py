"""Log-probabilities of responses from the logits of a language model.

Axes: N response tokens in one line, S sequences (one response each), T tokens of a sequence,
V vocabulary. Natural logarithms, in float32 whatever the model's precision.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from prefpipe.errors import InputError

ENTROPY_LOGITS = {"cpu": 2**20, "else": 2**24}
"""Logits that are turned into probabilities at once: what a cache holds (a third of the time of
2^23 on a CPU), or 64 MiB."""


class ResponseLogps(NamedTuple):
    """A model's log-probabilities of each response, (S,).

    ``logps``: summed log-probability. ``n_tokens``: how many tokens were summed. ``end_probs``:
    probability of the end-of-sequence token with which the response ended, 0 if it was cut off;
    None if unknown. ``entropies``: mean over the response's tokens of the entropy of the
    distribution each was drawn from, nats; None if not requested. No gradient flows through it.
    """

    logps: Tensor
    n_tokens: Tensor
    end_probs: Tensor | None = None
    entropies: Tensor | None = None


def token_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-probability of each label, ``logits[label] - logsumexp(logits)``.

    Args:
        logits: (..., V), any floating type; computed in float32 (or float64 where given so).
        labels: (...) integers in [0, V).

    Returns:
        (...) at most 0 up to rounding. Softmax does not see a constant added to all logits, nor
        does this.
    """
    if logits.dtype != torch.float64:
        logits = logits.float()
    flat = torch.nn.functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), reduction="none"
    )
    return -flat.view(labels.shape)


@torch.no_grad()
def token_entropies(logits: Tensor, labels: Tensor, logps: Tensor) -> Tensor:
    """Return the entropy of each distribution over the vocabulary, in nats, float32.

    ``- sum_v p_v log p_v``, computed some rows at a time, so that no copy of all logits is made.

    Args:
        logits: (N, V).
        labels: (N,) any one token of each distribution.
        logps: (N,) its log-probability, which with its logit gives the normaliser without another
            sum.
    """
    places = torch.arange(len(labels), device=labels.device)
    normalisers = logits[places, labels].float() - logps.float()

    at_once = ENTROPY_LOGITS["cpu" if logits.device.type == "cpu" else "else"]
    n_rows = max(1, at_once // logits.shape[-1])
    lowest = torch.finfo(torch.float32).min
    pieces = zip(torch.split(logits, n_rows), torch.split(normalisers, n_rows), strict=True)
    entropies = []
    for some_logits, some_normalisers in pieces:
        log_probs = some_logits.float() - some_normalisers[:, None]

        # A banned token has log-probability -inf and probability 0, and adds nothing to the sum.
        entropies.append(-(log_probs.exp() * log_probs.clamp(min=lowest)).sum(-1))
    return torch.cat(entropies)


def sum_response_logps(
    logps_N: Tensor, response_mask: Tensor, ended_S: Tensor | None = None
) -> ResponseLogps:
    """Sum the log-probabilities of each response's tokens.

    Args:
        logps_N: (N,) the tokens where ``response_mask`` is True, in row-major order.
        response_mask: (S, T) bool, True at the tokens of the response.
        ended_S: (S,) bool, whether the response's last token is an end-of-sequence token; None: not
            known.

    Raises:
        InputError: a sequence has no response token. Its mean would be 0/0, and a length-normalised
            loss NaN.
    """
    n_tokens = response_mask.sum(-1)
    if bool((n_tokens == 0).any()):
        empty = torch.nonzero(n_tokens == 0).flatten().tolist()
        raise InputError(
            f"sequences {empty} of the batch have no response token to train on",
            hint="drop empty responses before batching: "
            "prefpipe.training.groups.prepare_groups does",
        )

    # A dense (S, T) sum keeps the order of additions fixed; scatter-add on a GPU would not.
    logps_ST = logps_N.new_zeros(response_mask.shape).masked_scatter(response_mask, logps_N)
    if ended_S is None:
        return ResponseLogps(logps_ST.sum(-1), n_tokens)

    # The log-probability of the last token, again by a sum and not by a gather.
    places_ST = torch.arange(response_mask.shape[-1], device=response_mask.device) * response_mask
    is_last_ST = response_mask & (places_ST == places_ST.amax(-1, keepdim=True))
    last_logps = torch.where(is_last_ST, logps_ST, torch.zeros_like(logps_ST)).sum(-1)
    probs = last_logps.exp()
    end_probs = torch.where(ended_S, probs, torch.zeros_like(probs))
    return ResponseLogps(logps_ST.sum(-1), n_tokens, end_probs)


def mean_logps(responses: ResponseLogps) -> Tensor:
    """Return ``logps / n_tokens`` (S,), in nats per token; empty responses are refused earlier."""
    return responses.logps / responses.n_tokens
