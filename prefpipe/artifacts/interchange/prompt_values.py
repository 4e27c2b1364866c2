"""A value for each prompt from a second file: an instruction's difficulty, a baseline's length.

Matched by prompt id or by the prompt's text. A file that numbers its rows instead, as AlpacaEval's
table of difficulties does, is matched by row only where both files have all rows; ``Matched.by``
says so.
"""

from collections.abc import Sequence
from math import isnan
from typing import NamedTuple

from prefpipe.artifacts.interchange.annotations import (
    DIFFICULTIES,
    TEXT_KEYS,
    Annotations,
    digest_of,
    key_of,
)
from prefpipe.artifacts.interchange.checked_values import checked_number
from prefpipe.artifacts.interchange.row_problems import Problems
from prefpipe.artifacts.interchange.user_table import (
    MissingColumnsError,
    UserTable,
    read_user_table,
)
from prefpipe.errors import InputError

ROW_NUMBERS = ("index", "", "Unnamed: 0")
"""How pandas names a column of row numbers."""
ALPACA_EVAL_PROMPTS = "874ac9f855a1f5919dcd19b19fc1e8b914d2df4cbca1afb5ea3d0e80a317eded"
"""sha256 of the sorted instructions of AlpacaEval."""
ALPACA_EVAL_ORDER = "a0f6db1679e6f3c54f841e1a31b23053e3281eb5b5f53fcf475ace024f2bc910"
"""sha256 of the instructions in the order in which its tables number them."""


class Matched(NamedTuple):
    """Values by row of the annotations.

    Attributes:
        values: one a row.
        by: how they were matched, in words.
        n_unused: how many prompts of the file no annotation is of.
        place: where each key is in the file; None if rows were matched by number.
    """

    values: list[float]
    by: str
    n_unused: int
    place: dict[str, int] | None = None


class Regularising(NamedTuple):
    """AlpacaEval's gamed baselines, column by column; ``difficulty`` None if there is none."""

    preferences: list[float]
    std_length_difference: list[float]
    difficulty: list[float] | None


def read_difficulty(source: str, annotations: Annotations) -> Matched:
    """Return the difficulty of each row's prompt.

    Raises:
        InputError: no such column, a prompt without one or with two, or row numbers that do not fit
            the annotations.
    """
    hint = "each row needs a prompt and `instruction_difficulty`"
    table = read_user_table(source, text_columns=TEXT_KEYS, hint=hint)
    name = _column(table, DIFFICULTIES, "difficulties")
    return _matched(table, annotations, _numbers(table, name), "difficulty")


def read_baseline_lengths(source: str, annotations: Annotations) -> Matched:
    """Return the length in characters of the baseline's response to each row's prompt.

    From AlpacaEval's ``model_outputs.json``.

    Raises:
        InputError: no such column, a prompt without a response or with two of different length.
    """
    hint = "each row needs `instruction` and `output`"
    table = read_user_table(source, text_columns=TEXT_KEYS, hint=hint)
    name = _column(table, ("output", "response"), "responses")
    problems = Problems(source)
    lengths = []
    for place, value in zip(table.places, table.values(name), strict=True):
        if isinstance(value, str):
            lengths.append(float(len(value)))
        else:
            problems.add(place, f"`{name}` is not text")
    problems.raise_if_any()
    return _matched(table, annotations, lengths, "baseline response")


def read_regularising_rows(source: str) -> Regularising:
    """Return the rows of AlpacaEval's ``df_gamed.csv``.

    Their columns are ``preference`` in [0, 1], ``std_delta_len`` and ``instruction_difficulty``.

    Raises:
        InputError: missing columns, values that are no numbers.
    """
    hint = (
        "each row needs `preference` in [0, 1] and `std_delta_len`, and `instruction_difficulty` "
        "for a fit with that term"
    )
    table = read_user_table(source, hint=hint)
    table.require(["preference", "std_delta_len"], hint=hint)
    difficulty = table.first_name(DIFFICULTIES)
    return Regularising(
        _numbers(table, "preference"),
        _numbers(table, "std_delta_len"),
        _numbers(table, difficulty) if difficulty is not None else None,
    )


