r"""Losses that compare the scores of a whole group at once.

Softmax contrasts of positives with negatives; the softmax or the order of the rewards as target.
"""

import math

from torch import Tensor
from torch.nn.functional import softplus

from prefpipe.errors import UsageError
from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.masked import (
    Targets,
    clean,
    cross_entropy,
    deviations_of,
    log_shares_of,
    log_sum_exp,
    shares_of,
)


def ampo_loss(
    scores: Tensor, targets: Targets, *, alpha: float, gamma: float, deviation: str
) -> Tensor:
    r"""Contrast the positives with all negatives at once (AMPO, REFA-1-vs-k).

    With ``s_i = score_i + alpha * (r_i - mean r)`` over the group::

        loss = -log( sum_{S+} e^{s_i} / (sum_{S+} e^{s_i} + gamma * sum_{S-} e^{s_j}) )
             = softplus( log gamma + logsumexp_{S-} s - logsumexp_{S+} s )

    S+ and S- are the roles. ``alpha = 0`` is REFA-1-vs-k; one negative and alpha = 0 is SimPO with
    margin ``log gamma``. At gamma = 1, alpha = 0 and one positive the gradient is ``p_+ - 1`` on
    the positive and ``p_j`` on each negative, p the softmax of the group. ``deviation="absolute"``
    takes ``|r_i - mean r|``.

    Args:
        scores: (P, R) ``beta * mean_logp``.
        targets: rewards are read only when alpha is not 0.
        alpha: weight of the reward's deviation, in nats per unit of reward; at least 0.
        gamma: weight of the negatives, above 0. A larger gamma requires a larger margin.
        deviation: ``signed`` or ``absolute``.

    Source: arXiv 2502.18293 and 2412.16378.
    """
    shifted = clean(scores, targets.mask) + alpha * deviations_of(targets, deviation)
    return _contrast(shifted, targets.positives & targets.mask, targets, gamma=gamma)


def refa_loss(
    scores: Tensor,
    targets: Targets,
    responses: ResponseLogps,
    *,
    alpha: float,
    gamma: float,
    deviation: str,
    eos_weight: float,
) -> Tensor:
    r"""Contrast as AMPO does, with a penalty for ending early (REFA).

    ::

        loss = ampo( s ) + eos_weight * sum_i P_i * max(0, L_max - n_i)

    n_i is the number of tokens of response i, L_max that of the group's longest, and P_i the
    policy's probability of the end-of-sequence token where response i ended; 0 for a response that
    was cut off, which never ended. Ending bad responses sooner raises their mean over tokens; the
    second term removes that gain. ``eos_weight = 0`` is ``ampo``.

    Two choices are **(ours)**: S+ and S- are the roles, so that one selection serves both
    objectives, while the paper splits at the mean reward; and a prompt without a comparison has
    loss 0, including its second term.

    Args:
        scores: (P, R) ``beta * mean_logp``.
        targets: rewards are read only when alpha is not 0.
        responses: ``n_tokens`` and ``end_probs``, each (P, R); gradients flow through
            ``end_probs``.
        alpha: weight of the reward's deviation, in nats per unit of reward; at least 0.
        gamma: weight of the negatives, above 0.
        deviation: ``signed`` or ``absolute``.
        eos_weight: penalty per missing token, in nats at P = 1; at least 0.

    Raises:
        UsageError: ``responses`` does not say how the responses ended.

    Source: arXiv 2412.16378.
    """
    if responses.end_probs is None:
        raise UsageError(
            "refa needs the probability that each response ends, and the log-probabilities do "
            "not have it",
            hint="pass ended_S to prefpipe.maths.objectives.logps.sum_response_logps",
        )
    contrast = ampo_loss(scores, targets, alpha=alpha, gamma=gamma, deviation=deviation)

    n_tokens = clean(responses.n_tokens, targets.mask)
    n_missing = clean(n_tokens.amax(-1, keepdim=True) - n_tokens, targets.mask)
    charge = eos_weight * (clean(responses.end_probs, targets.mask) * n_missing).sum(-1)
    return contrast + clean(charge, _offers_contrast(targets.positives & targets.mask, targets))


def swepo_loss(scores: Tensor, targets: Targets, *, alpha: float, deviation: str) -> Tensor:
    r"""Contrast the responses above the mean reward with the others, by their deviation (SWEPO).

    ``ampo_loss`` with gamma = 1 and ``S+ = {r_i > mean r}``: the split comes from the rewards,
    roles are not read. Signed deviations give very bad negatives less weight in the denominator;
    ``absolute`` gives them more. Accounts of the paper differ, so both are offered. If all rewards
    are equal, no response is above the mean and the loss is 0.

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``.
        targets: ``positives`` is ignored.
        alpha: weight of the deviation, in nats per unit of reward; at least 0.
        deviation: ``signed`` or ``absolute``.

    Source: arXiv 2412.04628.
    """
    above_mean = (deviations_of(targets, "signed") > 0) & targets.mask
    shifted = clean(scores, targets.mask) + alpha * deviations_of(targets, deviation)
    return _contrast(shifted, above_mean, targets, gamma=1.0)


def infonca_loss(scores: Tensor, targets: Targets, *, alpha: float) -> Tensor:
    r"""Cross-entropy between the softmax of the rewards and the softmax of the scores (InfoNCA).

    ::

        loss = -sum_i softmax(r / alpha)_i * log softmax(s)_i

    Roles are not read. The minimum is at ``s = r / alpha + constant``, where the loss is the
    entropy of the target. Two responses with ``alpha = 1 / gamma`` are the pair form of ``mmpo``.

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``.
        targets: ``positives`` is ignored. All rewards equal: the target is uniform. One response:
            loss 0.
        alpha: temperature of the target, in units of reward, above 0.

    Source: arXiv 2402.05369.
    """
    target = shares_of(targets.rewards / alpha, targets.mask)
    return cross_entropy(scores, target, targets.mask)


