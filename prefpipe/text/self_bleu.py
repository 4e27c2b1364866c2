"""Self-BLEU: the similarity of the texts of a set."""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import exp, log, nan

from prefpipe.text.words import count_ngrams

MAX_ORDER = 4
FLOOR = 0.1
"""Matches, in n-grams, assumed for an order without a match."""
Ngram = tuple[str, ...]


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """Return the mean BLEU of each text against all others, in [0, 1]; high is alike.

    ::

        BLEU = BP exp( (1/K) sum_n log p_n ),  n = 1..K, K = min(4, words of the text)
        p_n = (n-grams that are in a reference) / (n-grams)
        BP = exp(min(0, 1 - r/h))

    An n-gram counts at most as often as in the reference with the most of it. h is the words of the
    text, r those of the reference with the nearest length, the shorter of two.

    Self-BLEU is of Zhu et al. 2018 (Texygen, arXiv 1802.01886). An order without a match has
    ``p_n = 0.1 / (n-grams)``, and a text without any match has BLEU 0: smoothing `floor` of
    sacrebleu, "method 1" of Chen and Cherry 2014, with effective order.

    Self-BLEU rises with the number of texts. Texts without a word are left out; NaN if fewer than
    two remain.
    """
    texts = [words for words in texts if words]
    if len(texts) < 2:
        return nan

    matches_by_order = []
    for n in range(1, MAX_ORDER + 1):
        counts = [count_ngrams(words, n) for words in texts]
        matches_by_order.append(_clipped_matches(counts))

    lengths = [len(words) for words in texts]
    of_length = Counter(lengths)
    total = 0.0
    for place, length in enumerate(lengths):
        matches = [matches_by_order[n][place] for n in range(min(MAX_ORDER, length))]
        if not any(matches):
            continue

        logs = []
        for n, n_matches in enumerate(matches):
            logs.append(log(max(n_matches, FLOOR) / (length - n)))

        # Its own length counts if another text has it, too.
        lengths_of_others = (
            other for other in of_length if other != length or of_length[length] > 1
        )
        nearest = _nearest(length, lengths_of_others)
        total += exp(min(0.0, 1.0 - nearest / length) + sum(logs) / len(logs))
    return total / len(texts)


def _clipped_matches(counts: Sequence[Counter[Ngram]]) -> list[int]:
    """Return for each text how many of its n-grams are in others, clipped.

    In time linear in all texts together, not pair by pair.
    """
    # For each n-gram: the highest count, its text, and the second highest count.
    most: dict[Ngram, tuple[int, int, int]] = {}
    for place, of_text in enumerate(counts):
        for ngram, count in of_text.items():
            first, where, second = most.get(ngram, (0, -1, 0))
            if count > first:
                most[ngram] = (count, place, first)
            else:
                most[ngram] = (first, where, max(second, count))

    matches = []
    for place, of_text in enumerate(counts):
        n_matches = 0
        for ngram, count in of_text.items():
            first, where, second = most[ngram]
            n_matches += min(count, second if where == place else first)
        matches.append(n_matches)
    return matches


def _nearest(length: int, others: Iterable[int]) -> int:
    return min(others, key=lambda other: (abs(other - length), other))
