"""``arena-hard`` of v0.1: answers in ``model_answer/<model>.jsonl``, prompts in ``question.jsonl``.

A question is ``{"question_id", "category", "cluster", "turns": [{"content"}]}``, an answer
``{"question_id", "model_id", "choices": [{"index", "turns": [{"content", "token_len"}]}]}``.
Several choices are samples of one prompt. The two files are joined by ``question_id``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.conversations import ReadingRules, Turns
from prefpipe.artifacts.interchange.checked_values import (
    checked_id,
    checked_list,
    checked_optional_text,
    checked_text,
)
from prefpipe.artifacts.interchange.conversation_columns import checked_prompt
from prefpipe.artifacts.interchange.gathering import gather
from prefpipe.artifacts.interchange.pool import ImportedResponse, Pool
from prefpipe.artifacts.interchange.read_options import ReadOptions
from prefpipe.artifacts.interchange.row_problems import Problems
from prefpipe.artifacts.interchange.user_table import UserTable, read_user_table
from prefpipe.artifacts.tables.values import shortened

ANSWER_HINT = "each line needs `question_id`, `model_id` and `choices`"
QUESTION_HINT = "pass Arena-Hard's question.jsonl, whose lines hold `question_id` and `turns`"
FAILED = "$ERROR$"
"""What the tool writes for an answer that it did not get."""


class _Question(NamedTuple):
    row: int
    place: str
    prompt: Turns


class _Answer(NamedTuple):
    """One choice; ``text`` is None if the tool got none."""

    place: str
    text: str | None
    model: str | None


def read_first_version(source: str, questions: str, options: ReadOptions) -> Pool:
    """Read an answer file; a question without an answer becomes a failed response.

    Args:
        source: path or ``hf:`` reference of the answers.
        questions: that of the questions, whose columns pass through.
        options: the user's options for the files.

    Raises:
        InputError: missing columns, a question or an answer that stands twice, an answer to no
            question.
    """
    asked = read_user_table(questions, hint=QUESTION_HINT)
    answered = read_user_table(source, hint=ANSWER_HINT)
    asked.require(["question_id", "turns"], hint=QUESTION_HINT)
    answered.require(["question_id", "choices"], hint=ANSWER_HINT)

    problems = Problems(questions)
    prompts = _questions(asked, problems, options.rules)
    problems.raise_if_any()  # before the answers are looked up among them

    problems = Problems(source)
    answers = _answers(answered, prompts, questions, problems)
    return gather(
        _responses(prompts, answers),
        problems,
        table=asked,
        options=options,
        used={"question_id", "turns"},
    )


def _questions(table: UserTable, problems: Problems, rules: ReadingRules) -> dict[str, _Question]:
    """Return the questions by their ids."""
    questions: dict[str, _Question] = {}
    ids, turns = table.values("question_id"), table.values("turns")
    for row, place in enumerate(table.places):
        row_problems = problems.at(place)
        question_id = row_problems.take(checked_id(ids[row], "question_id"))
        text, problem = _only_turn(turns[row], "turns")
        row_problems.add(problem)
        prompt: Turns = []
        if problem is None:
            prompt = row_problems.take(checked_prompt(text, "turns[0].content", rules=rules))

        # one with a problem is also kept, so that a second one of its id is reported
        if question_id in questions:
            row_problems.add(f"question {question_id!r} occurs twice")
        elif question_id is not None:
            questions[question_id] = _Question(row, place, prompt)
    return questions


def _answers(
    table: UserTable, known: Mapping[str, Any], questions: str, problems: Problems
) -> dict[str, list[_Answer]]:
    """Return each question's answers."""
    answers: dict[str, list[_Answer]] = {}
    ids, choices = table.values("question_id"), table.values("choices")
    models = table.values_or_none("model_id")
    for row, place in enumerate(table.places):
        row_problems = problems.at(place)
        question_id, problem = checked_id(ids[row], "question_id")
        if problem is None and question_id not in known:
            problem = f"`question_id` {question_id!r} does not match any question in {questions}"
        if problem is None and question_id in answers:
            problem = f"question {question_id!r} is already answered in an earlier row"
        row_problems.add(problem)
        model = row_problems.take(checked_optional_text(models[row], "model_id"))
        several = row_problems.take(checked_list(choices[row], "choices"))
        if row_problems:
            continue

        of_question = []
        for number, choice in enumerate(several):
            turns = choice.get("turns") if isinstance(choice, Mapping) else None
            text = row_problems.take(_only_turn(turns, f"choices[{number}].turns"))
            of_question.append(_Answer(place, None if text == FAILED else text, model))
        if question_id is not None and not row_problems:
            answers[question_id] = of_question
    return answers


def _responses(
    questions: Mapping[str, _Question], answers: Mapping[str, Sequence[_Answer]]
) -> Iterator[ImportedResponse]:
    for question_id, question in questions.items():
        missing = _Answer(question.place, None, None)
        for place, text, model in answers.get(question_id) or [missing]:
            yield ImportedResponse(
                question.row,
                place,
                question.prompt,
                text,
                prompt_id=question_id,
                model=model,
                failure="the file holds no answer" if text is None else None,
            )


def _only_turn(turns: Any, name: str) -> tuple[str, str | None]:
    """Return the text of a list of one turn, and what is wrong.

    Conversations of several turns are not supported.
    """
    if not isinstance(turns, list) or len(turns) != 1 or not isinstance(turns[0], Mapping):
        return "", f"`{name}` is {shortened(turns)}; one turn with `content` is expected"
    return checked_text(turns[0].get("content"), f"{name}[0].content")
