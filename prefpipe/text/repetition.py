"""How much a text repeats itself. A word is a run of characters without white space; case counts."""

from collections.abc import Iterable


def repeated_ngram_share(text: str, *, n: int = 4) -> float:
    """Return the share of a text's n-grams of words that occurred before in it, in [0, 1).

    ``1 - (distinct n-grams) / (n-grams)``: seq-rep-n of Welleck et al. 2019 (arXiv 1908.04319). A text of fewer
    than ``n`` words has no n-gram and repeats none: 0.
    """
    ngrams = _ngrams(text, n)
    return 1.0 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def distinct_n(texts: Iterable[str], *, n: int = 2) -> float:
    """Return the distinct n-grams of words over all n-grams, pooled over ``texts``, in (0, 1].

    distinct-n of Li et al. 2016 (arXiv 1510.03055): the diversity of a set of responses, not of one. n-grams do
    not run from one text into the next. NaN where no text has ``n`` words.
    """
    n_ngrams = 0
    distinct: set[tuple[str, ...]] = set()
    for text in texts:
        ngrams = _ngrams(text, n)
        n_ngrams += len(ngrams)
        distinct.update(ngrams)
    return len(distinct) / n_ngrams if n_ngrams else float("nan")


def longest_repeated_run(text: str, *, max_period: int = 32) -> int:
    """Return the length in words of the longest stretch that is one phrase said over and over.

    A stretch of period p satisfies ``word[i] == word[i - p]`` for each of its words after the first p, and says the
    phrase at least twice in full (2 p words). Periods 1 to ``max_period`` are tried; 0 where nothing recurs at once.
    "no no no" has 3, "to be or to be or not" has 6, "to be or not to be" has 0.
    """
    words = text.split()
    longest = 0
    for period in range(1, min(max_period, len(words) // 2) + 1):
        n_equal = 0
        for place in range(period, len(words)):
            n_equal = n_equal + 1 if words[place] == words[place - period] else 0
            if n_equal >= period and n_equal + period > longest:
                longest = n_equal + period
    return longest


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return list(zip(*(words[start:] for start in range(n)), strict=False))
