"""Calls on a device come one at a time, in the order in which they arrived."""

import threading
import time

import pytest
import torch

from prefpipe.backends.device import DeviceTurns, turns_on


def test_calls_have_their_turns_in_the_order_in_which_they_came():
    turns = DeviceTurns()
    order = []
    threads = []

    def call(number):
        with turns.turn():
            order.append(number)

    with turns.turn():
        for number in range(20):
            threads.append(threading.Thread(target=call, args=(number,)))
            threads[-1].start()
            time.sleep(0.002)  # until it waits
        assert order == []
    for thread in threads:
        thread.join()
    assert order == list(range(20))


def test_a_call_that_fails_gives_its_turn_back():
    turns = DeviceTurns()
    for _ in range(2):
        with pytest.raises(MemoryError), turns.turn():
            raise MemoryError
    with turns.turn():
        pass


def test_models_on_one_device_share_its_turns():
    assert turns_on(torch.device("cuda")) is turns_on(torch.device("cuda:0"))
    assert turns_on(torch.device("cuda:1")) is not turns_on(torch.device("cuda:0"))
    assert turns_on(torch.device("cpu")) is turns_on(torch.device("cpu"))
