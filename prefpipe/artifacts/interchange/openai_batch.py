"""``openai-batch``: the answers of a batch, joined with its requests by ``custom_id``.

A batch's answers do not hold the messages, come in any order, and leave out or fail single
requests. Each request gives the responses that it asked for: one, or ``n``. Those that did not come
are rows with the reason.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.chat_messages import (
    Message,
    NoCompletionError,
    places_of_thoughts,
    read_choice,
    shown,
)
from prefpipe.artifacts.conversations import ReadingRules, Turns, is_blank
from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.interchange.checked_values import (
    LONGEST_INDEX,
    checked_optional_text,
    checked_text,
)
from prefpipe.artifacts.interchange.conversation_columns import checked_prompt
from prefpipe.artifacts.interchange.gathering import gather
from prefpipe.artifacts.interchange.pool import ImportedResponse, Pool
from prefpipe.artifacts.interchange.read_options import ReadOptions
from prefpipe.artifacts.interchange.reading_notes import notes_of_keys_left_out
from prefpipe.artifacts.interchange.row_problems import Problems, UnusableRowError, needed
from prefpipe.artifacts.interchange.system_and_tools import SystemAndTools
from prefpipe.artifacts.interchange.user_table import UserTable, read_user_table
from prefpipe.artifacts.tables.values import shortened
from prefpipe.artifacts.tool_calls import TOOLS, checked_tools
from prefpipe.surrogates import replace_lone_surrogates

REQUEST_HINT = (
    "each request needs `custom_id` and `body` with `messages`: "
    '{"custom_id": "...", "body": {"messages": [...]}}'
)
ANSWER_HINT = (
    "each answer needs `custom_id`, and `response` or `error`: pass the output file of the batch"
)
KEY = re.compile(r"(.+)_(0|[1-9]\d*)", re.DOTALL | re.ASCII)
"""``<prompt_id>_<sample_idx>``."""


class Request(NamedTuple):
    """One request of a batch: ``n`` is the number of requested responses."""

    row: int
    place: str
    custom_id: str
    messages: Turns
    model: str | None
    n: int


class Answer(NamedTuple):
    """One line of the batch's output."""

    place: str
    response: Any
    error: Any


def read_batch(source: str, options: ReadOptions) -> Pool:
    """Read the answers of a batch.

    Args:
        source: the batch's output file.
        options: ``requests`` is the file of requests that was sent.

    Raises:
        InputError: an id that stands twice, an answer to no request, and every row that cannot be
            used.
    """
    requests_file = options.requests
    assert requests_file is not None  # the config sees to it
    asked = read_user_table(requests_file, hint=REQUEST_HINT)
    answered = read_user_table(source, hint=ANSWER_HINT)
    asked.require(["custom_id", "body"], hint=REQUEST_HINT)
    answered.require(["custom_id"], hint=ANSWER_HINT)

    problems = Problems(requests_file)
    requests = _requests(asked, problems, options.rules)
    problems.raise_if_any()  # before the answers are judged by them

    problems = Problems(source)
    known = {request.custom_id for request in requests}
    answers = _answers(answered, known, requests_file, problems)
    pool = gather(_keyed_responses(requests, answers), problems)

    # every body is an object by now
    messages = [body.get("messages") for body in asked.values("body")]
    pool.notes.extend(notes_of_keys_left_out({"messages": messages}, options.rules))
    pool.notes.extend(_notes_of_thoughts(answers))
    return pool


def _requests(table: UserTable, problems: Problems, rules: ReadingRules) -> list[Request]:
    """Return the usable requests; record the problems of the others."""
    requests: list[Request] = []
    places: dict[str, str] = {}
    ids, bodies = table.values("custom_id"), table.values("body")
    for row, place in enumerate(table.places):
        try:
            custom_id = _custom_id(ids[row], place, places)
            requests.append(_request(row, place, custom_id, bodies[row], rules))
        except UnusableRowError as error:
            problems.add(place, str(error))
    return requests


