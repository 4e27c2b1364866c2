"""Diversity of texts: distinct n-grams, raw and at equal counts, and exact copies.

Texts come as lists of words, see `prefpipe.text.words`. n-grams do not run from one text into the
next.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from math import exp, lgamma, nan

from prefpipe.text.words import count_ngrams

Counts = Mapping[tuple[str, ...], int]


def pooled_ngrams(texts: Sequence[Sequence[str]], n: int) -> Counter[tuple[str, ...]]:
    """Return how often each n-gram occurs in all ``texts`` together."""
    # Text by text, so that no n-gram runs from one into the next.
    total: Counter[tuple[str, ...]] = Counter()
    for words in texts:
        total.update(count_ngrams(words, n))
    return total


def distinct_share(counts: Counts) -> float:
    """Return distinct n-grams over all n-grams, in (0, 1]; NaN if there are none.

    distinct-n of Li et al. 2016 (arXiv 1510.03055). It falls with the length of the texts because
    words recur: to compare two sets, use `expected_distinct_share`.
    """
    n_ngrams = sum(counts.values())
    return len(counts) / n_ngrams if n_ngrams else nan


def repeated_share(words: Sequence[str], *, n: int = 4) -> float:
    """Return the share of a text's n-grams that occurred earlier in it, in [0, 1).

    ``1 - (distinct n-grams) / (n-grams)``: seq-rep-n of Welleck et al. 2019 (arXiv 1908.04319). A
    text of fewer than ``n`` words has no n-gram and repeats none: 0.
    """
    counts = count_ngrams(words, n)
    return 1.0 - distinct_share(counts) if counts else 0.0


def expected_distinct_share(counts: Counts, n_drawn: int) -> float:
    """Return the expected distinct share of ``n_drawn`` n-grams, in (0, 1].

    They are drawn without replacement.

    ::

        (1/m) sum_g [1 - C(N - c_g, m) / C(N, m)]        N = sum_g c_g, m = n_drawn

    Rarefaction (Hurlbert 1971, "The nonconcept of species diversity"), for words known as HD-D
    (McCarthy and Jarvis 2007). With one m for two sets it compares them at equal length. Equals
    `distinct_share` at m = N. NaN where m is 0 or above N.
    """
    n_ngrams = sum(counts.values())
    if not 0 < n_drawn <= n_ngrams:
        return nan

    # N-grams of one count share a probability, and there are few counts.
    n_expected = 0.0
    for count, n_such in Counter(counts.values()).items():
        n_expected += n_such * (1.0 - _probability_of_none(n_ngrams, count, n_drawn))
    # Logarithms are rounded: if no n-gram recurs, the sum may be slightly above 1.
    return min(n_expected / n_drawn, 1.0)


def _probability_of_none(n_all: int, count: int, n_drawn: int) -> float:
    """Return C(N - c, m) / C(N, m), the probability that m drawn of N hold none of c."""
    n_others = n_all - count
    if n_others < n_drawn:
        return 0.0
    # By logarithms: the binomials of long texts exceed floats.
    return exp(
        lgamma(n_others + 1)
        + lgamma(n_all - n_drawn + 1)
        - lgamma(n_others - n_drawn + 1)
        - lgamma(n_all + 1)
    )


def copied_share(texts: Sequence[Hashable]) -> float:
    """Return the share of ``texts`` that equal an earlier one, ``1 - distinct / all``.

    NaN for fewer than two.
    """
    return 1.0 - len(set(texts)) / len(texts) if len(texts) > 1 else nan
