"""The raters of pairs, and the two scores of a pair as a row.

Raters of ``--model`` are in `prefpipe.stages.pairs.model_raters`.

A pair is scored completely or not at all: if one response is too long, or the template refuses it,
the other gets no score either, because half a pair compares nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple, Protocol

from prefpipe.artifacts.interchange.pair_rows import ScoredTexts
from prefpipe.artifacts.store import add_tallies
from prefpipe.backends.protocol import NOTHING_COUNTED, Score, Scorer, ScoreRequest
from prefpipe.stages.shared.candidate_rows import Row

SCORED = ("ok", "identical")
"""Statuses of pairs that count; identical ones tie whatever the model."""
LARGEST = 1e100
"""No score is larger.

Sums and differences of larger ones overflow, and one such pair would take every figure with it.
"""
SAME_TEXT = "chosen and rejected are the same text: a tie, whatever the model"
SAME_TOKENS = "chosen and rejected are the same tokens to this model: a tie, whatever its weights"
RESPONSES = ("chosen", "rejected")
"""A pair's two responses, in the order of all its values."""


class Rated(NamedTuple):
    """A rater's result for one pair.

    Scores, token counts and log-probabilities are each of (chosen, rejected). ``tally``: the
    rater's counts of the texts of a call; the first pair of the call carries it.
    """

    scores: tuple[float | None, float | None] = (None, None)
    n_tokens: tuple[int | None, int | None] = (None, None)
    logps: tuple[float | None, float | None] = (None, None)
    ref_logps: tuple[float | None, float | None] = (None, None)
    status: str = "ok"
    reason: str | None = None
    tally: Mapping[str, float] = NOTHING_COUNTED


class OpenRater(Protocol):
    """A rater whose model is loaded. Several threads may ask it at once."""

    def rate(self, pairs: Sequence[ScoredTexts]) -> list[Rated]:
        """Return the result for each pair, in order; there is at least one pair."""
        ...

    def close(self) -> None:
        """Release memory."""
        ...


class PairRater(NamedTuple):
    """A rater that can be opened.

    ``kind`` of score; ``models``: its models' entries in the fingerprint; ``names``: as the user
    wrote them; ``notes``: for the reader.
    """

    kind: str
    models: Sequence[Mapping[str, Any]]
    names: Sequence[str]
    open: Callable[[], OpenRater]
    notes: Sequence[str] = ()


