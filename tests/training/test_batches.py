"""Tensors hold the tokens of the groups and nothing more.

The order of visits depends on seed and epoch alone.
"""

import torch
from support.tiny_groups import make_group, make_groups
from support.tiny_models import END_ID

from prefpipe.training.batches import (
    BudgetCollator,
    GlobalBatchSampler,
    GroupCollator,
    longest_sequence,
)
from prefpipe.training.groups import NO_GROUP

PAD = 0


def test_a_batch_gives_back_every_prompt_and_response():
    groups = make_groups(5)
    batch = GroupCollator(PAD)(groups)
    for p, group in enumerate(groups):
        for r, response in enumerate(group.responses):
            row = batch["slots"][p, r]
            real = batch["attention_mask"][row].bool()
            assert batch["input_ids"][row][real].tolist() == [
                *group.prompt_token_ids,
                *response.token_ids,
            ]
            assert batch["input_ids"][row][batch["response_mask"][row]].tolist() == list(
                response.token_ids
            )
            assert batch["rewards"][p, r] == response.reward
            assert batch["positives"][p, r] == (response.role == "positive")
        assert (batch["slots"][p, len(group.responses) :] == -1).all()


def test_sequences_are_the_real_responses_and_pad_to_the_longest():
    groups = make_groups(5)
    batch = GroupCollator(PAD)(groups)
    n_responses = sum(len(group.responses) for group in groups)
    assert batch["input_ids"].shape == (
        n_responses,
        max(longest_sequence(group) for group in groups),
    )
    assert sorted(batch["slots"][batch["slots"] >= 0].tolist()) == list(range(n_responses))


def test_a_pad_token_inside_a_response_is_trained_on():
    """Masks come from lengths, not from comparing ids.

    End-of-sequence is the pad token of many models.
    """
    group = make_group("p")
    group.responses[0] = group.responses[0]._replace(token_ids=[7, PAD])
    batch = GroupCollator(PAD)([group])
    assert batch["response_mask"][0].sum() == 2


def test_a_response_ended_if_its_last_token_ends_responses():
    group = make_group("p", lengths=(4, 6, 3))
    group.responses[1] = group.responses[1]._replace(
        token_ids=group.responses[1].token_ids[:-1]
    )  # cut off
    assert GroupCollator(PAD, {END_ID})([group])["ended"].tolist() == [True, False, True]
    assert GroupCollator(PAD)([group])["ended"].tolist() == [False, False, False]


def test_references_travel_when_every_response_has_one():
    group = make_group("p")
    assert "ref_logps" not in GroupCollator(PAD)([group])
    complete = group._replace(
        responses=[r._replace(ref_logp=-float(i)) for i, r in enumerate(group.responses)]
    )
    assert GroupCollator(PAD)([complete])["ref_logps"].tolist() == [[0, -1, -2]]


def visits(epoch, seed=0, n=20, size=6):
    sampler = GlobalBatchSampler(list(range(n)), global_batch_size=size, seed=seed)
    sampler.set_epoch(epoch)
    assert len(sampler) == n
    return list(sampler)


def test_an_epoch_visits_every_group_once():
    assert sorted(visits(0)) == list(range(20))


def test_order_depends_on_seed_and_epoch_alone():
    assert visits(1) == visits(1)
    assert visits(1) != visits(2)
    assert visits(1) != visits(1, seed=1)


def test_lengths_fall_within_a_global_batch_and_batches_are_random():
    order = visits(0)
    chunks = [order[start : start + 6] for start in range(0, 20, 6)]
    assert all(chunk == sorted(chunk, reverse=True) for chunk in chunks)
    assert order != sorted(order, reverse=True)


def test_the_sorting_does_not_change_which_groups_share_a_step():
    """Lengths must not decide a step's composition, or training would see lengths in an order."""
    equal = GlobalBatchSampler([1] * 20, global_batch_size=6, seed=0)
    chunks = [set(list(equal)[start : start + 6]) for start in range(0, 20, 6)]
    assert chunks == [set(visits(0)[start : start + 6]) for start in range(0, 20, 6)]


def test_masks_have_the_types_the_model_wants():
    batch = GroupCollator(PAD)(make_groups(2))
    assert batch["response_mask"].dtype == torch.bool
    assert batch["rewards"].dtype == torch.float32


def test_named_pairs_are_joined_by_sample_and_those_of_lost_responses_are_gone():
    """Sample 0 is to beat 2 and 9, and 9 is no longer there.

    The group without named pairs pairs roles.
    """
    named, plain = make_group("p"), make_group("q", n_positive=2)
    responses = [r._replace(beats=[2, 9] if r.sample_idx == 0 else []) for r in named.responses]
    assert "pairs" not in GroupCollator(PAD)([named, plain])
    pairs = GroupCollator(PAD)([named._replace(responses=responses), plain])["pairs"]
    assert pairs.nonzero().tolist() == [[0, 0, 2], [1, 0, 2], [1, 1, 2]]


def test_an_epoch_ends_with_empty_places_where_prompts_do_not_divide():
    """5 prompts, 4 at once: 3 places are empty, at the end; every prompt comes once."""
    sampler = GlobalBatchSampler([3, 1, 4, 1, 5], global_batch_size=4, seed=0, at_once=4)
    order = list(sampler)
    assert len(sampler) == len(order) == 8
    assert sorted(order[:5]) == [0, 1, 2, 3, 4]
    assert order[5:] == [NO_GROUP] * 3


def test_a_device_without_a_prompt_gets_an_idle_row_and_nothing_else():
    for packed in (True, False):
        made = BudgetCollator(GroupCollator(0, packed=packed), 64)([None, None])
        assert (made["batches"], made["n_prompts"]) == ([], 0)
        assert made["idle"]["input_ids"].shape == (1, 3)
