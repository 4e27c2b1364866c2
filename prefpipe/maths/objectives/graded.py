r"""Losses that match score differences to reward differences: how much better, not only which.

Roles, or ``targets.pairs``, say which responses are compared; d is ``s_w - s_l`` and the reward gap
``r_w - r_l``.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from prefpipe.maths.objectives.masked import (
    Targets,
    clean,
    cross_entropy,
    differences_of,
    mean_over_pairs,
    shares_of,
)


def mmpo_loss(scores: Tensor, targets: Targets, *, gamma: float, comparison: str) -> Tensor:
    r"""Match score margins to quality margins (MMPO).

    Pair form, for each positive w and negative l, ``d = s_w - s_l``, q the reward::

        p    = sigma( gamma * (q_w - q_l) )
        loss = -p * log sigma(d) - (1 - p) * log sigma(-d)

    The gradient with respect to d is ``sigma(d) - p``, so the optimum is
    ``d = gamma * (q_w - q_l)``. gamma -> infinity is DPO. A zero margin, or gamma = 0, gives p =
    1/2, which pulls the pair back to the reference; such pairs are kept. A negative rated above the
    positive gives p < 1/2: the rewards decide; roles only determine which pairs are formed.

    Group form **(ours)**, the K-way version; it equals the pair form for two responses and reads no
    roles::

        loss = -sum_i softmax(gamma * q)_i * log softmax(s)_i

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``.
        targets: rewards are granular quality scores, such as ratings from 1 to 10.
        gamma: nats per unit of quality, at least 0; log 3 = 1.1 reads "one point better wins 75 %".
        comparison: ``pair`` or ``group``.

    Source: arXiv 2410.03145.
    """
    if comparison == "group":
        target = mmpo_group_target(targets, gamma=gamma)
        return cross_entropy(scores, target, targets.mask)

    margins = differences_of(scores, targets.mask)
    target, target_of_reverse = mmpo_pair_target(targets, gamma=gamma)
    losses = target * softplus(-margins) + target_of_reverse * softplus(margins)
    return mean_over_pairs(losses, targets)


def mmpo_pair_target(targets: Targets, *, gamma: float) -> tuple[Tensor, Tensor]:
    r"""Return MMPO's targets ``p = sigma( gamma * (q_w - q_l) )`` and ``1 - p``, (P, R, R) each.

    Entry (w, l) is the probability with which w should beat l, q the reward. ``1 - p`` is computed
    as ``sigma(-x)``, which keeps its digits where p is close to 1.
    """
    evidence = gamma * differences_of(targets.rewards, targets.mask)
    return torch.sigmoid(evidence), torch.sigmoid(-evidence)


def mmpo_group_target(targets: Targets, *, gamma: float) -> Tensor:
    r"""Return MMPO's target of a whole group, ``softmax(gamma * q)`` (P, R), q the reward."""
    return shares_of(gamma * clean(targets.rewards, targets.mask), targets.mask)


def odpo_loss(scores: Tensor, targets: Targets, *, alpha: float) -> Tensor:
    r"""DPO with a margin that grows with the reward gap (DPO with an offset).

    ::

        loss = -log sigma( d - alpha * log(r_w - r_l) )

    ``alpha = 0`` is ``dpo``. A gap below 1 has a negative offset, which requires less than ``d >
    0``: the unit of the rewards matters. A gap of 0 or less has no logarithm: training refuses such
    pairs and names them (``prefpipe.training.groups.require_reward_gaps``); here they have loss 0
    and gradient 0, the limit of a gap that shrinks.

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``.
        targets: the winner of each pair is rated above its loser.
        alpha: weight of the offset, at least 0.

    Source: arXiv 2402.10571.
    """
    gaps = differences_of(targets.rewards, targets.mask)
    has_gap = gaps > 0

    # 1 replaces a missing gap: its logarithm is 0 and reaches neither loss nor gradient.
    offsets = alpha * torch.where(has_gap, gaps, torch.ones_like(gaps)).log()
    losses = softplus(offsets - differences_of(scores, targets.mask))
    return mean_over_pairs(clean(losses, has_gap), targets)


def rpo_loss(scores: Tensor, targets: Targets, *, eta: float, form: str) -> Tensor:
    r"""Bring each score margin to eta times the reward margin (RPO: reward-aware optimisation).

    With ``g = eta * (r_w - r_l)``::

        squared:     loss = (d - g)^2
        forward-kl:  loss = sigma(d) * log( sigma(d) / sigma(g) )
                          + sigma(-d) * log( sigma(-d) / sigma(-g) )

    Both are least, 0, at ``d = g``. The forward form weighs by the policy's own probability, with
    gradient ``sigma(d) * sigma(-d) * (d - g)``: pairs of which the policy is sure hardly move. The
    backward form equals ``mmpo`` up to a constant, with eta as gamma, so it is not offered here. A
    gap of 0 or below is allowed: the rewards decide; roles only determine which pairs are formed.

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``.
        targets: rewards on a scale whose distances mean something.
        eta: nats of score margin per unit of reward, at least 0.
        form: ``squared`` or ``forward-kl``, named as in NeMo-Aligner.

    Source: arXiv 2406.11704.
    """
    margins = differences_of(scores, targets.mask)
    goals = eta * differences_of(targets.rewards, targets.mask)
    if form == "squared":
        return mean_over_pairs((margins - goals) ** 2, targets)

    # The divergence of two coins, with log sigma(x) = -softplus(-x).
    of_win = torch.sigmoid(margins) * (softplus(-goals) - softplus(-margins))
    of_loss = torch.sigmoid(-margins) * (softplus(goals) - softplus(margins))
    return mean_over_pairs(of_win + of_loss, targets)
