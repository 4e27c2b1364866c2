"""How unevenly ``--weight-by`` would weight prompts, and which prompts get no weight."""

from collections.abc import Sequence
from typing import Any

from prefpipe.errors import InputError, UsageError
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.stages.train.loss_weights import Weighing, values_of, weight_figures
from prefpipe.training.groups import Group, Key


class WeightCheck:
    """Takes groups one by one; ``facts`` returns their weights."""

    def __init__(self, weighing: Weighing) -> None:
        self.weighing = weighing
        self._means: list[float] = []
        self._problems: list[str] = []

    @property
    def columns(self) -> list[str]:
        """The columns of the groups that are read for it."""
        return self.weighing.columns

    def add(self, groups: Sequence[Group], rows: Sequence[Row]) -> None:
        """Add a prompt's remaining group with its rows."""
        by_key: dict[Key, Row] = {(row["prompt_id"], row["sample_idx"]): row for row in rows}
        for group in groups:
            try:
                _, values = values_of(group, by_key, self.weighing)
            # Counted: train would stop at the first.
            except (InputError, UsageError) as error:
                self._problems.append(error.message)
                continue
            self._means.append(float(values.mean()))

    def facts(self) -> dict[str, Any]:
        """Return the figures of the weights, and how many prompts have none, with an example."""
        n_bad = len(self._problems)
        facts: dict[str, Any] = {
            "expression": self.weighing.expression.text,
            "n_bad": n_bad,
            "example": self._problems[0] if n_bad else None,
            "all_zero": bool(self._means) and not sum(self._means) > 0,
        }
        if sum(self._means) > 0:
            facts |= weight_figures(self._means, self.weighing)
        return facts
