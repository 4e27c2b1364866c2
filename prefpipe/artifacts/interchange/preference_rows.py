"""``trl``: rows of chosen and rejected, or of single completions with a label, back to candidates with rewards.

The same response in several rows of a prompt is one candidate. Where the file has scores they are the rewards; where it
has none, the reward is the share of its comparisons that a response won. A row repeats a response's score rather than adding
one, so that two rows which differ are refused unless the user says what they come to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Any, NamedTuple

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules, Turns
from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.interchange.conversation_columns import (
    NOTHING_BESIDE,
    Beside,
    BesidePrompts,
    checked_prompt,
    checked_response,
    notes_of_keys_left_out,
    notes_of_texts_read_back,
    read_beside,
    with_beside,
)
from prefpipe.artifacts.interchange.pool import Pool, Response, gather
from prefpipe.artifacts.interchange.score_columns import pairs_of_columns, single_columns, words_of
from prefpipe.artifacts.interchange.templated_prompts import (
    all_serialised,
    read_transcript,
    serialised_turns,
)
from prefpipe.artifacts.interchange.user_table import (
    Problems,
    UserTable,
    checked_id,
    checked_index,
    checked_number,
    checked_optional_text,
    parsed_json,
    read_user_table,
    told,
)
from prefpipe.artifacts.tables.values import number_of

HINT = (
    "each row needs `chosen` and `rejected`, with `prompt` or with the whole conversation in both; "
    "or `prompt`, `completion` and `label`"
)
PREFERENCE = "preference"
OWN_COLUMNS = (
    "prompt_id",
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "label",
    "chosen_sample_idx",
    "rejected_sample_idx",
    "sample_idx",
    "chosen_model",
    "rejected_model",
    "model",
    "margin",
)


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
    scores: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    wins: list[float] = field(default_factory=list)


def read_preferences(
    source: str,
    *,
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules = DEFAULT_RULES,
) -> Pool:
    """Read preference data as TRL takes it: explicit or implicit prompts, pairs or single completions, text or turns.

    Args:
        source: path or ``hf:`` reference.
        columns: the user's columns that pass through.
        reserved: names that the artifact uses itself.
        rules: what the user says about the file's conversations.

    Raises:
        InputError: missing columns, contradictory scores, and every row that cannot be used.
    """
    table = read_user_table(source, text_columns=("chosen", "rejected", "completion"), hint=HINT)
    is_paired = "chosen" in table.names or "completion" not in table.names
    table.require(["chosen", "rejected"] if is_paired else ["prompt", "completion"], hint=HINT)

    texts = response_columns(table, ["chosen", "rejected"] if is_paired else ["completion"], rules)
    if (
        is_paired
        and "prompt" not in table.names
        and all(isinstance(value, str) for value in texts["chosen"])
    ):
        table.require(
            ["prompt"],
            hint="where `chosen` and `rejected` are plain texts, the prompt stands in a column of its own",
        )

    sides, notes = _paired_sides(table) if is_paired else (_single_side(table), [])
    scorers = tuple(sides[0].scores) or (PREFERENCE,)
    if not is_paired and not sides[0].scores:
        table.require(["label"], hint=HINT)

    beside = read_beside(table.names, table.values, table.table.num_rows, rules=rules)
    problems = Problems(source)
    candidates = _gathered(table, sides, texts, problems, beside, rules)
    if is_paired:
        notes += _notes_of_reversed_scores(table, sides)
    if rules.on_duplicate in ("mean", "first"):
        notes += _notes_of_duplicates(candidates, rules.on_duplicate)

    used = {*OWN_COLUMNS, *beside.used}
    for side in sides:
        used |= {side.model, side.sample_idx, *side.scores.values()}
    responses = [_finished(candidate, scorers, rules) for candidate in candidates]
    pool = gather(
        responses,
        problems,
        scorers=scorers,
        table=table,
        columns=columns,
        reserved=sorted({*used, *reserved}),
    )
    prompts = unpacked_column(table, "prompt")
    raw = [unpacked_column(table, name) for name in texts]
    pool.notes.extend(
        [*beside.notes, *notes, *notes_of_keys_left_out({"prompt": prompts, **texts}, rules)]
    )
    pool.notes.extend(notes_of_texts_read_back(prompts, rules, raw))
    return pool


def _paired_sides(table: UserTable) -> tuple[list[Side], list[str]]:
    pairs, notes = pairs_of_columns(table)
    sides = []
    for number, name in enumerate(("chosen", "rejected")):
        model = next(
            (
                column
                for column in table.names
                if sorted(words_of(column)) == sorted((name, "model"))
            ),
            f"{name}_model",
        )
        scores = {pair.scorer: pair.columns[number] for pair in pairs}
        sides.append(Side(name, f"{name}_sample_idx", model, scores, number == 0))
    return sides, notes


def _notes_of_reversed_scores(table: UserTable, sides: Sequence[Side]) -> list[str]:
    """Return in how many rows the chosen response has the lower score: such a score may be one of which less is better."""
    chosen, rejected = (side.scores for side in sides)
    notes = []
    for scorer in chosen:
        columns = [list(map(number_of, table.values(side[scorer]))) for side in (chosen, rejected)]
        rated = [
            (first, second)
            for (first, _), (second, _) in zip(*columns, strict=True)
            if first is not None and second is not None
        ]
        n_reversed = sum(first < second for first, second in rated)
        if n_reversed:
            notes.append(
                f"`{chosen[scorer]}` is lower than `{rejected[scorer]}` in {n_reversed:,} of {len(rated):,} rows: as a reward, "
                "more is better; of a score of which less is better, write the negative"
            )
    return notes


def _single_side(table: UserTable) -> list[Side]:
    return [Side("completion", "sample_idx", "model", single_columns(table), None)]


def _gathered(
    table: UserTable,
    sides: Sequence[Side],
    texts: Mapping[str, Sequence[Any]],
    problems: Problems,
    beside: BesidePrompts,
    rules: ReadingRules,
) -> list[Candidate]:
    """Join what the rows say of each response."""
    ids, labels = table.values_or_none("prompt_id"), table.values_or_none("label")
    prompts = unpacked_column(table, "prompt")
    columns = {
        name: table.values_or_none(name) for side in sides for name in (side.sample_idx, side.model)
    }
    scores = {name: table.values(name) for side in sides for name in side.scores.values()}
    known: dict[tuple[str, Any], Candidate] = {}

    for row, place in enumerate(table.places):
        values = [column[row] for column in texts.values()]
        prompt, responses, problem = split_row(
            prompts[row], values, list(texts), rules=rules, beside=beside.rows[row]
        )
        problem = beside.problems[row] or problem
        prompt_id = None
        if problem is None and "prompt_id" in table.names:
            prompt_id, problem = checked_id(ids[row], "prompt_id")
        if problem is not None:
            problems.add(place, problem)
            continue

        for side, text in zip(sides, responses, strict=True):
            sample_idx, index_problem = checked_index(
                columns[side.sample_idx][row], side.sample_idx
            )
            model, model_problem = checked_optional_text(columns[side.model][row], side.model)
            response = Response(
                row, place, prompt, text, prompt_id or prompt_id_of(prompt), sample_idx, model
            )
            wins, label_problem = _won(side, labels[row])
            found = [index_problem, model_problem, label_problem]
            candidate = _candidate(known, response, problems)
            for scorer, name in side.scores.items():
                value, number_problem = checked_number(scores[name][row], name)
                found.append(number_problem)
                if value is not None:
                    candidate.scores.setdefault(scorer, []).append((value, place))
            candidate.wins += [wins] if wins is not None else []
            for sentence in found:
                if sentence is not None:
                    problems.add(place, sentence)
    if rules.on_duplicate not in ("mean", "first"):
        _refuse_contradictions(list(known.values()), problems)
    return list(known.values())


def unpacked_column(table: UserTable, name: str) -> list[Any]:
    """Return a column of texts and turns; turns that stand in a CSV field as JSON text are turns."""
    values = table.values_or_none(name)
    return (
        [_turns_of_csv(value) for value in values]
        if table.source.lower().endswith((".csv", ".tsv"))
        else values
    )


def response_columns(
    table: UserTable, names: Sequence[str], rules: ReadingRules
) -> dict[str, list[Any]]:
    """Return the columns of responses, texts and turns.

    A response may be a list of turns in a text, and that is a text like any other. Where every response of the file is one,
    they are conversations that were written as text, and become turns again; so do whole conversations in hh-rlhf's layout,
    where the file has no column of prompts.
    """
    columns = {name: unpacked_column(table, name) for name in names}
    if rules.prompts_are_text:
        return columns

    if all_serialised(list(columns.values())):
        return {name: [_unwrapped(value) for value in values] for name, values in columns.items()}
    texts = [value for values in columns.values() for value in values if value is not None]
    if "prompt" not in table.names and all(
        isinstance(text, str) and text.startswith("\n\nHuman:") for text in texts
    ):
        return {
            name: [read_transcript(value) or value if value else value for value in values]
            for name, values in columns.items()
        }
    return columns


def _unwrapped(value: Any) -> Any:
    return serialised_turns(value)[0] if isinstance(value, str) else value


def _candidate(
    known: dict[tuple[str, Any], Candidate], response: Response, problems: Problems
) -> Candidate:
    """Return the candidate that a response of a row is, a new one where it is new."""
    assert response.prompt_id is not None
    which: Any = response.sample_idx if response.sample_idx is not None else response.text
    candidate = known.setdefault((response.prompt_id, which), Candidate(response))
    before = candidate.response
    if before.text != response.text:
        problems.add(
            response.place,
            f"prompt {response.prompt_id}, sample {response.sample_idx} is another text here than at {before.place}",
            contradicted=[before.place],
        )
    if before.messages != response.messages:
        problems.add(
            response.place,
            f"prompt {response.prompt_id} has another text here than at {before.place}",
        )
    if (
        before.model is None and response.model is not None
    ):  # of a text that several models wrote, the first that is named
        candidate.response = before._replace(model=response.model)
    return candidate


def _refuse_contradictions(candidates: Sequence[Candidate], problems: Problems) -> None:
    """Refuse rows that give one response different scores: nothing says which of them is right."""
    for candidate in candidates:
        for scorer, given in candidate.scores.items():
            first, where = given[0]
            for value, place in given[1:]:
                if repr(first) == repr(value):  # as text, so that NaN is NaN
                    continue
                problems.add(
                    place,
                    f"prompt {candidate.response.prompt_id}: one response has {scorer} {value:g} here and {first:g} at {where}: "
                    f"{told(candidate.response.text)} (--on-duplicate mean takes the mean)",
                    contradicted=[other for _, other in given],
                )


def _notes_of_duplicates(candidates: Sequence[Candidate], on_duplicate: str) -> list[str]:
    """Return how many responses have several scores, and what was made of them."""
    several = [
        given
        for candidate in candidates
        for given in candidate.scores.values()
        if len({repr(value) for value, _ in given}) > 1
    ]
    if not several:
        return []
    (_, first), (_, second) = several[0][:2]
    becomes = "the mean of all rows" if on_duplicate == "mean" else "the first"
    note = f"{len(several):,} scores differ between rows of one response, first at {first} and {second}: {becomes} is taken"
    return [f"{note} (--on-duplicate {on_duplicate})"]


def _won(side: Side, label: Any) -> tuple[float | None, str | None]:
    if side.wins is not None:
        return float(side.wins), None
    if label is None:
        return None, None
    if label in (0, 1):  # bools among them
        return float(label), None
    return None, f"`label` is {told(label)}, which is neither true nor false"


def _finished(candidate: Candidate, scorers: Sequence[str], rules: ReadingRules) -> Response:
    """Return a candidate as a response with its scores."""
    if tuple(scorers) == (PREFERENCE,):
        share = fsum(candidate.wins) / len(candidate.wins) if candidate.wins else None
        return candidate.response._replace(scores={PREFERENCE: share})

    scores: dict[str, float | None] = {}
    for scorer in scorers:
        values = [value for value, _ in candidate.scores.get(scorer, [])]
        if rules.on_duplicate == "mean" and len({repr(value) for value in values}) > 1:
            scores[scorer] = fsum(values) / len(values)
        else:
            scores[scorer] = values[0] if values else None
    return candidate.response._replace(scores=scores)


def split_row(
    prompt: Any,
    responses: Sequence[Any],
    names: Sequence[str],
    *,
    rules: ReadingRules = DEFAULT_RULES,
    beside: Beside = NOTHING_BESIDE,
) -> tuple[Turns, list[str], str | None]:
    """Return a row's prompt, its responses' texts, and what is wrong with it.

    Args:
        prompt: text, turns, or None where the responses hold the whole conversation.
        responses: each a text, the assistant's turn in a list, or the whole conversation in a list.
        names: the responses' columns, for messages.
        rules: what the user says about the file's conversations.
        beside: what stands in columns beside them.
    """
    values: list[str | Turns] = []
    for value, name in zip(responses, names, strict=True):
        found, problem = checked_response(
            [value] if isinstance(value, dict) else value, name, rules
        )
        if problem is not None:
            return [], [], problem
        values.append(found)

    whole = [value for value in values if isinstance(value, list) and len(value) > 1]
    if prompt is None and len(whole) < len(values):
        return (
            [],
            [],
            f"there is no `prompt`, and `{names[0]}` is not the whole conversation, a list of turns",
        )
    if not whole:
        turns, problem = checked_prompt(prompt, "prompt", rules=rules, beside=beside)
        return (
            turns,
            [value if isinstance(value, str) else value[0]["content"] for value in values],
            problem,
        )
    if len(whole) < len(values):
        return [], [], f"one of {' and '.join(names)} is a whole conversation, and the other is not"

    beginning = whole[0][:-1]
    if any(value[:-1] != beginning for value in whole):
        return (
            [],
            [],
            f"`{names[0]}` and `{names[-1]}` differ before their last turn: there is no one prompt to both",
        )
    turns, problem = checked_prompt(beginning, names[0])
    if problem is None and prompt is not None and not _is_told_by(prompt, turns, rules):
        problem = f"`prompt` is not what `{names[0]}` begins with: {told(prompt)}"
    if problem is None:
        turns, problem = with_beside(turns, beside)
    return turns, [value[-1]["content"] for value in whole], problem


def _turns_of_csv(value: Any) -> Any:
    """Return turns that stand in a CSV field, as JSON text, as turns; any other text stays one."""
    found = parsed_json(value) if isinstance(value, str) else None
    is_turns = (
        isinstance(found, list)
        and found
        and all(isinstance(turn, dict) and "role" in turn for turn in found)
    )
    return found if is_turns else value


def _is_told_by(prompt: Any, turns: Turns, rules: ReadingRules) -> bool:
    """Return whether a row's own prompt is its conversation's beginning: the same turns, or the text of a user turn of it."""
    if isinstance(prompt, str) and any(
        turn["content"] == prompt for turn in turns if turn["role"] == "user"
    ):
        return True
    found, problem = checked_prompt(prompt, "prompt", rules=rules)
    return problem is None and found == turns
