"""``alpaca-eval`` and ``arena-hard``: answers to a benchmark's prompts, one a prompt, as those tools read and write them.

AlpacaEval's ``model_outputs.json`` is a JSON list of ``instruction``, ``output`` and ``generator``; Arena-Hard's
``model_answer/<model>.jsonl`` has a line for each ``uid``, whose ``messages`` end with the answer, in an object.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules, Turns, problem_of_keys
from prefpipe.artifacts.fingerprint import canonical_json
from prefpipe.artifacts.interchange.conversation_columns import (
    checked_prompt,
    notes_of_keys_left_out,
)
from prefpipe.artifacts.interchange.pool import Pool, Response, gather
from prefpipe.artifacts.interchange.user_table import (
    Problems,
    UserTable,
    checked_id,
    checked_optional_text,
    checked_text,
    read_user_table,
    told,
)
from prefpipe.errors import InputError

Row = dict[str, Any]
ALPACA_HINT = "each row needs `instruction` and `output`, and `generator` for the model's name"
ARENA_HINT = 'each line needs `uid`, `model` and `messages`, the last of which is the assistant\'s {"answer": ...}'
CODE_BLOCK = re.compile(r"```[^`]*```")
HEADINGS = [re.compile(rf"^#{{{level}}}\s", re.MULTILINE) for level in range(1, 7)]
ORDERED, UNORDERED = (
    re.compile(r"^\s*\d+\.\s", re.MULTILINE),
    re.compile(r"^\s*[-*+]\s", re.MULTILINE),
)
BOLD = {"**": re.compile(r"\*\*[^*\n]+\*\*"), "__": re.compile(r"__[^_\n]+__")}


def read_alpaca_outputs(
    source: str,
    *,
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules = DEFAULT_RULES,
) -> Pool:
    """Read AlpacaEval's ``model_outputs.json``; the instruction is the prompt, one user turn.

    Args:
        source: path or ``hf:`` reference.
        columns: the user's columns that pass through.
        reserved: names that the artifact uses itself.
        rules: what the user says about the file's conversations.

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    table = read_user_table(
        source, text_columns=("instruction", "output", "generator"), hint=ALPACA_HINT
    )
    table.require(["instruction", "output"], hint=ALPACA_HINT)
    problems = Problems(source)
    used = {"instruction", "output", "generator", "input", *reserved}
    responses = _alpaca_responses(table, problems, rules)
    return gather(
        responses, problems, scorers=(), table=table, columns=columns, reserved=sorted(used)
    )


def _alpaca_responses(
    table: UserTable, problems: Problems, rules: ReadingRules
) -> Iterator[Response]:
    generators, inputs = table.values_or_none("generator"), table.values_or_none("input")
    rows = zip(table.places, table.values("instruction"), table.values("output"), strict=True)
    for row, (place, instruction, output) in enumerate(rows):
        turns, problem = checked_prompt(instruction, "instruction", rules=rules)
        text, second = checked_text(output, "output")
        model, third = checked_optional_text(generators[row], "generator")
        fourth = (
            f"`input` is {told(inputs[row])}; join it with the instruction first"
            if inputs[row] not in (None, "")
            else None
        )
        sentences = [
            sentence for sentence in (problem, second, third, fourth) if sentence is not None
        ]
        for sentence in sentences:
            problems.add(place, sentence)
        if not sentences:
            yield Response(row, place, turns, text, model=model)


def read_arena_answers(
    source: str,
    *,
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules = DEFAULT_RULES,
) -> Pool:
    """Read Arena-Hard's ``model_answer/<model>.jsonl``; ``uid`` is the prompt's id.

    Args:
        source: path or ``hf:`` reference.
        columns: the user's columns that pass through.
        reserved: names that the artifact uses itself.
        rules: what the user says about the file's conversations.

    Raises:
        InputError: missing columns, and every line that cannot be used.
    """
    table = read_user_table(source, text_columns=("uid", "model"), hint=ARENA_HINT)
    if "choices" in table.names and "messages" not in table.names:
        raise InputError(
            f"{source} is an answer file of Arena-Hard v0.1 (`question_id`, `choices`), which does not hold the prompts",
            hint="pass its question.jsonl with --requests",
        )
    table.require(["uid", "messages"], hint=ARENA_HINT)
    problems = Problems(source)
    used = {"uid", "messages", "model", "ans_id", "tstamp", "metadata", *reserved}
    responses = _arena_responses(table, problems, rules)
    pool = gather(
        responses, problems, scorers=(), table=table, columns=columns, reserved=sorted(used)
    )
    pool.notes.extend(notes_of_keys_left_out({"messages": table.values("messages")}, rules))
    return pool


