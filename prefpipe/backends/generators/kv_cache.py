"""Key/value caches: of a prefill, and of the running rows, whose slots fill one by one.

transformers' own DynamicCache concatenates: each new token copies the whole cache, and so does each
row that comes or goes. Here each layer has a buffer of slots, one a row, with room to the right. A
row that ends costs nothing; a row that takes its slot costs the copy of its own prompt.

Rows are aligned at their right end, so that all write their next token into the same column, and a
mask of two dimensions, which every model takes, hides everything left of a row's own positions.
Hidden entries are zero or an earlier row's, never uninitialised memory: a masked NaN is still NaN.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 64
"""Free columns of a new buffer: the steps until the next copy."""


class SlotLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped
    """One layer's keys and values, as views of buffers.

    Shapes of the buffers: (slots, heads, columns, head size).

    Sliding-window layers keep all positions here, too: the mask hides those outside of the window.
    """

    def __init__(self, key_buffer: Tensor, value_buffer: Tensor, end: int) -> None:
        super().__init__()
        self.dtype, self.device = key_buffer.dtype, key_buffer.device
        self.key_buffer, self.value_buffer = key_buffer, value_buffer
        self.is_initialized = True
        self.show(0, end, end)

    def show(self, n_rows: int, start: int, end: int) -> None:
        """Show the model the first ``n_rows`` slots, and the columns from start to end."""
        self.n_rows, self.start, self.end = n_rows, start, end
        self.keys = self.key_buffer[:n_rows, :, start:end]
        self.values = self.value_buffer[:n_rows, :, start:end]

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the next column and return all keys and values that the model sees."""
        end = self.end + key_states.shape[2]
        self.key_buffer[: self.n_rows, :, self.end : end] = key_states
        self.value_buffer[: self.n_rows, :, self.end : end] = value_states
        self.show(self.n_rows, self.start, end)
        return self.keys, self.values

    def moved(self, n_slots: int, width: int, n_rows: int, n_used: int) -> "SlotLayer":
        """Return a layer with new buffers, whose rows end at the column ``width``.

        The first ``n_rows`` slots are copied, of each the last ``n_used`` positions.
        """
        layer = SlotLayer(
            _empty_slots(self.key_buffer, n_slots, width),
            _empty_slots(self.value_buffer, n_slots, width),
            width,
        )
        new, old = slice(width - n_used, width), slice(self.end - n_used, self.end)
        layer.key_buffer[:n_rows, :, new] = self.key_buffer[:n_rows, :, old]
        layer.value_buffer[:n_rows, :, new] = self.value_buffer[:n_rows, :, old]
        return layer


class SlotCache:
    """The cache of the running rows: row i is in slot i, with at most ``max_slots``."""

    def __init__(self, max_slots: int) -> None:
        self._max_slots = max_slots
        self._layers: list[SlotLayer] = []
        self._lengths: list[int] = []
        """Positions of each row; the longest row's number of columns is in use."""
        self._n_slots, self._n_columns = 0, 0
        self._end = 0
        """The column at which all rows end."""

    def put(
        self, prefilled: Cache, places: Tensor, slots: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """Copy prompts out of a prefill into slots.

        Args:
            prefilled: prompts aligned at the right.
            places: of the prompts in it, one for each slot. A place may repeat: several samples of
                one prompt.
            slots: free ones, or the next behind the last.
            lengths: of the prompts.
        """
        self._lengths += [0] * (max(slots) + 1 - len(self._lengths))
        width = max(lengths)
        if len(self._lengths) > self._n_slots or width > self._end:
            self._make_room(prefilled, max(width, *self._lengths))
        for slot, length in zip(slots, lengths, strict=True):
            self._lengths[slot] = length

        index = places.new_tensor(slots)
        new = slice(self._end - width, self._end)
        n_positions = count_positions(prefilled)
        old = slice(n_positions - width, n_positions)
        for layer, source in zip(self._layers, prefilled.layers, strict=True):
            _fill(layer.key_buffer, index, source.keys, places, new, old)
            _fill(layer.value_buffer, index, source.values, places, new, old)

    def move(self, sources: Sequence[int], targets: Sequence[int], n_rows: int) -> None:
        """Copy rows from slot to slot, and drop those after the first ``n_rows``."""
        for source, target in zip(sources, targets, strict=True):
            self._lengths[target] = self._lengths[source]
        del self._lengths[n_rows:]
        if not sources:
            return

        used = slice(self._end - max(self._lengths), self._end)
        device = self._layers[0].device
        old, new = torch.tensor(sources, device=device), torch.tensor(targets, device=device)
        for layer in self._layers:
            _fill(layer.key_buffer, new, layer.key_buffer, old, used, used)
            _fill(layer.value_buffer, new, layer.value_buffer, old, used, used)

    def for_a_step(self) -> Cache:
        """Return the cache to which the model appends one position of each row, once."""
        n_used = max(self._lengths)
        if self._end == self._n_columns:
            self._lay_out(self._n_slots, n_used)
        for layer in self._layers:
            layer.show(len(self._lengths), self._end - n_used, self._end)

        self._end += 1
        self._lengths = [length + 1 for length in self._lengths]
        return Cache(layers=self._layers)

    def _make_room(self, prefilled: Cache, width: int) -> None:
        """Allocate as many slots as there are rows, or twice the current number."""
        n_slots = self._n_slots
        if len(self._lengths) > n_slots:
            n_slots = min(max(len(self._lengths), 2 * n_slots), self._max_slots)
        if self._layers:
            self._lay_out(n_slots, width)
            return
        for source in prefilled.layers:
            keys = _empty_slots(source.keys, n_slots, width)
            values = _empty_slots(source.values, n_slots, width)
            self._layers.append(SlotLayer(keys, values, width))
        self._n_slots, self._end, self._n_columns = n_slots, width, width + ROOM

    def _lay_out(self, n_slots: int, width: int) -> None:
        """Copy the rows into new buffers, in which they end at the column ``width``."""
        n_used, n_rows = max(self._lengths), min(len(self._lengths), self._n_slots)
        for index, layer in enumerate(self._layers):
            # Layer by layer, so that only one layer is in memory twice.
            self._layers[index] = layer.moved(n_slots, width, n_rows, n_used)
        self._n_slots, self._end, self._n_columns = n_slots, width, width + ROOM


def prefill_cache() -> Cache:
    """Return an empty cache for a prefill, in which every layer keeps all positions."""
    return Cache(layer_class_to_replicate=DynamicLayer)


def is_supported(config: Any) -> bool:
    """Return whether every layer of the model is attention over keys and values.

    Recurrent layers keep a state instead.
    """
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds <= {"full_attention", "sliding_attention", "chunked_attention"}


def count_positions(cache: Cache) -> int:
    """Return the number of positions in use."""
    return int(cache.layers[0].keys.shape[2])


def _empty_slots(states: Tensor, n_slots: int, width: int) -> Tensor:
    _, n_heads, _, head_size = states.shape
    return states.new_zeros(n_slots, n_heads, width + ROOM, head_size)


def _fill(
    buffer: Tensor, slots: Tensor, states: Tensor, places: Tensor, new: slice, old: slice
) -> None:
    """Copy columns of some rows into slots, and put zeros to their left."""
    buffer[slots, :, : new.start] = 0
    buffer[slots, :, new] = states[places, :, old]
