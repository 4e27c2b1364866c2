"""Every loss's formula a second time, with loops over Python floats, and how far the losses are from it."""

import math
from typing import NamedTuple

import torch

from prefpipe.maths.objectives.registry import resolve_knobs
from support.loss_groups import VARIANTS, gradient_of, losses_of, make_groups


def log_sigma(x):
    return -math.log1p(math.exp(-x)) if x > -30 else x


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def over_pairs(loss):
    """The mean of ``loss(d, gap)`` over all pairs (positive, negative)."""

    def whole(s, r, positive, **knobs):
        pairs = [
            (w, v) for w in range(len(s)) for v in range(len(s)) if positive[w] and not positive[v]
        ]
        return mean(loss(s[w] - s[v], r[w] - r[v], **knobs) for w, v in pairs)

    return whole


def softmax(values):
    weights = [math.exp(value) for value in values]
    return [weight / sum(weights) for weight in weights]


def deviations(r, deviation):
    return [abs(x - mean(r)) if deviation == "absolute" else x - mean(r) for x in r]


def ampo(s, r, positive, beta, gamma, alpha, deviation, length_normalise=True):
    e = [math.exp(x + alpha * away) for x, away in zip(s, deviations(r, deviation), strict=True)]
    above = sum(weight for weight, is_positive in zip(e, positive, strict=True) if is_positive)
    below = sum(weight for weight, is_positive in zip(e, positive, strict=True) if not is_positive)
    return -math.log(above / (above + gamma * below))


def refa(s, r, positive, eos_weight, n_tokens, end_probs, **knobs):
    charge = sum(p * max(0, max(n_tokens) - n) for p, n in zip(end_probs, n_tokens, strict=True))
    return ampo(s, r, positive, **knobs) + eos_weight * charge


def swepo(s, r, positive, beta, alpha, deviation):
    return ampo(s, r, [x > mean(r) for x in r], beta, 1.0, alpha, deviation)


def infonca(s, r, positive, beta, alpha):
    return -sum(
        p * math.log(q) for p, q in zip(softmax([x / alpha for x in r]), softmax(s), strict=True)
    )


def nca(s, r, positive, beta, alpha):
    shares = softmax([x / alpha for x in r])
    return -sum(p * log_sigma(x) + log_sigma(-x) / len(s) for p, x in zip(shares, s, strict=True))


def plackett_luce(s, r, positive, beta):
    """Draw the best first, then the best of the rest: the loss is minus the log-probability of that
    order."""
    best_first = [s[i] for i in sorted(range(len(s)), key=lambda i: -r[i])]
    return -sum(math.log(softmax(best_first[k:])[0]) for k in range(len(best_first)))


def ddo(s, r, positive, held, beta, eta, length_normalise):
    """The divergence of the target from the policy; ``held`` are the scores that it is made of."""
    now = softmax(held)
    expected = sum(p * x for p, x in zip(now, r, strict=True))
    tilted = [p * math.exp((x - expected) / eta) for p, x in zip(now, r, strict=True)]
    target = [weight / sum(tilted) for weight in tilted]
    return sum(q * math.log(q / p) for q, p in zip(target, softmax(s), strict=True))


def mmpo(s, r, positive, beta, gamma, comparison):
    if comparison == "group":
        return infonca(s, r, positive, beta, 1 / gamma)
    return over_pairs(lambda d, gap: soft(d, softmax([gamma * gap, 0.0])[0]))(s, r, positive)


def soft(d, p):
    return -p * log_sigma(d) - (1 - p) * log_sigma(-d)


def odpo(d, gap, beta, alpha):
    return -log_sigma(d - alpha * math.log(gap)) if gap > 0 else 0.0


def rpo(d, gap, beta, eta, form):
    if form == "squared":
        return (d - eta * gap) ** 2
    ours, theirs = softmax([d, 0.0]), softmax([eta * gap, 0.0])
    return sum(p * math.log(p / q) for p, q in zip(ours, theirs, strict=True))