def nca_loss(scores: Tensor, targets: Targets, *, alpha: float) -> Tensor:
    r"""Separate each response from the reference on its own, weighted by the rewards (NCA).

    With K the number of responses and the softmax of the rewards ``p_i = softmax(r / alpha)_i``::

        loss = -sum_i [ p_i * log sigma(s_i) + (1 / K) * log sigma(-s_i) ]

    Roles are not read. The minimum is at ``s_i = log(K * p_i)``: scores are absolute here, so a
    constant added to all of them does change the loss, and good responses cannot lose likelihood as
    long as bad ones lose more. Two responses and alpha -> 0 are TRL's ``nca_pair``.

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``.
        targets: ``positives`` is ignored. All rewards equal: every score is pulled to 0. One
            response: loss 0 **(ours)**, as everywhere; the formula itself would pull it to 0.
        alpha: temperature of the target, in units of reward, above 0.

    Source: arXiv 2402.05369.
    """
    target = shares_of(targets.rewards / alpha, targets.mask)
    scores = clean(scores, targets.mask)
    n_responses = targets.mask.sum(-1, keepdim=True)
    losses = target * softplus(-scores) + softplus(scores) / n_responses.clamp(min=1)
    return clean(clean(losses, targets.mask).sum(-1), n_responses.squeeze(-1) > 1)


def plackett_luce_loss(scores: Tensor, targets: Targets) -> Tensor:
    r"""Likelihood of the rewards' order, best drawn first (Plackett-Luce).

    DPO's form for rankings. With the responses sorted by reward, (1) the best::

        loss = -sum_k log( e^{s_(k)} / sum_{j >= k} e^{s_(j)} )
             = sum_i [ log sum_{j: r_j <= r_i} e^{s_j} - s_i ]

    Roles are not read. Two responses with different rewards are ``dpo``. The second line is
    computed; without ties it equals the first. With ties it is Breslow's rule **(ours)**: each tied
    response is drawn from all that are not rated above it, including the others of its tie. So the
    order of tied responses does not matter, and equal rewards pull to equal scores, as under
    ``infonca`` and ``mmpo``. Only rewards that are equal to the last bit are tied.

    Args:
        scores: (P, R) ``beta * (logp - logp_ref)``.
        targets: ``positives`` is ignored; of the rewards, only their order counts. One response:
            loss 0.

    Source: arXiv 2305.18290, appendix A.3; ties: Breslow, Biometrics 30, 1974.
    """
    scores, rewards = clean(scores, targets.mask), clean(targets.rewards, targets.mask)

    # [p, i, j]: both exist, and j is not rated above i.
    both = targets.mask[:, :, None] & targets.mask[:, None, :]
    not_above = both & (rewards[:, None, :] <= rewards[:, :, None])

    log_sums = log_sum_exp(scores[:, None, :].expand(not_above.shape), not_above)
    return clean(log_sums - scores, targets.mask).sum(-1)


def ddo_loss(scores: Tensor, targets: Targets, *, eta: float) -> Tensor:
    r"""Move the policy's distribution over the group towards the rewards, by a step (DDO-RM).

    With ``pi = softmax(s)`` over the group, and no gradient through the target p::

        p_i  proportional to  pi_i * exp( (r_i - E_pi r) / eta ),     E_pi r = sum_j pi_j * r_j
        loss = KL( p || pi ) = sum_i p_i * (log p_i - log pi_i)

    Roles are not read. p maximises the expected reward minus ``eta`` times its divergence from pi,
    one step of mirror descent. It is computed from the current scores, so it moves with the policy:
    the gradient ``pi - p`` is that of ``-log sum_j pi_j * exp(r_j / eta)``, and training continues
    until the best response of each group has all of pi. A large eta is a policy gradient, ``-(r_i -
    E_pi r) * pi_i / eta``; a small one is fine-tuning on the best. ``infonca`` is the same without
    pi in its target, at which it converges.

    ``E_pi r`` is the same for every response of a prompt and cancels when p is normalised, so it is
    not computed. The authors minimise the cross-entropy, which is larger by the entropy of p and
    has the same gradient; the divergence is 0 if there is nothing to learn, for example if all
    rewards are equal.

    Args:
        scores: (P, R) ``beta * mean_logp``; 1 / beta is the authors' temperature of the candidates.
        targets: ``positives`` is ignored. One response: loss 0.
        eta: units of reward per nat, above 0; a larger eta makes a smaller step.

    Source: arXiv 2604.11119, by its abstract and its authors' code, which has ``exp(r / lambda)``
        (github.com/TiantianZ399/rethinking-theory-of-post-training-in-llm-experiment) and, earlier,
        a factor ``eta`` in the place of ``1 / eta`` (ddorm-llm-preference-benchmark).
    """
    log_policy = log_shares_of(scores, targets.mask)
    reward = clean(targets.rewards, targets.mask)
    log_target = log_shares_of(log_policy + reward / eta, targets.mask).detach()
    return (log_target.exp() * (log_target - log_policy)).sum(-1)


def _contrast(scores: Tensor, positives: Tensor, targets: Targets, *, gamma: float) -> Tensor:
    negatives = targets.mask & ~positives
    margin = log_sum_exp(scores, positives) - log_sum_exp(scores, negatives)
    return clean(softplus(math.log(gamma) - margin), _offers_contrast(positives, targets))


def _offers_contrast(positives: Tensor, targets: Targets) -> Tensor:
    """Return (P,) bool: whether the prompt has both a positive and a negative."""
    return positives.any(-1) & (targets.mask & ~positives).any(-1)
