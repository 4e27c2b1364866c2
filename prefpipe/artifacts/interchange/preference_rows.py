"""``trl``: rows of chosen and rejected, or of single completions with a label, back to candidates with rewards.

The same response in several rows of a prompt is one candidate. Where the file has scores they are the rewards; where it
has none, the reward is the share of its comparisons that a response won.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prefpipe.artifacts.conversations import Turns
from prefpipe.artifacts.ids import prompt_id_of
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
    parsed_json,
    read_user_table,
    told,
)

HINT = (
    "each row needs `chosen` and `rejected`, with `prompt` or with the whole conversation in both; "
    "or `prompt`, `completion` and `label`"
)
PREFERENCE = "preference"
PAIR_SCORES = (
    ("score", "score_chosen", "score_rejected"), ("score", "chosen_score", "rejected_score"),
    ("rating", "chosen_rating", "rejected_rating"), ("rating", "rating_chosen", "rating_rejected"),
    ("reward", "chosen_reward", "rejected_reward"), ("reward", "reward_chosen", "reward_rejected"),
)  # fmt: skip
"""Scorer, and the columns of its scores under the names that people publish them."""
SINGLE_SCORES = ("score", "rating", "reward")
OWN_COLUMNS = (
    "prompt_id", "prompt", "chosen", "rejected", "completion", "label", "chosen_sample_idx", "rejected_sample_idx", "sample_idx",
    "chosen_model", "rejected_model", "model", "margin",
)  # fmt: skip


class Side(NamedTuple):
    """One response of a row: the columns of its text, index and model, its scores by scorer, and whether it is the better."""

    text: str
    sample_idx: str
    model: str
    scores: Mapping[str, str]
    wins: bool | None


@dataclass
class Candidate:
    """A response gathered from the rows that hold it: its scores with their places, and how often it won."""

    response: Response
    scores: dict[str, tuple[float | None, str]] = field(default_factory=dict)
    wins: list[float] = field(default_factory=list)


def read_preferences(source: str, *, columns: Sequence[str] | None, reserved: Sequence[str]) -> Pool:
    """Read preference data as TRL takes it: explicit or implicit prompts, pairs or single completions, text or turns.

    Args:
        source: path or ``hf:`` reference.
        columns: the user's columns that pass through.
        reserved: names that the artifact uses itself.

    Errors:
        InputError: missing columns, contradictory scores, and every row that cannot be used.
    """
    table = read_user_table(source, text_columns=("chosen", "rejected", "completion"), hint=HINT)
    is_paired = "chosen" in table.names or "completion" not in table.names
    if is_paired:
        table.require(["chosen", "rejected"], hint=HINT)
        if "prompt" not in table.names and all(isinstance(value, str) for value in unpacked_column(table, "chosen")):
            table.require(
                ["prompt"], hint="where `chosen` and `rejected` are plain texts, the prompt stands in a column of its own"
            )
        sides = _paired_sides(table)
    else:
        table.require(["prompt", "completion"], hint=HINT)
        sides = _single_side(table)
    scorers = tuple(sides[0].scores) or (PREFERENCE,)
    if not is_paired and not sides[0].scores:
        table.require(["label"], hint=HINT)
    problems = Problems(source)
    candidates = _gathered(table, sides, problems)
    used = sorted({*OWN_COLUMNS, *(column for side in sides for column in side.scores.values()), *reserved})
    responses = [_finished(candidate, scorers) for candidate in candidates]
    return gather(responses, problems, scorers=scorers, table=table, columns=columns, reserved=used)


def _paired_sides(table: UserTable) -> list[Side]:
    found: dict[str, tuple[str, str]] = {}
    for scorer, chosen, rejected in PAIR_SCORES:
        if chosen in table.names and rejected in table.names:
            found.setdefault(scorer, (chosen, rejected))
    return [
        Side(name, f"{name}_sample_idx", f"{name}_model", {scorer: pair[number] for scorer, pair in found.items()}, number == 0)
        for number, name in enumerate(("chosen", "rejected"))
    ]


def _single_side(table: UserTable) -> list[Side]:
    return [Side("completion", "sample_idx", "model", {name: name for name in SINGLE_SCORES if name in table.names}, None)]


def _gathered(table: UserTable, sides: Sequence[Side], problems: Problems) -> list[Candidate]:
    """Join what the rows say of each response."""
    ids, labels = table.values_or_none("prompt_id"), table.values_or_none("label")
    prompts = unpacked_column(table, "prompt")
    texts = {side.text: unpacked_column(table, side.text) for side in sides}
    columns = {name: table.values_or_none(name) for side in sides for name in (side.sample_idx, side.model)}
    scores = {name: table.values(name) for side in sides for name in side.scores.values()}
    known: dict[tuple[str, Any], Candidate] = {}
    for row, place in enumerate(table.places):
        prompt, responses, problem = split_row(prompts[row], [values[row] for values in texts.values()], list(texts))
        prompt_id = None
        if problem is None and "prompt_id" in table.names:
            prompt_id, problem = checked_id(ids[row], "prompt_id")
        if problem is not None:
            problems.add(place, problem)
            continue
        for side, text in zip(sides, responses, strict=True):
            sample_idx, index_problem = checked_index(columns[side.sample_idx][row], side.sample_idx)
            model, model_problem = checked_optional_text(columns[side.model][row], side.model)
            response = Response(row, place, prompt, text, prompt_id or prompt_id_of(prompt), sample_idx, model)
            wins, label_problem = _won(side, labels[row])
            found = [index_problem, model_problem, label_problem]
            candidate = _candidate(known, response, problems)
            for scorer, name in side.scores.items():
                value, number_problem = checked_number(scores[name][row], name)
                found.append(number_problem)
                _add_score(candidate, scorer, value, place, problems)
            candidate.wins += [wins] if wins is not None else []
            for sentence in found:
                if sentence is not None:
                    problems.add(place, sentence)
    return list(known.values())


def unpacked_column(table: UserTable, name: str) -> list[Any]:
    """Return a column of texts and turns; turns that stand in a CSV field as JSON text are turns."""
    values = table.values_or_none(name)
    return [_turns_of_csv(value) for value in values] if table.source.lower().endswith(".csv") else values


def _candidate(known: dict[tuple[str, Any], Candidate], response: Response, problems: Problems) -> Candidate:
    """Return the candidate that a response of a row is, a new one where it is new."""
    assert response.prompt_id is not None
    which: Any = response.sample_idx if response.sample_idx is not None else response.text
    candidate = known.setdefault((response.prompt_id, which), Candidate(response))
    before = candidate.response
    if before.text != response.text:
        problems.add(
            response.place,
            f"prompt {response.prompt_id}, sample {response.sample_idx} is another text here than at {before.place}",
        )
    if before.messages != response.messages:
        problems.add(response.place, f"prompt {response.prompt_id} has another text here than at {before.place}")
    if before.model is None and response.model is not None:  # of a text that several models wrote, the first that is named
        candidate.response = before._replace(model=response.model)
    return candidate


def _add_score(candidate: Candidate, scorer: str, value: float | None, place: str, problems: Problems) -> None:
    before, where = candidate.scores.get(scorer, (None, place))
    if value is None:
        candidate.scores.setdefault(scorer, (None, place))
    elif before is None:
        candidate.scores[scorer] = (value, place)
    elif repr(before) != repr(value):  # as text, so that NaN is NaN
        problems.add(
            place,
            f"prompt {candidate.response.prompt_id}: one response has {scorer} {value:g} here and {before:g} at {where}: "
            f"{told(candidate.response.text)}",
        )


def _won(side: Side, label: Any) -> tuple[float | None, str | None]:
    if side.wins is not None:
        return float(side.wins), None
    if label is None:
        return None, None
    if label in (0, 1):  # bools among them
        return float(label), None
    return None, f"`label` is {told(label)}, which is neither true nor false"


def _finished(candidate: Candidate, scorers: Sequence[str]) -> Response:
    scores = {scorer: value for scorer, (value, _) in candidate.scores.items()}
    if scorers == (PREFERENCE,):
        scores = {PREFERENCE: sum(candidate.wins) / len(candidate.wins) if candidate.wins else None}
    return candidate.response._replace(scores=scores)


def split_row(prompt: Any, responses: Sequence[Any], names: Sequence[str]) -> tuple[Turns, list[str], str | None]:
    """Return a row's prompt, its responses' texts, and what is wrong with it.

    Args:
        prompt: text, turns, or None where the responses hold the whole conversation.
        responses: each a text, the assistant's turn in a list, or the whole conversation in a list.
        names: the responses' columns, for messages.
    """
    values = [[value] if isinstance(value, dict) else value for value in responses]
    for value, name in zip(values, names, strict=True):
        problem = _problem_of(value, name)
        if problem is not None:
            return [], [], problem
    whole = [value for value in values if not isinstance(value, str) and len(value) > 1]
    if prompt is None and len(whole) < len(values):
        return [], [], f"there is no `prompt`, and `{names[0]}` is not the whole conversation, a list of turns"
    if not whole:
        turns, problem = checked_prompt(prompt, "prompt")
        return turns, [value if isinstance(value, str) else value[0]["content"] for value in values], problem
    if len(whole) < len(values):
        return [], [], f"one of {' and '.join(names)} is a whole conversation, and the other is not"
    beginning = whole[0][:-1]
    if any(value[:-1] != beginning for value in whole):
        return [], [], f"`{names[0]}` and `{names[-1]}` differ before their last turn: there is no one prompt to both"
    turns, problem = checked_prompt(beginning, names[0])
    if problem is None and prompt is not None and not _is_told_by(prompt, turns):
        problem = f"`prompt` is not what `{names[0]}` begins with: {told(prompt)}"
    return turns, [value[-1]["content"] for value in whole], problem


def _turns_of_csv(value: Any) -> Any:
    """Return turns that stand in a CSV field, as JSON text, as turns; any other text stays one."""
    found = parsed_json(value) if isinstance(value, str) else None
    is_turns = isinstance(found, list) and found and all(isinstance(turn, dict) and "role" in turn for turn in found)
    return found if is_turns else value


def _problem_of(value: Any, name: str) -> str | None:
    """Return what is wrong with a response: a text, or turns of which the last is the assistant's."""
    if not isinstance(value, list):
        return checked_text(value, name)[1]
    for number, turn in enumerate(value):
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str) or not isinstance(turn.get("role"), str):
            return f"`{name}`: turn {number} is {told(turn)}; each needs `role` and `content`, both text"
    if not value:
        return f"`{name}` is an empty list"
    if value[-1]["role"] != "assistant":
        return f"`{name}`: its last turn is from the {value[-1]['role']}, and a response is the assistant's"
    return checked_text(value[-1]["content"], name)[1]


def _is_told_by(prompt: Any, turns: Turns) -> bool:
    """Return whether a row's own prompt is its conversation's beginning: the same turns, or the text of a user turn of it."""
    if isinstance(prompt, str):
        return any(turn["content"] == prompt for turn in turns if turn["role"] == "user")
    found, problem = checked_prompt(prompt, "prompt")
    return problem is None and found == turns
