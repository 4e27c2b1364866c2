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
