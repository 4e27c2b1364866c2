"""Tokens a second of training, and the savings from computing each prompt once."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple


class ComputedTokens(NamedTuple):
    """Tokens computed since the last query, on this process.

    ``n_computed``: tokens computed for training, prompts and responses, counting each pass over a
        prompt, without padding and the first pass of groups in two passes.
    ``n_prompt_each``: prompt tokens if each prompt went through once a response. ``elapsed_s``:
        without evaluation and saving.
    """

    n_computed: int
    n_prompt_each: int
    elapsed_s: float


class Throughput:
    """Counts tokens and the seconds of training."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._since: float | None = None
        self._apart_s = 0.0
        self._n_computed = 0
        self._n_prompt_each = 0

    def begin(self) -> None:
        """Start the clock if it is stopped."""
        if self._since is None:
            self._since = self.clock()

    def count(self, batch: Mapping[str, Any]) -> None:
        """Count a training micro-batch."""
        for row in batch.get("rows", [batch]):
            self._n_computed += _n_tokens(row)
        self._n_prompt_each += batch["n_prompt_tokens"]

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Exclude the time of the block."""
        began = self.clock()
        try:
            yield
        finally:
            if self._since is not None:
                self._apart_s += self.clock() - began

    def take(self) -> ComputedTokens:
        """Return the tokens computed since the last call, and stop the clock."""
        elapsed_s = 0.0
        if self._since is not None:
            elapsed_s = self.clock() - self._since - self._apart_s
        computed = ComputedTokens(self._n_computed, self._n_prompt_each, elapsed_s)

        self._since = None
        self._apart_s = 0.0
        self._n_computed = 0
        self._n_prompt_each = 0
        return computed


def throughput_figures(
    n_computed: int, n_prompt_each: int, n_response: int, elapsed_s: float
) -> dict[str, float]:
    """Return ``tokens_per_s`` and ``prompt_tokens_saved``.

    The second is 1 - (prompt tokens computed) / (prompt tokens if each were computed once a
    response).

    Args:
        n_computed: tokens computed, over all processes.
        n_prompt_each: prompt tokens if each were computed once a response, over all processes.
        n_response: response tokens, over all processes.
        elapsed_s: of this process.
    """
    figures = {}
    if elapsed_s > 0:
        figures["tokens_per_s"] = n_computed / elapsed_s
    if n_prompt_each > 0:
        figures["prompt_tokens_saved"] = 1.0 - (n_computed - n_response) / n_prompt_each
    return figures


def _n_tokens(row: Mapping[str, Any]) -> int:
    if "attention_mask" in row:
        return int(row["attention_mask"].sum())
    return int(row["input_ids"].numel())
