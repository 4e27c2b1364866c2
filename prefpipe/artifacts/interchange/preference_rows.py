"""``trl``: rows of chosen and rejected, or of single completions with a label, back to candidates.

The same response in several rows of a prompt is one candidate. Where the file has scores they are
the rewards; where it has none, the reward is the share of its comparisons that a response won.

A row repeats a response's score rather than adding one, so two rows with different scores are
refused unless the user says how to combine them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Any, NamedTuple

from prefpipe.artifacts.conversations import ReadingRules
from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.interchange.checked_values import (
    checked_id,
    checked_index,
    checked_number,
    checked_optional_text,
)
from prefpipe.artifacts.interchange.gathering import gather
from prefpipe.artifacts.interchange.pool import ImportedResponse, Pool
from prefpipe.artifacts.interchange.preference_texts import (
    response_columns,
    split_row,
    unpacked_column,
)
from prefpipe.artifacts.interchange.read_options import ReadOptions
from prefpipe.artifacts.interchange.reading_notes import (
    notes_of_keys_left_out,
    notes_of_texts_read_back,
)
from prefpipe.artifacts.interchange.row_problems import Problems, UnusableRowError, needed
from prefpipe.artifacts.interchange.score_columns import pairs_of_columns, single_columns, words_of
from prefpipe.artifacts.interchange.system_and_tools import (
    SystemAndToolsColumns,
    read_system_and_tools,
)
from prefpipe.artifacts.interchange.user_table import UserTable, read_user_table
from prefpipe.artifacts.tables.values import number_of, shortened

HINT = (
    "each row needs `chosen` and `rejected`, with `prompt` or with the whole conversation in both; "
    "or `prompt`, `completion` and `label`"
)
PROMPT_HINT = "if `chosen` and `rejected` are plain texts, put the prompt into its own column"
PREFERENCE = "preference"
JOINED = ("mean", "first")
"""What ``on_duplicate`` makes one score of several with."""
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


class ResponseColumns(NamedTuple):
    """The columns of one response of each row: its text, index and model, and scores by scorer.

    ``wins``: whether it is the better one; None if the column ``label`` says so.
    """

    text: str
    sample_idx: str
    model: str
    scores: Mapping[str, str]
    wins: bool | None


@dataclass
class PreferenceCandidate:
    """A response gathered from the rows that hold it.

    Its scores with their places, and how often it won.
    """

    response: ImportedResponse
    scores: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    wins: list[float] = field(default_factory=list)


def read_preferences(source: str, options: ReadOptions) -> Pool:
    """Read preference data as TRL takes it.

    Explicit or implicit prompts, pairs or single completions, text or turns.

    Raises:
        InputError: missing columns, contradictory scores, and every row that cannot be used.
    """
    rules = options.rules
    table = read_user_table(source, text_columns=("chosen", "rejected", "completion"), hint=HINT)
    # the error for a file of neither kind names what pairs need
    is_paired = "chosen" in table.names or "completion" not in table.names
    names = ["chosen", "rejected"] if is_paired else ["completion"]
    table.require(names if is_paired else ["prompt", *names], hint=HINT)
    texts = response_columns(table, names, rules)
    # without it, what `chosen` and `rejected` answer can be in conversations alone
    if is_paired and all(isinstance(value, str) for value in texts["chosen"]):
        table.require(["prompt"], hint=PROMPT_HINT)

    if is_paired:
        columns, notes = _columns_of_pairs(table)
        notes += _notes_of_reversed_scores(table, *columns)
    else:
        scores = single_columns(table)
        columns = [ResponseColumns("completion", "sample_idx", "model", scores, None)]
        notes = []
        if not scores:  # then the label is the reward
            table.require(["label"], hint=HINT)

    extras = read_system_and_tools(table, rules=rules)
    problems = Problems(source)
    candidates = _candidates(table, columns, texts, problems, extras, rules)
    if rules.on_duplicate in JOINED:
        notes += _notes_of_several_scores(candidates, rules.on_duplicate)
    else:
        _refuse_contradictions(candidates, problems)

    # the file's scores are the rewards; without any, the share of comparisons that were won
    scorers = tuple(columns[0].scores) or (PREFERENCE,)
    responses = [_with_scores(candidate, scorers, rules) for candidate in candidates]
    used = {*OWN_COLUMNS, *extras.used}
    for of_response in columns:
        used |= {of_response.model, *of_response.scores.values()}
    pool = gather(responses, problems, scorers=scorers, table=table, options=options, used=used)

    prompts = unpacked_column(table, "prompt")
    texts_as_written = [unpacked_column(table, name) for name in names]  # `texts` may be turns
    pool.notes.extend([*extras.notes, *notes])
    pool.notes.extend(notes_of_keys_left_out({"prompt": prompts, **texts}, rules))
    pool.notes.extend(notes_of_texts_read_back(prompts, rules, texts_as_written))
    return pool


def _columns_of_pairs(table: UserTable) -> tuple[list[ResponseColumns], list[str]]:
    """Return the columns of the chosen and of the rejected response, and notes on score columns."""
    pairs, notes = pairs_of_columns(table)
    columns = []
    for name, is_chosen in (("chosen", True), ("rejected", False)):
        model = f"{name}_model"
        for column in table.names:
            if sorted(words_of(column)) == sorted((name, "model")):
                model = column
                break
        scores = {}
        for pair in pairs:
            scores[pair.scorer] = pair.chosen if is_chosen else pair.rejected
        columns.append(ResponseColumns(name, f"{name}_sample_idx", model, scores, is_chosen))
    return columns, notes


def _notes_of_reversed_scores(
    table: UserTable, chosen: ResponseColumns, rejected: ResponseColumns
) -> list[str]:
    """Return in how many rows the chosen response has the lower score.

    Such a score may be one of which less is better.
    """
    notes = []
    for scorer, name in chosen.scores.items():
        other_name = rejected.scores[scorer]
        n_rated = n_reversed = 0
        for value, other in zip(table.values(name), table.values(other_name), strict=True):
            (score, _), (other_score, _) = number_of(value), number_of(other)
            if score is not None and other_score is not None:
                n_rated += 1
                n_reversed += score < other_score
        if n_reversed:
            notes.append(
                f"`{name}` is lower than `{other_name}` in {n_reversed:,} of {n_rated:,} rows: a "
                "higher reward must be better, so negate a score for which lower is better"
            )
    return notes


def _candidates(
    table: UserTable,
    columns: Sequence[ResponseColumns],
    texts: Mapping[str, Sequence[Any]],
    problems: Problems,
    extras: SystemAndToolsColumns,
    rules: ReadingRules,
) -> list[PreferenceCandidate]:
    """Join what the rows say of each response."""
    has_ids = "prompt_id" in table.names
    ids, labels = table.values_or_none("prompt_id"), table.values_or_none("label")
    prompts = unpacked_column(table, "prompt")
    values: dict[str, Sequence[Any]] = {}
    for names in columns:
        for name in (names.sample_idx, names.model, *names.scores.values()):
            values[name] = table.values_or_none(name)
    candidates: dict[tuple[str, Any], PreferenceCandidate] = {}

    for row, place in enumerate(table.places):
        try:
            prompt, responses = split_row(
                prompts[row],
                [column[row] for column in texts.values()],
                list(texts),
                rules=rules,
                system_and_tools=extras.rows[row],
            )
            given_id = needed(checked_id(ids[row], "prompt_id")) if has_ids else None
        except UnusableRowError as error:
            problems.add(place, str(error))
            continue

        prompt_id = given_id or prompt_id_of(prompt)
        for names, text in zip(columns, responses, strict=True):
            index, index_problem = checked_index(values[names.sample_idx][row], names.sample_idx)
            model, model_problem = checked_optional_text(values[names.model][row], names.model)
            response = ImportedResponse(row, place, prompt, text, prompt_id, index, model)
            wins, label_problem = _wins(names, labels[row])
            candidate = _candidate(candidates, response, problems)
            if wins is not None:
                candidate.wins.append(wins)

            # what contradicts an earlier row is before what is wrong with this one alone
            row_problems = problems.at(place)
            for problem in (index_problem, model_problem, label_problem):
                row_problems.add(problem)
            for scorer, name in names.scores.items():
                score = row_problems.take(checked_number(values[name][row], name))
                if score is not None:
                    candidate.scores.setdefault(scorer, []).append((score, place))
    return list(candidates.values())


def _wins(names: ResponseColumns, label: Any) -> tuple[float | None, str | None]:
    """Return 1 where a response is the better one, 0 where it is not, and what is wrong."""
    if names.wins is not None:
        return float(names.wins), None
    if label is None:
        return None, None
    if label in (0, 1):  # bools among them
        return float(label), None
    return None, f"`label` is {shortened(label)}, which is neither true nor false"


def _candidate(
    candidates: dict[tuple[str, Any], PreferenceCandidate],
    response: ImportedResponse,
    problems: Problems,
) -> PreferenceCandidate:
    """Return the candidate that a response of a row is, a new one where it is new."""
    assert response.prompt_id is not None
    # with their own keys, two candidates may have the same text
    key = response.sample_idx if response.sample_idx is not None else response.text
    candidate = candidates.setdefault((response.prompt_id, key), PreferenceCandidate(response))
    earlier = candidate.response
    if earlier.text != response.text:
        problems.add(
            response.place,
            f"prompt {response.prompt_id}, sample {response.sample_idx} has a different text "
            f"here than at {earlier.place}",
            contradicted=[earlier.place],
        )
    if earlier.messages != response.messages:
        problems.add(
            response.place,
            f"prompt {response.prompt_id} has a different text here than at {earlier.place}",
        )
    # of a text that several models wrote, the first that is named
    if earlier.model is None and response.model is not None:
        candidate.response = earlier._replace(model=response.model)
    return candidate


def _refuse_contradictions(candidates: Sequence[PreferenceCandidate], problems: Problems) -> None:
    """Refuse rows that give one response different scores: nothing says which of them is right."""
    for candidate in candidates:
        for scorer, scores in candidate.scores.items():
            first, first_place = scores[0]
            for score, place in scores[1:]:
                if repr(first) == repr(score):  # as text, so that NaN is NaN
                    continue
                problems.add(
                    place,
                    f"prompt {candidate.response.prompt_id}: one response has {scorer} {score:g} "
                    f"here and {first:g} at {first_place}: {shortened(candidate.response.text)} "
                    "(pass --on-duplicate mean to use the mean)",
                    contradicted=[other_place for _, other_place in scores],
                )


def _notes_of_several_scores(
    candidates: Sequence[PreferenceCandidate], on_duplicate: str | None
) -> list[str]:
    """Return how many responses have several scores, and what was made of them."""
    several: list[list[tuple[float, str]]] = []
    for candidate in candidates:
        several += filter(_have_several_values, candidate.scores.values())
    if not several:
        return []

    (_, first), (_, second) = several[0][:2]
    becomes = "the mean of all rows" if on_duplicate == "mean" else "the first"
    note = (
        f"{len(several):,} scores differ between rows of one response, first at {first} and "
        f"{second}: {becomes} is used (--on-duplicate {on_duplicate})"
    )
    return [note]


def _have_several_values(scores: Sequence[tuple[float, str]]) -> bool:
    """Return whether rows give a response different scores."""
    return len({repr(score) for score, _ in scores}) > 1  # as text, so that NaN is NaN


def _with_scores(
    candidate: PreferenceCandidate, scorers: Sequence[str], rules: ReadingRules
) -> ImportedResponse:
    """Return a candidate as a response with its scores."""
    scores: dict[str, float | None] = dict.fromkeys(scorers)
    if tuple(scorers) == (PREFERENCE,):
        if candidate.wins:
            scores[PREFERENCE] = fsum(candidate.wins) / len(candidate.wins)
        return candidate.response._replace(scores=scores)

    for scorer, given in candidate.scores.items():
        # a score that rows only repeat stays what it is, to the last digit
        scores[scorer] = given[0][0]
        if rules.on_duplicate == "mean" and _have_several_values(given):
            scores[scorer] = fsum(score for score, _ in given) / len(given)
    return candidate.response._replace(scores=scores)
