"""How much a text repeats itself."""

from collections.abc import Sequence

from prefpipe.text.words import count_ngrams


def repeated_ngram_share(words: Sequence[str], *, n: int = 4) -> float:
    """Return the share of a text's n-grams that occurred before in it, in [0, 1).

    ``1 - (distinct n-grams) / (n-grams)``: seq-rep-n of Welleck et al. 2019 (arXiv 1908.04319). A text of fewer
    than ``n`` words has no n-gram and repeats none: 0. Words are those of `prefpipe.text.words.words_and_signs`, or any others.
    """
    counts = count_ngrams(words, n)
    return 1.0 - len(counts) / counts.total() if counts else 0.0


def longest_repeated_run(text: str, *, max_period: int = 32) -> int:
    """Return the length in words of the longest stretch that is one phrase said over and over; words are between white space.

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
