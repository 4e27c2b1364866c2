"""Where a response ends that is to end at a stop text.

A stop text is no part of the response's text. Its tokens are part of the response's ids, as an
end-of-sequence token is: they were sampled, and with them the response ended. So vLLM has it, too.
"""

from collections.abc import Callable, Sequence

MARGIN_CHARS = 4
"""Letters before a stop text that the last tokens must spell, for the first may be half a one."""
MOST_TOKENS_A_CHAR = 4
"""Bytes of a character, of which each may be a token."""


def find_stop(text: str, stops: Sequence[str], *, after: int = 0) -> tuple[int, int] | None:
    """Return where the stop text begins and ends that ends a text, None if there is none in it.

    Of several it is the one that is complete first, and of those the one that is named first.

    Args:
        text: a response's.
        stops: the stop texts.
        after: a stop text counts only if its end lies behind so many letters.
    """
    first: tuple[int, int] | None = None
    for stop in stops:
        place = text.find(stop, max(0, after + 1 - len(stop)))
        if place >= 0 and (first is None or place + len(stop) < first[1]):
            first = place, place + len(stop)
    return first


class StopTexts:
    """The stop texts of a run, and a tokenizer to read ids with.

    Args:
        stops: the texts, of which none is empty.
        min_tokens: a stop text that is complete within so many tokens ends nothing.
        decode: returns the text of a response's ids.
    """

    def __init__(
        self, stops: Sequence[str], min_tokens: int, decode: Callable[[Sequence[int]], str]
    ) -> None:
        self._stops, self._min_tokens, self._decode = stops, min_tokens, decode
        self._n_chars = max(map(len, stops)) + MARGIN_CHARS

    @property
    def n_last_tokens(self) -> int:
        """How many of the last tokens `may_end` wants to see."""
        return MOST_TOKENS_A_CHAR * self._n_chars

    def may_end(self, last_ids: Sequence[int]) -> bool:
        """Return whether a response with these last tokens may end at a stop text.

        A long response is not read again with every token: False is certain, True is not.
        """
        text = self._decode(last_ids)
        # Tokens without a letter, control tokens say, may hide the beginning of a stop text.
        is_short = len(text) < self._n_chars and len(last_ids) >= self.n_last_tokens
        return is_short or find_stop(text, self._stops) is not None

    def text_before(self, ids: Sequence[int]) -> str | None:
        """Return the text before the stop text at which a response ends, None if it has none."""
        if len(ids) <= self._min_tokens:
            return None
        n_safe = len(self._decode(ids[: self._min_tokens])) if self._min_tokens else 0
        text = self._decode(ids)
        stop = find_stop(text, self._stops, after=n_safe)
        return None if stop is None else text[: stop[0]]
