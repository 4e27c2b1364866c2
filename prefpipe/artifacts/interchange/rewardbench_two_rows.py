"""RewardBench 2's files: a row holds a prompt and lists of correct and of wrong completions.

They are scored as pairs like any others: as few pairs as hold every completion at least once, so
that a correct completion stands against each of three wrong ones, and seven correct ones against
four wrong ones make seven pairs. Each pair records its completions, so that the prompt's scores can
be reassembled.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules, Turns
from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.interchange.checked_values import (
    checked_id,
    checked_index,
    checked_list,
    checked_number,
    checked_text,
    word_of,
)
from prefpipe.artifacts.interchange.conversation_columns import checked_prompt
from prefpipe.artifacts.interchange.pair_rows import PairFile, PairOfItem, ScoredTexts
from prefpipe.artifacts.interchange.row_problems import UnusableRowError, needed
from prefpipe.artifacts.interchange.system_and_tools import SystemAndTools, read_system_and_tools
from prefpipe.artifacts.interchange.user_table import MissingColumnsError, UserTable

OWN_COLUMNS = ("num_correct", "total_completions", "num_incorrect")
SIDES = ("chosen", "rejected")
SCORES = "scores"
TEXTS_HINT = "each row of RewardBench 2 has `prompt`, and lists of texts in `chosen` and `rejected`"
SCORES_HINT = (
    "this is a file of RewardBench 2: pass --model MODEL --reward-model, or give each row "
    "`scores`, a number for each of `chosen` and then of `rejected`"
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
"""What is behind the columns of ``pair_scores``: the row of the file, and which completions."""


class _Completions(NamedTuple):
    """What a row can be scored by.

    ``chosen`` and ``rejected`` are texts, or as many empty ones where the row holds scores alone.
    ``scores`` are those of the chosen and then of the rejected completions; None if a model is
    to give them.
    """

    messages: Turns
    chosen: list[str]
    rejected: list[str]
    scores: list[float | None] | None


def holds_completions(table: UserTable) -> bool:
    """Return whether a file is one of RewardBench 2.

    Lists of texts on both sides, or their numbers beside them.
    """
    if table.first_name(OWN_COLUMNS[:2]) is not None:
        return True
    if not table.has(SIDES):
        return False
    values = [*table.values("chosen"), *table.values("rejected")]
    given = [value for value in values if value is not None]
    return bool(given) and all(map(_begins_with_text, given))


def _begins_with_text(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def read_completions(
    table: UserTable, *, needs_texts: bool, rules: ReadingRules = DEFAULT_RULES
) -> PairFile:
    """Read a file of RewardBench 2 as pairs.

    Args:
        table: the file.
        needs_texts: whether a model is to read the texts; else each row has ``scores``.
        rules: the user's options for the file's conversations.

    Raises:
        InputError: missing columns.
    """
    if needs_texts:
        table.require(["prompt", *SIDES], hint=TEXTS_HINT)
    elif SCORES not in table.names:
        raise MissingColumnsError(table, f"has no column `{SCORES}`", hint=SCORES_HINT)

    names = ("prompt", *SIDES, "id", "subset", "prompt_id", SCORES, *OWN_COLUMNS)
    columns = {name: table.values_or_none(name) for name in names}
    extras = read_system_and_tools(table, rules=rules)
    pairs: list[ScoredTexts] = []
    for row, place in enumerate(table.places):
        values = {name: column[row] for name, column in columns.items()}
        pairs += _pairs(
            row,
            place,
            len(pairs),
            values,
            needs_texts=needs_texts,
            system_and_tools=extras.rows[row],
            rules=rules,
        )
    # one column holds the scores of both
    score_columns = None if needs_texts else (SCORES, SCORES)
    return PairFile(pairs, score_columns, tuple(extras.notes))


def _pairs(
    row: int,
    place: str,
    first_idx: int,
    values: Mapping[str, Any],
    *,
    needs_texts: bool,
    system_and_tools: SystemAndTools,
    rules: ReadingRules,
) -> list[ScoredTexts]:
    """Return as few pairs as hold every completion of a row.

    A row that cannot be used is one pair with its reason.
    """
    messages: Turns = []
    problem = None
    if needs_texts or values["prompt"] is not None:
        # its id is known also where what belongs to the prompt cannot be used
        carried = system_and_tools._replace(problem=None)
        messages, problem = checked_prompt(
            values["prompt"], "prompt", rules=rules, system_and_tools=carried
        )
    problem = system_and_tools.problem or problem

    completions: _Completions | None = None
    if problem is None:
        try:
            completions = _completions(messages, values, needs_texts=needs_texts)
        except UnusableRowError as error:
            problem = str(error)

    prompt_id = prompt_id_of(messages) if messages else f"row-{row}"
    if values["prompt_id"] is not None:
        given_id, id_problem = checked_id(values["prompt_id"], "prompt_id")
        prompt_id = given_id or prompt_id
        problem = problem or id_problem
    if completions is None or problem is not None:
        # one pair of empty texts bears the reason
        completions = _Completions([], [""], [""], None)

    n_chosen, n_rejected = len(completions.chosen), len(completions.rejected)
    pairs = []
    for number in range(max(n_chosen, n_rejected)):
        # the shorter side goes round, so that every completion is in a pair
        chosen, rejected = number % n_chosen, number % n_rejected
        scores = None
        if completions.scores is not None:
            scores = (completions.scores[chosen], completions.scores[n_chosen + rejected])
        pairs.append(
            ScoredTexts(
                first_idx + number,
                place,
                prompt_id,
                word_of(values["id"]),
                word_of(values["subset"]),
                completions.messages,
                completions.chosen[chosen],
                completions.rejected[rejected],
                scores,
                None,
                problem=problem,
                of_item=PairOfItem(row, chosen, rejected, n_chosen, n_rejected),
            )
        )
    return pairs


def _completions(messages: Turns, values: Mapping[str, Any], *, needs_texts: bool) -> _Completions:
    """Return the completions of a row, and their scores.

    Raises:
        UnusableRowError: texts that are none, or numbers that contradict each other.
    """
    texts: dict[str, list[str]] = {}
    for name in SIDES:
        texts[name] = []
        if needs_texts or values[name] is not None:
            texts[name] = _texts(values[name], name)
    chosen, rejected = texts["chosen"], texts["rejected"]
    n_texts = len(chosen) + len(rejected)
    n_chosen = _n_chosen(values["num_correct"], chosen)

    scores = None if needs_texts else _scores(values[SCORES])
    n_all = n_texts if scores is None else len(scores)
    total = needed(checked_index(values["total_completions"], "total_completions"))
    if total is not None and total != n_all:
        raise UnusableRowError(f"`total_completions` is {total}, and there are {n_all}")
    if scores is None:
        return _Completions(messages, chosen, rejected, None)

    # the scores of correct completions come first: their number alone tells them apart
    n_rejected = n_all - n_chosen
    if n_chosen < 1 or n_rejected < 1:
        raise UnusableRowError(
            f"`{SCORES}` holds {n_all} numbers, of which {n_chosen} are of correct completions"
        )
    if not chosen or not rejected:  # numbers alone: nothing can be said of the texts
        return _Completions([], [""] * n_chosen, [""] * n_rejected, scores)
    if n_texts != n_all:
        raise UnusableRowError(
            f"`{SCORES}` holds {n_all} numbers, and `chosen` and `rejected` {n_texts} texts"
        )
    return _Completions(messages, chosen, rejected, scores)


def _texts(value: Any, name: str) -> list[str]:
    members = needed(checked_list(value, name))
    return [
        needed(checked_text(member, f"{name}[{number}]")) for number, member in enumerate(members)
    ]


def _n_chosen(value: Any, chosen: list[str]) -> int:
    """Return how many completions are correct, as the file says or as there are; 0 for unknown."""
    number = needed(checked_index(value, "num_correct"))
    if number is None:
        return len(chosen)
    if chosen and number != len(chosen):
        raise UnusableRowError(f"`num_correct` is {number}, and `chosen` holds {len(chosen)}")
    return number


def _scores(value: Any) -> list[float | None]:
    scores = []
    for number, member in enumerate(needed(checked_list(value, SCORES))):
        # some of its models write each score as a list of one
        if isinstance(member, list) and len(member) == 1:
            [member] = member  # noqa: PLW2901
        scores.append(needed(checked_number(member, f"{SCORES}[{number}]")))
    return scores
