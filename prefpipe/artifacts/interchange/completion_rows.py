"""RewardBench 2's files: a row holds a prompt, a list of correct completions and a list of wrong ones.

They are scored as pairs like any others: as few pairs as hold every completion at least once, so that a correct completion stands
against each of three wrong ones, and seven correct ones against four wrong ones make seven pairs. What each pair is of stands
beside it, so that the prompt's scores can be put together again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules, Turns
from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.interchange.conversation_columns import (
    BesidePrompts,
    checked_prompt,
    read_beside,
)
from prefpipe.artifacts.interchange.pair_rows import PairFile, PairOfItem, ScoredTexts
from prefpipe.artifacts.interchange.user_table import (
    UserTable,
    checked_id,
    checked_index,
    checked_list,
    checked_number,
    checked_text,
)
from prefpipe.errors import InputError

OWN_COLUMNS = ("num_correct", "total_completions", "num_incorrect")
SIDES = ("chosen", "rejected")
SCORES = "scores"
SCORES_HINT = (
    "this is a file of RewardBench 2: pass --model MODEL --reward-model, or give each row `scores`, a number for each of "
    "`chosen` and then of `rejected`"
)
ITEM_SCHEMA = pa.schema(
    [
        pa.field("row_idx", pa.int64(), nullable=False),
        pa.field("chosen_idx", pa.int32(), nullable=False),
        pa.field("rejected_idx", pa.int32(), nullable=False),
        pa.field("n_chosen", pa.int32(), nullable=False),
        pa.field("n_rejected", pa.int32(), nullable=False),
    ]
)
"""What stands behind the columns of ``pair_scores`` for RewardBench 2: the row of the file, and which of its completions."""


class _Item(NamedTuple):
    """A row of the file. ``problem`` says why it cannot be used; then it holds nothing else that could be."""

    row: int
    place: str
    prompt_id: str
    item_id: str | None
    subset: str | None
    messages: Turns
    chosen: list[str]
    rejected: list[str]
    scores: list[float | None] | None
    problem: str | None


def holds_completions(table: UserTable) -> bool:
    """Return whether a file is one of RewardBench 2: lists of texts on both sides, or their numbers beside them."""
    if any(name in table.names for name in OWN_COLUMNS[:2]):
        return True
    if not all(name in table.names for name in SIDES):
        return False
    values = [value for name in SIDES for value in table.values(name) if value is not None]
    return bool(values) and all(
        isinstance(value, list) and value and isinstance(value[0], str) for value in values
    )


def read_completions(
    table: UserTable, *, needs_texts: bool, rules: ReadingRules = DEFAULT_RULES
) -> PairFile:
    """Read a file of RewardBench 2 as pairs.

    Args:
        table: the file.
        needs_texts: whether a model is to read the texts; else each row has ``scores``.
        rules: what the user says about the file's conversations.

    Raises:
        InputError: missing columns.
    """
    if needs_texts:
        table.require(
            ["prompt", *SIDES],
            hint="each row of RewardBench 2 has `prompt`, and lists of texts in `chosen` and `rejected`",
        )
    elif SCORES not in table.names:
        raise InputError(
            f"{table.source} has no column `{SCORES}`; its columns are: {', '.join(table.names)}",
            hint=SCORES_HINT,
        )

    rows: list[ScoredTexts] = []
    names = ("prompt", *SIDES, "id", "subset", "prompt_id", SCORES, *OWN_COLUMNS)
    columns = {name: table.values_or_none(name) for name in names}
    beside = read_beside(table.names, table.values, table.table.num_rows, rules=rules)
    for row, place in enumerate(table.places):
        values = {name: column[row] for name, column in columns.items()}
        item = _item(row, place, values, needs_texts=needs_texts, beside=beside, rules=rules)
        rows += _pairs(item, len(rows))
    return PairFile(rows, None if needs_texts else (SCORES, SCORES), tuple(beside.notes))


def _item(
    row: int,
    place: str,
    values: dict[str, Any],
    *,
    needs_texts: bool,
    beside: BesidePrompts,
    rules: ReadingRules,
) -> _Item:
    """Return a row, checked."""
    problems: list[str | None] = [beside.problems[row]]
    messages: Turns = []
    if needs_texts or values["prompt"] is not None:
        messages, problem = checked_prompt(
            values["prompt"], "prompt", rules=rules, beside=beside.rows[row]
        )
        problems.append(problem)
    texts: dict[str, list[str]] = {}
    for name in SIDES:
        texts[name] = []
        if needs_texts or values[name] is not None:
            texts[name], problem = _texts(values[name], name)
            problems.append(problem)

    n_chosen, problem = _count(values["num_correct"], "num_correct", texts["chosen"])
    problems.append(problem)
    scores: list[float | None] | None = None
    if not needs_texts:
        scores, problem = _scores(values[SCORES])
        problems.append(problem)
    n_all = len(scores) if scores is not None else sum(map(len, texts.values()))
    total, problem = checked_index(values["total_completions"], "total_completions")
    if problem is None and total is not None and total != n_all:
        problem = f"`total_completions` is {total}, and there are {n_all}"
    problems.append(problem)
    if scores is not None:
        n_rejected = len(scores) - (n_chosen or 0)
        if not n_chosen or n_rejected < 1:
            problems.append(
                f"`{SCORES}` holds {len(scores)} numbers, of which {n_chosen or 0} are of correct completions"
            )
        n_texts = sum(map(len, texts.values()))
        if all(texts.values()) and n_texts != len(scores):
            problems.append(
                f"`{SCORES}` holds {len(scores)} numbers, and `chosen` and `rejected` {n_texts} texts"
            )

    found = next((sentence for sentence in problems if sentence is not None), None)
    prompt_id = prompt_id_of(messages) if messages else f"row-{row}"
    if scores is not None and not all(
        texts.values()
    ):  # their numbers alone: nothing can be said of the texts
        messages = []
        texts = {
            "chosen": [""] * (n_chosen or 0),
            "rejected": [""] * max(n_all - (n_chosen or 0), 0),
        }
    if values["prompt_id"] is not None:
        given, problem = checked_id(values["prompt_id"], "prompt_id")
        prompt_id, found = given or prompt_id, found or problem
    return _Item(
        row,
        place,
        prompt_id,
        _word(values["id"]),
        _word(values["subset"]),
        messages,
        texts["chosen"],
        texts["rejected"],
        scores,
        found,
    )


def _texts(value: Any, name: str) -> tuple[list[str], str | None]:
    members, problem = checked_list(value, name)
    if problem is not None:
        return [], problem
    for number, member in enumerate(members):
        _, problem = checked_text(member, f"{name}[{number}]")
        if problem is not None:
            return [], problem
    return members, None


def _count(value: Any, name: str, texts: Sequence[str]) -> tuple[int | None, str | None]:
    number, problem = checked_index(value, name)
    if problem is not None or number is None:
        return len(texts) or None, problem
    if texts and number != len(texts):
        return number, f"`{name}` is {number}, and `chosen` holds {len(texts)}"
    return number, None


def _scores(value: Any) -> tuple[list[float | None], str | None]:
    members, problem = checked_list(value, SCORES)
    found: list[float | None] = []
    for number, member in enumerate(members):
        only = (
            member[0] if isinstance(member, list) and len(member) == 1 else member
        )  # as some of its models write them
        score, its_problem = checked_number(only, f"{SCORES}[{number}]")
        found.append(score)
        problem = problem or its_problem
    return found, problem


def _pairs(item: _Item, first: int) -> list[ScoredTexts]:
    """Return as few pairs as hold every completion; a row that cannot be used is one pair with its reason."""
    if item.problem is not None:
        return [_pair(item, first, PairOfItem(item.row, 0, 0, 1, 1))]
    n_chosen, n_rejected = len(item.chosen), len(item.rejected)
    return [
        _pair(
            item,
            first + number,
            PairOfItem(item.row, number % n_chosen, number % n_rejected, n_chosen, n_rejected),
        )
        for number in range(max(n_chosen, n_rejected))
    ]


def _pair(item: _Item, pair_idx: int, of_item: PairOfItem) -> ScoredTexts:
    if item.problem is not None:
        texts, scores = ("", ""), None
    else:
        texts = (item.chosen[of_item.chosen_idx], item.rejected[of_item.rejected_idx])
        scores = None
        if item.scores is not None:
            scores = (
                item.scores[of_item.chosen_idx],
                item.scores[of_item.n_chosen + of_item.rejected_idx],
            )
    return ScoredTexts(
        pair_idx,
        item.place,
        item.prompt_id,
        item.item_id,
        item.subset,
        item.messages if item.problem is None else [],
        texts[0],
        texts[1],
        scores,
        None,
        problem=item.problem,
        of_item=of_item,
    )


def _word(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)
