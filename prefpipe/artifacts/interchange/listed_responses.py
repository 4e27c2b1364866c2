"""The step behind every format with one row a prompt and several responses in it.

A reader says how the responses of one row are read (``RowReader``); ``gather_items`` does the rest:
the row's prompt and id, the checks of every response, the notes, and the join by prompt.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.conversations import ReadingRules
from prefpipe.artifacts.interchange.checked_values import (
    checked_id,
    checked_index,
    checked_list,
    checked_number,
    checked_optional_text,
)
from prefpipe.artifacts.interchange.conversation_columns import (
    checked_prompt,
    checked_response_text,
    unwrapped_responses,
)
from prefpipe.artifacts.interchange.gathering import gather
from prefpipe.artifacts.interchange.pool import ImportedResponse, Pool
from prefpipe.artifacts.interchange.read_options import ReadOptions
from prefpipe.artifacts.interchange.reading_notes import (
    notes_of_keys_left_out,
    notes_of_texts_read_back,
)
from prefpipe.artifacts.interchange.row_problems import Problems, UnusableRowError
from prefpipe.artifacts.interchange.system_and_tools import (
    SystemAndToolsColumns,
    read_system_and_tools,
)
from prefpipe.artifacts.interchange.user_table import UserTable


class Item(NamedTuple):
    """One response of a row, not checked yet.

    Attributes:
        name: where it stands, for messages.
        text: the response.
        scores: by scorer, each with the name of where it stands.
        model: who wrote it.
        sample_idx: its index, where the file has one.
        finish_reason: how it ended.
    """

    name: str
    text: Any
    scores: Mapping[str, tuple[Any, str]]
    model: Any = None
    sample_idx: Any = None
    finish_reason: Any = None


RowReader = Callable[[int], list[Item]]
"""Returns the responses of the row of a number; raises `UnusableRowError` where it cannot."""


def gather_items(
    table: UserTable,
    prompt_column: str,
    items_of: RowReader,
    scorers: Sequence[str],
    options: ReadOptions,
    *,
    used: set[str],
    is_strict: bool = False,
    on_duplicate: str | None = None,
) -> Pool:
    """Return the pool of a file whose rows hold a prompt and several responses.

    Args:
        table: the file.
        prompt_column: where its prompts are.
        items_of: reads the responses of a row.
        scorers: names of the scores.
        options: the user's options for the file.
        used: columns that the format uses, beside the prompt and ``prompt_id``.
        is_strict: see `checked_prompt`.
        on_duplicate: what several rows of one response come to; None if each is its own sample.

    Raises:
        InputError: every row that cannot be used.
    """
    problems = Problems(table.source)
    used = {prompt_column, "prompt_id", *used}
    taken = {*used, *options.reserved}
    extras = read_system_and_tools(table, rules=options.rules, taken=taken)
    pool = gather(
        _responses(table, prompt_column, items_of, problems, extras, options.rules, is_strict),
        problems,
        scorers=scorers,
        table=table,
        options=options,
        used={*used, *extras.used},
        on_duplicate=on_duplicate,
    )

    prompts = table.values(prompt_column)
    pool.notes.extend(extras.notes)
    pool.notes.extend(notes_of_keys_left_out({prompt_column: prompts}, options.rules))
    # in `messages`, turns as JSON text are no surprise
    if prompt_column != "messages":
        pool.notes.extend(notes_of_texts_read_back(prompts, options.rules))
    return pool


def _responses(
    table: UserTable,
    prompt_column: str,
    items_of: RowReader,
    problems: Problems,
    extras: SystemAndToolsColumns,
    rules: ReadingRules,
    is_strict: bool,
) -> Iterator[ImportedResponse]:
    """Yield the responses of every valid row; record the problems of the others."""
    rows = [_items_or_problem(items_of, row) for row in range(table.n_rows)]
    # all texts of the file decide together whether they are turns that were written as text
    texts_as_written: list[Any] = []
    for items, _ in rows:
        texts_as_written += [item.text for item in items]
    texts = iter(unwrapped_responses(texts_as_written, rules))
    prompts, ids = table.values(prompt_column), table.values_or_none("prompt_id")
    has_ids = "prompt_id" in table.names

    for row, place in enumerate(table.places):
        row_problems = problems.at(place)
        turns, problem = checked_prompt(
            prompts[row],
            prompt_column,
            is_strict=is_strict,
            rules=rules,
            system_and_tools=extras.rows[row],
        )
        prompt_id = None
        if problem is None and has_ids:
            prompt_id, problem = checked_id(ids[row], "prompt_id")
        row_problems.add(problem)
        items, problem_of_items = rows[row]
        row_problems.add(problem_of_items)

        # every response is checked, also of a prompt that cannot be used
        take = row_problems.take
        for item in items:
            name = item.name
            text = take(checked_response_text(next(texts), name, rules))
            scores = {}
            for scorer, (score, where) in item.scores.items():
                scores[scorer] = take(checked_number(score, where))
            index = take(checked_index(item.sample_idx, f"{name}.sample_idx"))
            model = take(checked_optional_text(item.model, f"the model of {name}"))
            reason = take(checked_optional_text(item.finish_reason, f"{name}.finish_reason"))
            # without a prompt there is nothing to gather it by; other problems are raised later
            if problem is None:
                yield ImportedResponse(
                    row, place, turns, text, prompt_id, index, model, reason, scores=scores
                )


def _items_or_problem(items_of: RowReader, row: int) -> tuple[list[Item], str | None]:
    try:
        return items_of(row), None
    except UnusableRowError as error:
        return [], str(error)


def objects_in(values: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the objects in the lists of a column, whatever else is beside them."""
    objects: list[dict[str, Any]] = []
    for value in values:
        members, _ = checked_list(value, "")
        objects += [member for member in members if isinstance(member, dict)]
    return objects


def refuse_uneven(lists: Mapping[str, Sequence[Any]], first: str) -> None:
    """Refuse a row whose lists are not all as long as the ``first`` of them.

    Raises:
        UnusableRowError: naming one that is not.
    """
    n_responses = len(lists[first])
    for name, members in lists.items():
        if len(members) != n_responses:
            raise UnusableRowError(
                f"`{first}` holds {n_responses} and `{name}` {len(members)}: both lists must "
                "have the same length"
            )


def note_on_comparisons(pool: Pool) -> list[str]:
    """Return a note on prompts whose responses were compared in several rows.

    The scores of such a prompt come from different comparisons.
    """
    n_several = 0
    for responses in pool.responses:
        n_several += len({response.row for response in responses}) > 1
    if not n_several:
        return []
    note = (
        f"prompts with several rows: {n_several:,}; each score applies only within its own "
        "comparison"
    )
    return [note]
