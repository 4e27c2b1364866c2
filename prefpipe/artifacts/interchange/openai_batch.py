"""``openai-batch``: the answers of a batch, joined with its requests by ``custom_id``, whatever their order.

A batch's answers do not hold the messages, come in any order, and leave out or fail single requests. Each request gives the
responses that it asked for: one, or ``n``; those that did not come are rows with the reason.
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
from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules, Turns, is_blank
from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.interchange.conversation_columns import (
    Beside,
    checked_prompt,
    notes_of_keys_left_out,
)
from prefpipe.artifacts.interchange.pool import Pool, Response, gather
from prefpipe.artifacts.interchange.user_table import (
    LONGEST_INDEX,
    Problems,
    UserTable,
    checked_optional_text,
    checked_text,
    read_user_table,
    told,
)
from prefpipe.artifacts.tool_calls import TOOLS, checked_tools
from prefpipe.surrogates import replace_lone_surrogates

REQUEST_HINT = 'each request needs `custom_id` and `body` with `messages`: {"custom_id": "...", "body": {"messages": [...]}}'
ANSWER_HINT = (
    "each answer needs `custom_id`, and `response` or `error`: pass the output file of the batch"
)
KEY = re.compile(r"(.+)_(0|[1-9]\d*)", re.DOTALL | re.ASCII)
"""``<prompt_id>_<sample_idx>``."""


class Request(NamedTuple):
    """One request of a batch: ``n`` is how many responses it asked for."""

    row: int
    place: str
    custom_id: str
    messages: Turns
    model: str | None
    n: int


def read_batch(source: str, requests: str, *, rules: ReadingRules = DEFAULT_RULES) -> Pool:
    """Read the answers of a batch.

    Args:
        source: the batch's output file.
        requests: the file of requests that was sent.
        rules: what the user says about the file's conversations.

    Raises:
        InputError: an id that stands twice, an answer to no request, and every row that cannot be used.
    """
    asked, answered = (
        read_user_table(requests, hint=REQUEST_HINT),
        read_user_table(source, hint=ANSWER_HINT),
    )
    asked.require(["custom_id", "body"], hint=REQUEST_HINT)
    answered.require(["custom_id"], hint=ANSWER_HINT)
    problems = Problems(requests)
    wanted = _requests(asked, problems, rules)
    problems.raise_if_any()  # before the answers are judged by them
    problems = Problems(source)
    answers = _answers(answered, {request.custom_id for request in wanted}, requests, problems)
    keys = _keys(wanted)
    found = [
        response._replace(
            prompt_id=keys[request.custom_id][0], sample_idx=keys[request.custom_id][1]
        )
        if keys
        else response
        for request in wanted
        for response in _responses(request, answers.get(request.custom_id))
    ]
    pool = gather(found, problems, scorers=())
    bodies = [
        body.get("messages") if isinstance(body, dict) else None for body in asked.values("body")
    ]
    pool.notes.extend(
        [*notes_of_keys_left_out({"messages": bodies}, rules), *_notes_of_thoughts(answers)]
    )
    return pool


def _notes_of_thoughts(answers: Mapping[str, tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return how many answers hold thoughts beside their text, which are left out, by where they stand."""
    counts: Counter[str] = Counter()
    for _, values in answers.values():
        body = values["response"].get("body") if isinstance(values["response"], dict) else None
        choices = body.get("choices") if isinstance(body, dict) else None
        places = (
            [places_of_thoughts(choice) for choice in choices] if isinstance(choices, list) else []
        )
        counts.update(set().union(*places))
    shown = ", ".join(f"`{place}` ({count:,} answers)" for place, count in sorted(counts.items()))
    return [f"thoughts beside the answers are left out of the responses: {shown}"] if counts else []


def _requests(table: UserTable, problems: Problems, rules: ReadingRules) -> list[Request]:
    found: list[Request] = []
    places: dict[str, str] = {}
    bodies = table.values("body")
    for row, (place, custom_id) in enumerate(
        zip(table.places, table.values("custom_id"), strict=True)
    ):
        name, problem = _checked_id(custom_id, place, places)
        body: dict[str, Any] = bodies[row] if isinstance(bodies[row], dict) else {}
        if not isinstance(bodies[row], dict):
            problem = problem or f"`body` is {told(bodies[row])}, which is no object"
        tools = None
        if not is_blank(body.get(TOOLS)) and TOOLS not in rules.leave_out:
            tools, tools_problem = checked_tools(body[TOOLS])
            problem = problem or tools_problem
        turns, turns_problem = checked_prompt(
            body.get("messages"), "body.messages", rules=rules, beside=Beside(tools=tools)
        )
        model, model_problem = checked_optional_text(body.get("model"), "body.model")
        n, n_problem = _checked_n(body.get("n"))
        problem = problem or turns_problem or model_problem or n_problem
        if problem is not None:
            problems.add(place, problem)
        else:
            found.append(Request(row, place, name, turns, model, n))
    return found


def _checked_n(value: Any) -> tuple[int, str | None]:
    if value is None:
        return 1, None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        return 1, f"`body.n` is {told(value)}, which is no whole number from 1"
    return value, None


def _checked_id(custom_id: Any, place: str, places: dict[str, str]) -> tuple[str, str | None]:
    """Return a request's id and what is wrong with it; note where it stands."""
    text, problem = checked_text(custom_id, "custom_id")
    if problem is None and not text:
        problem = "`custom_id` is empty"
    if problem is None and text in places:
        problem = f"`custom_id` {text!r} stands at {places[text]} already"
    places.setdefault(text, place)
    return text, problem


