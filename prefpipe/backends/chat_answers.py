"""Reads chat completions, whatever produced them.

A server, a batch, the cache, or an engine in this process. Servers fill completions differently,
and one odd answer must not lose its neighbours. So every body with an answer is read, as a
verdict's text (`read_completion`) or as a sampled response (`read_generation`). Unreadable fields
become null or an error with a reason. Only a body without any answer raises `NoCompletionError`.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import exp, inf, isfinite, isnan, log
from typing import Any, NamedTuple

from prefpipe.artifacts.chat_messages import Message, NoCompletionError, read_choice
from prefpipe.backends.protocol import Generation
from prefpipe.surrogates import replace_lone_surrogates
from prefpipe.text.judging.verdicts import TokenChoice

REFUSED, ERROR, TOO_LONG, NOT_ANSWERED = "refused", "error", "prompt_too_long", "not_answered"

IMPOSSIBLE_LOGPROB = -9999.0
"""OpenAI's and vLLM's placeholder for an unknown log-probability: it must not be summed."""
LARGEST_ID = 2**31 - 1


class ChatAnswer(NamedTuple):
    """One answer of a judge model.

    ``status`` is ``ok``; ``refused``: a content filter or the model declined; ``prompt_too_long``;
    ``error``: no answer after all tries, the request was refused, or the answer is not text;
        ``not_answered``: the question was not sent.

    ``tokens`` is None if the answer has no log-probabilities. Token counts are the server's own,
    None if it gives none.
    """

    status: str
    reason: str | None = None
    text: str = ""
    tokens: tuple[TokenChoice, ...] | None = None
    is_cut: bool = False
    n_prompt_tokens: int | None = None
    n_completion_tokens: int | None = None


class Completion(NamedTuple):
    """A completion's first choice, raw and as read.

    Token counts are the server's, None if it gives none.
    """

    message: Message
    choice: Mapping[str, Any]
    n_prompt_tokens: int | None
    n_completion_tokens: int | None
    n_thought_tokens: int | None

    @property
    def has_thoughts(self) -> bool:
        """Whether the model thought before it answered, shown by the server or not."""
        return self.message.thoughts is not None or bool(self.n_thought_tokens)


def read_first_choice(body: Any) -> Completion:
    """Return a completion's first choice.

    Raises:
        NoCompletionError: no choice, no message in it, or a message with neither words nor a
            reason why.
    """
    choice = _first_choice(body)
    usage = body.get("usage")
    details = usage.get("completion_tokens_details") if isinstance(usage, Mapping) else None
    return Completion(
        message=read_choice(choice),
        choice=choice,
        n_prompt_tokens=_count(usage, "prompt_tokens"),
        n_completion_tokens=_count(usage, "completion_tokens"),
        n_thought_tokens=_count(details, "reasoning_tokens"),
    )


def read_completion(body: Any) -> ChatAnswer:
    """Return a judge's answer from a completion's first choice.

    A message without text (the tokens ran out while the model was thinking, or it called a tool) is
    an empty answer: another try would cost money and most likely give the same. A message whose
    content is not text is an ``error``. Half characters become U+FFFD, because no file can hold
    them.

    Raises:
        NoCompletionError: see `read_first_choice`.
    """
    completion = read_first_choice(body)
    message = completion.message
    counts = completion.n_prompt_tokens, completion.n_completion_tokens
    text = message.text or ""

    if message.finish_reason == "content_filter" or (message.refusal and not text):
        reason = f"the judge refused: {message.refusal or 'content filter'}"
        return ChatAnswer(REFUSED, reason, text, None, False, *counts)
    if message.problem is not None:
        return ChatAnswer(ERROR, message.problem, "", None, False, *counts)

    is_cut = message.ending == "length"
    return ChatAnswer("ok", None, text, _tokens_of_answer(completion), is_cut, *counts)


def read_generation(body: Any) -> Generation:
    """Return a sampled response from a completion's first choice.

    A server's ids and log-probabilities cover everything that it sampled. If thoughts were returned
    separately, or the sampled tokens spell more than the text, they are not the response's alone:
    then ids and log-probability are unknown, and the number of tokens is known only if the
    response's own tokens can be identified.

    Raises:
        NoCompletionError: see `read_first_choice`.
    """
    completion = read_first_choice(body)
    message = completion.message
    n_prompt_tokens = completion.n_prompt_tokens
    error = _why_no_response(message)
    if error is not None:
        return Generation("", [], "error", None, error, message.thoughts, None, n_prompt_tokens)

    text = message.text or ""
    ending = message.ending
    assert ending is not None
    ids = _token_ids(completion.choice.get("token_ids"))
    positions = _positions(completion.choice)
    start = _start_of_text([piece for piece, _ in positions], text)

    if completion.has_thoughts or start > 0:
        thoughts = message.thoughts or ""
        n_tokens = _response_tokens(completion, positions, start, text)
        return Generation(text, [], ending, None, None, thoughts, n_tokens, n_prompt_tokens)

    logp = _sum_of(positions)
    if ids and len(ids) != len(positions):
        logp = None
    n_tokens = len(ids) if ids else completion.n_completion_tokens
    return Generation(text, ids, ending, logp, None, None, n_tokens, n_prompt_tokens)


def _why_no_response(message: Message) -> str | None:
    """Return why a message cannot be trained on as a response; None if it can."""
    if message.problem is not None:
        return message.problem
    if message.refusal and not message.text:
        return f"the server answered with a refusal: {message.refusal}"
    if message.tools:
        beside = " beside its text" if message.text else " and holds no text"
        return f"the answer calls a tool ({', '.join(message.tools)}){beside}"
    if message.ending is None:
        return f"the server ended the response with finish_reason {message.finish_reason!r}"
    return None


def _response_tokens(
    completion: Completion, positions: Sequence[tuple[bytes, float | None]], start: int, text: str
) -> int | None:
    """Return how many of the sampled tokens are the response's; None if unknown."""
    if not text.strip():
        return None
    if start > 0:
        return len(positions) - start
    if completion.n_thought_tokens and completion.n_completion_tokens is not None:
        # A text has at least one token: with as many thoughts as tokens, these are counted
        # separately.
        n_tokens = completion.n_completion_tokens - completion.n_thought_tokens
        return n_tokens if n_tokens > 0 else None
    return None


