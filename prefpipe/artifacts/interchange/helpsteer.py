"""``helpsteer2`` and ``helpsteer3``: scored responses, or two responses and a preference a row."""

from collections.abc import Mapping
from typing import Any

from prefpipe.artifacts.interchange.checked_values import checked_list, checked_number
from prefpipe.artifacts.interchange.listed_responses import Item, gather_items, note_on_comparisons
from prefpipe.artifacts.interchange.long_rows import read_long_rows
from prefpipe.artifacts.interchange.pool import Pool
from prefpipe.artifacts.interchange.read_options import ColumnNames, ReadOptions
from prefpipe.artifacts.interchange.row_problems import UnusableRowError, needed
from prefpipe.artifacts.interchange.user_table import UserTable, read_user_table
from prefpipe.artifacts.tables.values import shortened

SCORES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""What HelpSteer's raters gave each response, from 0 to 4.

Complexity and verbosity measure, and are no merit in themselves.
"""
HELPSTEER2_HINT = "each row of HelpSteer2 has `prompt`, `response` and scores such as `helpfulness`"
HELPSTEER3_HINT = (
    "each row of HelpSteer3 has `context`, `response1`, `response2` and `overall_preference`"
)
HELPSTEER2_PREFERENCES = ("prompt", "response_1", "response_2", "preference_strength")
HELPSTEER3_PREFERENCES = ("context", "response1", "response2", "overall_preference")
"""The prompt, both responses, and a number that is negative for the first."""
INDIVIDUAL_PREFERENCES = ("individual_preference", "individual_preferences")
STRONGEST = 3


def read_helpsteer2(source: str, options: ReadOptions) -> Pool:
    """Read HelpSteer2: a row a response with its scores, or its own file of preferences.

    The rows of one prompt are adjacent there, but need not be.

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    # answers of a CSV file that look like numbers are still texts
    table = read_user_table(source, text_columns=HELPSTEER2_PREFERENCES[:3], hint=HELPSTEER2_HINT)
    if table.has(HELPSTEER2_PREFERENCES):
        return _pool_of_preferences(table, HELPSTEER2_PREFERENCES, options)

    table.require(["prompt", "response", SCORES[0]], hint=HELPSTEER2_HINT)
    rewards = {name: name for name in SCORES if name in table.names}
    return read_long_rows(source, options._replace(names=ColumnNames(rewards=rewards)))


def read_helpsteer3(source: str, options: ReadOptions) -> Pool:
    """Read HelpSteer3: two responses and a preference from -3, for the first, to 3, for the second.

    The preferred one has the preference's size as its reward and the other 0, as in NeMo-RL. The
    mean of the individual preferences is a second scorer, made alike.

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    table = read_user_table(source, text_columns=HELPSTEER3_PREFERENCES[:3], hint=HELPSTEER3_HINT)
    table.require(HELPSTEER3_PREFERENCES, hint=HELPSTEER3_HINT)
    return _pool_of_preferences(table, HELPSTEER3_PREFERENCES, options)


def _pool_of_preferences(
    table: UserTable, columns: tuple[str, str, str, str], options: ReadOptions
) -> Pool:
    prompt, first, second, preference = columns
    first_texts, second_texts = table.values(first), table.values(second)
    overall = table.values(preference)
    individual = table.first_name(INDIVIDUAL_PREFERENCES)
    of_raters = table.values_or_none(individual)

    def items_of(row: int) -> list[Item]:
        strengths = {preference: _strength(overall[row], preference)}
        if individual is not None:
            strengths["mean_preference"] = _mean_strength(of_raters[row], individual)

        for_first: dict[str, tuple[Any, str]] = {}
        for_second: dict[str, tuple[Any, str]] = {}
        for scorer, strength in strengths.items():
            of_first: float | None = None
            of_second: float | None = None
            if strength is not None:
                # + 0.0: no negative zero
                of_first = max(-strength, 0.0) + 0.0
                of_second = max(strength, 0.0) + 0.0
            for_first[scorer] = (of_first, scorer)
            for_second[scorer] = (of_second, scorer)
        return [
            Item(first, first_texts[row], for_first),
            Item(second, second_texts[row], for_second),
        ]

    scorers = [preference]
    used = set(columns)
    if individual is not None:
        scorers.append("mean_preference")
        used.add(individual)
    # a response is in several rows where it was compared with several others
    pool = gather_items(
        table,
        prompt,
        items_of,
        scorers,
        options,
        used=used,
        on_duplicate=options.rules.on_duplicate or "mean",
    )
    pool.notes.extend(note_on_comparisons(pool))
    return pool


def _strength(value: Any, name: str) -> float | None:
    """Return a preference.

    Raises:
        UnusableRowError: it is no number from -3 to 3.
    """
    number = needed(checked_number(value, name))
    if number is not None and not -STRONGEST <= number <= STRONGEST:
        raise UnusableRowError(
            f"`{name}` is {shortened(value)}, which is not between -{STRONGEST} and {STRONGEST}"
        )
    return number


def _mean_strength(value: Any, name: str) -> float | None:
    """Return the mean of the raters' preferences, None if none gave one.

    Raises:
        UnusableRowError: one of them is no number from -3 to 3.
    """
    if value is None or value == []:
        return None

    strengths = []
    for number, member in enumerate(needed(checked_list(value, name))):
        score = member.get("score") if isinstance(member, Mapping) else member
        strength = _strength(score, f"{name}[{number}].score")
        if strength is not None:
            strengths.append(strength)
    return sum(strengths) / len(strengths) if strengths else None
