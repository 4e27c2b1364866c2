"""A key/value cache whose rows come and go, and which does not copy itself at every step.

transformers' own DynamicCache concatenates: each new token copies the whole cache. Here each layer
owns a buffer with room to the right; the model sees a view of the part in use. Rows are aligned at
their right end, so a shorter row has zeros (never uninitialised memory: a masked NaN is still NaN)
on its left, which the attention mask hides.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 64
"""Positions that a buffer grows by when it is full."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped
    """One layer's keys and values, as views of buffers with room to grow.

    Shapes: (S, heads, positions, head size).

    Sliding-window layers keep all positions here, too: the mask hides those outside of the window.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_positions = 0

    def hold(self, key_buffer: Tensor, value_buffer: Tensor, n_positions: int) -> None:
        """Take over two buffers, of which the first ``n_positions`` are in use."""
        self.dtype, self.device = key_buffer.dtype, key_buffer.device
        self.key_buffer, self.value_buffer = key_buffer, value_buffer
        self.is_initialized = True
        self._show(n_positions)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append new positions and return all keys and values."""
        start, end = self.n_positions, self.n_positions + key_states.shape[2]
        if not self.is_initialized:
            # A prefill's own tensors, without room: `join_caches` copies their rows out.
            self.hold(key_states, value_states, end)
            return self.keys, self.values

        if end > self.key_buffer.shape[2]:
            self.key_buffer = _widen(self.key_buffer, end + ROOM)
            self.value_buffer = _widen(self.value_buffer, end + ROOM)

        self.key_buffer[:, :, start:end] = key_states
        self.value_buffer[:, :, start:end] = value_states
        self._show(end)
        return self.keys, self.values

    def _show(self, n_positions: int) -> None:
        self.n_positions = n_positions
        self.keys = self.key_buffer[:, :, :n_positions]
        self.values = self.value_buffer[:, :, :n_positions]


def new_cache() -> Cache:
    """Return an empty cache for a prefill."""
    return Cache(layer_class_to_replicate=GrowingLayer)


def join_caches(parts: list[tuple[Cache, Tensor]], width: int) -> Cache:
    """Return one cache with the chosen rows of several, right-aligned in ``width`` positions.

    Args:
        parts: each a cache and the indices of its rows to take. One index may occur many times: the
            samples of one prompt.
        width: positions further left are dropped; the caller says that no row uses them.
    """
    parts = [(cache, rows) for cache, rows in parts if len(rows)]
    layers: list[Any] = []
    for index in range(len(parts[0][0].layers)):
        layer = GrowingLayer()
        keys = [(cache.layers[index].keys, rows) for cache, rows in parts]
        values = [(cache.layers[index].values, rows) for cache, rows in parts]
        layer.hold(_join(keys, width), _join(values, width), width)
        layers.append(layer)
    return Cache(layers=layers)


def _join(parts: list[tuple[Tensor, Tensor]], width: int) -> Tensor:
    n_rows = sum(len(rows) for _, rows in parts)
    _, n_heads, _, head_size = parts[0][0].shape
    joined = parts[0][0].new_zeros(n_rows, n_heads, width + ROOM, head_size)
    start = 0
    for states, rows in parts:
        end = start + len(rows)
        used = min(width, states.shape[2])
        joined[start:end, :, width - used : width] = states[rows, :, states.shape[2] - used :]
        start = end
    return joined


def _widen(buffer: Tensor, width: int) -> Tensor:
    n_rows, n_heads, used, head_size = buffer.shape
    wider = buffer.new_zeros(n_rows, n_heads, width, head_size)
    wider[:, :, :used] = buffer
    return wider


def is_supported(config: Any) -> bool:
    """Return whether every layer of the model is attention over keys and values.

    Recurrent layers keep a state instead.
    """
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds <= {"full_attention", "sliding_attention", "chunked_attention"}


def count_positions(cache: Cache) -> int:
    """Return the number of positions in use."""
    return int(cache.layers[0].keys.shape[2])
