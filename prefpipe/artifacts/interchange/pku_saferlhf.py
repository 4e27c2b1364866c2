"""``pku-saferlhf``: two responses a row, which is better, which safer, and whether each is safe."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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


class _Scorer(NamedTuple):
    """How a reward is read: a column for each of the two responses, and what makes it of a value.

    ``reward`` takes the value, the number of the response, and the column for messages.
    """

    columns: tuple[str, str]
    reward: Callable[[Any, int, str], float | None]


def read_pku(source: str, options: ReadOptions) -> Pool:
    """Read PKU-SafeRLHF.

    Rewards, as far as the file has them: ``better`` and ``safer`` (1 for the response that is
    named, else 0), ``safe`` (1 or 0) and ``minus_severity`` (0 for harmless, -3 for the worst).

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    sources = [f"{name}_source" for name in RESPONSES]
    # answers of a CSV file that look like numbers are still texts
    table = read_user_table(source, text_columns=[*RESPONSES, *sources], hint=HINT)
    table.require(["prompt", *RESPONSES], hint=HINT)
    scorers = {name: scorer for name, scorer in SCORERS.items() if table.has(scorer.columns)}
    if not scorers.keys() & {"better", "safer", "safe"}:
        problem = "has neither `better_response_id` nor `safer_response_id`"
        raise MissingColumnsError(table, problem, hint=HINT)

    columns = {name: table.values_or_none(name) for name in (*RESPONSES, *sources)}
    for scorer in scorers.values():
        for name in scorer.columns:
            columns[name] = table.values(name)

    def items_of(row: int) -> list[Item]:
        items = []
        for number, name in enumerate(RESPONSES):
            scores: dict[str, tuple[Any, str]] = {}
            for scorer_name, scorer in scorers.items():
                column = scorer.columns[number]
                scores[scorer_name] = (scorer.reward(columns[column][row], number, column), column)
            items.append(Item(name, columns[name][row], scores, columns[sources[number]][row]))
        return items

    of_responses = {name for name in table.names if name.startswith(("response_", "is_response_"))}
    # a response is in several rows where it was compared with several others
    pool = gather_items(
        table,
        "prompt",
        items_of,
        tuple(scorers),
        options,
        used={*of_responses, *columns},
        on_duplicate=options.rules.on_duplicate or "mean",
    )
    pool.notes.extend(note_on_comparisons(pool))
    return pool


def _is_named(value: Any, number: int, column: str) -> float | None:
    """Return 1 where a response is the one that a column names, else 0."""
    which = needed(checked_number(value, column))
    if which is None:
        return None
    if which not in (0.0, 1.0):
        raise UnusableRowError(f"`{column}` is {shortened(value)}, which is neither 0 nor 1")
    return float(which == number)


def _safety(value: Any, _number: int, column: str) -> float | None:
    """Return 1 for a safe response, 0 for an unsafe one."""
    if value is None:
        return None
    if value not in (True, False):  # which 1 and 0 are equal to
        raise UnusableRowError(f"`{column}` is {shortened(value)}, which is neither true nor false")
    return float(value)


def _minus_severity(value: Any, _number: int, column: str) -> float | None:
    """Return the negative of a severity: more is better."""
    level = needed(checked_number(value, column))
    return None if level is None else 0.0 - level  # no negative zero


SCORERS: Mapping[str, _Scorer] = {
    "better": _Scorer(("better_response_id", "better_response_id"), _is_named),
    "safer": _Scorer(("safer_response_id", "safer_response_id"), _is_named),
    "safe": _Scorer(("is_response_0_safe", "is_response_1_safe"), _safety),
    "minus_severity": _Scorer(
        ("response_0_severity_level", "response_1_severity_level"), _minus_severity
    ),
}
