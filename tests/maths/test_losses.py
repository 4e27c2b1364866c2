"""The losses: what holds for all of them, then the facts of each, against formulas written independently."""

import math

import pytest
import torch

from prefpipe.maths.losses import (
    Targets,
    ampo_loss,
    dpo_loss,
    infonca_loss,
    mmpo_loss,
    simpo_loss,
    swepo_loss,
)
from prefpipe.maths.objectives import OBJECTIVES, group_losses, resolve_knobs

VARIANTS = {
    "ampo": {},
    "ampo-alpha": {"alpha": 0.7},
    "ampo-absolute": {"alpha": 0.7, "deviation": "absolute"},
    "mmpo": {},
    "mmpo-group": {"comparison": "group"},
    "mmpo-zero": {"gamma": 0.0},
    "dpo": {},
    "simpo": {},
    "swepo": {},
    "swepo-absolute": {"deviation": "absolute"},
    "infonca": {},
}
ALL = pytest.mark.parametrize("variant", VARIANTS)


def losses_of(variant, scores, targets):
    name = variant.split("-")[0]
    return group_losses(name, scores, targets, resolve_knobs(name, VARIANTS[variant]))


def make_groups(n_prompts=6, n_responses=5, seed=0, scale=1.0):
    """Random scores and rewards; one or two positives, at least one negative, some padding at the end of a row."""
    generator = torch.Generator().manual_seed(seed)
    scores = scale * torch.randn(n_prompts, n_responses, generator=generator, dtype=torch.float64)
    rewards = scale * torch.randn(n_prompts, n_responses, generator=generator, dtype=torch.float64)
    mask = torch.ones(n_prompts, n_responses, dtype=torch.bool)
    for p in range(n_prompts):
        mask[p, n_responses - p % 3 :] = False
    positives = torch.zeros_like(mask)
    positives[:, 0] = True
    positives[::2, 1] = True
    return scores, Targets(rewards, positives, mask)


def gradient_of(variant, scores, targets):
    scores = scores.clone().requires_grad_()
    losses_of(variant, scores, targets).sum().backward()
    return scores.grad


def test_every_objective_of_the_table_is_in_these_property_tests():
    assert {variant.split("-")[0] for variant in VARIANTS} == set(OBJECTIVES)


@ALL
def test_a_loss_is_one_number_a_prompt(variant):
    scores, targets = make_groups()
    assert losses_of(variant, scores, targets).shape == (6,)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_values_and_gradients_are_finite_at_1e4(variant, dtype, signs):
    scores = torch.tensor([[1e4, -1e4, 0.0, 1e4]], dtype=dtype) * signs[0]
    rewards = torch.tensor([[1e4, -1e4, 1e4, 0.0]], dtype=dtype) * signs[1]
    targets = Targets(rewards, torch.tensor([[True, False, False, False]]), torch.ones(1, 4, dtype=torch.bool))
    assert torch.isfinite(losses_of(variant, scores, targets)).all()
    assert torch.isfinite(gradient_of(variant, scores, targets)).all()


@ALL
@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), -float("inf"), 1e4])
def test_a_masked_response_is_as_good_as_removed(variant, rubbish):
    scores, targets = make_groups()
    short = Targets(targets.rewards[2:3, :3], targets.positives[2:3, :3], targets.mask[2:3, :3])
    padded_scores, padded_rewards = scores[2:3].clone(), targets.rewards[2:3].clone()
    padded_scores[0, 3:] = rubbish
    padded_rewards[0, 3:] = rubbish
    padded = Targets(padded_rewards, targets.positives[2:3], targets.mask[2:3])
    torch.testing.assert_close(losses_of(variant, padded_scores, padded), losses_of(variant, scores[2:3, :3], short))
    gradient = gradient_of(variant, padded_scores, padded)
    torch.testing.assert_close(gradient[:, :3], gradient_of(variant, scores[2:3, :3], short))
    assert (gradient[:, 3:] == 0).all()


@ALL
def test_the_order_of_responses_is_immaterial(variant):
    scores, targets = make_groups()
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted = Targets(*(values[:, order] for values in targets[:3]))
    torch.testing.assert_close(losses_of(variant, scores[:, order], permuted), losses_of(variant, scores, targets))
    torch.testing.assert_close(gradient_of(variant, scores[:, order], permuted), gradient_of(variant, scores, targets)[:, order])