def _column(table: UserTable, names: Sequence[str], content: str) -> str:
    name = table.first_name(names)
    if name is None:
        raise MissingColumnsError(table, f"holds no {content} (`{'` or `'.join(names)}`)")
    return name


def _numbers(table: UserTable, name: str) -> list[float]:
    """Return a column of numbers, all of them there.

    Raises:
        InputError: every row without one.
    """
    problems = Problems(table.source)
    numbers = []
    for place, value in zip(table.places, table.values(name), strict=True):
        number, problem = checked_number(value, name)
        if number is None or isnan(number):
            problems.add(place, problem or f"`{name}` is {value}")
        else:
            numbers.append(number)
    problems.raise_if_any()
    return numbers


def _matched(
    table: UserTable, annotations: Annotations, values: Sequence[float], content: str
) -> Matched:
    """Join by prompt id, by text, or by row number where nothing else is there."""
    if annotations.ids is not None and "prompt_id" in table.names:
        return _by_key(table, "prompt_id", annotations.ids, values, content)
    text = table.first_name(TEXT_KEYS)
    if annotations.texts is not None and text is not None:
        return _by_key(table, text, annotations.texts, values, content)

    row_numbers = table.first_name(ROW_NUMBERS)
    if row_numbers is None:
        key = "prompt_id" if annotations.texts is None else "the prompt's text"
        raise MissingColumnsError(
            table,
            f"shares no column with {annotations.source} that names a prompt",
            hint=f"add {key}, which the annotations have",
        )
    return _by_row(table, row_numbers, annotations, values)


def _by_key(
    table: UserTable, name: str, keys: Sequence[str], values: Sequence[float], content: str
) -> Matched:
    value_of: dict[str, float] = {}
    for place, prompt, value in zip(table.places, table.values(name), values, strict=True):
        key = key_of(prompt)
        # a prompt may stand twice, if both rows say the same
        if value_of.setdefault(key, value) != value:
            raise InputError(
                f"{table.source}, {place}: prompt {key[:60]!r} has a different {content} than in "
                "an earlier row"
            )

    missing = sorted({key for key in keys if key not in value_of})
    if missing:
        way = "prompt_id" if name == "prompt_id" else "their exact text"
        raise InputError(
            f"{table.source} has no {content} for {len(missing):,} of {len(set(keys)):,} prompts, "
            f"the first is {missing[0][:60]!r}",
            hint=f"prompts are matched by {way}",
        )
    return Matched(
        values=[value_of[key] for key in keys],
        by=f"`{name}`",
        n_unused=len(value_of.keys() - set(keys)),
        place={key: number for number, key in enumerate(value_of)},
    )


def _by_row(
    table: UserTable, row_numbers: str, annotations: Annotations, values: Sequence[float]
) -> Matched:
    n_rows = len(annotations.preferences)
    if table.values(row_numbers) != list(range(n_rows)):
        raise InputError(
            f"{table.source} names prompts only by row number, and has {len(values):,} rows "
            f"where {annotations.source} has {n_rows:,}, so rows cannot be matched",
            hint="add the text of the prompts in a column `instruction`, or annotate all prompts",
        )

    # numbers alone are believed: where the prompts are known, so is their order
    is_alpaca_eval = annotations.prompts_sha256() == ALPACA_EVAL_PROMPTS
    if is_alpaca_eval and digest_of(annotations.keys) != ALPACA_EVAL_ORDER:
        raise InputError(
            f"{table.source} names prompts only by row number, and {annotations.source} has "
            "AlpacaEval's prompts in a different order from AlpacaEval's tables",
            hint="put the rows in the order of AlpacaEval's outputs, or add the text of the "
            "prompts to the table in a column `instruction`",
        )
    return Matched(
        list(values),
        "row number (both files have all rows; correct only if they are in the same order)",
        0,
    )
