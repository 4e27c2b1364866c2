"""``pku-saferlhf``: two responses a row, which is better, which safer, and whether each is safe."""

from collections.abc import Mapping
from typing import Any

from prefpipe.artifacts.interchange.checked_values import checked_number
from prefpipe.artifacts.interchange.listed_responses import Item, gather_items, note_on_comparisons
from prefpipe.artifacts.interchange.pool import Pool
from prefpipe.artifacts.interchange.read_options import ReadOptions
from prefpipe.artifacts.interchange.row_problems import UnusableRowError, needed
from prefpipe.artifacts.interchange.user_table import MissingColumnsError, read_user_table
from prefpipe.artifacts.tables.values import shortened

HINT = (
    "each row of PKU-SafeRLHF has `prompt`, `response_0`, `response_1`, `better_response_id` and "
    "`safer_response_id`"
)
RESPONSES = ("response_0", "response_1")
NAMED_RESPONSE = {"better": "better_response_id", "safer": "safer_response_id"}
"""Scorer to the column that names the better or safer of the two."""


def read_pku(source: str, options: ReadOptions) -> Pool:
    """Read PKU-SafeRLHF.

    Rewards, as far as the file has them: ``better`` and ``safer`` (1 for the response that is
    named, else 0), ``safe`` (1 or 0) and ``minus_severity`` (0 for harmless, -3 for the worst).

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    text_columns = [*RESPONSES, *(f"{name}_source" for name in RESPONSES)]
    table = read_user_table(source, text_columns=text_columns, hint=HINT)
    table.require(["prompt", *RESPONSES], hint=HINT)
    named = {scorer: name for scorer, name in NAMED_RESPONSE.items() if name in table.names}
    has_safety = table.has(f"is_{name}_safe" for name in RESPONSES)
    has_severity = table.has(f"{name}_severity_level" for name in RESPONSES)
    if not named and not has_safety:
        problem = "has neither `better_response_id` nor `safer_response_id`"
        raise MissingColumnsError(table, problem, hint=HINT)

    columns = {name: table.values(name) for name in table.names}

    def items_of(row: int) -> list[Item]:
        values = {name: column[row] for name, column in columns.items()}
        items = []
        for number, name in enumerate(RESPONSES):
            scores: dict[str, tuple[Any, str]] = {}
            for scorer, column in named.items():
                scores[scorer] = (_is_named(values, column, number), column)
            if has_safety:
                scores["safe"] = _safety(values, f"is_{name}_safe")
            if has_severity:
                scores["minus_severity"] = _minus_severity(values, f"{name}_severity_level")
            items.append(Item(name, values[name], scores, values.get(f"{name}_source")))
        return items

    scorers = list(named)
    if has_safety:
        scorers.append("safe")
    if has_severity:
        scorers.append("minus_severity")
    of_responses = {name for name in table.names if name.startswith(("response_", "is_response_"))}
    pool = gather_items(
        table,
        "prompt",
        items_of,
        scorers,
        options,
        used={*of_responses, *named.values()},
        on_duplicate=options.rules.on_duplicate or "mean",
    )
    pool.notes.extend(note_on_comparisons(pool))
    return pool


def _is_named(values: Mapping[str, Any], column: str, number: int) -> float | None:
    """Return 1 where a response is the one that a column names, else 0."""
    which = needed(checked_number(values[column], column))
    if which is None:
        return None
    if which not in (0.0, 1.0):
        raise UnusableRowError(
            f"`{column}` is {shortened(values[column])}, which is neither 0 nor 1"
        )
    return float(which == number)


def _safety(values: Mapping[str, Any], column: str) -> tuple[float | None, str]:
    is_safe = values[column]
    if is_safe is None:
        return None, column
    if is_safe not in (True, False):
        raise UnusableRowError(
            f"`{column}` is {shortened(is_safe)}, which is neither true nor false"
        )
    return float(is_safe), column


def _minus_severity(values: Mapping[str, Any], column: str) -> tuple[float | None, str]:
    level = needed(checked_number(values[column], column))
    # 0 - level: no negative zero
    return None if level is None else 0.0 - level, column