@ALL
def test_prompts_do_not_see_each_other(variant):
    scores, targets = make_groups()
    alone = [losses_of(variant, scores[p : p + 1], Targets(*(values[p : p + 1] for values in targets[:3]))) for p in range(6)]
    torch.testing.assert_close(losses_of(variant, scores, targets), torch.cat(alone))


@ALL
def test_a_constant_added_to_all_scores_changes_nothing(variant):
    scores, targets = make_groups()
    torch.testing.assert_close(losses_of(variant, scores + 3.25, targets), losses_of(variant, scores, targets))
    torch.testing.assert_close(gradient_of(variant, scores, targets).sum(-1), torch.zeros(6, dtype=torch.float64))


@ALL
def test_a_constant_added_to_all_rewards_changes_nothing(variant):
    scores, targets = make_groups()
    shifted = targets._replace(rewards=targets.rewards + 100.0)
    torch.testing.assert_close(losses_of(variant, scores, shifted), losses_of(variant, scores, targets))


@ALL
@pytest.mark.parametrize("mask", [[False, False, False], [True, False, False]], ids=["no response", "a single one"])
def test_a_prompt_without_a_comparison_has_loss_and_gradient_zero(variant, mask):
    scores = torch.tensor([[2.0, 5.0, -1.0]])
    targets = Targets(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[True, False, False]]), torch.tensor([mask]))
    assert losses_of(variant, scores, targets).tolist() == [0]
    assert gradient_of(variant, scores, targets).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("variant", ["ampo", "mmpo", "dpo", "simpo"])
@pytest.mark.parametrize("positives", [[True, True], [False, False]], ids=["no negative", "no positive"])
def test_objectives_that_read_roles_need_both(variant, positives):
    targets = Targets(torch.tensor([[1.0, 2.0]]), torch.tensor([positives]), torch.ones(1, 2, dtype=torch.bool))
    assert losses_of(variant, torch.tensor([[2.0, 5.0]]), targets).tolist() == [0]
    assert gradient_of(variant, torch.tensor([[2.0, 5.0]]), targets).tolist() == [[0, 0]]


@pytest.mark.parametrize("variant", ["swepo", "infonca", "mmpo-group"])
def test_objectives_that_split_by_reward_do_not_read_roles(variant):
    scores, targets = make_groups()
    swapped = targets._replace(positives=~targets.positives)
    assert losses_of(variant, scores, swapped).equal(losses_of(variant, scores, targets))


@ALL
def test_gradients_equal_finite_differences(variant):
    scores, targets = make_groups(n_prompts=3)
    assert torch.autograd.gradcheck(lambda values: losses_of(variant, values, targets), scores.requires_grad_())


# --- facts of each objective -----------------------------------------------------------------------------------

ONE_PAIR = torch.ones(1, 2, dtype=torch.bool)


def pair_targets(quality_margin=1.0):
    return Targets(torch.tensor([[quality_margin, 0.0]]), torch.tensor([[True, False]]), ONE_PAIR)


def pair_scores(margin):
    return torch.tensor([[margin, 0.0]], requires_grad=True)


