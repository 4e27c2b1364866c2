"""What a chat completion says, whoever made it: a server, a batch, the cache, or an engine in this process."""

from collections.abc import Iterable, Mapping, Sequence
from math import exp, isnan, log
from typing import Any, NamedTuple

from prefpipe.text.surrogates import replace_lone_surrogates
from prefpipe.text.verdicts import TokenChoice

REFUSED, ERROR, TOO_LONG, NOT_ANSWERED = "refused", "error", "prompt_too_long", "not_answered"


class ChatAnswer(NamedTuple):
    """One answer of a judge model.

    ``status`` is ``ok``; ``refused``: a content filter or the model declined; ``prompt_too_long``; ``error``: no answer
    after all tries, or the request was refused; ``not_answered``: nobody was asked. ``tokens`` is None where the answer
    came without log-probabilities. Token counts are the server's own, None where it does not tell.
    """

    status: str
    reason: str | None = None
    text: str = ""
    tokens: tuple[TokenChoice, ...] | None = None
    is_cut: bool = False
    n_prompt_tokens: int | None = None
    n_completion_tokens: int | None = None


class NoCompletionError(ValueError):
    """A body that is no chat completion; the next try may bring one."""


def read_completion(body: Any) -> ChatAnswer:
    """Return what a completion's first choice says.

    A message without a text (the tokens ran out while the model was thinking, or it called a tool) is an answer of no words:
    another try would be paid for and most likely say the same. Halves of characters become U+FFFD, for no file holds them.

    Errors:
        NoCompletionError: no choices, or no message in the first.
    """
    try:
        choice = _first_choice(body["choices"])
        message = choice["message"]
        content, refusal = _text(message.get("content")), message.get("refusal")
        finish_reason = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise NoCompletionError(f"the answer is no chat completion: {str(body)[:200]!r}") from error
    usage = body.get("usage")
    counts = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if finish_reason == "content_filter" or (refusal and not content):
        reason = replace_lone_surrogates(f"the judge refused: {refusal or 'content filter'}")
        return ChatAnswer(REFUSED, reason, content or "", None, False, *counts)
    if content is None and finish_reason is None:
        raise NoCompletionError("the answer holds no text, and no reason why")
    return ChatAnswer("ok", None, content or "", _tokens(choice), finish_reason == "length", *counts)


def _first_choice(choices: Sequence[Any]) -> Any:
    """Return the choice whose index is lowest, which need not stand first where a server gave more than were asked for."""

    def index_of(place: int) -> int:
        index = choices[place].get("index")
        return index if isinstance(index, int) else place

    return choices[min(range(len(choices)), key=index_of)]


def _text(content: Any) -> str | None:
    """Return a message's text; of one in parts, as some servers of reasoning models write it, that of the parts of text.

    Errors:
        TypeError: neither a text, nor parts, nor null.
    """
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError(f"content is {content!r}")
    return None if content is None else replace_lone_surrogates(content)


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None


def _tokens(choice: Mapping[str, Any]) -> tuple[TokenChoice, ...] | None:
    """Return tokens with their alternatives; None where the server gave none, or none that can be read."""
    logprobs = choice.get("logprobs")
    positions = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(positions, list) or not positions:
        return None
    try:
        return tuple(
            TokenChoice(
                replace_lone_surrogates(str(position["token"])),
                _logprob(position["logprob"]),
                _summed(position.get("top_logprobs") or ()),
            )
            for position in positions
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _logprob(value: Any) -> float:
    """Return a log-probability.

    Errors:
        ValueError: NaN or infinity, which JSON does not hold: a mean of them would be a verdict that is no number.
    """
    number = float(value)
    if isnan(number) or number == float("inf"):
        raise ValueError(f"a log-probability of {number}")
    return number


def _summed(alternatives: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return log-probabilities by text: different tokens may read the same (parts of a character, two ids for one letter)."""
    found: dict[str, float] = {}
    for item in alternatives:
        if item["logprob"] is None:  # how JSON writes the minus infinity of a token that cannot come
            continue
        token, logprob = replace_lone_surrogates(str(item["token"])), _logprob(item["logprob"])
        found[token] = log(exp(found[token]) + exp(logprob)) if token in found and exp(logprob) > 0 else found.get(token, logprob)
    return found
