"""The step behind every reader: responses, one by one, become prompts with numbered candidates.

Rows of one prompt need not be adjacent. Contradictions between them are refused.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa

from prefpipe.artifacts.conversations import OTHER_SYSTEM
from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.interchange.pool import ImportedResponse, Pool
from prefpipe.artifacts.interchange.read_options import ReadOptions
from prefpipe.artifacts.interchange.repeated_ratings import one_response_each, raters_of_rows
from prefpipe.artifacts.interchange.row_problems import Problems
from prefpipe.artifacts.interchange.user_table import UserTable
from prefpipe.artifacts.prompts import Prompt, Prompts
from prefpipe.artifacts.tables.columns import python_rows
from prefpipe.artifacts.tool_calls import holds_tools
from prefpipe.errors import InputError, UsageError

NO_USER_COLUMNS = ReadOptions(columns=())


def gather(
    responses: Iterable[ImportedResponse],
    problems: Problems,
    *,
    scorers: Sequence[str] = (),
    table: UserTable | None = None,
    options: ReadOptions = NO_USER_COLUMNS,
    used: Collection[str | None] = (),
    on_duplicate: str | None = None,
) -> Pool:
    """Join responses by prompt and number them.

    Args:
        responses: in the order of the file.
        problems: of the rows, to which the reader adds while it yields; all are raised together.
        scorers: names of the scores.
        table: where the user's columns are.
        options: the user's options for the file.
        used: columns that the reader has used, and that do not pass through.
        on_duplicate: what several rows with scores of one response come to, ``mean``, ``first`` or
            ``refuse``; None if every row is a separate sample.

    Raises:
        InputError: two texts for one prompt, two responses under one key, and the reader's
            problems.
    """
    by_prompt: dict[str, list[ImportedResponse]] = {}
    for response in responses:
        prompt_id = response.prompt_id
        if prompt_id is None:
            prompt_id = prompt_id_of(response.messages)
        members = by_prompt.setdefault(prompt_id, [])
        if members and members[0].messages != response.messages:
            problems.add(response.place, _difference_of_prompts(prompt_id, members[0], response))
        members.append(response._replace(prompt_id=prompt_id))

    # several rows may rate one response: only then is it known how many candidates there are
    reserved = {*used, *options.reserved}
    members_as_read = list(by_prompt.values())
    candidates = members_as_read
    notes: list[str] = []
    if on_duplicate is not None and scorers:
        raters = raters_of_rows(table, reserved)
        candidates, notes = one_response_each(members_as_read, on_duplicate, problems, raters)
    numbered = [_numbered(members, problems) for members in candidates]

    # not before here: a user sees everything that is wrong with the file at once
    problems.raise_if_any()

    # a user's column belongs to the prompt where all rows agree, also those that became one
    user_columns = _NO_COLUMNS
    if table is not None and options.columns != ():
        user_columns = _user_columns(table, members_as_read, options.columns, reserved)
    prompts = [Prompt(prompt_id, members[0].messages) for prompt_id, members in by_prompt.items()]
    carries_tools = any(holds_tools(prompt.messages) for prompt in prompts)
    return Pool(
        Prompts(prompts, user_columns.table, carries_tools=carries_tools),
        numbered,
        tuple(scorers),
        [*notes, *user_columns.notes],
    )


def _difference_of_prompts(prompt_id: str, first: ImportedResponse, other: ImportedResponse) -> str:
    """Return how two rows of one prompt differ: in everything, or only in the system turn."""
    of_first = [turn for turn in first.messages if turn["role"] != "system"]
    of_other = [turn for turn in other.messages if turn["role"] != "system"]
    if of_first == of_other:
        return f"prompt {prompt_id} {OTHER_SYSTEM} {first.place}"
    return f"prompt {prompt_id} has a different text here than at {first.place}"


def _numbered(members: list[ImportedResponse], problems: Problems) -> list[ImportedResponse]:
    """Give a prompt's responses their indices: those of the file, or their order."""
    given = [response for response in members if response.sample_idx is not None]
    if not given:
        return [response._replace(sample_idx=number) for number, response in enumerate(members)]

    # numbers of our own could meet those that the file brings
    if len(given) < len(members):
        stray = next(response for response in members if response.sample_idx is None)
        problems.add(
            stray.place,
            f"it has no sample_idx, but others of prompt {stray.prompt_id} have one, such as "
            f"{given[0].place}",
        )
        return members

    places: dict[int | None, str] = {}
    for response in members:
        index = response.sample_idx
        if index in places:
            problems.add(
                response.place,
                f"prompt {response.prompt_id}, sample {index} already occurs at {places[index]}",
                contradicted=_contradicted(response, members),
            )
        places.setdefault(index, response.place)
    # all have an index by now; `or 0` is for the type alone
    return sorted(members, key=lambda response: response.sample_idx or 0)