def sigma(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("margin", [-2.0, 0.0, 0.3, 4.0])
@pytest.mark.parametrize(("quality", "gamma"), [(1.0, 1.1), (3.0, 0.4), (-1.0, 1.0), (0.0, 2.0), (2.0, 0.0)])
def test_mmpo_gradient_in_the_margin_is_sigma_minus_p(margin, quality, gamma):
    """d loss / d d = sigma(d) - sigma(gamma * (q_w - q_l)); a zero margin or gamma = 0 has p = 1/2."""
    scores = pair_scores(margin)
    mmpo_loss(scores, pair_targets(quality), gamma=gamma, comparison="pair").sum().backward()
    expected = sigma(margin) - sigma(gamma * quality)
    assert scores.grad.tolist() == [[pytest.approx(expected, abs=1e-6), pytest.approx(-expected, abs=1e-6)]]


def test_mmpo_is_least_where_the_score_margin_is_gamma_times_the_quality_margin():
    scores = pair_scores(0.7 * 2.0)
    mmpo_loss(scores, pair_targets(2.0), gamma=0.7, comparison="pair").sum().backward()
    assert scores.grad.abs().max() < 1e-7


@pytest.mark.parametrize("margin", [-3.0, 0.0, 2.0])
def test_mmpo_with_a_huge_gamma_is_dpo(margin):
    scores, targets = pair_scores(margin), pair_targets(1.0)
    torch.testing.assert_close(mmpo_loss(scores, targets, gamma=1e6, comparison="pair"), dpo_loss(scores, targets))


@pytest.mark.parametrize("margin", [-3.0, 0.0, 2.0])
def test_mmpo_with_gamma_zero_pulls_to_the_reference_and_is_not_dpo(margin):
    """The published code falls through to p = 1 here; p is 1/2: -(log sigma(d) + log sigma(-d)) / 2."""
    loss = mmpo_loss(pair_scores(margin), pair_targets(1.0), gamma=0.0, comparison="pair")
    assert loss.item() == pytest.approx(-(math.log(sigma(margin)) + math.log(sigma(-margin))) / 2, rel=1e-6)


def test_each_pair_of_mmpo_sees_its_own_target_and_not_the_mean_of_the_batch():
    """The published reward-model loss broadcasts targets (B, 1) with margins (B,) to (B, B).

    Prompt by prompt, p is 0.9 and 0.1 at equal margins, so the gradients differ; the broadcast form gives both the mean 1/2.
    """
    logit = math.log(9)
    scores = torch.zeros(2, 2, requires_grad=True)
    targets = Targets(torch.tensor([[logit, 0.0], [-logit, 0.0]]), torch.tensor([[True, False]] * 2), ONE_PAIR.expand(2, 2))
    losses = mmpo_loss(scores, targets, gamma=1.0, comparison="pair")
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
    targets = Targets(rewards, torch.zeros_like(rewards, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool))
    scores = (rewards / 0.5 + 7).requires_grad_()
    loss = infonca_loss(scores, targets, alpha=0.5)
    shares = [math.exp(r / 0.5) for r in rewards[0].tolist()]
    shares = [share / sum(shares) for share in shares]
    assert loss.item() == pytest.approx(-sum(p * math.log(p) for p in shares), rel=1e-5)
    loss.sum().backward()
    assert scores.grad.abs().max() < 1e-6


def test_infonca_with_equal_rewards_pulls_to_equal_scores():
    targets = Targets(torch.full((1, 3), 4.0), torch.zeros(1, 3, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool))
    assert infonca_loss(torch.zeros(1, 3), targets, alpha=1.0).item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("margin", [-2.0, 0.0, 5.0])
def test_ampo_with_one_negative_is_simpo_with_margin_log_gamma(gamma, margin):
    ours = ampo_loss(pair_scores(margin), pair_targets(), alpha=0.0, gamma=gamma, deviation="signed")
    torch.testing.assert_close(ours, simpo_loss(pair_scores(margin), pair_targets(), gamma=math.log(gamma)))


def test_ampo_gradient_is_the_softmax_minus_one_on_the_positive():
    """At gamma = 1, alpha = 0 and one positive: p_+ - 1 on the positive, p_j on each negative."""
    scores = torch.tensor([[0.4, 1.0, -0.5, 2.0]], requires_grad=True)
    targets = Targets(torch.zeros(1, 4), torch.tensor([[True, False, False, False]]), torch.ones(1, 4, dtype=torch.bool))
    ampo_loss(scores, targets, alpha=0.0, gamma=1.0, deviation="signed").sum().backward()
    weights = [math.exp(s) for s in (0.4, 1.0, -0.5, 2.0)]
    p = [weight / sum(weights) for weight in weights]
    assert scores.grad.tolist() == [[pytest.approx(g, abs=1e-6) for g in (p[0] - 1, p[1], p[2], p[3])]]


@pytest.mark.parametrize("deviation", ["signed", "absolute"])
def test_ampo_equals_the_formula_of_the_paper_written_out(deviation):
    scores, rewards, gamma, alpha = [0.4, 1.0, -0.5, 2.0], [3.0, 2.5, -1.0, 0.5], 3.0, 0.7
    mean = sum(rewards) / 4
    away = [abs(r - mean) if deviation == "absolute" else r - mean for r in rewards]
    e = [math.exp(s + alpha * d) for s, d in zip(scores, away, strict=True)]
    expected = -math.log((e[0] + e[1]) / (e[0] + e[1] + gamma * (e[2] + e[3])))
    targets = Targets(torch.tensor([rewards]), torch.tensor([[True, True, False, False]]), torch.ones(1, 4, dtype=torch.bool))
    ours = ampo_loss(torch.tensor([scores]), targets, alpha=alpha, gamma=gamma, deviation=deviation)
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_swepo_contrasts_those_above_the_mean_reward_with_the_rest():
    scores, rewards, alpha = [0.4, 1.0, -0.5, 2.0], [3.0, 2.5, -1.0, 0.5], 0.3
    mean = sum(rewards) / 4
    e = [math.exp(s + alpha * (r - mean)) for s, r in zip(scores, rewards, strict=True)]
    above = sum(weight for weight, r in zip(e, rewards, strict=True) if r > mean)
    targets = Targets(torch.tensor([rewards]), torch.tensor([[False, False, False, True]]), torch.ones(1, 4, dtype=torch.bool))
    ours = swepo_loss(torch.tensor([scores]), targets, alpha=alpha, deviation="signed")
    assert ours.item() == pytest.approx(-math.log(above / sum(e)), rel=1e-5)


def test_a_very_bad_negative_weighs_less_signed_and_more_absolute():
    """Deviation of the last response is negative, so its weight in the denominator falls or rises with alpha."""
    targets = Targets(torch.tensor([[2.0, 1.0, -9.0]]), torch.tensor([[True, False, False]]), torch.ones(1, 3, dtype=torch.bool))
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
    targets = Targets(torch.zeros(1, 3), torch.tensor([[True, False, False]]), torch.ones(1, 3, dtype=torch.bool))
    expected = -(math.log(sigma(1 - 0)) + math.log(sigma(1 + 2))) / 2
    assert dpo_loss(scores, targets).item() == pytest.approx(expected, rel=1e-6)


def test_dpo_starts_at_log_two():
    assert dpo_loss(pair_scores(0.0), pair_targets()).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("margin", [-1.0, 0.5, 3.0])
def test_simpo_is_dpo_shifted_by_its_margin(margin):
    loss = simpo_loss(pair_scores(margin), pair_targets(), gamma=1.375)
    assert loss.item() == pytest.approx(-math.log(sigma(margin - 1.375)), rel=1e-5)


@pytest.mark.parametrize("variant", ["ampo", "dpo", "simpo"])
def test_loss_falls_as_the_positive_rises(variant):
    losses = [losses_of(variant, pair_scores(margin), pair_targets()).item() for margin in (-2.0, 0.0, 1.0, 5.0)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("variant", ["mmpo", "dpo", "simpo"])
def test_named_pairs_replace_the_roles(variant):
    """The mean over the named pairs alone, each as a group of two would give it; a pair with a masked response does not exist."""
    scores = torch.tensor([[0.3, -1.0, 2.0, 7.0]], dtype=torch.float64)
    rewards = torch.tensor([[3.0, 1.0, 2.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False]])
    pairs = torch.zeros(1, 4, 4, dtype=torch.bool)
    for chosen, rejected in ((0, 2), (2, 1), (0, 3)):
        pairs[0, chosen, rejected] = True
    targets = Targets(rewards, torch.tensor([[True, False, False, False]]), mask, pairs)

    def alone(chosen, rejected):
        both = [chosen, rejected]
        two = Targets(rewards[:, both], torch.tensor([[True, False]]), torch.ones(1, 2, dtype=torch.bool))
        return losses_of(variant, scores[:, both], two)

    torch.testing.assert_close(losses_of(variant, scores, targets), (alone(0, 2) + alone(2, 1)) / 2)
    none = targets._replace(pairs=torch.zeros_like(pairs))
    assert losses_of(variant, scores, none).tolist() == [0]
