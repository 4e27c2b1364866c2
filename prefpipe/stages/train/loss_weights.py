"""``--weight-by``: how much each prompt, and each pair within it, counts in the loss.

The expression is evaluated once for every pair (winner w, loser l) of a prompt. With N prompts,
n_p pairs of prompt p and values v >= 0, a prompt's weight is the mean of its pairs' over the mean
of all prompts'::

    v_p = mean over its pairs of v(w, l)        w_p = v_p / mean over prompts of v_p

    loss = (1 / N) * sum_p w_p * L_p = sum_p v_p * L_p / sum_p v_p

Under objectives of pairs L_p is the mean over the prompt's pairs weighted with v, so that with one
pair a prompt this is ``sum v * L / sum v`` over pairs, which trl#5613 requests. Weights are divided
by their mean over all prompts, not over a batch **(ours)**: a prompt counts the same whatever the
batch it comes in, and a constant factor, or a constant alone, changes nothing.

An objective that compares nothing has no pairs: the expression is evaluated for every positive, and
v_p is the mean over them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from prefpipe.artifacts.store import Artifact
from prefpipe.errors import IncompleteInputError, InputError, UsageError
from prefpipe.maths.selection.rewards import RewardExpression, Wording, parse_reward
from prefpipe.spelling import did_you_mean
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.training.groups import Group, Key, Response, pairs_in

MARGIN = "margin"
"""In an expression: the winner's reward less the loser's."""
SIDES = ("chosen_", "rejected_")
"""In an expression: before a column's name, its value in the winner's row, or the loser's."""
WORDING = Wording("weight", "column")


@dataclass(frozen=True)
class Weighing:
    """A ``--weight-by`` that fits the groups.

    ``places``: where each name of the expression is read: a side, "" for the prompt's own value,
    and a column; `MARGIN` has no place. ``of_pairs``: whether it is evaluated for pairs, else for
    positives.
    """

    expression: RewardExpression
    places: Mapping[str, tuple[str, str]]
    of_pairs: bool = True

    @property
    def columns(self) -> list[str]:
        """The columns that are read for it."""
        return sorted({column for _, column in self.places.values()})


def open_weighing(text: str, groups: Artifact, flag: str, *, of_pairs: bool = True) -> Weighing:
    """Parse an expression and find what it names among the columns of the groups.

    Args:
        text: of ``--weight-by``.
        groups: the artifact.
        flag: what gave the groups, for messages.
        of_pairs: whether the objective compares responses; else positives alone have a value.

    Raises:
        IncompleteInputError: the groups have no part yet.
        UsageError: what is not in the grammar, or a name that is no column of numbers.
    """
    expression = parse_reward(text, WORDING)
    present = groups.present(range(groups.n_parts), allow_partial=True)
    if not present:
        raise IncompleteInputError(
            f"{groups.path} has no parts yet",
            hint=f"run `prefpipe status {quote(str(groups.path))}`",
        )
    columns = groups.schema_of(present[0])
    numbers = [field.name for field in columns if _is_number(field.type)]

    places = {}
    for name in expression.names:
        if not of_pairs:
            _require_no_pair(name, numbers, text)
        # a user's column of that name is to be had as chosen_margin
        if name != MARGIN:
            places[name] = _place_of(name, numbers, text, f"{flag} {groups.path}")
    return Weighing(expression, places, of_pairs)


def _require_no_pair(name: str, numbers: Sequence[str], text: str) -> None:
    """Refuse values that only pairs have, for an objective without pairs.

    Raises:
        UsageError: the margin, or a column of the loser.
    """
    is_of_loser = name not in numbers and name.removeprefix(SIDES[1]) in numbers
    if name == MARGIN or is_of_loser:
        raise UsageError(
            f"--weight-by {text!r} names {name}, and the objective trains only on positives, so "
            "there are no pairs",
            hint="name columns of the prompt, or chosen_COLUMN for a column of the positive",
        )


def _place_of(name: str, numbers: Sequence[str], text: str, source: str) -> tuple[str, str]:
    """Return the side and the column that a name refers to."""
    if name in numbers:
        return "", name
    for side in SIDES:
        if name.removeprefix(side) in numbers:
            return side, name.removeprefix(side)

    known = [MARGIN, *numbers, *(side + column for side in SIDES for column in numbers)]
    raise UsageError(
        f"--weight-by {text!r} names {name}, which is not a numeric column of "
        f"{source}{did_you_mean(name, known)}",
        hint=f"columns: {', '.join(numbers)}; chosen_COLUMN and rejected_COLUMN are their values "
        f"in a pair, {MARGIN} is its reward difference",
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind))


