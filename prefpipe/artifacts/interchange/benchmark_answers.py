"""``alpaca-eval`` and ``arena-hard``: answers to a benchmark's prompts, one per prompt.

In the formats that those tools read and write. AlpacaEval's ``model_outputs.json`` is a JSON list
of ``instruction``, ``output`` and ``generator``; Arena-Hard's ``model_answer/<model>.jsonl`` has a
line for each ``uid``, whose ``messages`` end with the answer, in an object.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prefpipe.artifacts.conversations import ReadingRules, Turns, problem_of_keys
from prefpipe.artifacts.fingerprint import canonical_json
from prefpipe.artifacts.interchange.arena_first_version import read_first_version
from prefpipe.artifacts.interchange.checked_values import (
    checked_id,
    checked_optional_text,
    checked_text,
)
from prefpipe.artifacts.interchange.conversation_columns import checked_prompt
from prefpipe.artifacts.interchange.gathering import gather
from prefpipe.artifacts.interchange.pool import ImportedResponse, Pool
from prefpipe.artifacts.interchange.read_options import ReadOptions
from prefpipe.artifacts.interchange.reading_notes import notes_of_keys_left_out
from prefpipe.artifacts.interchange.row_problems import Problems, UnusableRowError, needed
from prefpipe.artifacts.interchange.user_table import UserTable, read_user_table
from prefpipe.artifacts.tables.values import shortened
from prefpipe.errors import InputError

Row = dict[str, Any]
ALPACA_HINT = "each row needs `instruction` and `output`, and `generator` for the model's name"
ALPACA_COLUMNS = ("instruction", "output", "generator")
ARENA_HINT = (
    "each line needs `uid`, `model` and `messages`, the last of which is the assistant's "
    '{"answer": ...}'
)
ARENA_COLUMNS = ("uid", "messages", "model", "ans_id", "tstamp", "metadata")
CODE_BLOCK = re.compile(r"```[^`]*```")
HEADINGS = [re.compile(rf"^#{{{level}}}\s", re.MULTILINE) for level in range(1, 7)]
ORDERED = re.compile(r"^\s*\d+\.\s", re.MULTILINE)
UNORDERED = re.compile(r"^\s*[-*+]\s", re.MULTILINE)
BOLD = {"**": re.compile(r"\*\*[^*\n]+\*\*"), "__": re.compile(r"__[^_\n]+__")}


def read_alpaca_outputs(source: str, options: ReadOptions) -> Pool:
    """Read AlpacaEval's ``model_outputs.json``; the instruction is the prompt, one user turn.

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    table = read_user_table(source, text_columns=ALPACA_COLUMNS, hint=ALPACA_HINT)
    table.require(["instruction", "output"], hint=ALPACA_HINT)
    problems = Problems(source)
    return gather(
        _alpaca_responses(table, problems, options.rules),
        problems,
        table=table,
        options=options,
        used={*ALPACA_COLUMNS, "input"},
    )


def _alpaca_responses(
    table: UserTable, problems: Problems, rules: ReadingRules
) -> Iterator[ImportedResponse]:
    instructions, outputs = table.values("instruction"), table.values("output")
    generators, inputs = table.values_or_none("generator"), table.values_or_none("input")
    for row, place in enumerate(table.places):
        row_problems = problems.at(place)
        take = row_problems.take
        turns = take(checked_prompt(instructions[row], "instruction", rules=rules))
        text = take(checked_text(outputs[row], "output"))
        model = take(checked_optional_text(generators[row], "generator"))
        # how an instruction and its input belong together the file does not say
        if inputs[row] not in (None, ""):
            row_problems.add(
                f"`input` is {shortened(inputs[row])}; merge it into the instruction first"
            )
        if not row_problems:
            yield ImportedResponse(row, place, turns, text, model=model)


def read_arena_hard(source: str, options: ReadOptions) -> Pool:
    """Read Arena-Hard's ``model_answer/<model>.jsonl``; ``uid`` is the prompt's id.

    With a file of questions it is one of v0.1, whose answers do not hold the prompts.

    Raises:
        InputError: missing columns, and every line that cannot be used.
    """
    if options.requests is not None:
        return read_first_version(source, options.requests, options)

    table = read_user_table(source, text_columns=("uid", "model"), hint=ARENA_HINT)
    # before the missing columns: with its questions such a file can be read
    if "choices" in table.names and "messages" not in table.names:
        raise InputError(
            f"{source} is an answer file of Arena-Hard v0.1 (`question_id`, `choices`), which does "
            "not hold the prompts",
            hint="pass its question.jsonl with --requests",
        )
    table.require(["uid", "messages"], hint=ARENA_HINT)
    problems = Problems(source)
    pool = gather(
        _arena_responses(table, problems, options.rules),
        problems,
        table=table,
        options=options,
        used=ARENA_COLUMNS,
    )
    messages = {"messages": table.values("messages")}
    pool.notes.extend(notes_of_keys_left_out(messages, options.rules))
    return pool


