"""Pairs of a chosen and a rejected response, row by row, to be scored: RewardBench's files, TRL's, or one's own.

Nothing vanishes: a row whose texts cannot be used stays, with what is wrong with it. What is wrong with a whole column (numbers
that are texts, preferences beyond 1) is an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules, Turns, hint_for
from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.interchange.conversation_columns import (
    Beside,
    BesidePrompts,
    notes_of_keys_left_out,
    notes_of_texts_read_back,
    read_beside,
)
from prefpipe.artifacts.interchange.preference_rows import (
    response_columns,
    split_row,
    unpacked_column,
)
from prefpipe.artifacts.interchange.score_columns import PLAIN_WORDS, pairs_of_columns
from prefpipe.artifacts.interchange.user_table import (
    Problems,
    UserTable,
    checked_id,
    checked_number,
    read_user_table,
    told,
)
from prefpipe.errors import InputError

HINT = (
    "each row needs `chosen` and `rejected`, with `prompt` or with the whole conversation in both"
)
SCORES_HINT = "pass --model, or add `score_chosen` and `score_rejected`"
TEXTS = ("chosen", "rejected")
PREFERENCE = "preference"


class PairOfItem(NamedTuple):
    """Which completions a pair is of: the row of the file, and one of its correct and one of its wrong completions."""

    row_idx: int
    chosen_idx: int
    rejected_idx: int
    n_chosen: int
    n_rejected: int


class ScoredTexts(NamedTuple):
    """A pair as the file has it.

    ``messages``, ``chosen`` and ``rejected`` are empty where ``problem`` says what is wrong with the texts. ``scores``: numbers
    of chosen and rejected that the file has, None where a field is null. ``preference`` for the chosen response, in [0, 1].
    ``has_preference_column``: whether a missing preference is one that nobody knows. ``duplicate_of``: the first row with the
    same prompt, responses and subset. ``is_contrary``: an earlier row has the same responses the other way round.
    ``of_item``: what it is of, in a file whose rows hold lists of completions.
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
        """Whether there is nothing to tell the responses apart by."""
        return self.problem is None and bool(self.messages) and self.chosen == self.rejected


class PairFile(NamedTuple):
    """``score_columns``: the names of the two numbers, None where there are none. ``notes``: of how the file was read."""

    rows: list[ScoredTexts]
    score_columns: tuple[str, str] | None
    notes: tuple[str, ...] = ()


def read_pairs(source: str, *, needs_texts: bool, rules: ReadingRules = DEFAULT_RULES) -> PairFile:
    """Read pairs from Parquet, JSONL, JSON, CSV, a datasets folder or ``hf:``.

    Columns: ``chosen`` and ``rejected``, texts or lists of turns; ``prompt``, a text or turns, unless they hold the whole
    conversation; ``subset``, ``prompt_id`` and ``id`` where there are any; ``preference`` in [0, 1]; and two numbers of scores,
    ``score_chosen`` and ``score_rejected`` however they are spelled.

    Args:
        source: path or ``hf:`` reference.
        needs_texts: whether a model is to read the texts; else two numbers are needed.
        rules: what the user says about the file's conversations.

    Raises:
        InputError: missing columns, numbers that are none, preferences outside [0, 1], a pair of texts in one row that are lists
            of several responses.
    """
    table = read_user_table(source, text_columns=(*TEXTS, "subset", "id"), hint=HINT)
    columns, notes = _score_columns(table, is_sure=not needs_texts)
    has_texts = all(name in table.names for name in TEXTS)
    if needs_texts:
        table.require(TEXTS, hint=HINT)
    elif columns is None:
        raise InputError(
            f"{source} has no two columns of scores; its columns are: {', '.join(table.names) or 'none'}",
            hint=SCORES_HINT,
        )
    problems = Problems(source)
    texts = (
        response_columns(table, TEXTS, rules)
        if has_texts
        else {name: table.values_or_none(name) for name in TEXTS}
    )
    texts["prompt"] = unpacked_column(table, "prompt")
    beside = read_beside(table.names, table.values, table.table.num_rows, rules=rules)
    rows = _rows(table, texts, columns, beside=beside, rules=rules, problems=problems)
    problems.raise_if_any(
        hint="correct the columns; a score is a number, a preference lies in [0, 1]"
    )
    reasons = [row.problem for row in rows if row.problem is not None]
    raw = [unpacked_column(table, name) for name in TEXTS] if has_texts else []
    read_back = notes_of_texts_read_back(texts["prompt"], rules, raw)
    hint = hint_for(reasons, "")
    if hint:
        notes.append(
            f"{len(reasons):,} of {len(rows):,} pairs cannot be used as they are, first {reasons[0]}; {hint}"
        )
    return PairFile(
        _compared(rows),
        columns,
        (*notes, *beside.notes, *notes_of_keys_left_out(texts, rules), *read_back),
    )


