"""What a misspelt word was probably meant to be."""

import difflib
from collections.abc import Iterable


def nearest(word: object, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known word that is spelt most like ``word``, None where none is near.

    Args:
        word: what was written; anything that is no text is looked at as it prints.
        known: the words that it may have been meant for.
        cutoff: least similarity in [0, 1], 1 for equal words.
    """
    matches = difflib.get_close_matches(str(word), list(known), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def did_you_mean(word: object, known: Iterable[str], *, quote: str = "`") -> str:
    """Return `` (did you mean `x`?)`` to stand behind an error, ``""`` where no word is near."""
    match = nearest(word, known)
    return "" if match is None else f" (did you mean {quote}{match}{quote}?)"
