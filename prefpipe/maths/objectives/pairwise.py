r"""Losses of one score difference, ``d = s_w - s_l`` of a positive w and a negative l.

The mean over pairs. Roles, or ``targets.pairs``, determine the winner; rewards are not read.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from prefpipe.maths.objectives.masked import Targets, clean, differences_of, mean_over_pairs


def dpo_loss(scores: Tensor, targets: Targets) -> Tensor:
    r"""Make each positive beat each negative (DPO): ``-log sigma(s_w - s_l)``, the mean over pairs.

    At the start of training, where policy and reference agree, the loss is log 2 exactly. On a
    group of several negatives it is GroupDPO's group-wise DPO over all pairs; its authors find a
    likelihood term on the positives decisive, here ``--sft-weight``.

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``.
        targets: rewards are not read.

    Source: arXiv 2305.18290; on groups arXiv 2604.15602, read as its abstract.
    """
    margins = differences_of(scores, targets.mask)
    return mean_over_pairs(softplus(-margins), targets)


def cdpo_loss(scores: Tensor, targets: Targets, *, eps: float) -> Tensor:
    r"""DPO with labels that are wrong with probability eps (conservative DPO).

    ::

        loss = -(1 - eps) * log sigma(d) - eps * log sigma(-d)

    The gradient in d is ``sigma(d) - (1 - eps)``, so d is pulled to ``log((1 - eps) / eps)`` and no
    further; it is ``mmpo`` with the same p for every pair. ``eps = 0`` is ``dpo``.

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``.
        targets: rewards are not read.
        eps: share of labels that are wrong, in [0, 0.5).

    Source: Eric Mitchell, "A note on DPO with noisy preferences and relationship to IPO", 2023;
        arXiv 2305.18290.
    """
    margins = differences_of(scores, targets.mask)
    losses = (1 - eps) * softplus(-margins) + eps * softplus(margins)
    return mean_over_pairs(losses, targets)


def rdpo_loss(scores: Tensor, targets: Targets, *, eps: float) -> Tensor:
    r"""DPO's loss on the clean labels, estimated without bias from noisy ones (robust DPO).

    With labels that are wrong with probability eps::

        loss = [ -(1 - eps) * log sigma(d) + eps * log sigma(-d) ] / (1 - 2 * eps)

    Its mean over flips is the loss of ``dpo`` on labels without errors. It falls without bound as d
    grows, by ``eps / (1 - 2 eps)`` a nat, so it can be negative. ``eps = 0`` is ``dpo``.

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``.
        targets: rewards are not read.
        eps: share of labels that are wrong, in [0, 0.5).

    Source: arXiv 2403.00409.
    """
    margins = differences_of(scores, targets.mask)
    losses = ((1 - eps) * softplus(-margins) - eps * softplus(margins)) / (1 - 2 * eps)
    return mean_over_pairs(losses, targets)


def ipo_loss(scores: Tensor, targets: Targets, *, tau: float) -> Tensor:
    r"""Bring each difference of log-ratios to a fixed size (IPO).

    ::

        loss = (d - 1 / (2 * tau))^2

    Not monotone: beyond ``d = 1 / (2 tau)`` the positive is pushed down again.

    Args:
        scores: (P, R) ``logp - logp_ref`` without beta, summed as in the paper; with
            ``length_normalise`` the mean a token, as in TRL, where the target then is
            ``1 / (2 tau)`` nats per token.
        targets: rewards are not read.
        tau: strength of the pull to the reference, above 0; a smaller tau requires a larger
            difference.

    Source: arXiv 2310.12036, equation 17.
    """
    margins = differences_of(scores, targets.mask)
    return mean_over_pairs((margins - 1 / (2 * tau)) ** 2, targets)


def hinge_loss(scores: Tensor, targets: Targets) -> Tensor:
    r"""Make each positive beat each negative by 1 and no more (RSO's form of SLiC).

    ``max(0, 1 - d)``, the mean over pairs. At ``d = 1`` the gradient is 0.

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``; 1 / beta is the margin in nats.
        targets: rewards are not read.

    Source: arXiv 2309.06657.
    """
    margins = differences_of(scores, targets.mask)
    return mean_over_pairs(torch.relu(1 - margins), targets)


def simpo_loss(scores: Tensor, targets: Targets, *, gamma: float) -> Tensor:
    r"""Make each positive beat each negative by a margin, without a reference (SimPO).

    ``-log sigma(s_w - s_l - gamma)``, the mean over pairs.

    Args:
        scores: (P, R) ``beta * mean_logp``.
        targets: rewards are not read.
        gamma: target margin in the units of the scores (papers quote gamma / beta), at least 0.

    Source: arXiv 2405.14734.
    """
    margins = differences_of(scores, targets.mask)
    return mean_over_pairs(softplus(gamma - margins), targets)


def orpo_loss(scores: Tensor, targets: Targets, *, weight: float) -> Tensor:
    r"""Fine-tune on the positives, and make their odds beat those of the negatives (ORPO).

    With ``P = e^{mean_logp}`` and ``odds = P / (1 - P)``::

        loss = -mean_logp_w - weight * log sigma( log odds_w - log odds_l )

    The first term is fine-tuning on the positives, so training may start from a base model, and
    scores are absolute: a constant added to all of them does change the loss. The first term is
    over the response; TRL and the authors' code can count the prompt's tokens there too.

    A P of 1 has infinite odds; it is held at 1 - 1e-7 (float32's last place), where the odds'
    gradient is 0.

    Args:
        scores: (P, R) ``mean_logp``, at most 0.
        targets: rewards are not read.
        weight: lambda of the paper, at least 0; 0 is fine-tuning alone.

    Source: arXiv 2403.07691.
    """
    scores = clean(scores, targets.mask)
    margins = differences_of(_log_odds(scores), targets.mask)
    return mean_over_pairs(weight * softplus(-margins) - scores[:, :, None], targets)


def _log_odds(log_p: Tensor) -> Tensor:
    """Return ``log(P / (1 - P))`` of ``log P``, without cancellation at either end."""
    z = (-log_p).clamp(min=torch.finfo(log_p.dtype).eps)
    return -z - torch.log(-torch.expm1(-z))
