"""Rows that belong to prompts: which rows are of one prompt, and the mean of each prompt.

Several rows of one prompt (several samples, several raters, both orders of a judge) are not
independent. Every figure of an evaluation averages them first, so that a prompt counts once,
whatever its number of rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from prefpipe.errors import InputError


class PromptRows(NamedTuple):
    """Which rows are of which prompt.

    ``prompt_of_row`` (N,) is the number of each row's prompt, from 0 in order of first appearance;
    ``n_prompts`` of them.
    """

    prompt_of_row: np.ndarray
    n_prompts: int

    @property
    def weights(self) -> np.ndarray:
        """Return ``1 / rows of its prompt`` for each row (N,): every prompt weighs 1 in all."""
        n_rows_P = np.bincount(self.prompt_of_row, minlength=self.n_prompts)
        return np.asarray(1.0 / n_rows_P[self.prompt_of_row])

    def sums(self, values_N: np.ndarray) -> np.ndarray:
        """Return the sum of each prompt's values, (P,) for (N,)."""
        return np.asarray(
            np.bincount(self.prompt_of_row, weights=values_N, minlength=self.n_prompts)
        )

    def means(self, values_N: np.ndarray) -> np.ndarray:
        """Return the mean of each prompt's known values, (P,) for (N,); NaN where it has none."""
        is_known_N = ~np.isnan(values_N)
        prompts, values = self.prompt_of_row[is_known_N], values_N[is_known_N]
        n_known_P = np.bincount(prompts, minlength=self.n_prompts)
        total_P = np.bincount(prompts, weights=values, minlength=self.n_prompts)

        none_P = np.full(self.n_prompts, np.nan)
        return np.asarray(np.divide(total_P, n_known_P, out=none_P, where=n_known_P > 0))


def rows_of_prompts(prompt_ids: Sequence[Any] | None, n_rows: int) -> PromptRows:
    """Return which rows are of one prompt.

    Args:
        prompt_ids: an id for each row, (N,), of any kind that can be hashed; None makes each row
            its own prompt.
        n_rows: N.

    Raises:
        InputError: the number of ids differs from the number of rows.
    """
    if prompt_ids is None:
        return PromptRows(np.arange(n_rows), n_rows)
    if len(prompt_ids) != n_rows:
        raise InputError(
            f"{len(prompt_ids)} prompt ids for {n_rows} preferences; expected one of each per row"
        )

    numbers: dict[Any, int] = {}
    prompt_N = np.empty(n_rows, dtype=np.int64)
    for row, prompt_id in enumerate(prompt_ids):
        prompt_N[row] = numbers.setdefault(prompt_id, len(numbers))
    return PromptRows(prompt_N, len(numbers))