def _contradicted(response: ImportedResponse, members: Sequence[ImportedResponse]) -> list[str]:
    """Return the places of rows with a different text under the key of a response.

    Those with its own text only repeat it.
    """
    same_key = [member for member in members if member.sample_idx == response.sample_idx]
    if all(member.text == response.text for member in same_key):
        return []
    return [member.place for member in same_key]


class _UserColumns(NamedTuple):
    """The user's columns, a row for each prompt, and notes on those that do not pass through."""

    table: pa.Table
    notes: list[str]


_NO_COLUMNS = _UserColumns(pa.table({}), [])


def _user_columns(
    table: UserTable,
    members: Sequence[Sequence[ImportedResponse]],
    wanted: Sequence[str] | None,
    reserved: Collection[str | None],
) -> _UserColumns:
    """Return the columns that hold one value for each prompt.

    Raises:
        InputError: a column that is wanted by name differs within a prompt.
        UsageError: a name that the file does not have, or that is not free.
    """
    if wanted is None:
        names = [name for name in table.names if name not in reserved]
    else:
        names = list(wanted)
        _refuse_names(table, names, reserved)

    # what varies is left out with a note, but a column that was requested must not vanish
    kept, varying = [], []
    for name in names:
        place = _place_of_difference(table, name, members)
        if place is None:
            kept.append(name)
            continue
        if wanted is not None:
            raise InputError(
                f"{table.source}, {place}: `{name}` differs from an earlier row of the same prompt",
                hint=f"only columns of the prompt can pass through; remove `{name}` from --columns",
            )
        varying.append(name)

    notes = []
    if varying:
        notes.append(f"left out, because they differ within a prompt: columns {', '.join(varying)}")
    first_rows = pa.array([responses[0].row for responses in members], pa.int64())
    return _UserColumns(table.table.select(kept).take(first_rows), notes)


def _refuse_names(table: UserTable, names: Sequence[str], reserved: Collection[str | None]) -> None:
    unknown = [name for name in names if name not in table.names]
    if unknown:
        raise UsageError(
            f"--columns names `{unknown[0]}`, which {table.source} does not have; "
            f"it has: {', '.join(table.names)}"
        )

    clash = [name for name in names if name in reserved]
    if clash:
        raise UsageError(
            f"--columns names `{clash[0]}`, which is already a column of the candidates",
            hint="remove it from --columns, or rename it in the file",
        )

    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"--columns names `{twice[0]}` twice")


def _place_of_difference(
    table: UserTable, name: str, members: Sequence[Sequence[ImportedResponse]]
) -> str | None:
    """Return the place of the first row whose value is not that of its prompt's first row."""
    # compared as texts: the text of NaN equals itself
    values = [repr(row[name]) for row in python_rows(table.table.select([name]))]
    for responses in members:
        first = values[responses[0].row]
        for response in responses[1:]:
            if values[response.row] != first:
                return response.place
    return None