def weigh_groups(
    groups: Sequence[Group], rows: Sequence[Row], weighing: Weighing
) -> tuple[list[Group], dict[str, Any]]:
    """Return the groups with their weights, and what to record about these.

    Args:
        groups: what is left to train on, or to evaluate on.
        rows: of the groups' artifact, with the columns that the expression reads.
        weighing: the expression.

    Returns:
        The groups, and ``expression``, least and greatest weight of a prompt, and
        ``effective_prompts``, ``(sum w)^2 / sum w^2``: how many equal prompts would have a loss
        of the same variance (Kish 1965).

    Raises:
        InputError: a weight that is no finite number of at least 0; a value that differs within a
            prompt where the prompt's is requested.
        UsageError: all weights are 0; ``logit`` of a number outside (0, 1).
    """
    by_key: dict[Key, Row] = {(row["prompt_id"], row["sample_idx"]): row for row in rows}
    values = [values_of(group, by_key, weighing) for group in groups]

    means = np.array([of_pairs.mean() for _, of_pairs in values])
    overall = float(means.mean())
    if not overall > 0:
        raise UsageError(
            f"--weight-by {weighing.expression.text!r} is 0 for all {len(groups)} prompts",
            hint="give some prompts a weight above 0: with all weights 0 the model learns nothing",
        )

    weighted = []
    for group, (pairs, of_pairs), mean in zip(groups, values, means.tolist(), strict=True):
        pair_weights = None
        if weighing.of_pairs and of_pairs.min() < of_pairs.max():
            keys = [(winner.sample_idx, loser.sample_idx) for winner, loser in pairs]
            pair_weights = dict(zip(keys, (of_pairs / mean).tolist(), strict=True))
        weighted.append(group._replace(weight=mean / overall, pair_weights=pair_weights))

    return weighted, weight_figures(means, weighing)


def weight_figures(means: Sequence[float] | np.ndarray, weighing: Weighing) -> dict[str, Any]:
    """Return what `weigh_groups` records, of the mean value of each prompt, not all 0."""
    values = np.asarray(means, np.float64)
    weights = values / float(values.mean())
    return {
        "expression": weighing.expression.text,
        "least": float(weights.min()),
        "greatest": float(weights.max()),
        "n_prompts": len(weights),
        "effective_prompts": float(weights.sum() ** 2 / np.square(weights).sum()),
    }


def describe_weights(figures: Mapping[str, Any], what: str) -> str:
    """Return the figures of `weigh_groups` as a line for the log."""
    return (
        f"{what} by {figures['expression']}: prompts count {figures['least']:.3g} to "
        f"{figures['greatest']:.3g} times their mean, as much as "
        f"{figures['effective_prompts']:,.1f} equal ones of {figures['n_prompts']:,}"
    )


def values_of(
    group: Group, by_key: Mapping[Key, Row], weighing: Weighing
) -> tuple[list[tuple[Response, Response]], np.ndarray]:
    """Return a group's pairs, and the expression's value of each.

    Raises:
        InputError: a value that is no finite number of at least 0, or differs within the prompt
            where the prompt's is requested.
        UsageError: ``logit`` of a number outside (0, 1).
    """
    if weighing.of_pairs:
        pairs = pairs_in(group) or _pairs_of_roles(group)
    else:
        # A positive is in both places: the loser's is not read.
        pairs = [(each, each) for each in group.responses if each.role == "positive"]

    columns = {}
    for name in weighing.expression.names:
        column: Sequence[float | None]
        if name == MARGIN:
            column = [winner.reward - loser.reward for winner, loser in pairs]
        else:
            column = _column(name, group, pairs, by_key, weighing)
        columns[name] = np.array(column, np.float64)

    values = weighing.expression.evaluate(columns)
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        winner, loser = pairs[bad[0]]
        which = f"responses {winner.sample_idx} over {loser.sample_idx}"
        if not weighing.of_pairs:
            which = f"response {winner.sample_idx}"
        raise InputError(
            f"--weight-by {weighing.expression.text!r} is {values[bad[0]]:g} for {which} of "
            f"prompt {group.prompt_id}",
            hint="a weight must be finite and at least 0: use max(..., 0) to clip negative "
            "values, and remove rows with a missing value",
        )
    return pairs, values


def _column(
    name: str,
    group: Group,
    pairs: Sequence[tuple[Response, Response]],
    by_key: Mapping[Key, Row],
    weighing: Weighing,
) -> list[float | None]:
    """Return the value of a name in each pair, None if a value is missing."""
    side, column = weighing.places[name]
    of_sample = {}
    for response in group.responses:
        row = by_key[group.prompt_id, response.sample_idx]
        of_sample[response.sample_idx] = row[column]

    if side == SIDES[0]:
        return [of_sample[winner.sample_idx] for winner, _ in pairs]
    if side == SIDES[1]:
        return [of_sample[loser.sample_idx] for _, loser in pairs]

    different = list(dict.fromkeys(of_sample.values()))
    if len(different) > 1:
        whose = f"chosen_{column}"
        if weighing.of_pairs:
            whose += f" or rejected_{column}"
        raise InputError(
            f"--weight-by {weighing.expression.text!r}: {column} is {different[0]} and "
            f"{different[1]} within prompt {group.prompt_id}",
            hint=f"name the column of one response: {whose}",
        )
    return [different[0]] * len(pairs)


def _pairs_of_roles(group: Group) -> list[tuple[Response, Response]]:
    """Return each positive with each negative, for a group without selected pairs."""
    positives = [response for response in group.responses if response.role == "positive"]
    negatives = [response for response in group.responses if response.role == "negative"]
    return [(winner, loser) for winner in positives for loser in negatives]
