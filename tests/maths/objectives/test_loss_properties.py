"""What holds for every loss of the table, or is declared there: each property over each objective
and variant."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.loss_groups import (
    VARIANTS,
    Groups,
    comparison_of,
    gradient_of,
    losses_of,
    make_groups,
    reads_roles,
    row_of,
)

from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.registry import ALL_OBJECTIVES, resolve_knobs
from prefpipe.maths.objectives.scores import group_losses

ALL = pytest.mark.parametrize("variant", VARIANTS)
COMPARING = [variant for variant in VARIANTS if row_of(variant).compares]
PAIRWISE = [variant for variant in VARIANTS if comparison_of(variant) == "pair"]
NUMBERS = st.floats(-30, 30)
REWARDS = st.one_of(
    st.integers(0, 3).map(float), st.floats(-5, 5)
)  # ratings tie often, reward models never
examples = settings(max_examples=25, deadline=None)


@st.composite
def any_groups(draw, min_responses=1, max_prompts=2):
    """Groups of any shape, roles and padding; sometimes with named pairs."""
    shape = draw(st.integers(1, max_prompts)), draw(st.integers(min_responses, 5))

    def array(elements, dtype):
        rows = [[draw(elements) for _ in range(shape[1])] for _ in range(shape[0])]
        return torch.tensor(rows, dtype=dtype)

    def booleans():
        return array(st.booleans(), torch.bool)

    pairs = None
    if draw(st.booleans()):
        pairs = torch.stack([booleans() for _ in range(shape[1])], 1)
    return Groups(
        array(NUMBERS, torch.float64),
        array(REWARDS, torch.float64),
        booleans(),
        array(st.integers(0, 3), torch.long) > 0,
        array(st.integers(1, 50), torch.long),
        array(st.floats(0, 1), torch.float64),
        pairs,
    )


def test_every_objective_of_the_table_is_in_these_tests():
    assert {name for name, _ in VARIANTS.values()} == set(ALL_OBJECTIVES)


@pytest.mark.slow
@ALL
@given(groups=any_groups())
@examples
def test_a_loss_is_one_finite_number_a_prompt_and_its_gradient_is_finite(variant, groups):
    losses = losses_of(variant, groups)
    assert losses.shape == (len(groups.scores),)
    assert torch.isfinite(losses).all()
    assert torch.isfinite(gradient_of(variant, groups)).all()


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_values_and_gradients_are_finite_at_1e4(variant, dtype, signs):
    scores = torch.tensor([[1e4, -1e4, 0.0, 1e4]], dtype=dtype) * signs[0]
    rewards = torch.tensor([[1e4, -1e4, 1e4, 0.0]], dtype=dtype) * signs[1]
    positives, mask = (
        torch.tensor([[True, False, False, False]]),
        torch.ones(1, 4, dtype=torch.bool),
    )
    n_tokens, end_probs = (
        torch.tensor([[1, 10_000, 5, 7]]),
        torch.tensor([[1.0, 0.0, 1e-30, 0.5]], dtype=dtype),
    )
    groups = Groups(scores, rewards, positives, mask, n_tokens, end_probs)
    assert torch.isfinite(losses_of(variant, groups)).all()
    assert torch.isfinite(gradient_of(variant, groups)).all()


@ALL
def test_values_and_gradients_are_finite_where_all_scores_and_rewards_are_equal(variant):
    groups = make_groups()
    equal = groups._replace(
        scores=torch.zeros_like(groups.scores), rewards=torch.ones_like(groups.rewards)
    )
    assert torch.isfinite(losses_of(variant, equal)).all()
    assert torch.isfinite(gradient_of(variant, equal)).all()


@ALL
@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), -float("inf"), 1e4])
def test_a_masked_response_is_as_good_as_removed(variant, rubbish):
    whole = make_groups().prompts(slice(2, 3))
    short = whole.responses(torch.arange(3))
    padded = whole._replace(
        scores=whole.scores.clone(),
        rewards=whole.rewards.clone(),
        end_probs=whole.end_probs.clone(),
        n_tokens=whole.n_tokens.clone(),
    )
    for values in (padded.scores, padded.rewards, padded.end_probs):
        values[0, 3:] = rubbish
    padded.n_tokens[0, 3:] = 10**6
    torch.testing.assert_close(losses_of(variant, padded), losses_of(variant, short))
    gradient = gradient_of(variant, padded)
    torch.testing.assert_close(gradient[:, :3], gradient_of(variant, short))
    assert (gradient[:, 3:] == 0).all()


@pytest.mark.slow
@ALL
@given(
    groups=any_groups(max_prompts=1), rubbish=st.sampled_from([float("nan"), float("inf"), -1e30])
)
@examples
def test_responses_that_do_not_exist_may_stand_anywhere_and_be_named_in_pairs(
    variant, groups, rubbish
):
    filled = groups._replace(
        **{
            name: torch.where(groups.mask, getattr(groups, name), rubbish)
            for name in ("scores", "rewards", "end_probs")
        }
    )
    removed = groups.responses(torch.nonzero(groups.mask[0]).flatten())
    if removed.scores.numel() == 0:
        assert losses_of(variant, filled).tolist() == [0]
        return
    torch.testing.assert_close(losses_of(variant, filled), losses_of(variant, removed))
    gradient = gradient_of(variant, filled)
    torch.testing.assert_close(gradient[groups.mask], gradient_of(variant, removed).flatten())
    assert (gradient[~groups.mask] == 0).all()


@pytest.mark.slow
@ALL
@given(groups=any_groups(), data=st.data())
@examples
def test_the_order_of_responses_is_immaterial_ties_of_rewards_included(variant, groups, data):
    order = torch.tensor(data.draw(st.permutations(range(groups.scores.shape[1]))))
    permuted = groups.responses(order)
    torch.testing.assert_close(losses_of(variant, permuted), losses_of(variant, groups))
    torch.testing.assert_close(
        gradient_of(variant, permuted), gradient_of(variant, groups)[:, order]
    )


@ALL
def test_prompts_do_not_see_each_other(variant):
    groups = make_groups()
    alone = [losses_of(variant, groups.prompts(slice(p, p + 1))) for p in range(6)]
    torch.testing.assert_close(losses_of(variant, groups), torch.cat(alone))


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant", [variant for variant in VARIANTS if row_of(variant).shift_invariant]
)
@given(groups=any_groups(), constant=NUMBERS)
@examples
def test_a_constant_added_to_all_scores_changes_nothing_where_the_table_says_so(
    variant, groups, constant
):
    shifted = groups._replace(scores=groups.scores + constant)
    torch.testing.assert_close(losses_of(variant, shifted), losses_of(variant, groups))
    gradient = gradient_of(variant, groups)
    torch.testing.assert_close(
        gradient.sum(-1), torch.zeros_like(gradient.sum(-1)), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize(
    "variant", [variant for variant in VARIANTS if not row_of(variant).shift_invariant]
)
def test_a_constant_added_to_all_scores_matters_where_the_table_says_so(variant):
    groups = make_groups()
    shifted = groups._replace(scores=groups.scores - 1.0)
    assert (losses_of(variant, shifted) - losses_of(variant, groups)).abs().min() > 1e-3


@pytest.mark.slow
@ALL
@given(groups=any_groups(), constant=st.sampled_from([-64.0, -0.5, 2.0, 1024.0]))
@examples
def test_a_constant_added_to_all_rewards_changes_nothing(variant, groups, constant):
    rewards = (
        groups.rewards * 1024
    ).round() / 1024  # so that adding the constant is exact and makes or breaks no tie
    groups = groups._replace(rewards=rewards)
    shifted = groups._replace(rewards=rewards + constant)
    torch.testing.assert_close(losses_of(variant, shifted), losses_of(variant, groups))


@pytest.mark.parametrize("variant", COMPARING)
@pytest.mark.parametrize(
    "mask", [[False, False, False], [True, False, False]], ids=["no response", "a single one"]
)
def test_a_prompt_without_a_comparison_has_loss_and_gradient_zero(variant, mask):
    groups = Groups(
        torch.tensor([[2.0, 5.0, -1.0]]),
        torch.tensor([[1.0, 2.0, 3.0]]),
        torch.tensor([[True, False, False]]),
        torch.tensor([mask]),
        torch.tensor([[3, 1, 2]]),
        torch.tensor([[0.5, 0.5, 0.5]]),
    )
    assert losses_of(variant, groups).tolist() == [0]
    assert gradient_of(variant, groups).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("variant", [variant for variant in COMPARING if reads_roles(variant)])
@pytest.mark.parametrize(
    "positives", [[True, True], [False, False]], ids=["no negative", "no positive"]
)
def test_objectives_that_read_roles_need_both(variant, positives):
    groups = Groups(
        torch.tensor([[2.0, 5.0]]),
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([positives]),
        torch.ones(1, 2, dtype=torch.bool),
        torch.tensor([[3, 1]]),
        torch.tensor([[0.5, 0.5]]),
    )
    assert losses_of(variant, groups).tolist() == [0]
    assert gradient_of(variant, groups).tolist() == [[0, 0]]


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - set(COMPARING)))
def test_what_compares_nothing_needs_a_positive_and_sees_no_negative(variant):
    groups = make_groups()
    without = groups._replace(positives=torch.zeros_like(groups.positives))
    assert losses_of(variant, without).tolist() == [0] * 6
    assert not gradient_of(variant, without).any()

    for p in range(6):
        one = groups.prompts(slice(p, p + 1))
        positives = one.responses(torch.nonzero(one.positives[0] & one.mask[0]).flatten())
        torch.testing.assert_close(losses_of(variant, one), losses_of(variant, positives))
        assert losses_of(variant, positives).item() > 0
        assert not gradient_of(variant, one)[~one.positives].any()


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if not reads_roles(variant)])
@given(groups=any_groups())
@examples
def test_roles_and_named_pairs_are_not_read_where_the_table_says_so(variant, groups):
    swapped = groups._replace(positives=~groups.positives, pairs=None)
    assert losses_of(variant, swapped).equal(losses_of(variant, groups))


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if reads_roles(variant)])
def test_roles_matter_where_the_table_says_so(variant):
    groups = make_groups()
    others = torch.zeros_like(groups.positives)
    others[:, 2] = True
    assert (
        losses_of(variant, groups._replace(positives=others)) - losses_of(variant, groups)
    ).abs().max() > 1e-3


@pytest.mark.parametrize(
    "variant", [variant for variant in VARIANTS if not row_of(variant).reads_rewards]
)
def test_rewards_are_not_read_where_the_table_says_so(variant):
    groups = make_groups()
    other = groups._replace(rewards=torch.full_like(groups.rewards, float("nan")))
    assert losses_of(variant, other).equal(losses_of(variant, groups))


@pytest.mark.parametrize(
    "name", [name for name, row in ALL_OBJECTIVES.items() if row.reads_rewards]
)
def test_rewards_matter_in_some_variant_where_the_table_says_so(name):
    groups = make_groups()
    other = groups._replace(rewards=groups.rewards.flip(0) + 1.7 * groups.rewards)
    differences = [
        (losses_of(variant, other) - losses_of(variant, groups)).abs().max()
        for variant in VARIANTS
        if VARIANTS[variant][0] == name
    ]
    assert max(differences) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if row_of(variant).monotone])
@given(groups=any_groups(min_responses=2), rise=st.floats(0.0, 20.0), data=st.data())
@examples
def test_a_positive_that_rises_never_raises_the_loss_where_the_table_says_so(
    variant, groups, rise, data
):
    groups = groups._replace(pairs=None)  # a named pair may ask a positive to lose
    places = torch.nonzero(groups.positives & groups.mask).tolist()
    assume(places)
    p, r = data.draw(st.sampled_from(places))
    risen = groups.scores.clone()
    risen[p, r] += rise
    before, after = losses_of(variant, groups), losses_of(variant, groups._replace(scores=risen))
    assert (after <= before + 1e-9 * (1 + before.abs())).all()


@pytest.mark.parametrize(
    "variant",
    [variant for variant in VARIANTS if reads_roles(variant) and not row_of(variant).monotone],
)
def test_a_positive_can_rise_too_far_where_the_table_says_so(variant):
    groups = make_groups()
    losses = [
        losses_of(variant, groups._replace(scores=groups.scores + far * groups.positives))
        for far in (0.0, 30.0, 60.0)
    ]
    assert (losses[2] > losses[1]).all()


@pytest.mark.parametrize("variant", PAIRWISE)
def test_a_pairwise_loss_is_the_mean_over_positives_and_negatives(variant):
    groups = make_groups(n_prompts=3, n_responses=5)
    for p in range(3):
        one = groups.prompts(slice(p, p + 1))
        places = [r for r in range(5) if one.mask[0, r]]
        pairs = [
            (w, v)
            for w in places
            for v in places
            if one.positives[0, w] and not one.positives[0, v]
        ]
        alone = [losses_of(variant, one.responses(torch.tensor(pair))) for pair in pairs]
        torch.testing.assert_close(losses_of(variant, one), torch.stack(alone).mean(0))


def weighted_losses(variant, groups, weights):
    """The losses with weights (P, R, R) of the pairs."""
    name, knobs = VARIANTS[variant]
    responses = ResponseLogps(groups.scores, groups.n_tokens, groups.end_probs)
    targets = groups.targets._replace(pair_weights=weights)
    return group_losses(name, groups.scores, targets, resolve_knobs(name, knobs), responses)


@ALL
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_equal_weights_of_pairs_change_nothing(variant, weight):
    groups = make_groups()
    weights = torch.full((6, 5, 5), weight, dtype=torch.float64)
    torch.testing.assert_close(
        weighted_losses(variant, groups, weights), losses_of(variant, groups)
    )


@pytest.mark.parametrize("variant", PAIRWISE)
def test_a_weighted_loss_is_the_weighted_mean_over_pairs_each_by_itself(variant):
    """Weights 2, 0 and 1: the pair of weight 0 is as good as not there, NaN elsewhere is not seen."""
    pairs = {(0, 2): 2.0, (2, 1): 0.0, (0, 3): 1.0}
    groups = make_groups(n_prompts=1)
    named = torch.zeros(1, 5, 5, dtype=torch.bool)
    weights = torch.full((1, 5, 5), float("nan"), dtype=torch.float64)
    expected = 0.0
    for (chosen, rejected), weight in pairs.items():
        named[0, chosen, rejected] = True
        weights[0, chosen, rejected] = weight
        two = groups.responses(torch.tensor([chosen, rejected]))
        alone = losses_of(variant, two._replace(positives=torch.tensor([[True, False]])))
        expected = expected + weight * alone / 3.0
    groups = groups._replace(pairs=named)
    torch.testing.assert_close(weighted_losses(variant, groups, weights), expected)


@pytest.mark.parametrize("variant", PAIRWISE)
def test_named_pairs_replace_the_roles(variant):
    """The mean over the named pairs alone, each as a group of two would give it; a pair with a
    masked response does not exist."""
    pairs = torch.zeros(1, 4, 4, dtype=torch.bool)
    for chosen, rejected in ((0, 2), (2, 1), (0, 3)):
        pairs[0, chosen, rejected] = True
    groups = Groups(
        torch.tensor([[-0.3, -1.0, -2.0, -7.0]], dtype=torch.float64),
        torch.tensor([[3.0, 1.0, 2.0, 0.0]], dtype=torch.float64),
        torch.tensor([[True, False, False, False]]),
        torch.tensor([[True, True, True, False]]),
        torch.tensor([[3, 5, 7, 9]]),
        torch.full((1, 4), 0.5, dtype=torch.float64),
        pairs,
    )

    def alone(chosen, rejected):
        two = groups._replace(pairs=None).responses(torch.tensor([chosen, rejected]))
        return losses_of(variant, two._replace(positives=torch.tensor([[True, False]])))

    torch.testing.assert_close(losses_of(variant, groups), (alone(0, 2) + alone(2, 1)) / 2)
    none = groups._replace(pairs=torch.zeros_like(pairs))
    assert losses_of(variant, none).tolist() == [0]


@pytest.mark.parametrize(
    "variant", [variant for variant in VARIANTS if not row_of(variant).follows_policy]
)
def test_gradients_equal_finite_differences(variant):
    groups = make_groups(n_prompts=3)
    scores, end_probs = groups.scores.requires_grad_(), groups.end_probs.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda scores, end_probs: losses_of(
            variant, groups._replace(scores=scores, end_probs=end_probs)
        ),
        (scores, end_probs),
    )


@pytest.mark.parametrize(
    "variant", [variant for variant in VARIANTS if row_of(variant).follows_policy]
)
def test_no_gradient_goes_through_a_target_that_follows_the_policy(variant):
    """Its gradient is not that of its value, where the table says so."""
    groups = make_groups(n_prompts=3)
    step, changes = 1e-5, []
    for sign in (1, -1):
        scores = groups.scores.clone()
        scores[:, 0] += sign * step
        changes.append(losses_of(variant, groups._replace(scores=scores)))
    slopes = (changes[0] - changes[1]) / (2 * step)
    assert (slopes - gradient_of(variant, groups)[:, 0]).abs().max() > 1e-3
