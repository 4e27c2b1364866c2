"""What is read from other tools' files: prompts with their responses and scores, keyed and checked.

Every reader hands over its responses one by one; ``gather`` joins them by prompt, numbers them and refuses what two rows
say differently.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from prefpipe.artifacts.conversations import Turns
from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.interchange.user_table import Problems, UserTable
from prefpipe.artifacts.prompts import Prompt, Prompts
from prefpipe.artifacts.tables.columns import python_rows
from prefpipe.errors import InputError, UsageError


class Response(NamedTuple):
    """One response of a file.

    ``row`` is the number of its row, from 0, ``place`` its name in messages. ``prompt_id`` None is the messages' hash,
    ``sample_idx`` None the order within the prompt. ``failure`` says why there is no text. ``scores`` by scorer: None where
    the file has no score.
    """

    row: int
    place: str
    messages: Turns
    text: str | None
    prompt_id: str | None = None
    sample_idx: int | None = None
    model: str | None = None
    finish_reason: str | None = None
    failure: str | None = None
    scores: Mapping[str, float | None] = {}


@dataclass(frozen=True)
class Pool:
    """All prompts of a file in the order in which they first stand there, each one's responses by ``sample_idx`` beside it."""

    prompts: Prompts
    responses: list[list[Response]]
    scorers: tuple[str, ...]
    notes: list[str] = field(default_factory=list)

    @property
    def n_responses(self) -> int:
        """Responses of all prompts."""
        return sum(map(len, self.responses))


def gather(
    responses: Iterable[Response], problems: Problems, *, scorers: Sequence[str], table: UserTable | None = None,
    columns: Sequence[str] | None = (), reserved: Sequence[str] = (),
) -> Pool:  # fmt: skip
    """Join responses by prompt and number them.

    Args:
        responses: in the order of the file.
        problems: what the reader has found already; told here together with what is found now.
        scorers: names of the scores.
        table: where the user's columns are.
        columns: those that pass through; None for all that hold one value for each prompt.
        reserved: names that cannot pass through: those of the artifact, and those that the reader has used.

    Errors:
        InputError: two texts for one prompt, two responses under one key, and the reader's problems.
    """
    by_prompt: dict[str, list[Response]] = {}
    for response in responses:
        prompt_id = response.prompt_id if response.prompt_id is not None else prompt_id_of(response.messages)
        members = by_prompt.setdefault(prompt_id, [])
        if members and members[0].messages != response.messages:
            problems.add(response.place, f"prompt {prompt_id} has another text here than at {members[0].place}")
        members.append(response._replace(prompt_id=prompt_id))
    numbered = [_numbered(members, problems) for members in by_prompt.values()]
    problems.raise_if_any()
    prompts = [Prompt(prompt_id, members[0].messages) for prompt_id, members in by_prompt.items()]
    theirs, notes = _user_columns(table, list(by_prompt.values()), columns, reserved)
    return Pool(Prompts(prompts, theirs), numbered, tuple(scorers), notes)


def _numbered(members: list[Response], problems: Problems) -> list[Response]:
    """Give a prompt's responses their indices: those that the file brings, or the order."""
    given = [response for response in members if response.sample_idx is not None]
    if not given:
        return [response._replace(sample_idx=number) for number, response in enumerate(members)]
    if len(given) < len(members):
        stray = next(response for response in members if response.sample_idx is None)
        problems.add(
            stray.place, f"it has no sample_idx, and others of prompt {stray.prompt_id} have one, such as {given[0].place}"
        )
        return members
    places: dict[Any, str] = {}
    for response in members:
        if response.sample_idx in places:
            problems.add(
                response.place,
                f"prompt {response.prompt_id}, sample {response.sample_idx} stands at {places[response.sample_idx]} already",
            )
        places.setdefault(response.sample_idx, response.place)
    return sorted(members, key=lambda response: response.sample_idx or 0)


def _user_columns(
    table: UserTable | None, members: Sequence[Sequence[Response]], wanted: Sequence[str] | None, reserved: Sequence[str]
) -> tuple[pa.Table, list[str]]:
    """Return the user's columns with a row for each prompt, and a line for each that does not pass through."""
    rows = pa.array([responses[0].row for responses in members], pa.int64())
    if table is None or wanted == ():
        return pa.table({}), []
    theirs = [name for name in table.names if name not in reserved] if wanted is None else list(wanted)
    _refuse_names(table, theirs, reserved)
    varying = {name: place for name in theirs if (place := _place_of_difference(table, name, members)) is not None}
    if wanted is not None and varying:
        name, place = next(iter(varying.items()))
        raise InputError(
            f"{table.source}, {place}: `{name}` has another value than an earlier row of the same prompt",
            hint=f"a column that belongs to the responses cannot pass through; leave `{name}` out of --columns",
        )
    kept = [name for name in theirs if name not in varying]
    notes = [f"columns that differ within a prompt and are left out: {', '.join(varying)}"] if varying else []
    return table.table.select(kept).take(rows), notes


def _refuse_names(table: UserTable, theirs: Sequence[str], reserved: Sequence[str]) -> None:
    unknown = [name for name in theirs if name not in table.names]
    if unknown:
        raise UsageError(f"--columns names `{unknown[0]}`, which {table.source} does not have; it has: {', '.join(table.names)}")
    clash = [name for name in theirs if name in reserved]
    if clash:
        raise UsageError(f"--columns names `{clash[0]}`, which the candidates hold in a column of their own already",
                         hint="leave it out of --columns, or rename it in the file")  # fmt: skip
    twice = [name for name, count in Counter(theirs).items() if count > 1]
    if twice:
        raise UsageError(f"--columns names `{twice[0]}` twice")


def _place_of_difference(table: UserTable, name: str, members: Sequence[Sequence[Response]]) -> str | None:
    """Return the place of the first row whose value is not that of its prompt's first row."""
    values = [repr(row[name]) for row in python_rows(table.table.select([name]))]  # the text of NaN equals itself
    for responses in members:
        for response in responses[1:]:
            if values[response.row] != values[responses[0].row]:
                return response.place
    return None
