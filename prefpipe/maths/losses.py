r"""Losses over groups of responses, one function an objective.

Every loss takes ``scores`` (P, R), P prompts with up to R responses each, and ``targets``, what the scores are
compared with; it returns one loss per prompt, (P,). Nothing here knows models, reference policies or beta:
``prefpipe.maths.objectives`` makes the scores and holds the table.

What holds for all of them:

- Entries outside ``targets.mask`` do not exist. They change neither loss nor gradient, NaN included.
- A prompt that offers no comparison (no positive, or no negative) has loss 0 and gradient 0.
- Losses and gradients are finite for scores and rewards of any size that float32 holds comfortably (tested at
  1e4): softmax by ``logsumexp``, logistic terms by ``softplus``.
- The order of responses is immaterial, and a constant added to all scores of a prompt changes nothing.

Pairs. A pairwise loss on a group is the mean over all pairs (positive, negative) of the group, or over those that
``targets.pairs`` names, so a group of 1 and k gives k pairs that share one positive, and each prompt weighs the same
whatever its k **(ours)**: the papers have one pair a prompt, where the rule is the paper's. Roles, not rewards, say which
of the two should win; where rewards tie, ``dpo`` and ``simpo`` still follow the roles (dropping ties belongs to selection).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus


class Targets(NamedTuple):
    """What a group's scores are compared with, each (P, R).

    ``rewards``: float, higher is better, any scale. ``positives``: bool, the role that selection gave.
    ``mask``: bool, True where there is a response; a response that is not a positive is a negative.
    ``pairs``: (P, R, R) bool, which response is to beat which under pairwise losses; None: every positive every negative.
    """

    rewards: Tensor
    positives: Tensor
    mask: Tensor
    pairs: Tensor | None = None


def ampo_loss(scores: Tensor, targets: Targets, *, alpha: float, gamma: float, deviation: str) -> Tensor:
    r"""Contrast the positives with all negatives at once (AMPO, REFA-1-vs-k).

    With ``s_i = score_i + alpha * (r_i - mean r)`` over the group::

        loss = -log( sum_{S+} e^{s_i} / (sum_{S+} e^{s_i} + gamma * sum_{S-} e^{s_j}) )
             = softplus( log gamma + logsumexp_{S-} s - logsumexp_{S+} s )

    S+ and S- are the roles. ``alpha = 0`` is REFA-1-vs-k; one negative and alpha = 0 is SimPO with margin
    ``log gamma``. At gamma = 1, alpha = 0 and one positive the gradient is ``p_+ - 1`` on the positive and ``p_j`` on
    each negative, p the softmax of the group. ``deviation="absolute"`` takes ``|r_i - mean r|``.

    Args:
        scores: (P, R) ``beta * mean_logp``.
        targets: rewards are read only when alpha is not 0.
        alpha: weight of the reward's deviation, in nats a unit of reward; at least 0.
        gamma: weight of the negatives, above 0. A larger gamma asks for a larger margin.
        deviation: ``signed`` or ``absolute``.

    Source: arXiv 2502.18293 and 2412.16378.
    """
    shifted = _clean(scores, targets.mask) + alpha * _deviations(targets, deviation)
    return _contrast(shifted, targets.positives & targets.mask, targets, gamma=gamma)


def swepo_loss(scores: Tensor, targets: Targets, *, alpha: float, deviation: str) -> Tensor:
    r"""Contrast the responses above the mean reward with the others, weighted by their deviation (SWEPO).

    ``ampo_loss`` with gamma = 1 and ``S+ = {r_i > mean r}``: the split comes from the rewards, roles are not read.
    Signed deviations let very bad negatives weigh less in the denominator; ``absolute`` lets them weigh more.
    Accounts of the paper differ, so both are offered. All rewards equal: nobody is above the mean, loss 0.

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``.
        targets: ``positives`` is ignored.
        alpha: weight of the deviation, in nats a unit of reward; at least 0.
        deviation: ``signed`` or ``absolute``.

    Source: arXiv 2412.04628.
    """
    above_mean = (_deviations(targets, "signed") > 0) & targets.mask
    shifted = _clean(scores, targets.mask) + alpha * _deviations(targets, deviation)
    return _contrast(shifted, above_mean, targets, gamma=1.0)


def infonca_loss(scores: Tensor, targets: Targets, *, alpha: float) -> Tensor:
    r"""Cross-entropy between the softmax of the rewards and the softmax of the scores (InfoNCA).

    ::

        loss = -sum_i softmax(r / alpha)_i * log softmax(s)_i

    Roles are not read. The minimum is at ``s = r / alpha + constant``, where the loss is the entropy of the target.
    Two responses with ``alpha = 1 / gamma`` are the pair form of ``mmpo``.

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``.
        targets: ``positives`` is ignored. All rewards equal: the target is uniform. One response: loss 0.
        alpha: temperature of the target, in units of reward, above 0.

    Source: arXiv 2402.05369.
    """
    target = _masked_softmax(targets.rewards / alpha, targets.mask)
    return _cross_entropy(scores, target, targets.mask)


def mmpo_loss(scores: Tensor, targets: Targets, *, gamma: float, comparison: str) -> Tensor:
    r"""Match score margins to quality margins (MMPO).

    Pair form, for each positive w and negative l, ``d = s_w - s_l``, q the reward::

        p    = sigma( gamma * (q_w - q_l) )
        loss = -p * log sigma(d) - (1 - p) * log sigma(-d)

    The gradient with respect to d is ``sigma(d) - p``, so the optimum is ``d = gamma * (q_w - q_l)``. gamma -> infinity is
    DPO. A zero margin, or gamma = 0, gives p = 1/2, which pulls the pair back to the reference: kept, not dropped.
    A negative rated above the positive gives p < 1/2: the rewards decide, roles only say which pairs are formed.

    Group form **(ours)**, the K-way version; it equals the pair form for two responses and reads no roles::

        loss = -sum_i softmax(gamma * q)_i * log softmax(s)_i

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``.
        targets: rewards are granular quality scores, ratings from 1 to 10 say.
        gamma: nats a unit of quality, at least 0; log 3 = 1.1 reads "one point better wins 75 %".
        comparison: ``pair`` or ``group``.

    Source: arXiv 2410.03145.
    """
    if comparison == "group":
        target = _masked_softmax(gamma * _clean(targets.rewards, targets.mask), targets.mask)
        return _cross_entropy(scores, target, targets.mask)
    margins = _pair_differences(scores, targets.mask)
    evidence = gamma * _pair_differences(targets.rewards, targets.mask)
    losses = torch.sigmoid(evidence) * softplus(-margins) + torch.sigmoid(-evidence) * softplus(margins)
    return _mean_over_pairs(losses, targets)


def dpo_loss(scores: Tensor, targets: Targets) -> Tensor:
    r"""Make each positive beat each negative (DPO): ``-log sigma(s_w - s_l)``, the mean over pairs.

    At the start of training, where policy and reference agree, the loss is log 2 exactly.

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``.
        targets: rewards are not read.

    Source: arXiv 2305.18290.
    """
    return _mean_over_pairs(softplus(-_pair_differences(scores, targets.mask)), targets)


def simpo_loss(scores: Tensor, targets: Targets, *, gamma: float) -> Tensor:
    r"""Make each positive beat each negative by a margin, without a reference (SimPO).

    ``-log sigma(s_w - s_l - gamma)``, the mean over pairs.

    Args:
        scores: (P, R) ``beta * mean_logp``.
        targets: rewards are not read.
        gamma: target margin in the units of the scores (papers quote gamma / beta), at least 0.

    Source: arXiv 2405.14734.
    """
    return _mean_over_pairs(softplus(gamma - _pair_differences(scores, targets.mask)), targets)


def _clean(values: Tensor, mask: Tensor) -> Tensor:
    """Put 0 where there is no response, so that rubbish there reaches neither value nor gradient."""
    return torch.where(mask, values, torch.zeros_like(values))


def _deviations(targets: Targets, kind: str) -> Tensor:
    """``r_i - mean r`` over the responses that exist, signed or absolute; 0 elsewhere."""
    rewards = _clean(targets.rewards, targets.mask)
    mean = rewards.sum(-1, keepdim=True) / targets.mask.sum(-1, keepdim=True).clamp(min=1)
    deviations = _clean(rewards - mean, targets.mask)
    return deviations.abs() if kind == "absolute" else deviations


def _contrast(scores: Tensor, positives: Tensor, targets: Targets, *, gamma: float) -> Tensor:
    negatives = targets.mask & ~positives
    margin = _logsumexp(scores, positives) - _logsumexp(scores, negatives)
    comparable = positives.any(-1) & negatives.any(-1)
    return _clean(softplus(math.log(gamma) - margin), comparable)


def _logsumexp(scores: Tensor, chosen: Tensor) -> Tensor:
    # The lowest finite number, not -inf: a row where nothing is chosen must stay free of inf - inf.
    return scores.masked_fill(~chosen, torch.finfo(scores.dtype).min).logsumexp(-1)


def _masked_softmax(values: Tensor, mask: Tensor) -> Tensor:
    return _clean(values.masked_fill(~mask, torch.finfo(values.dtype).min).softmax(-1), mask)


def _cross_entropy(scores: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    scores = _clean(scores, mask)
    log_shares = scores - _logsumexp(scores, mask)[..., None]
    return -(target * _clean(log_shares, mask)).sum(-1)


def _pair_differences(values: Tensor, mask: Tensor) -> Tensor:
    """(P, R, R): ``values[p, w] - values[p, l]``, P prompts apart from each other whatever the shapes."""
    values = _clean(values, mask)
    return values[:, :, None] - values[:, None, :]


def _mean_over_pairs(losses: Tensor, targets: Targets) -> Tensor:
    """Mean of (P, R, R) over the pairs of each prompt; 0 where a prompt has none."""
    positives = targets.positives & targets.mask
    if targets.pairs is None:
        pairs = positives[:, :, None] & (targets.mask & ~positives)[:, None, :]
    else:
        pairs = targets.pairs & targets.mask[:, :, None] & targets.mask[:, None, :]
    return _clean(losses, pairs).sum((-2, -1)) / pairs.sum((-2, -1)).clamp(min=1)
