"""``wide``: one row a prompt, its responses and scores in columns or lists that the user names."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from prefpipe.artifacts.interchange.checked_values import checked_list
from prefpipe.artifacts.interchange.conversation_columns import prompt_column
from prefpipe.artifacts.interchange.listed_responses import (
    Item,
    RowReader,
    gather_items,
    refuse_uneven,
)
from prefpipe.artifacts.interchange.pool import Pool
from prefpipe.artifacts.interchange.read_options import ReadOptions, WideColumns
from prefpipe.artifacts.interchange.row_problems import UnusableRowError, needed
from prefpipe.artifacts.interchange.user_table import UserTable, read_user_table
from prefpipe.artifacts.tables.values import shortened
from prefpipe.errors import InputError, UsageError

HINT = (
    "name the columns: --prompt-column P --response-column A --response-column B --score-column SA "
    "--score-column SB, or one column of lists of responses and one of lists of scores"
)


def read_wide(source: str, options: ReadOptions) -> Pool:
    """Read a file with one row a prompt.

    Raises:
        InputError: missing columns, lists of different lengths, and every row that cannot be used.
        UsageError: a scorer has another number of columns than there are columns of responses.
    """
    names = options.wide
    _refuse_missing_scores(names)
    named = [name for name in (names.prompt, names.prompt_id, names.model) if name is not None]
    table = read_user_table(source, text_columns=[*names.responses, *named], hint=HINT)

    prompt = prompt_column(table, names.prompt, hint="name one with --prompt-column")
    used = [prompt, *names.responses]
    for score_columns in names.scores.values():
        used += score_columns
    used += [name for name in (names.prompt_id, names.model) if name is not None]
    table.require(used, hint=HINT)
    if names.prompt_id is not None:
        table = _with_ids(table, names.prompt_id)

    nulls: Counter[str] = Counter()
    items_of = _items_of_columns(table, names, nulls)
    # one column may hold the responses of a row in a list
    if len(names.responses) == 1:
        texts = table.values(names.responses[0])
        if _holds_lists(texts):
            items_of = _items_of_lists(table, names)
        else:
            _refuse_printed_lists(table, names.responses[0], texts)
    pool = gather_items(
        table,
        prompt,
        items_of,
        tuple(names.scores),
        options,
        used=set(used),
        on_duplicate=options.rules.on_duplicate or "mean",
    )
    if nulls:
        shown = ", ".join(f"`{name}` {count:,}" for name, count in nulls.items())
        pool.notes.append(f"responses that are null, and left out: {shown}")
    return pool


def _refuse_missing_scores(names: WideColumns) -> None:
    for scorer, score_columns in names.scores.items():
        if len(score_columns) != len(names.responses):
            raise UsageError(
                f"--score-column: {len(score_columns)} columns of {scorer} "
                f"({', '.join(score_columns)}) for {len(names.responses)} of responses "
                f"({', '.join(names.responses)}): pass one score column for each response column",
                hint="name a scorer with --score-column NAME=COLUMN, once for each "
                "--response-column, in the same order",
            )


def _with_ids(table: UserTable, name: str) -> UserTable:
    """Return the table with the column of ids under the name that every reader looks for."""
    if name == "prompt_id":
        return table
    columns = table.table
    # the column that the user names counts, and not the one that happens to be called so
    if "prompt_id" in table.names:
        columns = columns.drop_columns(["prompt_id"])
    renamed = columns.rename_columns({name: "prompt_id"})
    return UserTable(table.source, renamed, table.places)


def _holds_lists(values: Sequence[Any]) -> bool:
    """Return whether a column holds lists, also as JSON text."""
    given = [value for value in values if value is not None]
    return bool(given) and all(checked_list(value, "")[1] is None for value in given)


def _refuse_printed_lists(table: UserTable, name: str, values: Sequence[Any]) -> None:
    """Refuse a column of lists as Python and numpy print them.

    One text would be the only response of its row.

    Raises:
        InputError: every text of the column begins and ends as a list.
    """
    given = [value for value in values if value is not None]
    if given and all(map(_looks_like_a_list, given)):
        raise InputError(
            f"{table.source}: `{name}` holds lists written as text that are not JSON, such as "
            f"{shortened(given[0])}",
            hint="write the lists as JSON, or save the file as Parquet or JSON lines",
        )


def _looks_like_a_list(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    text = value.strip()
    return text[:1] == "[" and text[-1:] == "]"


def _items_of_columns(table: UserTable, names: WideColumns, nulls: Counter[str]) -> RowReader:
    """Return what makes a row's responses of its columns; ``nulls`` counts those left out."""
    texts = [table.values(name) for name in names.responses]
    scores = {
        scorer: [table.values(name) for name in columns] for scorer, columns in names.scores.items()
    }
    models = table.values_or_none(names.model)

    def items_of(row: int) -> list[Item]:
        items = []
        for number, name in enumerate(names.responses):
            text = texts[number][row]
            # a row may have fewer responses than there are columns
            if text is None:
                nulls[name] += 1
                continue
            scores_of_item = {}
            for scorer, columns in scores.items():
                scores_of_item[scorer] = (columns[number][row], names.scores[scorer][number])
            items.append(Item(name, text, scores_of_item, models[row]))
        if not items:
            raise UnusableRowError(f"all of {', '.join(names.responses)} are null")
        return items

    return items_of


def _items_of_lists(table: UserTable, names: WideColumns) -> RowReader:
    """Return what makes a row's responses of its list."""
    [name] = names.responses
    texts = table.values(name)
    columns = {scorer: column for scorer, (column,) in names.scores.items()}
    scores = {column: table.values(column) for column in columns.values()}
    models = table.values_or_none(names.model)

    def items_of(row: int) -> list[Item]:
        responses = needed(checked_list(texts[row], name))
        lists = {name: responses}
        for column, values in scores.items():
            lists[column] = needed(checked_list(values[row], column))
            refuse_uneven(lists, name)

        # one model of all responses, or one of each
        models_of_items = models[row]
        if isinstance(models_of_items, list):
            refuse_uneven({name: responses, str(names.model): models_of_items}, name)
        else:
            models_of_items = [models_of_items] * len(responses)

        items = []
        for number, text in enumerate(responses):
            scores_of_item = {}
            for scorer, column in columns.items():
                scores_of_item[scorer] = (lists[column][number], f"{column}[{number}]")
            model = models_of_items[number]
            items.append(Item(f"{name}[{number}]", text, scores_of_item, model))
        return items

    return items_of
