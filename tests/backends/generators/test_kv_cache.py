"""Rows that come and go leave every other row's keys and values where they were, right-aligned."""

from types import SimpleNamespace

import pytest
import torch

from prefpipe.backends.generators.kv_cache import (
    ROOM,
    count_positions,
    is_supported,
    join_caches,
    new_cache,
)


def filled(n_rows, n_positions, seed=0, n_layers=2):
    """A cache with random keys and values, made by one update a layer."""
    random = torch.Generator().manual_seed(seed)
    cache = new_cache()
    for layer in range(n_layers):
        keys, values = torch.randn(2, n_rows, 3, n_positions, 4, generator=random)
        cache.update(keys, values, layer)
    return cache


def test_appending_equals_concatenation_beyond_the_room_of_the_buffer():
    cache = filled(2, 5)
    expected = cache.layers[0].keys.clone()
    for step in range(2 * ROOM + 3):
        token = torch.full((2, 3, 1, 4), float(step))
        expected = torch.cat([expected, token], dim=2)
        keys, values = cache.update(token, -token, 0)
        assert torch.equal(keys, expected)
    assert torch.equal(values[:, :, 5:], -expected[:, :, 5:])
    assert cache.get_seq_length() == count_positions(cache) == 5 + 2 * ROOM + 3


def test_joining_takes_rows_right_aligned_with_zeros_on_the_left():
    long, short = filled(3, 6, seed=1), filled(2, 4, seed=2)
    joined = join_caches([(long, torch.tensor([2, 0])), (short, torch.tensor([1, 1]))], 6)
    for index in (0, 1):
        keys = joined.layers[index].keys
        assert keys.shape == (4, 3, 6, 4)
        assert torch.equal(keys[0], long.layers[index].keys[2])
        assert torch.equal(keys[1], long.layers[index].keys[0])
        for row in (2, 3):
            assert torch.equal(keys[row, :, 2:], short.layers[index].keys[1])
            assert torch.all(keys[row, :, :2] == 0)


def test_joining_drops_positions_that_no_row_uses():
    cache = filled(2, 6)
    joined = join_caches([(cache, torch.tensor([1]))], 4)
    assert torch.equal(joined.layers[1].values[0], cache.layers[1].values[1][:, 2:])


def test_a_joined_cache_grows_without_touching_its_sources():
    source = filled(1, 3)
    before = source.layers[0].keys.clone()
    joined = join_caches([(source, torch.tensor([0]))], 3)
    joined.update(torch.ones(1, 3, 1, 4), torch.ones(1, 3, 1, 4), 0)
    assert torch.equal(source.layers[0].keys, before)
    assert joined.layers[0].keys.shape[2] == 4


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
