"""Facts of single losses: limits, optima, and what the published code gets wrong."""

import math
from decimal import Decimal, getcontext

import pytest
import torch
from support.loss_groups import gradient_of, losses_of, make_groups

from prefpipe.errors import UsageError
from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.losses import (
    Targets,
    ampo_loss,
    bt_loss,
    bt_margin_loss,
    cdpo_loss,
    ddo_loss,
    dpo_loss,
    hinge_loss,
    infonca_loss,
    ipo_loss,
    mmpo_loss,
    mmpo_reward_loss,
    nca_loss,
    odpo_loss,
    orpo_loss,
    plackett_luce_loss,
    rdpo_loss,
    refa_loss,
    rpo_loss,
    simpo_loss,
    swepo_loss,
)

ONE_PAIR = torch.ones(1, 2, dtype=torch.bool)


def pair_targets(quality_margin=1.0):
    return Targets(torch.tensor([[quality_margin, 0.0]]), torch.tensor([[True, False]]), ONE_PAIR)


def pair_scores(margin):
    return torch.tensor([[margin, 0.0]], requires_grad=True)


def sigma(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("margin", [-2.0, 0.0, 0.3, 4.0])
@pytest.mark.parametrize(
    ("quality", "gamma"), [(1.0, 1.1), (3.0, 0.4), (-1.0, 1.0), (0.0, 2.0), (2.0, 0.0)]
)
def test_mmpo_gradient_in_the_margin_is_sigma_minus_p(margin, quality, gamma):
    """d loss / d d = sigma(d) - sigma(gamma * (q_w - q_l)); a zero margin or gamma = 0 has p =
    1/2."""
    scores = pair_scores(margin)
    mmpo_loss(scores, pair_targets(quality), gamma=gamma, comparison="pair").sum().backward()
    expected = sigma(margin) - sigma(gamma * quality)
    assert scores.grad.tolist() == [
        [pytest.approx(expected, abs=1e-6), pytest.approx(-expected, abs=1e-6)]
    ]


def test_mmpo_is_least_where_the_score_margin_is_gamma_times_the_quality_margin():
    scores = pair_scores(0.7 * 2.0)
    mmpo_loss(scores, pair_targets(2.0), gamma=0.7, comparison="pair").sum().backward()
    assert scores.grad.abs().max() < 1e-7


@pytest.mark.parametrize("margin", [-3.0, 0.0, 2.0])
def test_mmpo_with_a_huge_gamma_is_dpo(margin):
    scores, targets = pair_scores(margin), pair_targets(1.0)
    torch.testing.assert_close(
        mmpo_loss(scores, targets, gamma=1e6, comparison="pair"), dpo_loss(scores, targets)
    )


@pytest.mark.parametrize("margin", [-3.0, 0.0, 2.0])
def test_mmpo_with_gamma_zero_pulls_to_the_reference_and_is_not_dpo(margin):
    """The published code falls through to p = 1 here; p is 1/2: -(log sigma(d) + log sigma(-d)) /
    2."""
    loss = mmpo_loss(pair_scores(margin), pair_targets(1.0), gamma=0.0, comparison="pair")
    assert loss.item() == pytest.approx(
        -(math.log(sigma(margin)) + math.log(sigma(-margin))) / 2, rel=1e-6
    )


@pytest.mark.parametrize(
    "loss",
    [mmpo_reward_loss, lambda *given, gamma: mmpo_loss(*given, gamma=gamma, comparison="pair")],
    ids=["reward head", "policy"],
)
def test_each_pair_of_mmpo_sees_its_own_target_and_not_the_mean_of_the_batch(loss):
    """The published reward-model loss broadcasts targets (B, 1) with margins (B,) to (B, B).

    Prompt by prompt, p is 0.9 and 0.1 at equal margins, so the gradients differ; the broadcast form
    gives both the mean 1/2.
    """
    logit = math.log(9)
    scores = torch.zeros(2, 2, requires_grad=True)
    targets = Targets(
        torch.tensor([[logit, 0.0], [-logit, 0.0]]),
        torch.tensor([[True, False]] * 2),
        ONE_PAIR.expand(2, 2),
    )
    losses = loss(scores, targets, gamma=1.0)
    assert losses.shape == (2,)
    losses.sum().backward()
    assert scores.grad[:, 0].tolist() == [pytest.approx(0.5 - 0.9), pytest.approx(0.5 - 0.1)]


@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.2])
def test_infonca_on_two_responses_with_target_softmax_of_gamma_q_is_mmpo(gamma):
    scores, targets = pair_scores(0.8), pair_targets(1.7)
    pair = mmpo_loss(scores, targets, gamma=gamma, comparison="pair")
    torch.testing.assert_close(mmpo_loss(scores, targets, gamma=gamma, comparison="group"), pair)
    if gamma > 0:
        torch.testing.assert_close(infonca_loss(scores, targets, alpha=1 / gamma), pair)


