"""Samples one token for each row from its own uniform number.

A row's answer therefore does not depend on the batch.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from prefpipe.backends.protocol import SamplingParams

BLOCK = 256
"""Width of the blocks of the two-level inversion.

A whole float64 cumulative sum of 50k entries is slow.
"""

FIRST_NUCLEUS = 256
"""How many of the largest entries are sorted first; most nuclei need no more."""


def penalise(
    logits: Tensor, n_in_response: Tensor, in_prompt: Tensor, params: SamplingParams
) -> Tensor:
    """Return logits after the penalties, by the definitions that vLLM uses.

    Args:
        logits: (S, V) float32.
        n_in_response: (S, V), how often each token is in the response so far.
        in_prompt: (S, V) bool, whether it is in the prompt; (S, 0) if not needed.
        params: the settings of all rows.
    """
    is_in_response = n_in_response > 0
    if params.repetition_penalty != 1:
        # It lowers logits of either sign: 1 is off, below 1 raises them.
        penalty = params.repetition_penalty
        penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(in_prompt | is_in_response, penalised, logits)
    if params.frequency_penalty != 0:
        logits = logits - params.frequency_penalty * n_in_response
    if params.presence_penalty != 0:
        logits = logits - params.presence_penalty * is_in_response
    return logits


def sample_tokens(
    logits: Tensor,
    uniforms: Tensor,
    temperatures: Tensor,
    *,
    top_k: int,
    top_p: float,
    min_p: float = 0.0,
) -> Tensor:
    """Return one token id for each row, (S,) int64.

    With w = exp(logits / T), truncated to ``min_p`` times the largest and more, then to the
    ``top_k`` largest and then to the smallest set that holds a share ``top_p`` of the mass (ties
    with the last one stay in), the answer is the first i with sum_{j <= i} w_j > u * sum_j w_j: the
    inverse of the cumulative distribution, in vocabulary order.

    Args:
        logits: (S, V) float32.
        uniforms: (S,) float64 in [0, 1).
        temperatures: (S,); 0 takes the largest logit.
        top_k: 0 keeps all.
        top_p: 1 keeps all.
        min_p: 0 keeps all.
    """
    greedy = logits.argmax(dim=-1)
    is_random = temperatures > 0
    if not bool(is_random.any()):
        return greedy

    # The largest weight is 1, so that nothing overflows.
    largest = logits.gather(1, greedy[:, None])
    divisors = torch.where(is_random, temperatures, 1.0).to(logits.dtype)
    weights = (logits - largest).div_(divisors[:, None]).exp_()

    if min_p > 0:
        # As a share of the largest weight, which is 1.
        weights.masked_fill_(weights < min_p, 0)
    if 0 < top_k < weights.shape[1]:
        smallest_kept = weights.topk(top_k, dim=-1).values[:, -1:]
        # Ties with the last one are kept, as under `top_p`.
        weights.masked_fill_(weights < smallest_kept, 0)
    if top_p < 1:
        weights.masked_fill_(weights < _find_nucleus_threshold(weights, top_p), 0)
    return torch.where(is_random, _invert_cdf(weights, uniforms), greedy)


def _find_nucleus_threshold(weights: Tensor, top_p: float) -> Tensor:
    """Return the smallest weight inside the nucleus, (S, 1).

    The mass of the strictly larger ones is below ``top_p``.
    """
    target = top_p * weights.sum(dim=-1, keepdim=True, dtype=torch.float64)

    # Sort more of the largest until they hold the share in every row.
    n_sorted = min(FIRST_NUCLEUS, weights.shape[1])
    while True:
        largest = weights.topk(n_sorted, dim=-1).values
        mass = largest.double().cumsum(dim=-1)
        if n_sorted == weights.shape[1] or bool((mass[:, -1:] >= target).all()):
            break
        n_sorted = min(8 * n_sorted, weights.shape[1])

    n_kept = (mass < target).sum(dim=-1, keepdim=True) + 1
    return largest.gather(1, n_kept.clamp(max=n_sorted) - 1)


def _invert_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Return the index at which the cumulative weight passes the share ``uniforms`` of the total.

    First the block is found, then the entry in it.
    """
    blocks = pad(weights, (0, -weights.shape[1] % BLOCK)).view(weights.shape[0], -1, BLOCK)
    block_cdf = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    target = _below(uniforms[:, None] * block_cdf[:, -1:], block_cdf[:, -1:])
    block = torch.searchsorted(block_cdf, target, right=True)

    before = torch.where(block > 0, block_cdf.gather(1, (block - 1).clamp(min=0)), 0.0)
    entries = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK)).squeeze(1)
    entry_cdf = entries.double().cumsum(dim=-1)
    entry = torch.searchsorted(entry_cdf, _below(target - before, entry_cdf[:, -1:]), right=True)
    return (block * BLOCK + entry).squeeze(1)


def _below(target: Tensor, total: Tensor) -> Tensor:
    """Keep the target strictly under the total, which rounding may reach.

    So the found entry has weight.
    """
    return torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