def _first_choice(body: Any) -> Mapping[str, Any]:
    """Return the choice whose index is lowest.

    It need not be the first one if a server returns more choices than requested.

    Raises:
        NoCompletionError: there is none.
    """
    listed = body.get("choices") if isinstance(body, Mapping) else None
    if not isinstance(listed, list):
        listed = []
    choices = [choice for choice in listed if isinstance(choice, Mapping)]
    if not choices:
        raise NoCompletionError(f"the answer is not a chat completion: {str(body)[:200]!r}")

    def index_of(place: int) -> int:
        index = choices[place].get("index")
        return index if isinstance(index, int) else place

    return choices[min(range(len(choices)), key=index_of)]


def _count(usage: Any, name: str) -> int | None:
    """Return a count of tokens; None if the value cannot be one."""
    value = usage.get(name) if isinstance(usage, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < 2**31 else None


def _token_ids(values: Any) -> list[int]:
    """Return a response's ids; [] if there are none or one of them is not an id."""
    if not isinstance(values, list):
        return []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_ID:
            return []
    return values


def _raw_positions(choice: Mapping[str, Any]) -> list[Any]:
    logprobs = choice.get("logprobs")
    positions = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    return positions if isinstance(positions, list) else []


def _positions(choice: Mapping[str, Any]) -> list[tuple[bytes, float | None]]:
    """Return bytes and log-probability of every sampled token.

    A log-probability that cannot be one is None.
    """
    positions = []
    for position in _raw_positions(choice):
        values = position if isinstance(position, Mapping) else {}
        positions.append((_bytes_of(values), _possible_logprob(values.get("logprob"))))
    return positions


def _bytes_of(position: Mapping[str, Any]) -> bytes:
    """Return a token's bytes; a token that is part of a character has them beside its text."""
    values = position.get("bytes")
    if isinstance(values, list) and values:
        try:
            return bytes(values)
        except (TypeError, ValueError):
            pass
    token = position.get("token")
    return token.encode("utf-8", "replace") if isinstance(token, str) else b""


def _possible_logprob(value: Any) -> float | None:
    """Return a log-probability; None if the value cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    # Rounding may leave it slightly above 0.
    is_possible = isfinite(number) and IMPOSSIBLE_LOGPROB < number <= 1e-3
    return number if is_possible else None


def _sum_of(positions: Sequence[tuple[bytes, float | None]]) -> float | None:
    """Return the summed log-probability; None if there is none or one term is unknown."""
    if not positions:
        return None
    total = 0.0
    for _, logprob in positions:
        if logprob is None:
            return None
        total += logprob
    return total


def _start_of_text(pieces: Sequence[bytes], text: str) -> int:
    """Return the index of the first sampled token of the text.

    It is 0 if no token before it spells anything, and if the tokens do not spell the text, because
    a server may write tokens in its own way.
    """
    wanted = text.strip().encode("utf-8", "replace")
    joined = b"".join(pieces)
    if not wanted or joined.lstrip().startswith(wanted):
        return 0
    # Searched from the end: thoughts precede the text and may contain its words.
    place = joined.rfind(wanted)
    if place < 0 or not joined[:place].strip():
        return 0

    end = 0
    for number, piece in enumerate(pieces):
        end += len(piece)
        if end > place:
            return number
    return 0


def _tokens_of_answer(completion: Completion) -> tuple[TokenChoice, ...] | None:
    """Return the tokens of a judge's answer, without those of separately returned thoughts."""
    tokens = _tokens(completion.choice)
    text = completion.message.text
    if tokens is None or not completion.has_thoughts or not text:
        return tokens

    pieces = [piece for piece, _ in _positions(completion.choice)]
    start = _start_of_text(pieces, text)
    spells_text = text.strip().encode("utf-8", "replace") in b"".join(pieces)
    return tokens[start:] if spells_text else None


def _tokens(choice: Mapping[str, Any]) -> tuple[TokenChoice, ...] | None:
    """Return tokens with their alternatives; None if none can be read."""
    positions = _raw_positions(choice)
    if not positions:
        return None
    tokens = []
    try:
        for position in positions:
            token = replace_lone_surrogates(str(position["token"]))
            alternatives = _summed(position.get("top_logprobs") or ())
            tokens.append(TokenChoice(token, _logprob(position["logprob"]), alternatives))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return tuple(tokens)


def _logprob(value: Any) -> float:
    """Return a log-probability.

    Raises:
        ValueError: NaN, infinity or a number far above 0, which cannot be a log-probability: a mean
            of such values would not be a usable verdict.
    """
    number = float(value)
    if isnan(number) or number == inf or number > 1:
        raise ValueError(f"a log-probability of {number}")
    return number


def _summed(alternatives: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return log-probabilities by text.

    Different tokens may read the same: parts of a character, or two ids for one letter.
    """
    logprobs: dict[str, float] = {}
    for alternative in alternatives:
        # JSON's form of minus infinity, for a token that cannot occur
        if alternative["logprob"] is None:
            continue

        token = replace_lone_surrogates(str(alternative["token"]))
        logprob = _logprob(alternative["logprob"])
        if token not in logprobs:
            logprobs[token] = logprob
        elif exp(logprob) > 0:
            logprobs[token] = log(exp(logprobs[token]) + exp(logprob))
    return logprobs
