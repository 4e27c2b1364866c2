"""A value for each prompt from a second file: the difficulty of instructions, the length of a baseline's responses.

Matched by prompt id or by the prompt's text. A file that numbers its rows instead, as AlpacaEval's table of difficulties does,
is matched by row only where both files have all rows, and the caller is told.
"""

from collections.abc import Sequence
from math import isnan
from typing import Any, NamedTuple

from prefpipe.artifacts.fingerprint import canonical_json
from prefpipe.artifacts.interchange.annotations import (
    DIFFICULTIES,
    TEXT_KEYS,
    Annotations,
    digest_of,
)
from prefpipe.artifacts.interchange.user_table import (
    Problems,
    UserTable,
    checked_number,
    read_user_table,
)
from prefpipe.errors import InputError

ROW_NUMBERS = ("index", "", "Unnamed: 0")
"""How pandas names a column of row numbers."""


ALPACA_EVAL_PROMPTS = "874ac9f855a1f5919dcd19b19fc1e8b914d2df4cbca1afb5ea3d0e80a317eded"
"""sha256 of the sorted instructions of AlpacaEval, and of the instructions in the order in which its tables number them."""
ALPACA_EVAL_ORDER = "a0f6db1679e6f3c54f841e1a31b23053e3281eb5b5f53fcf475ace024f2bc910"


class Matched(NamedTuple):
    """Values by row of the annotations, how they were matched, and how many prompts of the file no annotation is of.

    ``place`` says where each key stands in the file; None where rows were matched by number.
    """

    values: list[float]
    by: str
    n_unused: int
    place: dict[str, int] | None = None


class Regularising(NamedTuple):
    """AlpacaEval's gamed baselines, column by column; ``difficulty`` None where the file has none."""

    preferences: list[float]
    std_length_difference: list[float]
    difficulty: list[float] | None


def read_difficulty(source: str, annotations: Annotations) -> Matched:
    """Return the difficulty of each row's prompt.

    Raises:
        InputError: no such column, a prompt without one or with two, or row numbers that do not fit the annotations.
    """
    table = read_user_table(
        source, text_columns=TEXT_KEYS, hint="each row needs a prompt and `instruction_difficulty`"
    )
    name = _column(table, DIFFICULTIES, "difficulties")
    return _matched(table, annotations, _checked_numbers(table, name), "difficulty")


def read_baseline_lengths(source: str, annotations: Annotations) -> Matched:
    """Return the length in characters of the baseline's response to each row's prompt: AlpacaEval's ``model_outputs.json``.

    Raises:
        InputError: no such column, a prompt without a response or with two of different length.
    """
    table = read_user_table(
        source, text_columns=TEXT_KEYS, hint="each row needs `instruction` and `output`"
    )
    name = _column(table, ("output", "response"), "responses")
    problems = Problems(source)
    lengths = []
    for place, value in zip(table.places, table.values(name), strict=True):
        if not isinstance(value, str):
            problems.add(place, f"`{name}` is no text")
        lengths.append(float(len(value)) if isinstance(value, str) else 0.0)
    problems.raise_if_any()
    return _matched(table, annotations, lengths, "baseline response")


def read_regularising_rows(source: str) -> Regularising:
    """Return the rows of AlpacaEval's ``df_gamed.csv``: preference in [0, 1], std_delta_len, instruction_difficulty.

    Raises:
        InputError: missing columns, values that are no numbers.
    """
    hint = "each row needs `preference` in [0, 1] and `std_delta_len`, and `instruction_difficulty` for a fit with that term"
    table = read_user_table(source, hint=hint)
    table.require(["preference", "std_delta_len"], hint=hint)
    name = next((column for column in DIFFICULTIES if column in table.names), None)
    return Regularising(
        _checked_numbers(table, "preference"),
        _checked_numbers(table, "std_delta_len"),
        _checked_numbers(table, name) if name is not None else None,
    )


def _column(table: UserTable, names: Sequence[str], what: str) -> str:
    name = next((column for column in names if column in table.names), None)
    if name is None:
        raise InputError(
            f"{table.source} holds no {what} (`{'` or `'.join(names)}`); its columns are: {', '.join(table.names)}"
        )
    return name


def _checked_numbers(table: UserTable, name: str) -> list[float]:
    problems, found = Problems(table.source), []
    for place, value in zip(table.places, table.values(name), strict=True):
        number, problem = checked_number(value, name)
        if problem is not None or number is None or isnan(number):
            problems.add(place, problem or f"`{name}` is {value}")
        found.append(0.0 if number is None else number)
    problems.raise_if_any()
    return found


def _matched(
    table: UserTable, annotations: Annotations, values: Sequence[float], what: str
) -> Matched:
    """Join by prompt id, by text, or by row number where nothing else is there."""
    text = next((name for name in TEXT_KEYS if name in table.names), None)
    if annotations.ids is not None and "prompt_id" in table.names:
        return _by_key(table, "prompt_id", annotations.ids, values, what)
    if annotations.texts is not None and text is not None:
        return _by_key(table, text, annotations.texts, values, what)
    numbers = next((name for name in ROW_NUMBERS if name in table.names), None)
    if numbers is None:
        ours = "prompt_id" if annotations.texts is None else "the prompt's text"
        raise InputError(
            f"{table.source} has no column in common with {annotations.source} that names a prompt; its columns are: "
            f"{', '.join(table.names)}",
            hint=f"give it {ours}, as the annotations have",
        )
    return _by_row(table, numbers, annotations, values)


def _by_key(
    table: UserTable, name: str, keys: Sequence[str], values: Sequence[float], what: str
) -> Matched:

    def as_key(value: Any) -> str:
        return value if isinstance(value, str) else canonical_json(value)

    found: dict[str, float] = {}
    for place, key, value in zip(
        table.places, map(as_key, table.values(name)), values, strict=True
    ):
        if found.setdefault(key, value) != value:
            raise InputError(
                f"{table.source}, {place}: prompt {key[:60]!r} has another {what} than further up"
            )
    lacking = sorted({key for key in keys if key not in found})
    if lacking:
        raise InputError(
            f"{table.source} has no {what} for {len(lacking):,} of {len(set(keys)):,} prompts, the first is {lacking[0][:60]!r}",
            hint="prompts are matched by "
            + ("prompt_id" if name == "prompt_id" else "their text, every character"),
        )
    order = {key: number for number, key in enumerate(found)}
    return Matched([found[key] for key in keys], f"`{name}`", len(found.keys() - set(keys)), order)


def _by_row(
    table: UserTable, numbers: str, annotations: Annotations, values: Sequence[float]
) -> Matched:
    n_rows = len(annotations.preferences)
    if table.values(numbers) != list(range(n_rows)):
        raise InputError(
            f"{table.source} names prompts by row number alone, and has {len(values):,} rows where {annotations.source} has "
            f"{n_rows:,}: which belong together is not known",
            hint="give it the prompts' text in a column `instruction`, or annotate all prompts",
        )
    if (
        annotations.prompts_sha256() == ALPACA_EVAL_PROMPTS
        and digest_of(annotations.keys) != ALPACA_EVAL_ORDER
    ):
        raise InputError(
            f"{table.source} names prompts by row number alone, and {annotations.source} has AlpacaEval's prompts in another "
            "order than AlpacaEval's tables",
            hint="put the rows in the order of AlpacaEval's own outputs, or give the table the prompts' text in a column "
            "`instruction`",
        )
    return Matched(
        list(values),
        "row number (both files have all rows; right where their order is the same)",
        0,
    )
