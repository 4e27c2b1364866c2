"""Tokens are counted as they are computed, seconds without evaluation and saving."""

import pytest
from support.tiny_groups import make_group

from prefpipe.training.batches import BudgetCollator, GroupCollator
from prefpipe.training.throughput import ComputedTokens, Throughput, throughput_figures

GROUPS = [
    make_group("a", n_prompt=5, lengths=(4, 6, 3)),
    make_group("b", n_prompt=2, lengths=(3, 3)),
]


class Clock:
    now = 10.0

    def __call__(self):
        return self.now


def work_on(groups, *, packed, max_tokens=1000):
    throughput = Throughput()
    for batch in BudgetCollator(GroupCollator(0, packed=packed), max_tokens)(groups)["batches"]:
        throughput.count(batch)
    return throughput.take()[:2]


def test_a_prompt_counts_once_a_group_packed_and_once_a_response_padded():
    """Responses: 13 + 6 tokens. Prompts: 5 + 2 packed, 3 x 5 + 2 x 2 padded.

    Padding is no token.
    """
    assert work_on(GROUPS, packed=True) == (19 + 7, 19)
    assert work_on(GROUPS, packed=False) == (19 + 19, 19)


def test_a_group_in_several_rows_computes_its_prompt_in_each():
    assert work_on(GROUPS[:1], packed=True, max_tokens=1) == (13 + 3 * 5, 15)


def test_the_share_saved_is_of_prompt_tokens():
    assert throughput_figures(26, 19, 19, 2.0) == {
        "tokens_per_s": 13.0,
        "prompt_tokens_saved": pytest.approx(1 - 7 / 19),
    }
    assert throughput_figures(38, 19, 19, 2.0)["prompt_tokens_saved"] == 0
    assert throughput_figures(0, 0, 0, 0.0) == {}


def test_what_is_done_apart_and_between_the_rows_takes_no_time():
    clock = Clock()
    throughput = Throughput(clock)
    throughput.begin()
    clock.now += 3
    with throughput.apart():
        clock.now += 100
    throughput.begin()  # the next step, before a row
    clock.now += 4
    assert throughput.take() == ComputedTokens(0, 0, 7.0)
    with throughput.apart():  # evaluation after the row: the clock stands
        clock.now += 50
    throughput.begin()
    clock.now += 1
    assert throughput.take().elapsed_s == 1.0
