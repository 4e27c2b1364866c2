"""Groups are trained on whole or left out with a reason; no response is lost and none is empty."""

import pytest
from support.tiny_groups import make_group, make_groups

from prefpipe.errors import InputError, UsageError
from prefpipe.training.group_dataset import GroupDataset
from prefpipe.training.groups import (
    ResponseStatus,
    missing_pair,
    pairs_in,
    prepare_groups,
    require_known_tokens,
    require_reward_gaps,
    with_reference,
)


def statuses(prepared):
    return {key: each.status for key, each in prepared.statuses.items()}


def test_groups_within_the_limit_pass_unchanged():
    groups = make_groups()
    prepared = prepare_groups(groups, max_length=100, on_too_long="drop")
    assert prepared.groups == groups
    assert prepared.counts == {"ok": sum(len(group.responses) for group in groups)}


def test_a_response_of_exactly_the_limit_fits_and_one_token_more_does_not():
    group = make_group("p", n_prompt=5, lengths=(4, 6, 3))
    assert prepare_groups([group], max_length=11, on_too_long="drop").counts == {"ok": 3}
    prepared = prepare_groups([group], max_length=10, on_too_long="drop")
    assert prepared.statuses["p", 1] == ResponseStatus(
        "too_long", "5 prompt tokens + 6 response tokens, the limit is 10"
    )
    assert [response.sample_idx for response in prepared.groups[0].responses] == [0, 2]


def test_truncation_cuts_the_response_and_never_the_prompt():
    group = make_group("p", n_prompt=5, lengths=(4, 6, 3))
    prepared = prepare_groups([group], max_length=10, on_too_long="truncate")
    assert prepared.counts == {"ok": 2, "truncated": 1}
    assert prepared.groups[0].prompt_token_ids == group.prompt_token_ids
    assert prepared.groups[0].responses[1].token_ids == group.responses[1].token_ids[:5]


def test_error_names_prompt_response_and_lengths():
    with pytest.raises(
        UsageError,
        match="response 1 of prompt p is too long: 5 prompt tokens \\+ 6 response tokens, the "
        "limit is 10",
    ):
        prepare_groups(
            [make_group("p", n_prompt=5, lengths=(4, 6, 3))], max_length=10, on_too_long="error"
        )


@pytest.mark.parametrize("on_too_long", ["drop", "truncate"])
def test_a_prompt_that_leaves_no_room_is_never_trained_on_zero_tokens(on_too_long):
    """Truncating to the limit would leave 0 response tokens, and a mean over them is NaN."""
    prepared = prepare_groups(
        [make_group("p", n_prompt=10)], max_length=10, on_too_long=on_too_long
    )
    assert prepared.groups == []
    assert prepared.counts == {"prompt_too_long": 3}


def test_a_group_that_loses_its_positive_is_left_out_whole():
    prepared = prepare_groups(
        [make_group("p", n_prompt=5, lengths=(9, 4, 3))], max_length=10, on_too_long="drop"
    )
    assert prepared.groups == []
    assert statuses(prepared) == {
        ("p", 0): "too_long",
        ("p", 1): "no_contrast",
        ("p", 2): "no_contrast",
    }
    assert prepared.statuses["p", 1].reason == "no positive is left in the group"


def test_a_group_that_loses_its_last_negative_is_left_out_whole():
    prepared = prepare_groups(
        [make_group("p", n_prompt=5, lengths=(4, 9))], max_length=10, on_too_long="drop"
    )
    assert prepared.statuses["p", 0] == ResponseStatus(
        "no_contrast", "no negative is left in the group"
    )


def test_responses_that_truncation_makes_identical_are_trained_on_once():
    """Loss would sit at log 2 for a pair of equal texts: nothing distinguishes them."""
    group = make_group("p", n_prompt=5, lengths=(8, 8, 4))
    positive, negative, other = group.responses
    negative = negative._replace(token_ids=[*positive.token_ids[:5], 99, 99, 99])
    prepared = prepare_groups(
        [group._replace(responses=[negative, other, positive])],
        max_length=10,
        on_too_long="truncate",
    )
    assert prepared.statuses["p", 1] == ResponseStatus("identical", "the same tokens as response 0")
    assert [response.sample_idx for response in prepared.groups[0].responses] == [2, 0]


def test_an_empty_response_is_dropped_with_its_reason():
    group = make_group("p")
    group.responses[2] = group.responses[2]._replace(token_ids=[])
    prepared = prepare_groups([group], max_length=100, on_too_long="drop")
    assert prepared.statuses["p", 2] == ResponseStatus("empty", "the response has no token")


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), None])
def test_a_reward_that_is_not_finite_is_an_error(reward):
    group = make_group("p")
    group.responses[1] = group.responses[1]._replace(reward=reward)
    with pytest.raises(InputError, match=f"response 1 of prompt p has reward {reward}"):
        prepare_groups([group], max_length=100, on_too_long="drop")


