"""Where a response with stop texts ends.

A stop text is not part of the response's text. Its tokens are part of the response's ids, like an
end-of-sequence token: they were sampled and ended the response. vLLM does the same.
"""

from collections.abc import Callable, Sequence

MARGIN_CHARS = 4
"""Letters before a stop text that the last tokens must spell; the first may be incomplete."""
MOST_TOKENS_A_CHAR = 4
"""Bytes of a character, of which each may be a token."""


def find_stop(text: str, stops: Sequence[str], *, after: int = 0) -> tuple[int, int] | None:
    """Return where the first stop text in a text begins and ends; None if there is none.

    Of several it is the one that is completed first; ties go to the one named first.

    Args:
        text: the response's text.
        stops: the stop texts.
        after: a stop text counts only if its end is after so many letters.
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
        stops: the texts, none of them empty.
        min_tokens: a stop text completed within so many tokens is ignored.
        decode: returns the text of a response's ids.
    """

    def __init__(
        self, stops: Sequence[str], min_tokens: int, decode: Callable[[Sequence[int]], str]
    ) -> None:
        self._stops, self._min_tokens, self._decode = stops, min_tokens, decode
        self._n_chars = max(map(len, stops)) + MARGIN_CHARS

    @property
    def n_last_tokens(self) -> int:
        """How many of the last tokens `may_end` needs."""
        return MOST_TOKENS_A_CHAR * self._n_chars

    def may_end(self, last_ids: Sequence[int]) -> bool:
        """Return whether a response with these last tokens may end at a stop text.

        It avoids reading a long response again with every token: False is certain, True is not.
        """
        text = self._decode(last_ids)
        # Tokens without a letter, such as control tokens, may hide the beginning of a stop text.
        is_short = len(text) < self._n_chars and len(last_ids) >= self.n_last_tokens
        return is_short or find_stop(text, self._stops) is not None

    def text_before(self, ids: Sequence[int]) -> str | None:
        """Return the text before the stop text that ends a response; None if it has none."""
        if len(ids) <= self._min_tokens:
            return None
        n_safe = len(self._decode(ids[: self._min_tokens])) if self._min_tokens else 0
        text = self._decode(ids)
        stop = find_stop(text, self._stops, after=n_safe)
        return None if stop is None else text[: stop[0]]