def _request(row: int, place: str, custom_id: str, body: Any, rules: ReadingRules) -> Request:
    if not isinstance(body, dict):
        raise UnusableRowError(f"`body` is {shortened(body)}, which is no object")

    tools = None
    if not is_blank(body.get(TOOLS)) and TOOLS not in rules.leave_out:
        tools = needed(checked_tools(body[TOOLS]))
    turns = needed(
        checked_prompt(
            body.get("messages"),
            "body.messages",
            rules=rules,
            system_and_tools=SystemAndTools(tools=tools),
        )
    )
    model = needed(checked_optional_text(body.get("model"), "body.model"))
    n = body.get("n")
    if n is None:
        n = 1
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise UnusableRowError(
            f"`body.n` is {shortened(n)}, which is not a whole number of at least 1"
        )
    return Request(row, place, custom_id, turns, model, n)


def _custom_id(value: Any, place: str, places: dict[str, str]) -> str:
    """Return a request's id; record its place.

    Raises:
        UnusableRowError: it is none, or stands further up already.
    """
    text, problem = checked_text(value, "custom_id")
    first_place = places.setdefault(text, place)
    if problem is None and not text:
        problem = "`custom_id` is empty"
    if problem is None and first_place != place:
        problem = f"`custom_id` {text!r} already occurs at {first_place}"
    if problem is not None:
        raise UnusableRowError(problem)
    return text


def _answers(
    table: UserTable, known: set[str], requests_file: str, problems: Problems
) -> dict[str, Answer]:
    """Return each answer by its request's id."""
    answers: dict[str, Answer] = {}
    places: dict[str, str] = {}
    ids = table.values("custom_id")
    responses, errors = table.values_or_none("response"), table.values_or_none("error")

    for row, place in enumerate(table.places):
        try:
            custom_id = _custom_id(ids[row], place, places)
        except UnusableRowError as error:
            problems.add(place, str(error))
            continue
        if custom_id in known:
            answers[custom_id] = Answer(place, responses[row], errors[row])
        else:
            problems.add(
                place, f"`custom_id` {custom_id!r} does not match any request in {requests_file}"
            )
    return answers


def _keyed_responses(
    requests: Sequence[Request], answers: Mapping[str, Answer]
) -> Iterator[ImportedResponse]:
    """Yield the responses of all requests, under the keys in their ids."""
    keys = _keys(requests)
    for request in requests:
        for response in _responses(request, answers.get(request.custom_id)):
            if not keys:
                yield response
                continue
            prompt_id, sample_idx = keys[request.custom_id]
            yield response._replace(prompt_id=prompt_id, sample_idx=sample_idx)


def _keys(requests: Sequence[Request]) -> dict[str, tuple[str, int]]:
    """Return prompt id and sample index by ``custom_id``; {} if the ids are not made of them.

    They are when every one reads ``<prompt_id>_<sample_idx>``, and prompt ids and messages belong
    to each other one to one.
    """
    keys: dict[str, tuple[str, int]] = {}
    ids_of_messages: dict[str, str] = {}
    messages_of_ids: dict[str, str] = {}
    for request in requests:
        match = KEY.fullmatch(request.custom_id)
        if match is None or request.n != 1 or int(match[2]) > LONGEST_INDEX:
            return {}
        prompt_id, content = match[1], prompt_id_of(request.messages)

        # one id for each conversation, and one conversation for each id
        if ids_of_messages.setdefault(content, prompt_id) != prompt_id:
            return {}
        if messages_of_ids.setdefault(prompt_id, content) != content:
            return {}
        keys[request.custom_id] = (prompt_id, int(match[2]))
    return keys


def _responses(request: Request, answer: Answer | None) -> Iterator[ImportedResponse]:
    """Yield a request's responses in the order of the choices' own index.

    Missing ones carry the reason.
    """
    blank = ImportedResponse(
        request.row, request.place, request.messages, None, model=request.model
    )
    choices: dict[int, Any] = {}
    failure: str | None = "the batch holds no answer to this request"
    if answer is not None:
        blank = blank._replace(place=answer.place)
        failure = _failure(answer)
    if answer is not None and failure is None:
        body = answer.response["body"]
        choices = _choices(body["choices"], request.n)
        model, _ = checked_optional_text(body.get("model"), "response.body.model")
        if model:
            # half a character costs that character, and not the answer
            blank = blank._replace(model=replace_lone_surrogates(model))

    # some servers give more choices than were requested
    n_choices = max(request.n, max(choices, default=-1) + 1)
    for index in range(n_choices):
        if index in choices:
            yield _response(choices[index], blank)
            continue
        missing = f"the answer holds {len(choices)} of {request.n} choices, and not this one"
        yield blank._replace(failure=failure or missing)


