"""``rows``: the long form, one row a response, in columns that can be named."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import fsum
from typing import Any, NamedTuple

from prefpipe.artifacts.conversations import ReadingRules
from prefpipe.artifacts.interchange.checked_values import (
    checked_id,
    checked_index,
    checked_number,
    checked_optional_text,
)
from prefpipe.artifacts.interchange.conversation_columns import (
    checked_prompt,
    checked_response_text,
    prompt_column,
    unwrapped_responses,
)
from prefpipe.artifacts.interchange.gathering import gather
from prefpipe.artifacts.interchange.pool import ImportedResponse, Pool
from prefpipe.artifacts.interchange.read_options import ColumnNames, ReadOptions
from prefpipe.artifacts.interchange.reading_notes import (
    notes_of_keys_left_out,
    notes_of_texts_read_back,
)
from prefpipe.artifacts.interchange.row_problems import Problems
from prefpipe.artifacts.interchange.score_columns import (
    counts_something,
    holds_lists_of_numbers,
    holds_numbers,
    numbers_of,
    speaks_of_scores,
    words_of,
)
from prefpipe.artifacts.interchange.system_and_tools import (
    SystemAndToolsColumns,
    read_system_and_tools,
)
from prefpipe.artifacts.interchange.user_table import UserTable, read_user_table
from prefpipe.artifacts.tables.values import number_of, shortened

HINT = (
    "each row needs `prompt` or `messages`, and `response`; for other names pass --prompt-column "
    "and --response-column"
)
OWN_COLUMNS = (
    "prompt_id",
    "prompt",
    "messages",
    "response",
    "sample_idx",
    "model",
    "finish_reason",
)
TEXT_COLUMNS = ("prompt_id", "prompt", "messages", "response", "model", "finish_reason")


class _Columns(NamedTuple):
    """The names of the columns, filled in; only a file's prompt ids may have none."""

    prompt: str
    response: str
    model: str
    prompt_id: str | None
    rewards: Mapping[str, str]


