"""``rows``: the long form, one row a response, in columns that can be named."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import fsum
from typing import Any, NamedTuple

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules
from prefpipe.artifacts.interchange.conversation_columns import (
    BesidePrompts,
    checked_prompt,
    checked_response_text,
    notes_of_keys_left_out,
    notes_of_texts_read_back,
    read_beside,
    unwrapped_responses,
)
from prefpipe.artifacts.interchange.pool import Pool, Response, gather
from prefpipe.artifacts.interchange.score_columns import (
    counts_something,
    holds_lists_of_numbers,
    holds_numbers,
    numbers_of,
    speaks_of_scores,
    words_of,
)
from prefpipe.artifacts.interchange.user_table import (
    Problems,
    UserTable,
    checked_id,
    checked_index,
    checked_number,
    checked_optional_text,
    read_user_table,
    told,
)
from prefpipe.artifacts.tables.values import number_of
from prefpipe.errors import InputError

HINT = "each row needs `prompt` or `messages`, and `response`; other names are given with --prompt-column and --response-column"
OWN_COLUMNS = (
    "prompt_id",
    "prompt",
    "messages",
    "response",
    "sample_idx",
    "model",
    "finish_reason",
)


class ColumnNames(NamedTuple):
    """Which columns hold what; None is the usual name. ``rewards`` is scorer to column."""

    prompt_id: str | None = None
    prompt: str | None = None
    response: str | None = None
    model: str | None = None
    rewards: Mapping[str, str] = {}


def read_long_rows(
    source: str,
    names: ColumnNames,
    *,
    columns: Sequence[str] | None,
    reserved: Sequence[str] = (),
    rules: ReadingRules = DEFAULT_RULES,
) -> Pool:
    """Read a file with one row a response; the rows of one prompt need not be adjacent.

    Args:
        source: path or ``hf:`` reference.
        names: the columns' names.
        columns: the user's columns that pass through; None for all that hold one value for each prompt.
        reserved: names that the artifact uses itself.
        rules: what the user says about the file's conversations.

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    own = [name for name in names[:4] if isinstance(name, str)]
    table = read_user_table(
        source, text_columns=[*OWN_COLUMNS[:4], "model", "finish_reason", *own], hint=HINT
    )
    names = _resolved(table, names)
    problems = Problems(source)
    is_text_known = names.prompt != names.prompt_id
    taken = {*names[:4], *names.rewards.values()}
    beside = read_beside(table.names, table.values, table.table.num_rows, rules=rules, taken=taken)
    used = {*OWN_COLUMNS, *own, *names.rewards.values(), *beside.used, *reserved}

    responses = _responses(table, names, problems, beside, rules)
    pool = gather(
        responses,
        problems,
        scorers=tuple(names.rewards),
        table=table,
        columns=columns,
        reserved=sorted(used),
        on_duplicate=rules.on_duplicate or "mean",
    )

    assert names.prompt is not None
    assert names.response is not None
    turns = {name: table.values(name) for name in (names.prompt, names.response)}
    pool.notes.extend([*beside.notes, *notes_of_keys_left_out(turns, rules)])
    prompts = (
        turns[names.prompt] if names.prompt != "messages" else []
    )  # there, turns as JSON text are no surprise
    pool.notes.extend(notes_of_texts_read_back(prompts, rules, [turns[names.response]]))
    pool.notes.extend(_notes_of_scores(table, pool, used, names))
    for column in names.rewards.values():
        if any(numbers_of(value) is not None for value in table.values(column)):
            what = "first" if rules.on_duplicate == "first" else "mean"
            pool.notes.append(
                f"`{column}` holds several scores of each response: their {what} is taken (--on-duplicate {what})"
            )
    if not is_text_known:
        pool.notes.append(
            "the prompts' texts are their ids: responses can be selected by their rewards, and a policy must not "
            "be trained on them"
        )
    return pool


