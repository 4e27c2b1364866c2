"""What rates pairs: a reward model here, a policy in `prefpipe.stages.pairs.model_raters`; and the two scores of a pair as a row.

A pair is scored whole or not at all: a response that is too long, or that the template refuses, costs the other its score too,
for half a pair compares nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple, Protocol

from prefpipe.artifacts.interchange.pair_rows import ScoredTexts
from prefpipe.backends.protocol import Score, Scorer, ScoreRequest
from prefpipe.stages.shared.candidate_rows import Row

SCORED = ("ok", "identical")
"""Statuses of pairs that count; identical ones tie whatever the model."""
LARGEST = 1e100
"""No score is larger: sums and differences of larger ones overflow, and one such pair would take every figure with it."""
SAME_TEXT = "chosen and rejected are the same text: a tie, whatever the model"
SAME_TOKENS = "chosen and rejected are the same tokens to this model: a tie, whatever its weights"
RESPONSES = ("chosen", "rejected")


class Rated(NamedTuple):
    """What a rater says of one pair: scores, token counts and log-probabilities, each of (chosen, rejected)."""

    scores: tuple[float | None, float | None] = (None, None)
    n_tokens: tuple[int | None, int | None] = (None, None)
    logps: tuple[float | None, float | None] = (None, None)
    ref_logps: tuple[float | None, float | None] = (None, None)
    status: str = "ok"
    reason: str | None = None


class OpenRater(Protocol):
    """A rater whose model is loaded."""

    def rate(self, pairs: Sequence[ScoredTexts]) -> list[Rated]:
        """Return what it says of each pair, in order."""
        ...

    def notes(self) -> list[str]:
        """Return what a reader should know of the texts, in sentences."""
        ...

    def close(self) -> None:
        """Release memory."""
        ...


class PairRater(NamedTuple):
    """A rater that can be opened.

    ``kind`` of score; ``models``: what its models are in the fingerprint; ``names``: as the user wrote them; ``notes``: what a
    reader should know.
    """

    kind: str
    models: Sequence[Mapping[str, Any]]
    names: Sequence[str]
    open: Callable[[], OpenRater]
    notes: Sequence[str] = ()


class ScorerRater:
    """Pairs rated by a scorer that sees each response alone."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer: Any = scorer

    def rate(self, pairs: Sequence[ScoredTexts]) -> list[Rated]:
        """Return rewards; both of a pair, or neither."""
        requests: list[ScoreRequest] = []
        places: dict[
            Any, int
        ] = {}  # a completion that stands in several pairs of its row is scored once
        sides: list[list[int]] = []
        for pair in pairs:
            numbers = []
            for number, text in enumerate((pair.chosen, pair.rejected)):
                key = (
                    (pair.of_item.row_idx, text)
                    if pair.of_item is not None
                    else (pair.pair_idx, number)
                )
                if key not in places:
                    places[key] = len(requests)
                    requests.append(ScoreRequest(pair.prompt_id, number, pair.messages, text, {}))
                numbers.append(places[key])
            sides.append(numbers)

        scores = self.scorer.score(requests)
        return [
            self._rated(pair, [scores[place] for place in numbers])
            for pair, numbers in zip(pairs, sides, strict=True)
        ]

    def notes(self) -> list[str]:
        """Return what the scorer says of the texts."""
        return list(self.scorer.notes()) if hasattr(self.scorer, "notes") else []

    def close(self) -> None:
        """Release the model."""
        self.scorer.close()

    def _rated(self, pair: ScoredTexts, scores: Sequence[Score]) -> Rated:
        for side, score in zip(RESPONSES, scores, strict=True):
            if score.status != "ok":
                return Rated(status=score.status, reason=f"{side}: {score.reason}")
        first, second = (score.reward for score in scores)
        if not hasattr(self.scorer, "encode"):
            return Rated((first, second))
        ids = [self.scorer.encode(pair.messages, text) for text in (pair.chosen, pair.rejected)]
        if ids[0] == ids[1]:
            second = first  # in a batch the same tokens may differ in their last digits, which is no victory
        rated = Rated((first, second), (len(ids[0]), len(ids[1])))
        return rated._replace(status="identical", reason=SAME_TOKENS) if ids[0] == ids[1] else rated


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
    missing = [side for side, score in zip(RESPONSES, pair.scores, strict=True) if score is None]
    return (
        Rated(pair.scores)
        if not missing
        else Rated(status="no_score", reason=f"{missing[0]}: its score is null")
    )


def pair_row(pair: ScoredTexts, rated: Rated | None, kind: str) -> Row:
    """Return a row of ``pair_scores``.

    Args:
        pair: what the file has.
        rated: what was said of it; None where its texts cannot be used.
        kind: of the scores.
    """
    if rated is None:
        rated = Rated(status="missing_text" if pair.is_null else "unreadable", reason=pair.problem)
    for side, score in zip(RESPONSES, rated.scores, strict=True):
        if rated.status in SCORED and (score is None or not abs(score) <= LARGEST):  # NaN neither
            rated = rated._replace(
                status="not_finite",
                reason=f"{side}: its score is {score}, no number within {LARGEST:g}",
            )
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
    for number, side in enumerate(RESPONSES):
        row |= {
            f"{side}_score": rated.scores[number] if is_scored else None,
            f"{side}_n_tokens": rated.n_tokens[number],
            f"{side}_logp": rated.logps[number],
            f"{side}_ref_logp": rated.ref_logps[number],
        }
    if pair.of_item is not None:
        row |= pair.of_item._asdict()
    if is_scored:
        row["margin"] = row["chosen_score"] - row["rejected_score"]
    return row


def _outcome(pair: ScoredTexts) -> float | None:
    """Return 1 where chosen is chosen, or the preference; None where the file has preferences and none for this pair."""
    return pair.preference if pair.preference is not None or pair.has_preference_column else 1.0


def _rater_gap(pair: ScoredTexts, kind: str) -> float | None:
    if kind != "given" and pair.scores is not None:
        first, second = pair.scores
        if first is None or second is None or not isfinite(first - second):
            return None
        return first - second
    return None if pair.preference is None else 2.0 * pair.preference - 1.0
