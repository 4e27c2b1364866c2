r"""Losses for the scores of a reward model, ``r_phi(x, y)``, without beta and reference.

``targets.rewards`` are ratings from the data. Pairs are positives with negatives, or those named.
"""

from torch import Tensor
from torch.nn.functional import softplus

from prefpipe.maths.objectives.graded import mmpo_loss
from prefpipe.maths.objectives.masked import Targets, differences_of, mean_over_pairs
from prefpipe.maths.objectives.pairwise import dpo_loss


def bt_loss(scores: Tensor, targets: Targets) -> Tensor:
    r"""Likelihood of the positives winning under the Bradley-Terry model.

    ``-log sigma(s_w - s_l)``, the mean over pairs.

    Args:
        scores: (P, R) ``r_phi(x, y)``.
        targets: rewards are not read.

    Source: Bradley and Terry, Biometrika 39, 1952; as a reward model's loss arXiv 2203.02155.
    """
    return dpo_loss(scores, targets)


def bt_margin_loss(scores: Tensor, targets: Targets, *, gamma: float) -> Tensor:
    r"""Bradley-Terry with a margin set by the ratings.

    ::

        loss = -log sigma( d - m ),     m = gamma * (r_w - r_l)

    ``gamma = 0`` is ``bt``. The paper gives m as a table over four steps of preference, "negligibly
    better" to "significantly better"; its two tables are this line at ratings 0, 1, 2, 3 with gamma
    1 and 1/3. For other ratings the line is **(ours)**.

    Args:
        scores: (P, R) ``r_phi(x, y)``.
        targets: rewards are ratings; a pair whose winner is rated below its loser has a negative
            margin.
        gamma: margin per unit of rating, at least 0.

    Source: arXiv 2307.09288, section 3.2.2 and its appendix.
    """
    asked = gamma * differences_of(targets.rewards, targets.mask)
    margins = differences_of(scores, targets.mask)
    return mean_over_pairs(softplus(asked - margins), targets)


def mmpo_reward_loss(scores: Tensor, targets: Targets, *, gamma: float) -> Tensor:
    r"""Match score margins to quality margins on a reward head (MMPO's reward model).

    With ``p = sigma( gamma * (q_w - q_l) )``::

        loss = -p * log sigma(d) - (1 - p) * log sigma(-d)

    The pair form of ``mmpo`` without beta. gamma -> infinity is ``bt``; gamma = 0, and equal
    ratings, give p = 1/2. Each pair sees its own p: the published code broadcasts (B, 1) with (B,),
    so that every pair there sees the mean of the batch.

    Args:
        scores: (P, R) ``r_phi(x, y)``.
        targets: rewards are granular quality scores.
        gamma: nats per unit of quality, at least 0.

    Source: arXiv 2410.03145.
    """
    return mmpo_loss(scores, targets, gamma=gamma, comparison="pair")