def _answers(
    table: UserTable, known: set[str], requests: str, problems: Problems
) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return place and content of each answer by its request's id."""
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    places: dict[str, str] = {}
    columns = zip(
        table.places,
        table.values("custom_id"),
        table.values_or_none("response"),
        table.values_or_none("error"),
        strict=True,
    )
    for place, custom_id, response, error in columns:
        name, problem = _checked_id(custom_id, place, places)
        if problem is None and name not in known:
            problem = f"`custom_id` {name!r} is of no request in {requests}"
        if problem is not None:
            problems.add(place, problem)
        else:
            found[name] = (place, {"response": response, "error": error})
    return found


def _keys(requests: Sequence[Request]) -> dict[str, tuple[str, int]]:
    """Return prompt id and sample index by ``custom_id``; {} where the ids are not made of them.

    They are when every one reads ``<prompt_id>_<sample_idx>``, and prompt ids and messages belong to each other one to one.
    """
    keys: dict[str, tuple[str, int]] = {}
    ids_of_messages: dict[str, str] = {}
    messages_of_ids: dict[str, str] = {}
    for request in requests:
        match = KEY.fullmatch(request.custom_id)
        if match is None or request.n != 1 or int(match[2]) > LONGEST_INDEX:
            return {}
        content = prompt_id_of(request.messages)
        if (
            ids_of_messages.setdefault(content, match[1]) != match[1]
            or messages_of_ids.setdefault(match[1], content) != content
        ):
            return {}
        keys[request.custom_id] = (match[1], int(match[2]))
    return keys


def _responses(
    request: Request, answer: tuple[str, Mapping[str, Any]] | None
) -> Iterator[Response]:
    """Yield a request's responses in the order of the choices' own index; those that did not come carry the reason."""
    blank = Response(request.row, request.place, request.messages, None, model=request.model)
    choices: dict[int, Any] = {}
    failure: str | None = "the batch holds no answer to this request"
    if answer is not None:
        place, values = answer
        blank, failure = blank._replace(place=place), _failure(values)
        if failure is None:
            body = values["response"]["body"]
            choices = _choices(body["choices"], request.n)
            model, _ = checked_optional_text(body.get("model"), "response.body.model")
            blank = blank._replace(model=replace_lone_surrogates(model) if model else request.model)

    for index in range(max(request.n, max(choices, default=-1) + 1)):
        if index in choices:
            yield _response(choices[index], blank)
        else:
            yield blank._replace(
                failure=failure
                or f"the answer holds {len(choices)} of {request.n} choices, and not this one"
            )


def _failure(values: Mapping[str, Any]) -> str | None:
    """Return why a request failed, None where it has an answer."""
    error, response = values["error"], values["response"]
    if error is not None:
        return f"the request failed: {_message(error)}"
    if response is None:
        return "the answer has neither `response` nor `error`"
    if not isinstance(response, dict):
        return f"the answer's `response` is {shown(response)}, which is no object"
    status, body = response.get("status_code"), response.get("body")
    if status not in (None, 200):
        return f"the server answered {status}: {_message(body.get('error') if isinstance(body, dict) else body)}"
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        return "the answer has no `body.choices`"
    return None


def _message(error: Any) -> str:
    """Return a server's words, as UTF-8 can hold them."""
    found = (
        (error.get("message") or error.get("code") or error) if isinstance(error, dict) else error
    )
    return replace_lone_surrogates(str(found)) if found is not None else "no reason given"


def _choices(choices: Sequence[Any], n: int) -> dict[int, Any]:
    """Return the choices by their own index, or as they stand where those are no places among the ``n`` asked for.

    They are samples of one prompt, so that none is worth another's.
    """
    places = [
        choice.get("index", position) if isinstance(choice, dict) else position
        for position, choice in enumerate(choices)
    ]
    are_indices = all(isinstance(place, int) and not isinstance(place, bool) for place in places)
    limit = max(n, len(choices))
    if (
        not are_indices
        or len(set(places)) < len(places)
        or not all(0 <= place < limit for place in places)
    ):
        places = list(range(len(choices)))
    return dict(zip(places, choices, strict=True))


def _response(choice: Any, blank: Response) -> Response:
    """Return a choice as a response: its text, or why there is none that says all of it."""
    try:
        message = read_choice(choice)
    except NoCompletionError as error:
        return blank._replace(failure=str(error))

    # the words of every server come to the two that the artifact knows
    reason = message.ending or message.finish_reason
    blank = blank._replace(finish_reason=reason)
    failure = _why_no_response(message)
    return blank._replace(text=message.text) if failure is None else blank._replace(failure=failure)


def _why_no_response(message: Message) -> str | None:
    """Return why a choice is no response, None if it is one."""
    ended = f"(finish_reason {message.finish_reason})"
    if message.tools:
        return (
            f"the answer calls tools, which a text cannot hold: {', '.join(message.tools)} {ended}"
        )
    if message.problem is not None:
        return message.problem
    if message.text is None or (message.refusal and not message.text):
        refusal = f", but a refusal: {message.refusal}" if message.refusal else ""
        thoughts = ", but thoughts" if message.thoughts is not None else ""
        return f"the answer holds no text{refusal or thoughts} {ended}"
    if message.ending is None and message.finish_reason:
        return f"the server ended the response with finish_reason {message.finish_reason!r}"
    return None