class ScorerRater:
    """Pairs rated by a scorer that sees each response separately."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer: Any = scorer

    def rate(self, pairs: Sequence[ScoredTexts]) -> list[Rated]:
        """Return rewards; both of a pair, or neither."""
        # A completion that is in several pairs of its row is scored once.
        requests: list[ScoreRequest] = []
        place_of: dict[tuple[int, str | int], int] = {}
        places_of_pairs: list[list[int]] = []
        for pair in pairs:
            places = []
            for number, text in enumerate((pair.chosen, pair.rejected)):
                key: tuple[int, str | int] = (pair.pair_idx, number)
                if pair.of_item is not None:
                    key = (pair.of_item.row_idx, text)
                if key not in place_of:
                    place_of[key] = len(requests)
                    requests.append(ScoreRequest(pair.prompt_id, number, pair.messages, text, {}))
                places.append(place_of[key])
            places_of_pairs.append(places)

        scores = self.scorer.score(requests)
        rated = []
        for pair, places in zip(pairs, places_of_pairs, strict=True):
            rated.append(self._rated(pair, [scores[place] for place in places]))
        tally = add_tallies(score.tally for score in scores)
        return [rated[0]._replace(tally=tally), *rated[1:]]

    def close(self) -> None:
        """Release the model."""
        self.scorer.close()

    def _rated(self, pair: ScoredTexts, scores: Sequence[Score]) -> Rated:
        for name, score in zip(RESPONSES, scores, strict=True):
            if score.status != "ok":
                return Rated(status=score.status, reason=f"{name}: {score.reason}")
        chosen, rejected = (score.reward for score in scores)
        if not hasattr(self.scorer, "encode"):
            return Rated((chosen, rejected))

        ids_of_chosen = self.scorer.encode(pair.messages, pair.chosen)
        ids_of_rejected = self.scorer.encode(pair.messages, pair.rejected)
        n_tokens = (len(ids_of_chosen), len(ids_of_rejected))
        if ids_of_chosen == ids_of_rejected:
            # In a batch the same tokens may differ in their last digits, which is no victory.
            scores_of_both = (chosen, chosen)
            return Rated(scores_of_both, n_tokens, status="identical", reason=SAME_TOKENS)
        return Rated((chosen, rejected), n_tokens)


def scorer_rater(
    identity: Mapping[str, Any], name: str, open_scorer: Callable[[], Scorer]
) -> PairRater:
    """Return a rater of a scorer that sees each response alone.

    Args:
        identity: what it is in the fingerprint.
        name: as the user wrote it.
        open_scorer: loads it.
    """
    return PairRater("reward", [identity], [name], lambda: ScorerRater(open_scorer()))


def given_scores(pair: ScoredTexts) -> Rated:
    """Return the scores that the file has."""
    assert pair.scores is not None
    for name, score in zip(RESPONSES, pair.scores, strict=True):
        if score is None:
            return Rated(status="no_score", reason=f"{name}: its score is null")
    return Rated(pair.scores)


def pair_row(pair: ScoredTexts, rated: Rated | None, kind: str) -> Row:
    """Return a row of ``pair_scores``.

    Args:
        pair: what the file has.
        rated: what was said of it; None if its texts cannot be used.
        kind: of the scores.
    """
    if rated is None:
        rated = Rated(status="missing_text" if pair.is_null else "unreadable", reason=pair.problem)
    if rated.status in SCORED:
        rated = _checked(rated)
    is_scored = rated.status in SCORED
    if is_scored and pair.has_equal_texts:
        rated = rated._replace(status="identical", reason=SAME_TEXT)

    row: Row = {
        "prompt_id": pair.prompt_id,
        "pair_idx": pair.pair_idx,
        "pair_id": pair.pair_id,
        "subset": pair.subset,
        "score_kind": kind,
        "outcome": _outcome(pair),
        "rater_gap": _rater_gap(pair, kind),
        "duplicate_of": pair.duplicate_of,
        "margin": None,
        "status": rated.status,
        "reason": rated.reason,
    }

    for number, name in enumerate(RESPONSES):
        row[f"{name}_score"] = rated.scores[number] if is_scored else None
        row[f"{name}_n_tokens"] = rated.n_tokens[number]
        row[f"{name}_logp"] = rated.logps[number]
        row[f"{name}_ref_logp"] = rated.ref_logps[number]

    if pair.of_item is not None:
        row |= pair.of_item._asdict()
    if is_scored:
        row["margin"] = row["chosen_score"] - row["rejected_score"]
    return row


def _checked(rated: Rated) -> Rated:
    """Return scores as they are, or with a status where one of them is no usable number."""
    for name, score in zip(RESPONSES, rated.scores, strict=True):
        is_usable = score is not None and abs(score) <= LARGEST  # not so for NaN either
        if not is_usable:
            reason = f"{name}: its score is {score}, no number within {LARGEST:g}"
            return rated._replace(status="not_finite", reason=reason)
    return rated


def _outcome(pair: ScoredTexts) -> float | None:
    """Return 1 where chosen is chosen, or the preference.

    None if the file has preferences and none for this pair.
    """
    if pair.preference is None and not pair.has_preference_column:
        return 1.0
    return pair.preference


def _rater_gap(pair: ScoredTexts, kind: str) -> float | None:
    """Return by how much the raters prefer chosen.

    That is the difference of their ratings, or 2 p - 1 of a preference p.
    """
    if kind == "given" or pair.scores is None:
        return None if pair.preference is None else 2.0 * pair.preference - 1.0
    chosen, rejected = pair.scores
    if chosen is None or rejected is None or not isfinite(chosen - rejected):
        return None
    return chosen - rejected