def read_long_rows(source: str, options: ReadOptions) -> Pool:
    """Read a file with one row a response; the rows of one prompt need not be adjacent.

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    rules = options.rules
    # all but the last, the rewards, whose columns hold numbers
    named = [name for name in options.names[:4] if isinstance(name, str)]
    table = read_user_table(source, text_columns=[*TEXT_COLUMNS, *named], hint=HINT)
    columns = _filled_in(table, options.names)
    taken = {columns.prompt, columns.response, columns.model, columns.prompt_id}
    taken |= set(columns.rewards.values())
    # a column that the user names holds what they say, whatever it is called
    extras = read_system_and_tools(table, rules=rules, taken=taken)

    problems = Problems(source)
    used = {*OWN_COLUMNS, *taken, *extras.used}
    pool = gather(
        _responses(table, columns, problems, extras, rules),
        problems,
        scorers=tuple(columns.rewards),
        table=table,
        options=options,
        used=used,
        on_duplicate=rules.on_duplicate or "mean",
    )

    prompts, responses = table.values(columns.prompt), table.values(columns.response)
    turns = {columns.prompt: prompts, columns.response: responses}
    # in `messages`, turns as JSON text are no surprise
    texts = prompts if columns.prompt != "messages" else []
    pool.notes.extend(extras.notes)
    pool.notes.extend(notes_of_keys_left_out(turns, rules))
    pool.notes.extend(notes_of_texts_read_back(texts, rules, [responses]))
    pool.notes.extend(
        _notes_of_other_scores(table, pool, {*used, *options.reserved}, columns.rewards)
    )
    pool.notes.extend(_notes_of_several_scores(table, columns.rewards, rules))
    if columns.prompt == columns.prompt_id:
        pool.notes.append(
            "the prompt ids are used as prompt texts: responses can be selected by reward, but "
            "do not train a policy on them"
        )
    return pool


def _filled_in(table: UserTable, names: ColumnNames) -> _Columns:
    """Fill in the usual names, and refuse columns that the file lacks."""
    prompt = prompt_column(
        table, names.prompt, hint="name one with --prompt-column", otherwise=HINT
    )
    response = names.response or "response"
    needed_names = [names.prompt_id, prompt, response, names.model]
    table.require([name for name in needed_names if name is not None], hint=HINT)
    table.require(list(names.rewards.values()), hint="--reward-column names a column of the file")
    return _Columns(
        prompt,
        response,
        names.model or "model",
        names.prompt_id or table.first_name(["prompt_id"]),
        names.rewards,
    )


def _responses(
    table: UserTable,
    columns: _Columns,
    problems: Problems,
    extras: SystemAndToolsColumns,
    rules: ReadingRules,
) -> Iterator[ImportedResponse]:
    """Yield the responses of the valid rows; record the problems of the others."""
    indices, ids = table.values_or_none("sample_idx"), table.values_or_none(columns.prompt_id)
    reasons, models = table.values_or_none("finish_reason"), table.values_or_none(columns.model)
    rewards = {scorer: (name, table.values(name)) for scorer, name in columns.rewards.items()}
    prompts = table.values(columns.prompt)
    responses = unwrapped_responses(table.values(columns.response), rules)

    for row, (place, prompt, text) in enumerate(zip(table.places, prompts, responses, strict=True)):
        row_problems = problems.at(place)
        take = row_problems.take
        turns = take(
            checked_prompt(prompt, columns.prompt, rules=rules, system_and_tools=extras.rows[row])
        )
        prompt_id = None
        if columns.prompt_id is not None:
            prompt_id = take(checked_id(ids[row], columns.prompt_id))

        # a response that failed is a candidate without a text; any other has one
        response = failure = None
        if text is None and reasons[row] == "error":
            failure = "the file says that it failed (finish_reason error)"
        else:
            response = take(checked_response_text(text, columns.response, rules))
        sample_idx = take(checked_index(indices[row], "sample_idx"))
        model = take(checked_optional_text(models[row], columns.model))
        reason = take(checked_optional_text(reasons[row], "finish_reason"))
        scores = {}
        for scorer, (name, values) in rewards.items():
            scores[scorer] = take(_checked_score(values[row], name, rules))

        if not row_problems:
            yield ImportedResponse(
                row, place, turns, response, prompt_id, sample_idx, model, reason, failure, scores
            )


def _checked_score(value: Any, name: str, rules: ReadingRules) -> tuple[float | None, str | None]:
    """Return a score and its problem.

    A list of numbers holds several ratings, which the rules combine.
    """
    several = numbers_of(value)
    if several is None:
        return checked_number(value, name)
    if rules.on_duplicate == "refuse":
        return None, f"`{name}` is {shortened(value)}, several scores of one response"

    numbers = []
    for member in several:
        number, _ = number_of(member)
        if number is not None:
            numbers.append(number)
    if not numbers:
        return None, None
    if rules.on_duplicate == "first":
        return numbers[0], None
    # fsum is exact: the order of the ratings decides nothing
    return fsum(numbers) / len(numbers), None


def _notes_of_other_scores(
    table: UserTable, pool: Pool, used: Collection[str | None], rewards: Mapping[str, str]
) -> list[str]:
    """Return a note on unused columns of numbers that could be scores."""
    rows_of_prompts = [[response.row for response in members] for members in pool.responses]
    flags = []
    for name in table.names:
        if name in used or counts_something(name):
            continue
        values = table.values(name)
        if not (holds_numbers(values) or holds_lists_of_numbers(values)):
            continue
        if speaks_of_scores(words_of(name)) or _vary(values, rows_of_prompts):
            # a scorer's name is an identifier: of any other column it is given beside it
            column = name if name.isidentifier() else f"'score={name}'"
            flags.append(f"--reward-column {column}")
    if not flags:
        return []

    problem = "no scores are read, but some columns could be scores"
    if rewards:
        problem = "other columns also hold numbers for the responses"
    return [f"{problem}; to read them, pass {', '.join(flags)}"]


def _vary(values: Sequence[Any], rows_of_prompts: Sequence[Sequence[int]]) -> bool:
    """Return whether a column differs within a prompt: then it belongs to the responses."""
    texts = list(map(repr, values))  # the text of NaN equals itself
    for rows in rows_of_prompts:
        first = texts[rows[0]]
        if any(texts[row] != first for row in rows):
            return True
    return False


def _notes_of_several_scores(
    table: UserTable, rewards: Mapping[str, str], rules: ReadingRules
) -> list[str]:
    """Return notes on columns of lists of numbers: several ratings of each response."""
    rule = "first" if rules.on_duplicate == "first" else "mean"
    holding_lists = [
        name
        for name in rewards.values()
        if any(numbers_of(value) is not None for value in table.values(name))
    ]
    becomes = f"their {rule} is used (--on-duplicate {rule})"
    return [f"`{name}` holds several scores of each response: {becomes}" for name in holding_lists]
