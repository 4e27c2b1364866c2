"""Self-BLEU: how much the texts of a set resemble each other."""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import exp, log, nan

from prefpipe.text.words import count_ngrams

MAX_ORDER = 4
FLOOR = 0.1
"""What an order without a match counts as, in n-grams."""
Ngram = tuple[str, ...]


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """Return the mean over texts of the BLEU of each against all others as its references, in [0, 1]; high is alike.

    ::

        BLEU = BP exp( (1/K) sum_n log p_n ),  n = 1..K, K = min(4, words of the text)
        p_n = (n-grams that are in a reference, each at most as often as in the reference that has most of it) / (n-grams)
        BP = exp(min(0, 1 - r/h)),  h words, r words of the reference whose length is nearest, of two the shorter

    Self-BLEU is of Zhu et al. 2018 (Texygen, arXiv 1802.01886). An order without a match has ``p_n = 0.1 / (n-grams)``, and a
    text without any match has BLEU 0: smoothing `floor` of sacrebleu, "method 1" of Chen and Cherry 2014, with effective order.
    Self-BLEU rises with the number of texts. Texts without a word are left out; NaN where fewer than two are left.
    """
    texts = [words for words in texts if words]
    if len(texts) < 2:
        return nan
    matches = [
        _clipped_matches([count_ngrams(words, n) for words in texts])
        for n in range(1, MAX_ORDER + 1)
    ]
    lengths = [len(words) for words in texts]
    of_length = Counter(lengths)
    total = 0.0
    for place, length in enumerate(lengths):
        orders = range(1, min(MAX_ORDER, length) + 1)
        found = [matches[n - 1][place] for n in orders]
        if any(found):
            logs = [
                log(max(n_matches, FLOOR) / (length - n + 1))
                for n, n_matches in zip(orders, found, strict=True)
            ]
            nearest = _nearest_length(
                length, (other for other in of_length if other != length or of_length[length] > 1)
            )
            total += exp(min(0.0, 1.0 - nearest / length) + sum(logs) / len(logs))
    return total / len(texts)


def _clipped_matches(counts: Sequence[Counter[Ngram]]) -> list[int]:
    """Return for each text how many of its n-grams are in others, clipped: in time linear in all, not pair by pair."""
    most: dict[
        Ngram, tuple[int, int, int]
    ] = {}  # the highest count, in which text, and the second highest
    for place, own in enumerate(counts):
        for ngram, count in own.items():
            first, where, second = most.get(ngram, (0, -1, 0))
            most[ngram] = (
                (count, place, first) if count > first else (first, where, max(second, count))
            )
    found = []
    for place, own in enumerate(counts):
        elsewhere = ((count, most[ngram]) for ngram, count in own.items())
        found.append(
            sum(
                min(count, second if where == place else first)
                for count, (first, where, second) in elsewhere
            )
        )
    return found


def _nearest_length(length: int, others: Iterable[int]) -> int:
    return min(others, key=lambda other: (abs(other - length), other))