def orpo(s, r, positive, weight):
    def log_odds(x):
        return math.log(math.exp(x) / (1 - math.exp(x)))

    pairs = [
        (s[w], s[v])
        for w in range(len(s))
        for v in range(len(s))
        if positive[w] and not positive[v]
    ]
    return mean(
        -chosen - weight * log_sigma(log_odds(chosen) - log_odds(rejected))
        for chosen, rejected in pairs
    )


def sft(s, r, positive, length_normalise):
    return mean(-x for x, is_positive in zip(s, positive, strict=True) if is_positive)


FORMULAS = {
    "ampo": ampo,
    "refa": refa,
    "swepo": swepo,
    "infonca": infonca,
    "nca": nca,
    "plackett-luce": plackett_luce,
    "ddo": ddo,
    "mmpo": mmpo,
    "odpo": over_pairs(odpo),
    "rpo": over_pairs(rpo),
    "dpo": over_pairs(lambda d, gap, beta: -log_sigma(d)),
    "cdpo": over_pairs(lambda d, gap, beta, eps: -(1 - eps) * log_sigma(d) - eps * log_sigma(-d)),
    "rdpo": over_pairs(
        lambda d, gap, beta, eps: (-(1 - eps) * log_sigma(d) + eps * log_sigma(-d)) / (1 - 2 * eps)
    ),
    "ipo": over_pairs(lambda d, gap, tau, length_normalise: (d - 1 / (2 * tau)) ** 2),
    "hinge": over_pairs(lambda d, gap, beta: max(0.0, 1 - d)),
    "simpo": over_pairs(lambda d, gap, beta, gamma: -log_sigma(d - gamma)),
    "orpo": orpo,
    "sft": sft,
    "bt": over_pairs(lambda d, gap: -log_sigma(d)),
    "bt-margin": over_pairs(lambda d, gap, gamma: -log_sigma(d - gamma * gap)),
    "mmpo-reward": over_pairs(lambda d, gap, gamma: soft(d, softmax([gamma * gap, 0.0])[0])),
}


def written_out(variant, groups, p, scores):
    """The formula for prompt p at other scores; the responses that do not exist are left out of the
    lists."""
    name, knobs = VARIANTS[variant]
    exists = groups.mask[p]
    knobs = resolve_knobs(name, knobs)
    if name == "refa":
        knobs |= {
            "n_tokens": groups.n_tokens[p][exists].tolist(),
            "end_probs": groups.end_probs[p][exists].tolist(),
        }
    if name == "ddo":
        # no gradient through the target: other scores meet the target of the groups' own
        knobs |= {"held": groups.scores[p][exists].tolist()}
    return FORMULAS[name](
        scores[exists].tolist(),
        groups.rewards[p][exists].tolist(),
        groups.positives[p][exists].tolist(),
        **knobs,
    )


class Deviation(NamedTuple):
    """The largest absolute difference of values, and of gradients."""

    value: float
    gradient: float


STEP = 1e-5
"""Of the differences that stand for gradients: about 1e-10 is their own error."""


def deviation_from_formula(variant, seed):
    """The largest deviation of a variant's losses and gradients over six ragged prompts."""
    groups = make_groups(seed=seed)
    expected = [written_out(variant, groups, p, groups.scores[p]) for p in range(6)]
    found = losses_of(variant, groups).tolist()
    values = max(abs(one - other) for one, other in zip(found, expected, strict=True))

    slopes = torch.zeros_like(groups.scores)
    for p in range(6):
        for r in torch.nonzero(groups.mask[p]).flatten().tolist():
            ends = []
            for sign in (1, -1):
                scores = groups.scores[p].clone()
                scores[r] += sign * STEP
                ends.append(written_out(variant, groups, p, scores))
            slopes[p, r] = (ends[0] - ends[1]) / (2 * STEP)
    gradients = (gradient_of(variant, groups) - slopes).abs().max().item()
    return Deviation(values, gradients)