def test_infonca_is_the_entropy_of_its_target_where_scores_equal_rewards_over_alpha():
    rewards = torch.tensor([[1.0, 3.0, -2.0, 0.5]])
    targets = Targets(
        rewards, torch.zeros_like(rewards, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    )
    scores = (rewards / 0.5 + 7).requires_grad_()
    loss = infonca_loss(scores, targets, alpha=0.5)
    shares = [math.exp(r / 0.5) for r in rewards[0].tolist()]
    shares = [share / sum(shares) for share in shares]
    assert loss.item() == pytest.approx(-sum(p * math.log(p) for p in shares), rel=1e-5)
    loss.sum().backward()
    assert scores.grad.abs().max() < 1e-6


def test_infonca_with_equal_rewards_pulls_to_equal_scores():
    targets = Targets(
        torch.full((1, 3), 4.0),
        torch.zeros(1, 3, dtype=torch.bool),
        torch.ones(1, 3, dtype=torch.bool),
    )
    assert infonca_loss(torch.zeros(1, 3), targets, alpha=1.0).item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("margin", [-2.0, 0.0, 5.0])
def test_ampo_with_one_negative_is_simpo_with_margin_log_gamma(gamma, margin):
    ours = ampo_loss(
        pair_scores(margin), pair_targets(), alpha=0.0, gamma=gamma, deviation="signed"
    )
    torch.testing.assert_close(
        ours, simpo_loss(pair_scores(margin), pair_targets(), gamma=math.log(gamma))
    )


def test_ampo_gradient_is_the_softmax_minus_one_on_the_positive():
    """At gamma = 1, alpha = 0 and one positive: p_+ - 1 on the positive, p_j on each negative."""
    scores = torch.tensor([[0.4, 1.0, -0.5, 2.0]], requires_grad=True)
    targets = Targets(
        torch.zeros(1, 4),
        torch.tensor([[True, False, False, False]]),
        torch.ones(1, 4, dtype=torch.bool),
    )
    ampo_loss(scores, targets, alpha=0.0, gamma=1.0, deviation="signed").sum().backward()
    weights = [math.exp(s) for s in (0.4, 1.0, -0.5, 2.0)]
    p = [weight / sum(weights) for weight in weights]
    assert scores.grad.tolist() == [
        [pytest.approx(g, abs=1e-6) for g in (p[0] - 1, p[1], p[2], p[3])]
    ]


@pytest.mark.parametrize("deviation", ["signed", "absolute"])
def test_ampo_equals_the_formula_of_the_paper_written_out(deviation):
    scores, rewards, gamma, alpha = [0.4, 1.0, -0.5, 2.0], [3.0, 2.5, -1.0, 0.5], 3.0, 0.7
    mean = sum(rewards) / 4
    away = [abs(r - mean) if deviation == "absolute" else r - mean for r in rewards]
    e = [math.exp(s + alpha * d) for s, d in zip(scores, away, strict=True)]
    expected = -math.log((e[0] + e[1]) / (e[0] + e[1] + gamma * (e[2] + e[3])))
    targets = Targets(
        torch.tensor([rewards]),
        torch.tensor([[True, True, False, False]]),
        torch.ones(1, 4, dtype=torch.bool),
    )
    ours = ampo_loss(torch.tensor([scores]), targets, alpha=alpha, gamma=gamma, deviation=deviation)
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_swepo_contrasts_those_above_the_mean_reward_with_the_rest():
    scores, rewards, alpha = [0.4, 1.0, -0.5, 2.0], [3.0, 2.5, -1.0, 0.5], 0.3
    mean = sum(rewards) / 4
    e = [math.exp(s + alpha * (r - mean)) for s, r in zip(scores, rewards, strict=True)]
    above = sum(weight for weight, r in zip(e, rewards, strict=True) if r > mean)
    targets = Targets(
        torch.tensor([rewards]),
        torch.tensor([[False, False, False, True]]),
        torch.ones(1, 4, dtype=torch.bool),
    )
    ours = swepo_loss(torch.tensor([scores]), targets, alpha=alpha, deviation="signed")
    assert ours.item() == pytest.approx(-math.log(above / sum(e)), rel=1e-5)


def test_a_very_bad_negative_weighs_less_signed_and_more_absolute():
    """Deviation of the last response is negative, so its weight in the denominator falls or rises
    with alpha."""
    targets = Targets(
        torch.tensor([[2.0, 1.0, -9.0]]),
        torch.tensor([[True, False, False]]),
        torch.ones(1, 3, dtype=torch.bool),
    )
    shares = {}
    for deviation in ("signed", "absolute"):
        scores = torch.zeros(1, 3, requires_grad=True)
        ampo_loss(scores, targets, alpha=0.5, gamma=1.0, deviation=deviation).sum().backward()
        shares[deviation] = scores.grad[0, 2].item()
    plain = torch.zeros(1, 3, requires_grad=True)
    ampo_loss(plain, targets, alpha=0.0, gamma=1.0, deviation="signed").sum().backward()
    assert shares["signed"] < plain.grad[0, 2].item() < shares["absolute"]


def test_dpo_of_a_group_is_the_mean_over_its_pairs():
    scores = torch.tensor([[1.0, 0.0, -2.0]])
    targets = Targets(
        torch.zeros(1, 3), torch.tensor([[True, False, False]]), torch.ones(1, 3, dtype=torch.bool)
    )
    expected = -(math.log(sigma(1 - 0)) + math.log(sigma(1 + 2))) / 2
    assert dpo_loss(scores, targets).item() == pytest.approx(expected, rel=1e-6)


def test_dpo_starts_at_log_two():
    assert dpo_loss(pair_scores(0.0), pair_targets()).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("margin", [-1.0, 0.5, 3.0])
def test_simpo_is_dpo_shifted_by_its_margin(margin):
    loss = simpo_loss(pair_scores(margin), pair_targets(), gamma=1.375)
    assert loss.item() == pytest.approx(-math.log(sigma(margin - 1.375)), rel=1e-5)


# --- group losses
# ----------------------------------------------------------------------------------------------


def test_refa_without_its_charge_is_ampo_to_the_last_bit():
    groups, knobs = make_groups(), {"alpha": 0.7, "gamma": 3.0, "deviation": "signed"}
    responses = ResponseLogps(groups.scores, groups.n_tokens, groups.end_probs)
    plain = ampo_loss(groups.scores, groups.targets, **knobs)
    assert refa_loss(groups.scores, groups.targets, responses, eos_weight=0.0, **knobs).equal(plain)


def test_refa_charges_for_each_missing_token_by_the_probability_of_the_end():
    """Lengths 4, 10, 7 and ends at 0.5, 0.9, cut off: 0.5 * 6 + 0.9 * 0 + 0 * 3 tokens."""
    scores = torch.zeros(1, 3)
    targets = Targets(
        scores, torch.tensor([[True, False, False]]), torch.ones(1, 3, dtype=torch.bool)
    )
    ends = torch.tensor([[0.5, 0.9, 0.0]], requires_grad=True)
    knobs = {"alpha": 0.0, "gamma": 1.0, "deviation": "signed"}
    loss = refa_loss(
        scores,
        targets,
        ResponseLogps(scores, torch.tensor([[4, 10, 7]]), ends),
        eos_weight=0.01,
        **knobs,
    )
    assert loss.item() == pytest.approx(math.log(3) + 0.01 * 0.5 * 6)
    loss.sum().backward()
    assert ends.grad.tolist() == [[pytest.approx(0.06), 0, pytest.approx(0.03)]]


def test_refa_does_not_guess_how_responses_ended():
    scores = torch.zeros(1, 2)
    with pytest.raises(UsageError, match="refa needs the probability that each response ends"):
        refa_loss(
            scores,
            pair_targets(),
            ResponseLogps(scores, torch.tensor([[4, 10]])),
            alpha=0.0,
            gamma=1.0,
            deviation="signed",
            eos_weight=0.01,
        )


def test_nca_is_least_where_each_score_is_the_log_of_its_share_times_the_number_of_responses():
    rewards = torch.tensor([[1.0, 3.0, -2.0, 0.5]], dtype=torch.float64)
    targets = Targets(
        rewards, torch.zeros(1, 4, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    )
    scores = (4 * torch.softmax(rewards / 0.5, -1)).log().requires_grad_()
    nca_loss(scores, targets, alpha=0.5).sum().backward()
    assert scores.grad.abs().max() < 1e-12


@pytest.mark.parametrize("eta", [0.3, 1.0, 5.0])
def test_ddo_has_the_gradient_of_the_log_of_the_mean_of_exp_reward_over_eta(eta):
    """Its target is held fixed, and the gradient is that of ``-log E_pi exp(r / eta)``."""
    groups = make_groups()
    scores = groups.scores.clone().requires_grad_()
    log_policy = scores.masked_fill(~groups.mask, -1e9).log_softmax(-1)
    value = -(log_policy + groups.rewards / eta).masked_fill(~groups.mask, -1e9).logsumexp(-1)
    value.sum().backward()

    ours = groups.scores.clone().requires_grad_()
    ddo_loss(ours, groups.targets, eta=eta).sum().backward()
    torch.testing.assert_close(ours.grad, scores.grad, rtol=1e-9, atol=1e-12)


def test_ddo_with_a_large_eta_is_a_policy_gradient_and_with_a_small_one_fine_tuning_on_the_best():
    groups = make_groups().prompts(slice(0, 1))
    pi = groups.scores.softmax(-1)
    advantages = groups.rewards - (pi * groups.rewards).sum(-1, keepdim=True)
    for eta, expected in (
        (1e4, -pi * advantages / 1e4),
        (1e-4, pi - torch.nn.functional.one_hot(groups.rewards.argmax(-1), 5)),
    ):
        scores = groups.scores.clone().requires_grad_()
        ddo_loss(scores, groups.targets, eta=eta).sum().backward()
        torch.testing.assert_close(scores.grad, expected, rtol=1e-3, atol=1e-12)


def test_ddo_has_nothing_to_do_where_rewards_are_equal_or_the_best_has_all():
    groups = make_groups()
    equal = groups.targets._replace(rewards=torch.full_like(groups.rewards, 3.0))
    assert ddo_loss(groups.scores, equal, eta=1.0).abs().max() < 1e-15
    certain = 1e3 * torch.nn.functional.one_hot(
        groups.rewards.masked_fill(~groups.mask, -1e9).argmax(-1), 5
    )
    assert ddo_loss(certain.double(), groups.targets, eta=1.0).abs().max() < 1e-12


def test_ddo_is_infonca_less_its_entropy_where_the_policy_is_uniform():
    groups = make_groups()
    level = torch.zeros_like(groups.scores)
    target = (groups.rewards / 0.7).masked_fill(~groups.mask, -1e9).softmax(-1)
    entropy = -(target * target.clamp(min=1e-300).log()).sum(-1)
    expected = infonca_loss(level, groups.targets, alpha=0.7) - entropy
    torch.testing.assert_close(ddo_loss(level, groups.targets, eta=0.7), expected)


def test_plackett_luce_on_two_responses_is_dpo():
    scores, targets = pair_scores(0.8), pair_targets(0.1)
    torch.testing.assert_close(plackett_luce_loss(scores, targets), dpo_loss(scores, targets))


def test_plackett_luce_reads_the_order_of_the_rewards_and_not_their_distances():
    groups = make_groups()
    stretched = groups._replace(rewards=groups.rewards**3)
    assert losses_of("plackett-luce", stretched).equal(losses_of("plackett-luce", groups))


@pytest.mark.parametrize("first", [0, 1])
def test_tied_responses_are_drawn_from_each_other_too_and_pull_to_equal_scores(first):
    """Breslow: -log( e^a / (e^a + e^b + e^c) ) - log( e^b / (e^a + e^b + e^c) ), a and b tied above
    c."""
    a, b, c = 0.3, -0.4, 1.0
    scores = torch.tensor([[a, b, c] if first == 0 else [b, a, c]], requires_grad=True)
    rewards = torch.tensor([[2.0, 2.0, -1.0]])
    targets = Targets(rewards, rewards > 9, torch.ones(1, 3, dtype=torch.bool))
    loss = plackett_luce_loss(scores, targets)
    assert loss.item() == pytest.approx(
        2 * math.log(math.exp(a) + math.exp(b) + math.exp(c)) - a - b, rel=1e-6
    )
    loss.sum().backward()
    gradient = scores.grad[0].tolist()
    assert gradient[first] > gradient[1 - first]  # the one that is ahead is pushed up less


# Pairs.


@pytest.mark.parametrize("margin", [-2.0, 0.0, 5.0])
@pytest.mark.parametrize("loss", [cdpo_loss, rdpo_loss])
def test_without_wrong_labels_cdpo_and_rdpo_are_dpo(loss, margin):
    scores, targets = pair_scores(margin), pair_targets()
    torch.testing.assert_close(loss(scores, targets, eps=0.0), dpo_loss(scores, targets))


def test_cdpo_is_mmpo_with_the_same_probability_for_every_pair():
    groups = make_groups()
    rewards = math.log(0.9 / 0.1) * groups.positives
    soft = mmpo_loss(
        groups.scores, groups.targets._replace(rewards=rewards), gamma=1.0, comparison="pair"
    )
    torch.testing.assert_close(cdpo_loss(groups.scores, groups.targets, eps=0.1), soft)


@pytest.mark.parametrize("margin", [-2.0, 0.3, 5.0])
def test_the_mean_of_rdpo_over_flipped_labels_is_dpo_on_right_ones(margin):
    right, flipped = (
        rdpo_loss(pair_scores(d), pair_targets(), eps=0.2).item() for d in (margin, -margin)
    )
    expected = dpo_loss(pair_scores(margin), pair_targets()).item()
    assert 0.8 * right + 0.2 * flipped == pytest.approx(expected, rel=1e-5)


def test_ipo_is_zero_and_flat_at_its_margin():
    scores = pair_scores(1 / (2 * 0.25))
    loss = ipo_loss(scores, pair_targets(), tau=0.25)
    loss.sum().backward()
    assert loss.item() == 0
    assert scores.grad.abs().max() == 0


@pytest.mark.parametrize("margin", [1.0, 1.5, 40.0])
def test_hinge_leaves_pairs_alone_that_are_won_by_one(margin):
    scores = pair_scores(margin)
    loss = hinge_loss(scores, pair_targets())
    loss.sum().backward()
    assert loss.item() == 0
    assert scores.grad.abs().max() == 0


def test_orpo_without_its_odds_is_fine_tuning_on_the_positive():
    scores = torch.tensor([[-0.7, -1.3]], requires_grad=True)
    loss = orpo_loss(scores, pair_targets(), weight=0.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.7)
    assert scores.grad.tolist() == [[-1, 0]]


@pytest.mark.parametrize("log_p", [-1e-9, -1e-4, -0.5, -30.0, -700.0])
def test_the_odds_of_orpo_are_exact_at_both_ends(log_p):
    """log(P / (1 - P)) = -log(e^{-log P} - 1), against decimals of 400 digits."""
    getcontext().prec = 400
    log_odds = float(-((-Decimal(log_p)).exp() - 1).ln())
    scores = torch.tensor(
        [[log_p, math.log(0.5)]], dtype=torch.float64, requires_grad=True
    )  # the odds of 0.5 are 1
    loss = orpo_loss(scores, pair_targets(), weight=1.0)
    assert loss.item() == pytest.approx(
        -log_p + math.log1p(math.exp(-log_odds)) if log_odds > -600 else -log_p - log_odds, rel=1e-9
    )
    loss.sum().backward()
    assert torch.isfinite(scores.grad).all()


def test_a_certain_response_under_orpo_has_a_finite_loss_and_gradient():
    scores = torch.zeros(1, 2, requires_grad=True)
    loss = orpo_loss(scores, pair_targets(), weight=1.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(scores.grad).all()


# --- graded pairs
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [0.1, 1.0, 7.0])
def test_odpo_without_its_offset_is_dpo(quality):
    scores, targets = pair_scores(0.4), pair_targets(quality)
    torch.testing.assert_close(odpo_loss(scores, targets, alpha=0.0), dpo_loss(scores, targets))


@pytest.mark.parametrize("gap", [0.0, -1.0, float("-1e30")])
def test_odpo_of_a_gap_that_has_no_logarithm_is_zero_with_gradient_zero(gap):
    """Training refuses such pairs before the first step; the formula itself must not make a NaN of
    them."""
    scores = pair_scores(0.4)
    loss = odpo_loss(scores, pair_targets(gap), alpha=1.0)
    loss.sum().backward()
    assert loss.tolist() == [0]
    assert scores.grad.tolist() == [[0, 0]]


def test_odpo_of_a_shrinking_gap_goes_to_zero():
    losses = [
        odpo_loss(pair_scores(0.4), pair_targets(gap), alpha=1.0).item()
        for gap in (1.0, 1e-2, 1e-6)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-6


@pytest.mark.parametrize("form", ["squared", "forward-kl"])
def test_rpo_is_zero_and_flat_where_the_score_margin_is_eta_times_the_reward_margin(form):
    scores = pair_scores(0.7 * 2.0)
    loss = rpo_loss(scores, pair_targets(2.0), eta=0.7, form=form)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert scores.grad.abs().max() < 1e-6


@pytest.mark.parametrize("margin", [-2.0, 0.0, 1.0, 4.0])
def test_the_forward_form_of_rpo_has_the_gradient_of_its_docstring(margin):
    scores = pair_scores(margin)
    rpo_loss(scores, pair_targets(2.0), eta=0.7, form="forward-kl").sum().backward()
    assert scores.grad[0, 0].item() == pytest.approx(
        sigma(margin) * sigma(-margin) * (margin - 1.4), abs=1e-6
    )


@pytest.mark.parametrize("margin", [-2.0, 0.0, 1.0, 4.0])
def test_the_backward_form_of_rpo_is_mmpo_less_the_entropy_of_its_target(margin):
    p, q = sigma(0.7 * 2.0), sigma(margin)
    backward = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    loss = mmpo_loss(pair_scores(margin), pair_targets(2.0), gamma=0.7, comparison="pair")
    assert loss.item() - entropy == pytest.approx(backward, abs=1e-6)


# --- reward heads
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [-3.0, 0.0, 2.0])
def test_on_a_reward_head_a_huge_gamma_is_bradley_terry_and_gamma_zero_is_one_half(margin):
    scores, targets = pair_scores(margin), pair_targets(1.0)
    torch.testing.assert_close(
        mmpo_reward_loss(scores, targets, gamma=1e6), bt_loss(scores, targets)
    )
    half = -(math.log(sigma(margin)) + math.log(sigma(-margin))) / 2
    assert mmpo_reward_loss(scores, targets, gamma=0.0).item() == pytest.approx(half, rel=1e-6)


def test_a_margin_of_zero_is_bradley_terry_and_a_rating_more_asks_for_gamma_more():
    scores = pair_scores(0.4)
    torch.testing.assert_close(
        bt_margin_loss(scores, pair_targets(3.0), gamma=0.0), bt_loss(scores, pair_targets())
    )
    expected = -math.log(sigma(0.4 - 3 / 3))
    assert bt_margin_loss(scores, pair_targets(3.0), gamma=1 / 3).item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("variant", ["bt", "bt-margin", "mmpo-reward"])
def test_pairs_of_a_reward_head_do_not_see_each_other(variant):
    """(B, B) broadcasting would give every pair a gradient from every other: here each pair's is
    what it is alone."""
    groups = make_groups(n_prompts=4, n_responses=3)
    together = gradient_of(variant, groups)
    alone = torch.cat([gradient_of(variant, groups.prompts(slice(p, p + 1))) for p in range(4)])
    assert together.shape == groups.scores.shape
    torch.testing.assert_close(together, alone)
