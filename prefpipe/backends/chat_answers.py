"""What a chat completion says, whoever made it: a server, a batch, the cache, or an engine in this process."""

from collections.abc import Iterable, Mapping
from math import exp, log
from typing import Any, NamedTuple

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

    Errors:
        NoCompletionError: no choices, or no message in the first.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish_reason = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise NoCompletionError(f"the answer is no chat completion: {str(body)[:200]!r}") from error
    usage = body.get("usage")
    counts = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if finish_reason == "content_filter" or (refusal and not content):
        return ChatAnswer(REFUSED, f"the judge refused: {refusal or 'content filter'}", content or "", None, False, *counts)
    if content is None and finish_reason == "length":  # a model that was still thinking: more tries would be cut as well
        content = ""
    if not isinstance(content, str):
        raise NoCompletionError(f"the answer holds no text (finish_reason {finish_reason!r})")
    return ChatAnswer("ok", None, content, _tokens(choice), finish_reason == "length", *counts)


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _tokens(choice: Mapping[str, Any]) -> tuple[TokenChoice, ...] | None:
    """Return tokens with their alternatives; None where the server gave none, or none that can be read."""
    logprobs = choice.get("logprobs")
    positions = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(positions, list) or not positions:
        return None
    try:
        return tuple(
            TokenChoice(str(position["token"]), float(position["logprob"]), _summed(position.get("top_logprobs") or ()))
            for position in positions
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _summed(alternatives: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return log-probabilities by text: different tokens may read the same (parts of a character, two ids for one letter)."""
    found: dict[str, float] = {}
    for item in alternatives:
        token, logprob = str(item["token"]), float(item["logprob"])
        found[token] = log(exp(found[token]) + exp(logprob)) if token in found and exp(logprob) > 0 else found.get(token, logprob)
    return found
