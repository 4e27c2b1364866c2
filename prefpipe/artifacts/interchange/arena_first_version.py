"""``arena-hard`` of v0.1: ``model_answer/<model>.jsonl`` joined with ``question.jsonl``, which holds the prompts, by question_id.

A question is ``{"question_id", "category", "cluster", "turns": [{"content"}]}``, an answer ``{"question_id", "model_id",
"choices": [{"index", "turns": [{"content", "token_len"}]}]}``. Several choices are samples of one prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules, Turns
from prefpipe.artifacts.interchange.conversation_columns import checked_prompt
from prefpipe.artifacts.interchange.pool import Pool, Response, gather
from prefpipe.artifacts.interchange.user_table import (
    Problems,
    UserTable,
    checked_id,
    checked_list,
    checked_optional_text,
    checked_text,
    read_user_table,
    told,
)

ANSWER_HINT = "each line needs `question_id`, `model_id` and `choices`"
QUESTION_HINT = "pass Arena-Hard's question.jsonl, whose lines hold `question_id` and `turns`"
FAILED = "$ERROR$"
"""What the tool writes for an answer that it did not get."""


def read_first_version(
    source: str,
    questions: str,
    *,
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules = DEFAULT_RULES,
) -> Pool:
    """Read an answer file; a question without an answer is a response that failed.

    Args:
        source: path or ``hf:`` reference of the answers.
        questions: that of the questions.
        columns: the questions' columns that pass through.
        reserved: names that the artifact uses itself.
        rules: what the user says about the file's conversations.

    Raises:
        InputError: missing columns, a question or an answer that stands twice, an answer to no question.
    """
    asked, answered = (
        read_user_table(questions, hint=QUESTION_HINT),
        read_user_table(source, hint=ANSWER_HINT),
    )
    asked.require(["question_id", "turns"], hint=QUESTION_HINT)
    answered.require(["question_id", "choices"], hint=ANSWER_HINT)
    problems = Problems(questions)
    prompts = _questions(asked, problems, rules)
    problems.raise_if_any()
    problems = Problems(source)
    answers = _answers(answered, prompts, questions, problems)
    responses = _responses(prompts, answers, asked.places)
    used = {"question_id", "turns", *reserved}
    return gather(
        responses, problems, scorers=(), table=asked, columns=columns, reserved=sorted(used)
    )


def _questions(
    table: UserTable, problems: Problems, rules: ReadingRules
) -> dict[str, tuple[int, Turns]]:
    """Return each question's row and prompt by its id."""
    found: dict[str, tuple[int, Turns]] = {}
    rows = zip(table.places, table.values("question_id"), table.values("turns"), strict=True)
    for row, (place, value, turns) in enumerate(rows):
        question_id, problem = checked_id(value, "question_id")
        text, second = _only_turn(turns, "turns")
        prompt, third = (
            checked_prompt(text, "turns[0].content", rules=rules) if second is None else ([], None)
        )
        sentences = [sentence for sentence in (problem, second, third) if sentence is not None]
        if question_id in found:
            sentences.append(f"question {question_id!r} stands twice")
        for sentence in sentences:
            problems.add(place, sentence)
        if question_id is not None:
            found.setdefault(question_id, (row, prompt))
    return found


def _answers(
    table: UserTable, known: Mapping[str, Any], questions: str, problems: Problems
) -> dict[str, list[tuple[str, str | None, str | None]]]:
    """Return each question's answers: place, text (None where the tool got none) and model."""
    found: dict[str, list[tuple[str, str | None, str | None]]] = {}
    models = table.values_or_none("model_id")
    rows = zip(
        table.places, table.values("question_id"), table.values("choices"), models, strict=True
    )
    for place, value, choices, model in rows:
        question_id, problem = checked_id(value, "question_id")
        if problem is None and question_id not in known:
            problem = f"`question_id` {question_id!r} is of no question in {questions}"
        if problem is None and question_id in found:
            problem = f"question {question_id!r} is answered further up already"
        name, second = checked_optional_text(model, "model_id")
        several, third = checked_list(choices, "choices")
        sentences = [sentence for sentence in (problem, second, third) if sentence is not None]
        texts = []
        for number, choice in enumerate([] if sentences else several):
            where = f"choices[{number}].turns"
            text, wrong = _only_turn(
                choice.get("turns") if isinstance(choice, Mapping) else None, where
            )
            sentences += [wrong] if wrong is not None else []
            texts.append((place, None if text == FAILED else text, name))
        for sentence in sentences:
            problems.add(place, sentence)
        if not sentences and question_id is not None:
            found[question_id] = texts
    return found


def _responses(
    prompts: Mapping[str, tuple[int, Turns]],
    answers: Mapping[str, Sequence[tuple[str, str | None, str | None]]],
    places: Sequence[str],
) -> Iterator[Response]:
    for question_id, (row, prompt) in prompts.items():
        for place, text, model in answers.get(question_id) or [(places[row], None, None)]:
            failure = "the file holds no answer" if text is None else None
            yield Response(
                row, place, prompt, text, prompt_id=question_id, model=model, failure=failure
            )


def _only_turn(turns: Any, name: str) -> tuple[str, str | None]:
    """Return the text of a list of one turn, and what is wrong: answers between several prompts are no prompts of ours."""
    if not isinstance(turns, list) or len(turns) != 1 or not isinstance(turns[0], Mapping):
        return "", f"`{name}` is {told(turns)}; one turn with `content` is expected"
    return checked_text(turns[0].get("content"), f"{name}[0].content")