def _arena_responses(
    table: UserTable, problems: Problems, rules: ReadingRules
) -> Iterator[Response]:
    models = table.values_or_none("model")
    for row, (place, uid, messages) in enumerate(
        zip(table.places, table.values("uid"), table.values("messages"), strict=True)
    ):
        prompt_id, problem = checked_id(uid, "uid")
        turns, answer, second = _split(messages, rules)
        model, third = checked_optional_text(models[row], "model")
        sentences = [sentence for sentence in (problem, second, third) if sentence is not None]
        for sentence in sentences:
            problems.add(place, sentence)
        if not sentences:
            failure = "the file holds no answer" if answer is None else None
            yield Response(row, place, turns, answer, prompt_id, model=model, failure=failure)


def _split(messages: Any, rules: ReadingRules) -> tuple[Turns, str | None, str | None]:
    """Return the prompt's turns, the answer (None where the tool got none), and what is wrong."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        return [], None, f"`messages` does not end with the assistant's answer: {told(last)}"
    turns, problem = checked_prompt(messages[:-1], "messages", rules=rules)
    more = problem_of_keys(last, rules.leave_out)
    if more is not None:
        return [], None, f"`messages`: the answer {more}"
    answer = last.get("content")
    if isinstance(answer, dict):
        answer = answer.get("answer")
    if problem is None and answer is not None:
        answer, problem = checked_text(answer, "messages[-1].content.answer")
    return turns, answer, problem


def alpaca_row(candidate: Mapping[str, Any], model: str) -> Row | str:
    """Return a candidate as a row of ``model_outputs.json``, or the reason why it cannot be one."""
    spoken = [turn for turn in candidate["messages"] if turn["role"] != "system"]
    if len(spoken) != 1:
        return "several_turns"  # AlpacaEval's instruction is one text
    row = {"instruction": spoken[0]["content"], "output": candidate["response"], "generator": model}
    return row | {
        name: candidate[name]
        for name in ("dataset", "datasplit")
        if candidate.get(name) is not None
    }


def arena_row(candidate: Mapping[str, Any], model: str) -> Row | str:
    """Return a candidate as a line of ``model_answer/<model>.jsonl``.

    ``ans_id`` is a hash of the content and ``tstamp`` 0, so that the same candidates give the same file. The counts under
    ``metadata`` are what Arena-Hard's style control reads, ``token_len`` first; it is counted in the model's own tokens.
    """
    uid = str(candidate.get("uid") or candidate["prompt_id"])
    digest = hashlib.sha256(
        canonical_json([uid, model, candidate["response"]]).encode()
    ).hexdigest()
    turns = [dict(turn) for turn in candidate["messages"]]
    return {
        "uid": uid,
        "ans_id": digest[:22],
        "model": model,
        "messages": [*turns, {"role": "assistant", "content": {"answer": candidate["response"]}}],
        "tstamp": 0.0,
        "metadata": {
            "token_len": candidate["n_response_tokens"],
            **_markdown(candidate["response"]),
        },
    }


def _markdown(text: str) -> Row:
    """Return how many headings, list items and bold spans stand outside blocks of code."""
    prose = CODE_BLOCK.sub("", text)
    return {
        "header_count": {
            f"h{level}": len(pattern.findall(prose)) for level, pattern in enumerate(HEADINGS, 1)
        },
        "list_count": {
            "ordered": len(ORDERED.findall(prose)),
            "unordered": len(UNORDERED.findall(prose)),
        },
        "bold_count": {name: len(pattern.findall(prose)) for name, pattern in BOLD.items()},
    }


ANSWER_ROWS: Mapping[str, Callable[[Mapping[str, Any], str], Row | str]] = {
    "alpaca-eval": alpaca_row,
    "arena-hard": arena_row,
}
"""Format to the function that makes its rows of candidates."""