def _resolved(table: UserTable, names: ColumnNames) -> ColumnNames:
    """Fill in the usual names, and refuse columns that the file lacks."""
    prompt = names.prompt
    if prompt is None:
        found = [name for name in ("prompt", "messages") if name in table.names]
        if len(found) != 1:
            which = "both `prompt` and `messages`" if found else "neither `prompt` nor `messages`"
            hint = "name one with --prompt-column" if found else HINT
            raise InputError(
                f"{table.source} has {which}; its columns are: {', '.join(table.names)}", hint=hint
            )
        prompt = found[0]
    response = names.response or "response"
    given = [name for name in (names.prompt_id, prompt, response, names.model) if name is not None]
    table.require(given, hint=HINT)
    table.require(list(names.rewards.values()), hint="--reward-column names a column of the file")
    prompt_id = names.prompt_id or ("prompt_id" if "prompt_id" in table.names else None)
    return ColumnNames(prompt_id, prompt, response, names.model or "model", names.rewards)


def _notes_of_scores(
    table: UserTable, pool: Pool, used: Collection[str], names: ColumnNames
) -> list[str]:
    """Return a note on columns of numbers that could be scores and that no ``--reward-column`` names."""
    groups = [[response.row for response in members] for members in pool.responses]
    flags = []
    for name in table.names:
        if name in used or counts_something(name):
            continue
        values = table.values(name)
        if not (holds_numbers(values) or holds_lists_of_numbers(values)):
            continue
        texts = list(map(repr, values))
        varies = any(texts[row] != texts[rows[0]] for rows in groups for row in rows)
        if varies or speaks_of_scores(words_of(name)):
            is_name = name.isidentifier()
            flags.append(
                f"--reward-column {name}" if is_name else f"--reward-column 'score={name}'"
            )
    if not flags:
        return []
    which = (
        "more columns hold numbers of the responses"
        if names.rewards
        else "no scores are taken, and columns could be scores"
    )
    return [f"{which}; to take them: {', '.join(flags)}"]


def _responses(
    table: UserTable,
    names: ColumnNames,
    problems: Problems,
    beside: BesidePrompts,
    rules: ReadingRules,
) -> Iterator[Response]:
    assert names.prompt is not None
    assert names.response is not None
    indices, ids = table.values_or_none("sample_idx"), table.values_or_none(names.prompt_id)
    reasons, models = table.values_or_none("finish_reason"), table.values_or_none(names.model)
    rewards = {scorer: (column, table.values(column)) for scorer, column in names.rewards.items()}
    responses = unwrapped_responses(table.values(names.response), rules)
    rows = zip(table.places, table.values(names.prompt), responses, strict=True)
    for row, (place, prompt, text) in enumerate(rows):
        failed = text is None and reasons[row] == "error"
        turns, problem = checked_prompt(prompt, names.prompt, rules=rules, beside=beside.rows[row])
        found = [beside.problems[row] or problem]
        prompt_id, problem = (
            checked_id(ids[row], names.prompt_id) if names.prompt_id is not None else (None, None)
        )
        found.append(problem)
        response, problem = (
            checked_response_text(text, names.response, rules) if not failed else (None, None)
        )
        found.append(problem)
        sample_idx, problem = checked_index(indices[row], "sample_idx")
        found.append(problem)
        model, problem = checked_optional_text(models[row], names.model or "model")
        found.append(problem)
        reason, problem = checked_optional_text(reasons[row], "finish_reason")
        found.append(problem)
        scores: dict[str, float | None] = {}
        for scorer, (column, values) in rewards.items():
            scores[scorer], problem = _checked_score(values[row], column, rules)
            found.append(problem)
        sentences = [sentence for sentence in found if sentence is not None]
        for sentence in sentences:
            problems.add(place, sentence)
        if not sentences:
            failure = "the file says that it failed (finish_reason error)" if failed else None
            yield Response(
                row, place, turns, response, prompt_id, sample_idx, model, reason, failure, scores
            )


def _checked_score(value: Any, column: str, rules: ReadingRules) -> tuple[float | None, str | None]:
    """Return a score and what is wrong with it; of a list of numbers, which is several ratings, what the rules say."""
    several = numbers_of(value)
    if several is None:
        return checked_number(value, column)
    if rules.on_duplicate == "refuse":
        return None, f"`{column}` is {told(value)}, several scores of one response"

    numbers = [number for member in several if (number := number_of(member)[0]) is not None]
    if not numbers:
        return None, None
    return numbers[0] if rules.on_duplicate == "first" else fsum(numbers) / len(numbers), None