def _score_columns(table: UserTable, *, is_sure: bool) -> tuple[tuple[str, str] | None, list[str]]:
    """Return the two columns of scores, those with a plain name first, and notes; ``is_sure``: there must be no choice."""
    found, notes = pairs_of_columns(table)
    plain = [pair for pair in found if pair.scorer in PLAIN_WORDS]
    if is_sure and len(plain or found) > 1:
        shown = "; ".join(" and ".join(pair.columns) for pair in plain or found)
        raise InputError(
            f"{table.source} has several pairs of scores: {shown}",
            hint="keep the two columns that are meant",
        )

    pairs = plain or found
    return (pairs[0].columns if pairs else None), notes


def _rows(
    table: UserTable,
    texts: Mapping[str, Sequence[Any]],
    columns: tuple[str, str] | None,
    *,
    beside: BesidePrompts,
    rules: ReadingRules,
    problems: Problems,
) -> list[ScoredTexts]:
    has_texts = all(name in table.names for name in TEXTS)
    named = {name: table.values_or_none(name) for name in ("prompt_id", "id", "subset", PREFERENCE)}
    numbers = [table.values(name) for name in columns] if columns is not None else []
    rows = []
    for row, place in enumerate(table.places):
        values = {name: column[row] for name, column in {**named, **texts}.items()}
        scores = tuple(
            _number(column[row], name, place, problems)
            for column, name in zip(numbers, columns or (), strict=True)
        )
        messages: Turns = []
        responses, problem, is_null = ["", ""], None, False
        if has_texts:
            messages, responses, problem, is_null = _texts(values, rules, beside.rows[row])
            if beside.problems[row] is not None:
                messages, responses, problem = [], ["", ""], beside.problems[row]
        prompt_id, id_problem = _prompt_id(values, messages, row)
        if id_problem is not None and problem is None:
            problem = id_problem
        rows.append(
            ScoredTexts(
                row,
                place,
                prompt_id,
                _word(values["id"]),
                _word(values["subset"]),
                messages,
                responses[0],
                responses[1],
                (scores[0], scores[1]) if scores else None,
                _preference(values[PREFERENCE], place, problems),
                PREFERENCE in table.names,
                problem=problem,
                is_null=is_null,
            )
        )
    return rows


def _texts(
    values: dict[str, Any], rules: ReadingRules, beside: Beside
) -> tuple[Turns, list[str], str | None, bool]:
    """Return a row's prompt, its two texts, what is wrong with them, and whether it is that one is null."""
    null = [name for name in TEXTS if values[name] is None]
    if null:
        return [], ["", ""], f"`{null[0]}` is null", True
    responses = [values[name] for name in TEXTS]
    turns, texts, problem = split_row(
        values["prompt"], responses, TEXTS, rules=rules, beside=beside
    )
    return (turns, texts, None, False) if problem is None else ([], ["", ""], problem, False)


def _prompt_id(values: dict[str, Any], messages: Turns, row: int) -> tuple[str, str | None]:
    """Return a key: the file's, the hash of the prompt, or the row's own where nothing says which prompt it is."""
    if values["prompt_id"] is not None:
        found, problem = checked_id(values["prompt_id"], "prompt_id")
        return found or f"row-{row}", problem
    if messages:
        return prompt_id_of(messages), None
    if isinstance(values["prompt"], str) and values["prompt"].strip():
        return prompt_id_of([{"role": "user", "content": values["prompt"]}]), None
    return f"row-{row}", None


def _word(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _number(value: Any, name: str, place: str, problems: Problems) -> float | None:
    found, problem = checked_number(value, name)
    if problem is not None:
        problems.add(place, problem)
    return found


def _preference(value: Any, place: str, problems: Problems) -> float | None:
    found = _number(value, PREFERENCE, place, problems)
    if found is not None and not 0.0 <= found <= 1.0:
        problems.add(
            place,
            f"`{PREFERENCE}` is {told(value)}; a preference for the chosen response lies in [0, 1]",
        )
        return None
    return found


def _compared(rows: Sequence[ScoredTexts]) -> list[ScoredTexts]:
    """Return the rows, marked where an earlier one says the same or the contrary."""
    first: dict[Any, int] = {}
    seen: set[Any] = set()
    marked = []
    for row in rows:
        if not row.messages or row.problem is not None:
            marked.append(row)
            continue
        prompt = tuple(tuple(turn.items()) for turn in row.messages)
        original = first.setdefault((prompt, row.chosen, row.rejected, row.subset), row.pair_idx)
        is_contrary = row.chosen != row.rejected and (prompt, row.rejected, row.chosen) in seen
        seen.add((prompt, row.chosen, row.rejected))
        duplicate_of = original if original != row.pair_idx else None
        marked.append(row._replace(duplicate_of=duplicate_of, is_contrary=is_contrary))
    return marked
