"""Arena-Hard's ``model_judgment/<judge>/<model>.jsonl``: verdicts in both presentation orders.

A line holds the ``games`` of one prompt. The first shows the baseline as A and the model as B, the
second the other way round. A verdict is a label such as ``A>>B``; the tool counts a clear one, of
two signs, three times. Without a label there is no verdict: v2.0 (``uid``) leaves both games of the
prompt out then, v0.1 (``question_id``) that game alone.
"""

from collections import Counter
from collections.abc import Mapping
from math import nan
from typing import Any, NamedTuple

from prefpipe.artifacts.interchange.checked_values import checked_id
from prefpipe.artifacts.interchange.row_problems import Problems, RowProblems
from prefpipe.artifacts.interchange.user_table import UserTable
from prefpipe.artifacts.tables.values import shortened
from prefpipe.errors import InputError, UsageError

CLEAR_WEIGHT = 3.0
_FOR_A = {
    "A>>B": (1.0, CLEAR_WEIGHT),
    "A>B": (1.0, 1.0),
    "A=B": (0.5, 1.0),
    "B>A": (0.0, 1.0),
    "B>>A": (0.0, CLEAR_WEIGHT),
}
_TURNED = {"B<<A": "A>>B", "B<A": "A>B", "B=A": "A=B", "A<B": "B>A", "A<<B": "B>>A"}
LABELS: Mapping[str, tuple[float, float]] = _FOR_A | {
    label: _FOR_A[same] for label, same in _TURNED.items()
}
"""Label to the preference for A and the weight."""
MOST_GAMES = 2
ID_COLUMNS = ("uid", "question_id")


class Judgments(NamedTuple):
    """Games as rows.

    The prompt's id, the preference for the model in [0, 1] or NaN, and the weight that the tool
    gives it.
    """

    ids: list[str]
    preferences: list[float]
    weights: list[float]


def is_judgment_file(table: UserTable) -> bool:
    """Return whether the file has Arena-Hard's games."""
    return "games" in table.names and table.first_name(ID_COLUMNS) is not None


def of_category(table: UserTable, category: str | None) -> UserTable:
    """Return the lines of one category.

    v2.0 has several in a file, each with its own baseline.

    Raises:
        InputError: several categories and none is chosen.
        UsageError: a category that the file does not have.
    """
    values = table.values_or_none("category")
    # as texts, as the flag is one, whatever type the file's are
    names = [None if value is None else str(value) for value in values]
    counts = Counter(name for name in names if name is not None)
    shown = ", ".join(f"{name} ({count:,})" for name, count in counts.items())
    if category is None:
        if len(counts) > 1:
            raise InputError(
                f"{table.source} holds {len(counts)} categories, which Arena-Hard scores "
                f"separately: {shown}",
                hint=f"choose one, --category {next(iter(counts))}",
            )
        return table

    if category not in counts:
        raise UsageError(f"--category {category}: {table.source} has {shown or 'no categories'}")
    kept = [row for row, name in enumerate(names) if name == category]
    return UserTable(table.source, table.table.take(kept), [table.places[row] for row in kept])


def read_games(table: UserTable, problems: Problems) -> Judgments:
    """Return every game as a row."""
    id_column = table.first_name(ID_COLUMNS)
    assert id_column is not None
    ids, games_of_rows = table.values(id_column), table.values("games")
    judgments = Judgments([], [], [])
    for row, place in enumerate(table.places):
        row_problems = problems.at(place)
        games = games_of_rows[row]
        prompt_id = row_problems.take(checked_id(ids[row], id_column))
        if row_problems or prompt_id is None:
            continue
        if not isinstance(games, list) or not 1 <= len(games) <= MOST_GAMES:
            row_problems.add(f"`games` is {shortened(games)}; one or two games are expected")
            continue

        verdicts = [_verdict(game, row_problems) for game in games]
        # v2.0 counts a prompt by both of its games or by none
        if id_column == "uid" and None in verdicts:
            verdicts = [None] * len(verdicts)
        for number, verdict in enumerate(verdicts):
            # a game without a verdict stays a row, and is counted as missing
            for_a, weight = verdict or (nan, 1.0)
            is_model_a = number == 1
            judgments.ids.append(prompt_id)
            judgments.preferences.append(for_a if is_model_a else 1.0 - for_a)
            judgments.weights.append(weight)
    return judgments


def _verdict(game: Any, row_problems: RowProblems) -> tuple[float, float] | None:
    """Return the preference for A and its weight.

    None if there is no label, or one that the tool does not know.
    """
    if game is None:  # v2.0 writes null where the judge could not be reached
        return None
    score = game.get("score") if isinstance(game, Mapping) else game
    if isinstance(score, str):
        return LABELS.get(score)
    if score is not None:
        row_problems.add(f"`games[].score` is {shortened(score)}; a label such as A>>B is expected")
    return None
