"""A reward model, or any scorer, as a judge of pairs: it sees each response alone, so there is no order to be biased by."""

import json
from collections.abc import Sequence
from typing import Literal

import numpy as np

from prefpipe.backends.protocol import PairRequest, PairVerdict, Score, Scorer, ScoreRequest
from prefpipe.maths.statistics.winrate import preference


class RewardJudge:
    """Compares rewards.

    ``sigmoid``: the preference is ``1 / (1 + exp(-(r_first - r_second)))``, the Bradley-Terry probability, which means what it
    says for rewards that were trained as such. ``hard``: 1, 0, or 1/2 where the rewards differ by ``tie_tolerance`` or less.
    """

    def __init__(
        self, scorer: Scorer, *, rule: Literal["sigmoid", "hard"], tie_tolerance: float
    ) -> None:
        self._scorer, self._rule, self._tie_tolerance = scorer, rule, tie_tolerance

    def judge(self, requests: Sequence[PairRequest]) -> list[PairVerdict]:
        """Return one verdict for each request, in order; a response that cannot be rated gives its status to the pair."""
        asked = [
            ScoreRequest("", number, request.messages, response, {})
            for number, request in enumerate(requests)
            for response in (request.first, request.second)
        ]
        scores = self._scorer.score(asked) if asked else []
        return [self._compare(*pair) for pair in zip(scores[::2], scores[1::2], strict=True)]

    def close(self) -> None:
        """Release the model's memory."""
        self._scorer.close()

    def _compare(self, first: Score, second: Score) -> PairVerdict:
        for name, score in (("first", first), ("second", second)):
            if score.reward is None or not np.isfinite(score.reward):
                status = score.status if score.status != "ok" else "not_finite"
                return PairVerdict(
                    None, status=status, reason=f"the {name} response: {score.reason}"
                )
        assert first.reward is not None
        assert second.reward is not None
        hard = preference(
            np.array([first.reward]), np.array([second.reward]), tie_tolerance=self._tie_tolerance
        )
        choice = {1.0: "first", 0.0: "second"}.get(hard, "tie")
        graded = float(
            0.5 * (1.0 + np.tanh(0.5 * (first.reward - second.reward)))
        )  # the sigmoid, without overflow
        value = graded if self._rule == "sigmoid" else hard
        return PairVerdict(
            value, choice, raw=json.dumps({"first": first.reward, "second": second.reward})
        )
