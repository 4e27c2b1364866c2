"""Pairs of a chosen and a rejected response, row by row, to be scored.

The files are RewardBench's, TRL's, or the user's own. Nothing vanishes: a row whose texts cannot be
used stays, with its problem. A problem of a whole column (numbers that are texts, preferences above
1) is an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules, Turns, hint_for
from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.interchange.checked_values import checked_id, checked_number, word_of
from prefpipe.artifacts.interchange.preference_texts import (
    response_columns,
    split_row,
    unpacked_column,
)
from prefpipe.artifacts.interchange.reading_notes import (
    notes_of_keys_left_out,
    notes_of_texts_read_back,
)
from prefpipe.artifacts.interchange.row_problems import Problems, RowProblems, UnusableRowError
from prefpipe.artifacts.interchange.score_columns import PLAIN_WORDS, pairs_of_columns
from prefpipe.artifacts.interchange.system_and_tools import SystemAndTools, read_system_and_tools
from prefpipe.artifacts.interchange.user_table import (
    MissingColumnsError,
    UserTable,
    read_user_table,
)
from prefpipe.artifacts.tables.values import shortened
from prefpipe.errors import InputError

HINT = (
    "each row needs `chosen` and `rejected`, with `prompt` or with the whole conversation in both"
)
SCORES_HINT = "pass --model, or add `score_chosen` and `score_rejected`"
TEXTS = ("chosen", "rejected")
PREFERENCE = "preference"


class PairOfItem(NamedTuple):
    """The completions of a pair.

    The row of the file, and one of its correct and one of its wrong completions.
    """

    row_idx: int
    chosen_idx: int
    rejected_idx: int
    n_chosen: int
    n_rejected: int


class ScoredTexts(NamedTuple):
    """A pair as the file has it.

    Attributes:
        pair_idx: its number in the file, from 0.
        place: of its row, for messages.
        prompt_id: the file's, or the hash of the prompt.
        pair_id: the file's own name of the pair.
        subset: to which part of the file it belongs.
        messages: the prompt; empty where ``problem`` says what is wrong with the texts, as are
            ``chosen`` and ``rejected``.
        chosen: the better response.
        rejected: the other one.
        scores: numbers of chosen and rejected that the file has, None if a field is null.
        preference: for the chosen response, in [0, 1].
        has_preference_column: whether a missing preference is one that nobody knows.
        duplicate_of: the first row with the same prompt, responses and subset.
        is_contrary: an earlier row has the same responses the other way round.
        problem: why it cannot be used.
        is_null: whether that is because a response is missing.
        of_item: what it is of, in a file whose rows hold lists of completions.
    """

    pair_idx: int
    place: str
    prompt_id: str
    pair_id: str | None
    subset: str | None
    messages: Turns
    chosen: str
    rejected: str
    scores: tuple[float | None, float | None] | None
    preference: float | None
    has_preference_column: bool = False
    duplicate_of: int | None = None
    is_contrary: bool = False
    problem: str | None = None
    is_null: bool = False
    of_item: PairOfItem | None = None

    @property
    def has_equal_texts(self) -> bool:
        """Whether both responses are the same text."""
        return self.problem is None and bool(self.messages) and self.chosen == self.rejected


class PairFile(NamedTuple):
    """The pairs of a file.

    ``score_columns``: the names of the two numbers, None if there is none. ``notes``: of how
    the file was read.
    """

    rows: list[ScoredTexts]
    score_columns: tuple[str, str] | None
    notes: tuple[str, ...] = ()


def read_pairs(source: str, *, needs_texts: bool, rules: ReadingRules = DEFAULT_RULES) -> PairFile:
    """Read pairs from Parquet, JSONL, JSON, CSV, a datasets folder or ``hf:``.

    Columns: ``chosen`` and ``rejected``, texts or lists of turns; ``prompt``, a text or turns,
    unless they hold the whole conversation; ``subset``, ``prompt_id`` and ``id`` if any;
    ``preference`` in [0, 1]; and two numbers of scores, ``score_chosen`` and ``score_rejected``
    however they are spelled.

    Args:
        source: path or ``hf:`` reference.
        needs_texts: whether a model is to read the texts; else two numbers are needed.
        rules: the user's options for the file's conversations.

    Raises:
        InputError: missing columns, numbers that are none, preferences outside [0, 1], a pair of
            texts in one row that are lists of several responses.
    """
    table = read_user_table(source, text_columns=(*TEXTS, "subset", "id"), hint=HINT)
    score_columns, notes = _score_columns(table, is_sure=not needs_texts)
    has_texts = table.has(TEXTS)
    if needs_texts:
        table.require(TEXTS, hint=HINT)
    elif score_columns is None:
        raise MissingColumnsError(table, "does not have two columns of scores", hint=SCORES_HINT)

    # also where nobody reads them: pairs that repeat or contradict another are known by them
    texts = {name: table.values_or_none(name) for name in TEXTS}
    if has_texts:
        texts = response_columns(table, TEXTS, rules)
    texts["prompt"] = unpacked_column(table, "prompt")
    extras = read_system_and_tools(table, rules=rules)

    problems = Problems(source)
    columns = dict(texts)
    for name in ("prompt_id", "id", "subset", PREFERENCE, *(score_columns or ())):
        columns[name] = table.values_or_none(name)
    has_preferences = PREFERENCE in table.names
    rows = []
    for row, place in enumerate(table.places):
        values = {name: column[row] for name, column in columns.items()}
        content = _PairContent([], "", "")
        if has_texts:
            content = _content(values, rules, extras.rows[row])
        prompt_id, id_problem = _prompt_id(values, content.messages, row)

        # a score or preference that is none is a mistake in the whole column, and no row's own
        row_problems = problems.at(place)
        scores = _scores(values, score_columns, row_problems)
        preference = _preference(values[PREFERENCE], row_problems)
        rows.append(
            ScoredTexts(
                pair_idx=row,
                place=place,
                prompt_id=prompt_id,
                pair_id=word_of(values["id"]),
                subset=word_of(values["subset"]),
                messages=content.messages,
                chosen=content.chosen,
                rejected=content.rejected,
                scores=scores,
                preference=preference,
                has_preference_column=has_preferences,
                problem=content.problem or id_problem,
                is_null=content.is_null,
            )
        )
    problems.raise_if_any(
        hint="correct the columns; a score is a number, a preference lies in [0, 1]"
    )

    notes += _notes_of_unusable_rows(rows)
    notes += extras.notes
    notes += notes_of_keys_left_out(texts, rules)
    # `texts` may be turns by now
    texts_as_written = [unpacked_column(table, name) for name in TEXTS] if has_texts else []
    notes += notes_of_texts_read_back(texts["prompt"], rules, texts_as_written)
    return PairFile(_compared(rows), score_columns, tuple(notes))


def _score_columns(table: UserTable, *, is_sure: bool) -> tuple[tuple[str, str] | None, list[str]]:
    """Return the two columns of scores, those with a plain name first, and notes.

    Args:
        table: the file.
        is_sure: there must be no choice.

    Raises:
        InputError: there is one.
    """
    pairs, notes = pairs_of_columns(table)
    plain = [pair for pair in pairs if pair.scorer in PLAIN_WORDS]
    pairs = plain or pairs
    if is_sure and len(pairs) > 1:
        shown = "; ".join(" and ".join(pair.columns) for pair in pairs)
        raise InputError(
            f"{table.source} has several pairs of scores: {shown}",
            hint="keep only the two columns to use",
        )
    return (pairs[0].columns if pairs else None), notes


class _PairContent(NamedTuple):
    """The texts of a pair; empty where ``problem`` says what is wrong with them."""

    messages: Turns
    chosen: str
    rejected: str
    problem: str | None = None
    is_null: bool = False


def _content(
    values: Mapping[str, Any], rules: ReadingRules, system_and_tools: SystemAndTools
) -> _PairContent:
    """Return a row's prompt and its two texts."""
    for name in TEXTS:
        if values[name] is None:
            problem = system_and_tools.problem or f"`{name}` is null"
            return _PairContent([], "", "", problem, is_null=True)
    try:
        messages, (chosen, rejected) = split_row(
            values["prompt"],
            [values[name] for name in TEXTS],
            TEXTS,
            rules=rules,
            system_and_tools=system_and_tools,
        )
    except UnusableRowError as error:
        return _PairContent([], "", "", str(error))
    return _PairContent(messages, chosen, rejected)


