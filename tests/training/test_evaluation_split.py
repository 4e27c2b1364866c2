"""Which prompts are held out follows from seed and prompt_id alone; both sides have some.

No prompt is on both.
"""

import random
from types import SimpleNamespace

import pytest
from support.tiny_groups import make_group, make_groups

from prefpipe.errors import InputError
from prefpipe.training.evaluation_split import (
    hold_out,
    place_of,
    refuse_shared_prompts,
    split_groups,
)
from prefpipe.training.groups import ResponseStatus, prepare_groups


def ids(items):
    return {item.prompt_id for item in items}


def items_of(n):
    return [SimpleNamespace(prompt_id=f"prompt-{i}") for i in range(n)]


def test_the_sides_do_not_depend_on_the_order():
    groups = make_groups(40)
    train, evaluation = split_groups(groups, 0.3, seed=0)
    shuffled = random.Random(1).sample(groups, len(groups))
    again = split_groups(shuffled, 0.3, seed=0)
    assert (ids(again[0]), ids(again[1])) == (ids(train), ids(evaluation))
    assert ids(train) | ids(evaluation) == ids(groups)
    assert not ids(train) & ids(evaluation)
    assert [item.prompt_id for item in train] == [
        group.prompt_id for group in groups if group.prompt_id in ids(train)
    ]


def test_more_prompts_move_none_of_the_old_ones():
    few, many = items_of(50), items_of(500)
    assert ids(split_groups(few, 0.2, seed=3)[1]) == ids(split_groups(many, 0.2, seed=3)[1]) & ids(
        few
    )


def test_a_larger_fraction_keeps_what_a_smaller_one_held_out():
    items = items_of(200)
    assert ids(split_groups(items, 0.1, seed=0)[1]) < ids(split_groups(items, 0.3, seed=0)[1])


def test_the_share_is_the_fraction_and_seeds_are_independent():
    """10,000 prompts at 0.2: the standard deviation of the share is sqrt(0.2 x 0.8 / 10,000) = 0.004; two seeds share 0.04."""
    items = items_of(10_000)
    first, second = (ids(split_groups(items, 0.2, seed=seed)[1]) for seed in (0, 1))
    assert len(first) / 10_000 == pytest.approx(0.2, abs=0.016)
    assert len(first & second) / 10_000 == pytest.approx(0.04, abs=0.008)


def test_all_items_of_a_prompt_are_on_one_side():
    pairs = items_of(30) + items_of(30)
    train, evaluation = split_groups(pairs, 0.4, seed=0)
    assert not ids(train) & ids(evaluation)
    assert len(train) + len(evaluation) == 60


def test_the_places_are_those_of_every_release():
    """Written down: a change would put prompts that were trained on into the evaluation of the next run."""
    assert [round(place_of(name, 0), 6) for name in ("a", "b")] == [0.087989, 0.585499]


def test_nothing_is_held_out_without_a_fraction():
    groups = make_groups(3)
    assert split_groups(groups, 0.0, seed=0) == (groups, [])


@pytest.mark.parametrize(("fraction", "word"), [(1e-9, "evaluate"), (1 - 1e-9, "train")])
def test_an_empty_side_is_an_error(fraction, word):
    with pytest.raises(InputError, match=f"of 3 prompts leaves none to {word} on") as caught:
        split_groups(make_groups(3), fraction, seed=0)
    assert "--eval-groups" in caught.value.hint


def test_held_out_responses_have_that_fate_and_those_left_out_keep_theirs():
    groups = [make_group(f"p{i}", lengths=(4, 6, 30)) for i in range(20)]
    prepared = prepare_groups(groups, max_length=15, on_too_long="drop")
    (train, statuses), evaluation = hold_out(prepared, 0.5, seed=0)
    held = evaluation[0].prompt_id
    assert statuses[held, 0] == ResponseStatus("held_out", "evaluated on")
    assert statuses[held, 2].status == "too_long"
    assert {statuses[group.prompt_id, 0] for group in train} == {ResponseStatus("ok")}
    assert len(train) + len(evaluation) == 20
    assert prepared.statuses[held, 0] == ResponseStatus("ok")


def test_a_held_out_response_that_was_cut_says_so():
    prepared = prepare_groups(
        [make_group(f"p{i}", lengths=(4, 30)) for i in range(20)],
        max_length=15,
        on_too_long="truncate",
    )
    (_, statuses), evaluation = hold_out(prepared, 0.5, seed=0)
    assert statuses[evaluation[0].prompt_id, 1].status == "held_out"
    assert statuses[evaluation[0].prompt_id, 1].reason.startswith(
        "evaluated on, truncated: 5 prompt tokens + 30"
    )


def test_prompts_on_both_sides_are_counted_and_named():
    with pytest.raises(
        InputError,
        match=r"4 of the 6 prompts of --eval-groups are also trained on: prompt-2, prompt-3, prompt-4, \.\.\.",
    ):
        refuse_shared_prompts(items_of(6), items_of(8)[2:], "--eval-groups")
    refuse_shared_prompts(items_of(3), items_of(6)[3:], "--eval-groups")
