"""Rows that come and go leave every other row's keys and values where they were, right-aligned."""

from types import SimpleNamespace

import pytest
import torch

from prefpipe.backends.generators.kv_cache import ROOM, SlotCache, is_supported, prefill_cache

N_LAYERS = 2


def prefilled(n_rows, n_positions, seed=0):
    """A cache with random keys and values, made by one update a layer."""
    random = torch.Generator().manual_seed(seed)
    cache = prefill_cache()
    for layer in range(N_LAYERS):
        keys, values = torch.randn(2, n_rows, 3, n_positions, 4, generator=random)
        cache.update(keys, values, layer)
    return cache


def put(cache, source, places, slots, lengths):
    cache.put(source, torch.tensor(places), slots, lengths)


def step(cache, n_rows, value):
    """Append one position to each row, as a model does; return layer 1's keys."""
    view = cache.for_a_step()
    token = torch.full((n_rows, 3, 1, 4), float(value))
    for layer in range(N_LAYERS):
        keys, values = view.update(token, -token, layer)
        assert torch.equal(values[:, :, -1:], -token)
    return keys


def last(source, place, length):
    return source.layers[1].keys[place, :, -length:]


def test_appending_goes_on_beyond_the_room_of_the_buffer():
    source, cache = prefilled(2, 5), SlotCache(2)
    put(cache, source, [0, 1], [0, 1], [5, 5])
    expected = source.layers[1].keys.clone()
    for number in range(2 * ROOM + 3):
        expected = torch.cat([expected, torch.full((2, 3, 1, 4), float(number))], dim=2)
        assert torch.equal(step(cache, 2, number), expected)


def test_prompts_of_any_length_are_right_aligned_with_zeros_on_their_left():
    long, short, cache = prefilled(3, 6, seed=1), prefilled(2, 4, seed=2), SlotCache(8)
    put(cache, short, [1, 1], [0, 1], [4, 4])
    put(cache, long, [2, 0], [2, 3], [6, 5])
    keys = step(cache, 4, 7.0)
    assert keys.shape == (4, 3, 7, 4)
    for row in (0, 1):
        assert torch.equal(keys[row, :, 2:6], last(short, 1, 4))
        assert torch.all(keys[row, :, :2] == 0)
    assert torch.equal(keys[2, :, :6], last(long, 2, 6))
    assert torch.equal(keys[3, :, 1:6], last(long, 0, 5))


def test_a_slot_is_taken_again_without_touching_the_others():
    source, cache = prefilled(3, 4), SlotCache(2)
    put(cache, source, [0, 1], [0, 1], [4, 4])
    step(cache, 2, 1.0)
    step(cache, 2, 2.0)
    put(cache, source, [2], [0], [3])
    keys = step(cache, 2, 3.0)
    assert torch.equal(keys[0, :, -4:-1], last(source, 2, 3))
    assert torch.all(keys[0, :, :-4] == 0), "nothing of the row before"
    assert torch.equal(keys[1, :, :4], last(source, 1, 4))
    assert keys[1, 0, 4:, 0].tolist() == [1.0, 2.0, 3.0]


def test_what_an_overflowed_row_left_does_not_reach_the_next_one():
    """A NaN times a weight of zero is a NaN."""
    broken, source, cache = prefilled(2, 9), prefilled(2, 3, seed=3), SlotCache(3)
    for layer in broken.layers:
        layer.values[:] = layer.keys[:] = float("nan")
    put(cache, broken, [0, 1, 1], [0, 1, 2], [9, 9, 9])
    put(cache, source, [0, 1], [0, 2], [3, 3])
    cache.move([2], [1], 2)
    assert torch.isfinite(step(cache, 2, 1.0)).all()
    # a longer row lets the model see columns further left
    put(cache, prefilled(1, 10), [0], [2], [10])
    assert torch.isfinite(step(cache, 3, 1.0)).all()


def test_the_last_rows_move_into_gaps_and_unused_positions_are_not_seen():
    long, short, cache = prefilled(1, 9, seed=1), prefilled(3, 4, seed=2), SlotCache(4)
    put(cache, long, [0], [0], [9])
    put(cache, short, [0, 1, 2], [1, 2, 3], [4, 4, 4])
    step(cache, 4, 1.0)
    cache.move([3], [0], 2)
    keys = step(cache, 2, 2.0)
    assert keys.shape == (2, 3, 6, 4)
    for row, place in ((0, 2), (1, 0)):
        assert torch.equal(keys[row, :, :4], last(short, place, 4))
        assert keys[row, 0, 4:, 0].tolist() == [1.0, 2.0]


def test_slots_are_made_as_rows_come_and_never_more_than_the_batch():
    source, cache = prefilled(1, 4), SlotCache(5)
    for slot in range(5):
        put(cache, source, [0], [slot], [4])
        step(cache, slot + 1, slot)
    assert len(cache._layers[0].key_buffer) == 5
    keys = step(cache, 5, 9.0)
    for row in range(5):
        assert torch.equal(keys[row, :, row : row + 4], last(source, 0, 4))


def test_the_source_of_a_copy_stays_as_it_is():
    source, cache = prefilled(1, 3), SlotCache(1)
    before = source.layers[0].keys.clone()
    put(cache, source, [0], [0], [3])
    step(cache, 1, 1.0)
    assert torch.equal(source.layers[0].keys, before)


@pytest.mark.parametrize(
    ("layer_types", "supported"),
    [
        (None, True),
        (["full_attention", "sliding_attention"], True),
        (["full_attention", "linear_attention"], False),
        (["conv"], False),
    ],
)
def test_only_attention_layers_are_supported(layer_types, supported):
    assert is_supported(SimpleNamespace(layer_types=layer_types)) == supported
