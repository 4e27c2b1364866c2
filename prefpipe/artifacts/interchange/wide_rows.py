"""``wide``: one row a prompt, its responses in columns or lists that are named, and the scores beside them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules
from prefpipe.artifacts.interchange.pool import Pool
from prefpipe.artifacts.interchange.response_lists import Item, Items, Layout, gather_items
from prefpipe.artifacts.interchange.user_table import UserTable, checked_list, read_user_table, told
from prefpipe.errors import InputError, UsageError

HINT = (
    "name the columns: --prompt-column P --response-column A --response-column B --score-column SA --score-column SB, or one "
    "column of lists of responses and one of lists of scores"
)


class WideColumns(NamedTuple):
    """Which columns hold what. ``scores``: each scorer's columns, one for each of ``responses``, in their order."""

    responses: tuple[str, ...]
    scores: Mapping[str, tuple[str, ...]] = {}
    prompt: str | None = None
    prompt_id: str | None = None
    model: str | None = None


def read_wide(
    source: str,
    names: WideColumns,
    *,
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules = DEFAULT_RULES,
) -> Pool:
    """Read a file with one row a prompt.

    Args:
        source: path or ``hf:`` reference.
        names: the columns' names.
        columns: the user's columns that pass through; None for all that hold one value for each prompt.
        reserved: names that the artifact uses itself.
        rules: what the user says about the file's conversations.

    Raises:
        InputError: missing columns, lists of different lengths, and every row that cannot be used.
        UsageError: a scorer has another number of columns than there are columns of responses.
    """
    for scorer, score_columns in names.scores.items():
        if len(score_columns) != len(names.responses):
            raise UsageError(
                f"--score-column: {len(score_columns)} columns of {scorer} ({', '.join(score_columns)}) for "
                f"{len(names.responses)} of responses ({', '.join(names.responses)}): one of each belongs together",
                hint="name a scorer with --score-column NAME=COLUMN, once for each --response-column, in their order",
            )
    text_columns = [
        *names.responses,
        *(name for name in (names.prompt, names.prompt_id, names.model) if name is not None),
    ]
    table = read_user_table(source, text_columns=text_columns, hint=HINT)
    prompt = _prompt_column(table, names.prompt)
    flat = [column for score_columns in names.scores.values() for column in score_columns]
    given = [name for name in (names.prompt_id, names.model) if name is not None]
    table.require([prompt, *names.responses, *flat, *given], hint=HINT)
    if names.prompt_id is not None:
        table = _with_ids(table, names.prompt_id)

    nulls: Counter[str] = Counter()
    is_of_lists = len(names.responses) == 1 and _holds_lists(table.values(names.responses[0]))
    if len(names.responses) == 1 and not is_of_lists:
        _refuse_printed_lists(table, names.responses[0])
    items_of = _list_items(table, names) if is_of_lists else _column_items(table, names, nulls)
    used = {prompt, *names.responses, *flat, *given, "prompt_id", *reserved}
    layout = Layout(prompt, names.responses[0], {})
    pool = gather_items(
        table,
        layout,
        items_of,
        tuple(names.scores),
        columns,
        used,
        rules,
        on_duplicate=rules.on_duplicate or "mean",
    )
    if nulls:
        shown = ", ".join(f"`{name}` {count:,}" for name, count in nulls.items())
        pool.notes.append(f"responses that are null, and left out: {shown}")
    return pool


def _prompt_column(table: UserTable, given: str | None) -> str:
    if given is not None:
        return given
    found = [name for name in ("prompt", "messages") if name in table.names]
    if len(found) != 1:
        which = "both `prompt` and `messages`" if found else "neither `prompt` nor `messages`"
        raise InputError(
            f"{table.source} has {which}; its columns are: {', '.join(table.names)}",
            hint="name one with --prompt-column",
        )
    return found[0]


def _with_ids(table: UserTable, name: str) -> UserTable:
    """Return the table with the column of ids under the name that every reader looks for."""
    kept = (
        table.table.drop_columns(["prompt_id"])
        if name != "prompt_id" and "prompt_id" in table.names
        else table.table
    )
    renamed = kept.rename_columns(
        ["prompt_id" if each == name else each for each in kept.column_names]
    )
    return UserTable(table.source, renamed, table.places)


def _holds_lists(values: Sequence[Any]) -> bool:
    """Return whether a column holds lists, also as JSON text."""
    said = [value for value in values if value is not None]
    return bool(said) and all(checked_list(value, "")[1] is None for value in said)


def _refuse_printed_lists(table: UserTable, name: str) -> None:
    """Refuse a column of lists as Python and numpy print them: one text would be the only response of its row.

    Raises:
        InputError: every text of the column begins and ends as a list.
    """
    said = [value for value in table.values(name) if value is not None]
    if said and all(
        isinstance(value, str) and value.strip()[:1] == "[" and value.strip()[-1:] == "]"
        for value in said
    ):
        raise InputError(
            f"{table.source}: `{name}` holds lists written as text that are no JSON, such as {told(said[0])}",
            hint="write the lists as JSON, or save the file as Parquet or JSON lines",
        )


def _column_items(table: UserTable, names: WideColumns, nulls: Counter[str]) -> Any:
    """Return what makes a row's responses of its columns."""
    texts = [table.values(name) for name in names.responses]
    scores = {
        scorer: [table.values(name) for name in each] for scorer, each in names.scores.items()
    }
    models = table.values_or_none(names.model)

    def items_of(row: int) -> Items:
        items = []
        for number, name in enumerate(names.responses):
            if texts[number][row] is None:
                nulls[name] += 1
                continue
            found = {
                scorer: (values[number][row], names.scores[scorer][number])
                for scorer, values in scores.items()
            }
            items.append(Item(name, texts[number][row], found, models[row]))
        return items, None if items else f"all of {', '.join(names.responses)} are null"

    return items_of


def _list_items(table: UserTable, names: WideColumns) -> Any:
    """Return what makes a row's responses of its list."""
    [name] = names.responses
    texts = table.values(name)
    scores = {scorer: (column, table.values(column)) for scorer, (column,) in names.scores.items()}
    models = table.values_or_none(names.model)

    def items_of(row: int) -> Items:
        responses, problem = checked_list(texts[row], name)
        if problem is not None:
            return [], problem
        lists: dict[str, list[Any]] = {}
        for scorer, (column, values) in scores.items():
            lists[scorer], problem = checked_list(values[row], column)
            if problem is None and len(lists[scorer]) != len(responses):
                problem = f"`{name}` holds {len(responses)} and `{column}` {len(lists[scorer])}: one of each belongs together"
            if problem is not None:
                return [], problem

        of_each = models[row] if isinstance(models[row], list) else [models[row]] * len(responses)
        if len(of_each) != len(responses):
            return (
                [],
                f"`{name}` holds {len(responses)} and `{names.model}` {len(of_each)}: one of each belongs together",
            )
        items = []
        for number, text in enumerate(responses):
            found = {
                scorer: (lists[scorer][number], f"{column}[{number}]")
                for scorer, (column, _) in scores.items()
            }
            items.append(Item(f"{name}[{number}]", text, found, of_each[number]))
        return items, None

    return items_of