def _prompt_id(values: Mapping[str, Any], messages: Turns, row: int) -> tuple[str, str | None]:
    """Return a key, and what is wrong with the file's own.

    The file's, the hash of the prompt, or the row's own where nothing says which prompt it is.
    """
    if values["prompt_id"] is not None:
        prompt_id, problem = checked_id(values["prompt_id"], "prompt_id")
        return prompt_id or f"row-{row}", problem
    if messages:
        return prompt_id_of(messages), None
    # a row whose responses cannot be used still belongs to its prompt
    if isinstance(values["prompt"], str) and values["prompt"].strip():
        return prompt_id_of([{"role": "user", "content": values["prompt"]}]), None
    return f"row-{row}", None


def _scores(
    values: Mapping[str, Any], columns: tuple[str, str] | None, row_problems: RowProblems
) -> tuple[float | None, float | None] | None:
    if columns is None:
        return None
    chosen, rejected = columns
    return (
        row_problems.take(checked_number(values[chosen], chosen)),
        row_problems.take(checked_number(values[rejected], rejected)),
    )


def _preference(value: Any, row_problems: RowProblems) -> float | None:
    preference = row_problems.take(checked_number(value, PREFERENCE))
    if preference is not None and not 0.0 <= preference <= 1.0:
        row_problems.add(
            f"`{PREFERENCE}` is {shortened(value)}; a preference for the chosen response lies in "
            "[0, 1]"
        )
        return None
    return preference


def _notes_of_unusable_rows(rows: Sequence[ScoredTexts]) -> list[str]:
    """Return how many pairs cannot be used for a reason that a flag would remove."""
    reasons = [row.problem for row in rows if row.problem is not None]
    hint = hint_for(reasons, "")
    if not hint:
        return []
    note = (
        f"{len(reasons):,} of {len(rows):,} pairs cannot be used as they are, first {reasons[0]}; "
        f"{hint}"
    )
    return [note]


def _compared(rows: Sequence[ScoredTexts]) -> list[ScoredTexts]:
    """Return the rows, marked where an earlier one says the same or the contrary."""
    first: dict[Any, int] = {}
    seen: set[Any] = set()
    marked = []
    for row in rows:
        # rows without texts have nothing to be compared by
        if not row.messages or row.problem is not None:
            marked.append(row)
            continue

        prompt = tuple(tuple(turn.items()) for turn in row.messages)
        original = first.setdefault((prompt, row.chosen, row.rejected, row.subset), row.pair_idx)
        # a pair of equal texts is its own reverse, and contradicts nothing
        is_contrary = row.chosen != row.rejected and (prompt, row.rejected, row.chosen) in seen
        seen.add((prompt, row.chosen, row.rejected))
        duplicate_of = original if original != row.pair_idx else None
        marked.append(row._replace(duplicate_of=duplicate_of, is_contrary=is_contrary))
    return marked