def _arena_responses(
    table: UserTable, problems: Problems, rules: ReadingRules
) -> Iterator[ImportedResponse]:
    ids, messages = table.values("uid"), table.values("messages")
    models = table.values_or_none("model")
    for row, place in enumerate(table.places):
        row_problems = problems.at(place)
        prompt_id = row_problems.take(checked_id(ids[row], "uid"))

        # every problem of a line is reported, so that a bad answer does not hide a bad model
        turns: Turns = []
        answer = None
        try:
            turns, answer = _prompt_and_answer(messages[row], rules)
        except UnusableRowError as error:
            row_problems.add(str(error))
        model = row_problems.take(checked_optional_text(models[row], "model"))
        if not row_problems:
            failure = "the file holds no answer" if answer is None else None
            yield ImportedResponse(
                row, place, turns, answer, prompt_id, model=model, failure=failure
            )


def _prompt_and_answer(messages: Any, rules: ReadingRules) -> tuple[Turns, str | None]:
    """Return the prompt's turns, and the answer, None if the tool got none.

    Raises:
        UnusableRowError: the messages are no prompt with an answer behind it.
    """
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        raise UnusableRowError(
            f"`messages` does not end with the assistant's answer: {shortened(last)}"
        )
    # an answer that calls a tool is refused, whatever text it has beside the call
    problem = problem_of_keys(last, rules.leave_out)
    if problem is not None:
        raise UnusableRowError(f"`messages`: the answer {problem}")

    turns = needed(checked_prompt(messages[:-1], "messages", rules=rules))
    answer = last.get("content")
    if isinstance(answer, dict):
        answer = answer.get("answer")
    if answer is not None:
        answer = needed(checked_text(answer, "messages[-1].content.answer"))
    return turns, answer


def alpaca_row(candidate: Mapping[str, Any], model: str) -> Row | str:
    """Return a candidate as a row of ``model_outputs.json``, or the reason why it cannot be one."""
    spoken = [turn for turn in candidate["messages"] if turn["role"] != "system"]
    if len(spoken) != 1:
        return "several_turns"  # AlpacaEval's instruction is one text

    row = {"instruction": spoken[0]["content"], "output": candidate["response"], "generator": model}
    for name in ("dataset", "datasplit"):
        if candidate.get(name) is not None:
            row[name] = candidate[name]
    return row


def arena_row(candidate: Mapping[str, Any], model: str) -> Row | str:
    """Return a candidate as a line of ``model_answer/<model>.jsonl``.

    ``ans_id`` is a hash of the content and ``tstamp`` 0, so that the same candidates give the same
    file. The counts under ``metadata`` are what Arena-Hard's style control reads, ``token_len``
    first; it is counted in the model's own tokens.
    """
    response = candidate["response"]
    # the tool finds answers by its own ids, which pass through where its questions were the prompts
    uid = str(candidate.get("uid") or candidate["prompt_id"])
    digest = hashlib.sha256(canonical_json([uid, model, response]).encode()).hexdigest()
    turns = [dict(turn) for turn in candidate["messages"]]
    return {
        "uid": uid,
        "ans_id": digest[:22],  # as long as the tool's own
        "model": model,
        "messages": [*turns, {"role": "assistant", "content": {"answer": response}}],
        "tstamp": 0.0,
        "metadata": {"token_len": candidate["n_response_tokens"], **_markdown_counts(response)},
    }


def _markdown_counts(text: str) -> Row:
    """Return how many headings, list items and bold spans stand outside blocks of code."""
    prose = CODE_BLOCK.sub("", text)
    headings = {f"h{level}": len(each.findall(prose)) for level, each in enumerate(HEADINGS, 1)}
    lists = {"ordered": len(ORDERED.findall(prose)), "unordered": len(UNORDERED.findall(prose))}
    bold = {name: len(each.findall(prose)) for name, each in BOLD.items()}
    return {"header_count": headings, "list_count": lists, "bold_count": bold}


ANSWER_ROWS: Mapping[str, Callable[[Mapping[str, Any], str], Row | str]] = {
    "alpaca-eval": alpaca_row,
    "arena-hard": arena_row,
}
"""Format to the function that makes its rows of candidates."""