@pytest.mark.parametrize(("token", "place"), [(7, "prompt p"), (-1, "response 1 of prompt p")])
def test_a_token_id_that_the_model_has_not_is_named(token, place):
    group = make_group("p")
    ids = group.prompt_token_ids if token == 7 else group.responses[1].token_ids
    highest = max(
        max(each)
        for each in (group.prompt_token_ids, *(response.token_ids for response in group.responses))
    )
    require_known_tokens([group], highest + 1)
    ids[0] = highest + 1 if token == 7 else token
    with pytest.raises(
        InputError,
        match=f"^{place} holds the token id {ids[0]}, but the model has only {highest + 1} tokens",
    ):
        require_known_tokens([group], highest + 1)


def test_unknown_roles_doubled_keys_and_empty_prompts_are_errors():
    group = make_group("p")
    odd = group._replace(responses=[group.responses[0]._replace(role="chosen")])
    with pytest.raises(InputError, match="role 'chosen', not positive or negative"):
        prepare_groups([odd], max_length=100, on_too_long="drop")
    with pytest.raises(InputError, match="response 0 of prompt p occurs twice"):
        prepare_groups([group, group], max_length=100, on_too_long="drop")
    with pytest.raises(InputError, match="prompt p has no tokens"):
        prepare_groups([group._replace(prompt_token_ids=[])], max_length=100, on_too_long="drop")


def test_reference_logps_are_joined_by_key():
    groups = [make_group("a"), make_group("b")]
    reference = {
        (g.prompt_id, r.sample_idx): (-float(i + 10 * r.sample_idx), len(r.token_ids))
        for i, g in enumerate(groups)
        for r in g.responses
    }
    joined = with_reference(groups, dict(reversed(reference.items())))
    assert [[r.ref_logp for r in g.responses] for g in joined] == [[0, -10, -20], [-1, -11, -21]]


def test_a_missing_or_differently_cut_reference_is_an_error():
    group = make_group("p", lengths=(4, 6))
    with pytest.raises(InputError, match="no reference log-probability for response 1 of prompt p"):
        with_reference([group], {("p", 0): (-1.0, 4)})
    with pytest.raises(InputError, match="is a sum over 5 tokens, but the response has 6"):
        with_reference([group], {("p", 0): (-1.0, 4), ("p", 1): (-1.0, 5)})


def test_a_dataset_is_indexed_like_its_groups():
    groups = make_groups()
    dataset = GroupDataset(groups)
    assert len(dataset) == len(groups)
    assert dataset[3] is groups[3]


def test_pairs_are_positives_with_negatives_or_those_named_that_are_still_there():
    group = make_group("p", lengths=(4, 6, 3, 5), n_positive=2)

    def places(group):
        return [(winner.sample_idx, loser.sample_idx) for winner, loser in pairs_in(group)]

    assert places(group) == [(0, 2), (0, 3), (1, 2), (1, 3)]
    named = {0: [1, 7], 2: [3]}
    group = group._replace(
        responses=[each._replace(beats=named.get(each.sample_idx)) for each in group.responses]
    )
    assert places(group) == [(0, 1), (2, 3)]  # 7 was left out


@pytest.mark.parametrize("reward", [3.0, 4.0])
def test_a_pair_whose_winner_is_not_rated_above_its_loser_is_refused_by_name(reward):
    groups = [make_group("a"), make_group("b")]  # rewards 3, 2, 1
    require_reward_gaps(groups, "odpo")
    groups[1].responses[2] = groups[1].responses[2]._replace(reward=reward)
    message = rf"odpo takes .* in 1 of 4 pairs .* in prompt b response 0 has reward 3 and response 2 has {reward:g}"
    with pytest.raises(UsageError, match=message):
        require_reward_gaps(groups, "odpo")


def test_responses_that_meet_in_no_pair_may_tie():
    group = make_group("p", lengths=(4, 6, 3), n_positive=1)
    group.responses[2] = group.responses[2]._replace(
        reward=group.responses[1].reward
    )  # two negatives
    require_reward_gaps([group], "odpo")
    best = group.responses[0].reward
    tied = group._replace(
        responses=[*group.responses[:2], group.responses[2]._replace(reward=best)]
    )
    with pytest.raises(UsageError, match="in 1 of 2 pairs"):
        require_reward_gaps([tied], "odpo")


def test_a_group_without_its_positive_stays_where_pairs_are_what_counts():
    """Three graded responses, all pairs named.

    The best is too long. The pair of the others is left.
    """
    group = make_group("p", n_prompt=2, lengths=(30, 4, 5))
    beats = ([1, 2], [2], [])
    group = group._replace(
        responses=[
            each._replace(beats=own) for each, own in zip(group.responses, beats, strict=True)
        ]
    )
    prepared = prepare_groups([group], max_length=20, on_too_long="drop", find_missing=missing_pair)
    assert [each.sample_idx for each in prepared.groups[0].responses] == [1, 2]
    assert pairs_in(prepared.groups[0]) == [tuple(prepared.groups[0].responses)]
    by_role = prepare_groups([group], max_length=20, on_too_long="drop")
    assert by_role.groups == []
    alone = group._replace(responses=[group.responses[0], group.responses[2]._replace(beats=[])])
    statuses = prepare_groups(
        [alone], max_length=20, on_too_long="drop", find_missing=missing_pair
    ).statuses
    assert statuses["p", 2].reason == "no pair is left in the group"