def _failure(answer: Answer) -> str | None:
    """Return why a request failed, None if it has an answer."""
    response = answer.response
    if answer.error is not None:
        return f"the request failed: {_message(answer.error)}"
    if response is None:
        return "the answer has neither `response` nor `error`"
    if not isinstance(response, dict):
        return f"the answer's `response` is {shown(response)}, which is no object"

    status, body = response.get("status_code"), response.get("body")
    if status not in (None, 200):
        error = body.get("error") if isinstance(body, dict) else body
        return f"the server answered {status}: {_message(error)}"
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        return "the answer has no `body.choices`"
    return None


def _message(error: Any) -> str:
    """Return a server's words, as UTF-8 can hold them."""
    if isinstance(error, dict):
        error = error.get("message") or error.get("code") or error
    return replace_lone_surrogates(str(error)) if error is not None else "no reason given"


def _choices(choices: Sequence[Any], n: int) -> dict[int, Any]:
    """Return the choices by their own index.

    They keep their order if those are not places among the ``n`` requested. They are samples of one
    prompt, so the order does not matter.
    """
    limit = max(n, len(choices))
    by_index: dict[int, Any] = {}
    for position, choice in enumerate(choices):
        index = choice.get("index", position) if isinstance(choice, dict) else position
        is_whole = isinstance(index, int) and not isinstance(index, bool)
        if not is_whole or not 0 <= index < limit or index in by_index:
            return dict(enumerate(choices))
        by_index[index] = choice
    return by_index


def _response(choice: Any, blank: ImportedResponse) -> ImportedResponse:
    """Return a choice as a response: its text, or why the text is missing or incomplete."""
    try:
        message = read_choice(choice)
    except NoCompletionError as error:
        return blank._replace(failure=str(error))

    # the words of every server come to the two that the artifact knows
    blank = blank._replace(finish_reason=message.ending or message.finish_reason)
    failure = _why_no_response(message)
    if failure is not None:
        return blank._replace(failure=failure)
    return blank._replace(text=message.text)


def _why_no_response(message: Message) -> str | None:
    """Return why a choice is not a response, None if it is."""
    ended = f"(finish_reason {message.finish_reason})"

    # tool calls first: such an answer often has a text as well, which is not all of it
    if message.tools:
        names = ", ".join(message.tools)
        return f"the answer calls tools, which a text cannot hold: {names} {ended}"
    if message.problem is not None:
        return message.problem

    # a refusal may be beside an empty text
    if message.text is None or (message.refusal and not message.text):
        instead = ""
        if message.refusal:
            instead = f", but a refusal: {message.refusal}"
        elif message.thoughts is not None:
            instead = ", but thoughts"
        return f"the answer holds no text{instead} {ended}"
    if message.ending is None and message.finish_reason:
        return f"the server ended the response with finish_reason {message.finish_reason!r}"
    return None


def _notes_of_thoughts(answers: Mapping[str, Answer]) -> list[str]:
    """Return how many answers hold thoughts beside their text, by where they stand.

    They are left out of the responses.
    """
    counts: Counter[str] = Counter()
    for answer in answers.values():
        body = answer.response.get("body") if isinstance(answer.response, dict) else None
        choices = body.get("choices") if isinstance(body, dict) else None
        if isinstance(choices, list):
            # an answer counts once, however many of its choices hold thoughts
            counts.update(set().union(*map(places_of_thoughts, choices)))
    if not counts:
        return []
    shown_counts = [f"`{place}` ({count:,} answers)" for place, count in sorted(counts.items())]
    return [f"thoughts beside the answers are left out of the responses: {', '.join(shown_counts)}"]
