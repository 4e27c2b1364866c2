"""``rows``: the long form, one row a response, in columns that can be named."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from prefpipe.artifacts.interchange.pool import Pool, Response, gather
from prefpipe.artifacts.interchange.user_table import (
    Problems,
    UserTable,
    checked_id,
    checked_index,
    checked_number,
    checked_optional_text,
    checked_prompt,
    checked_text,
    read_user_table,
)
from prefpipe.errors import InputError

HINT = "each row needs `prompt` or `messages`, and `response`; other names are given with --prompt-column and --response-column"
OWN_COLUMNS = ("prompt_id", "prompt", "messages", "response", "sample_idx", "model", "finish_reason")


class ColumnNames(NamedTuple):
    """Which columns hold what; None is the usual name. ``rewards`` is scorer to column."""

    prompt_id: str | None = None
    prompt: str | None = None
    response: str | None = None
    model: str | None = None
    rewards: Mapping[str, str] = {}


def read_long_rows(source: str, names: ColumnNames, *, columns: Sequence[str] | None, reserved: Sequence[str] = ()) -> Pool:
    """Read a file with one row a response; the rows of one prompt need not be adjacent.

    Args:
        source: path or ``hf:`` reference.
        names: the columns' names.
        columns: the user's columns that pass through; None for all that hold one value for each prompt.
        reserved: names that the artifact uses itself.

    Errors:
        InputError: missing columns, and every row that cannot be used.
    """
    own = [name for name in names[:4] if isinstance(name, str)]
    table = read_user_table(source, text_columns=[*OWN_COLUMNS[:4], "model", "finish_reason", *own], hint=HINT)
    names = _resolved(table, names)
    problems = Problems(source)
    is_text_known = names.prompt != names.prompt_id
    used = {*OWN_COLUMNS, *own, *names.rewards.values(), *reserved}
    pool = gather(
        _responses(table, names, problems), problems, scorers=tuple(names.rewards), table=table, columns=columns,
        reserved=sorted(used),
    )  # fmt: skip
    if not is_text_known:
        pool.notes.append("the prompts' texts are their ids: responses can be selected by their rewards, and a policy must not "
                          "be trained on them")  # fmt: skip
    return pool


def _resolved(table: UserTable, names: ColumnNames) -> ColumnNames:
    """Fill in the usual names, and refuse columns that the file lacks."""
    prompt = names.prompt
    if prompt is None:
        found = [name for name in ("prompt", "messages") if name in table.names]
        if len(found) != 1:
            which = "both `prompt` and `messages`" if found else "neither `prompt` nor `messages`"
            hint = "name one with --prompt-column" if found else HINT
            raise InputError(f"{table.source} has {which}; its columns are: {', '.join(table.names)}", hint=hint)
        prompt = found[0]
    response = names.response or "response"
    given = [name for name in (names.prompt_id, prompt, response, names.model) if name is not None]
    table.require(given, hint=HINT)
    table.require(list(names.rewards.values()), hint="--reward-column names a column of the file")
    prompt_id = names.prompt_id or ("prompt_id" if "prompt_id" in table.names else None)
    return ColumnNames(prompt_id, prompt, response, names.model or "model", names.rewards)


def _responses(table: UserTable, names: ColumnNames, problems: Problems) -> Iterator[Response]:
    assert names.prompt is not None
    assert names.response is not None
    indices, ids = table.values_or_none("sample_idx"), table.values_or_none(names.prompt_id)
    reasons, models = table.values_or_none("finish_reason"), table.values_or_none(names.model)
    rewards = {scorer: (column, table.values(column)) for scorer, column in names.rewards.items()}
    rows = zip(table.places, table.values(names.prompt), table.values(names.response), strict=True)
    for row, (place, prompt, text) in enumerate(rows):
        failed = text is None and reasons[row] == "error"
        turns, problem = checked_prompt(prompt, names.prompt)
        found = [problem]
        prompt_id, problem = checked_id(ids[row], names.prompt_id) if names.prompt_id is not None else (None, None)
        found.append(problem)
        response, problem = checked_text(text, names.response) if not failed else (None, None)
        found.append(problem)
        sample_idx, problem = checked_index(indices[row], "sample_idx")
        found.append(problem)
        model, problem = checked_optional_text(models[row], names.model or "model")
        found.append(problem)
        reason, problem = checked_optional_text(reasons[row], "finish_reason")
        found.append(problem)
        scores: dict[str, float | None] = {}
        for scorer, (column, values) in rewards.items():
            scores[scorer], problem = checked_number(values[row], column)
            found.append(problem)
        sentences = [sentence for sentence in found if sentence is not None]
        for sentence in sentences:
            problems.add(place, sentence)
        if not sentences:
            failure = "the file says that it failed (finish_reason error)" if failed else None
            yield Response(row, place, turns, response, prompt_id, sample_idx, model, reason, failure, scores)
