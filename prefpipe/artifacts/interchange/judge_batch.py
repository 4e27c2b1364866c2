"""The requests of a judge as OpenAI batch files, and the answers of a batch, by ``custom_id``.

``custom_id`` is the request's content hash (``answer_cache.request_key``), so an answer finds its
question in every run that asks it, whatever the order of the lines. Format:
https://platform.openai.com/docs/guides/batch, also read by ``vllm run-batch`` and others.

Not read by the reader of users' tables: an answer goes into the cache as it is, under the hash of
its request, and JSON that is not finite has none.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.answer_cache import request_key
from prefpipe.artifacts.finite_json import parse_finite_json
from prefpipe.artifacts.storage.local_copies import local_copy, written_whole
from prefpipe.artifacts.storage.location import Location
from prefpipe.errors import InputError

MOST_REQUESTS = 50_000
MOST_BYTES = 190_000_000
"""OpenAI takes 50,000 requests and 200 MB a file; more go into further files."""
URL = "/v1/chat/completions"


class BatchAnswers(NamedTuple):
    """The results of a batch: answers (chat completions) and failures, by ``custom_id``."""

    answers: Mapping[str, Mapping[str, Any]]
    failures: Mapping[str, str]


class _Line(NamedTuple):
    """One line of a batch's output: an answer, or a failure in words."""

    custom_id: str
    answer: Mapping[str, Any] | None
    failure: str = ""


def write_batch(place: Location, requests: Iterable[Mapping[str, Any]]) -> list[Location]:
    """Write requests as batch lines.

    Returns:
        The files: ``place``, and ``NAME-2.jsonl``, ... where one is not enough.

    Raises:
        PrefpipeError: a file cannot be written.
    """
    chunks: list[list[bytes]] = [[]]
    size = 0
    for body in requests:
        line = {"custom_id": request_key(body), "method": "POST", "url": URL, "body": body}
        data = (json.dumps(line, ensure_ascii=True) + "\n").encode()
        is_full = len(chunks[-1]) == MOST_REQUESTS or size + len(data) > MOST_BYTES
        # a request that is too large for any file gets its own file
        if chunks[-1] and is_full:
            chunks.append([])
            size = 0
        chunks[-1].append(data)
        size += len(data)

    written: list[Location] = []
    for number, chunk in enumerate(chunks, 1):
        target = place
        if number > 1:
            target = place.parent / f"{place.stem}-{number}{place.suffix}"
        with written_whole(target) as file:
            file.writelines(chunk)
        written.append(target)
    return written


def read_batch_answers(places: Sequence[Location]) -> BatchAnswers:
    """Read the output and error files of batches.

    If a request has several lines, one with an answer counts.

    Raises:
        InputError: a file that cannot be read, a line that is no JSON object or has no
            ``custom_id``, with its number.
    """
    answers: dict[str, Mapping[str, Any]] = {}
    failures: dict[str, str] = {}
    for place in places:
        for number, text in enumerate(_lines(place), 1):
            if not text.strip():
                continue
            line = _read_line(text, f"{place}, line {number}")
            if line.answer is not None:
                answers[line.custom_id] = line.answer
            else:
                failures[line.custom_id] = line.failure

    # whichever file came first: what failed in one may be answered in another
    for name in answers:
        failures.pop(name, None)
    return BatchAnswers(answers, failures)


def _lines(place: Location) -> list[str]:
    try:
        # not splitlines, which would also cut at U+2028 inside a JSON text
        with local_copy(place) as file:
            return file.path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{place} is not UTF-8 text (byte {error.start})",
            hint="pass the output file of the batch",
        ) from error
    except OSError as error:
        raise InputError(
            f"{place} cannot be read: {error.strerror or error}",
            hint="check the path given to --ingest-batch",
        ) from error


def _read_line(text: str, place: str) -> _Line:
    try:
        values = parse_finite_json(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{place}: broken JSON ({error})", hint="download the file again, or remove the line"
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("custom_id"), str):
        raise InputError(
            f"{place}: no `custom_id`",
            hint="pass the output or error file of the batch, not the requests",
        )

    custom_id = values["custom_id"]
    response, fault = values.get("response"), values.get("error")
    # the requests have ids as well
    if "body" in values and response is None and fault is None:
        raise InputError(
            f"{place} is a request, not an answer", hint="pass the output file of the batch"
        )
    if fault is not None:
        return _Line(custom_id, None, f"the batch says: {_message(fault)}")

    # choices are all that an answer needs here: it is kept as it is, and read by who asks
    status, body = None, None
    if isinstance(response, dict):
        status, body = response.get("status_code", 200), response.get("body")
    if status != 200 or not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        reason = body.get("error", body) if isinstance(body, dict) else body
        return _Line(custom_id, None, f"the batch has status {status}: {_message(reason)}")
    return _Line(custom_id, body)


def _message(error: Any) -> str:
    """Return a server's words, at most 500 characters that UTF-8 can hold."""
    if isinstance(error, dict):
        error = error.get("message") or error.get("code") or error
    return str(error).encode("utf-8", "replace").decode()[:500]
