"""A reward model, or any scorer, as a judge of pairs.

It sees each response alone, so there is no order bias.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from prefpipe.backends.protocol import PairRequest, PairVerdict, Score, Scorer, ScoreRequest
from prefpipe.maths.statistics.winrate import preference


class RewardJudge:
    """Compares rewards.

    ``sigmoid``: the preference is ``1 / (1 + exp(-(r_first - r_second)))``, the Bradley-Terry
    probability, which is valid for rewards trained with that model. ``hard``: 1, 0, or 1/2 if the
    rewards differ by ``tie_tolerance`` or less.
    """

    def __init__(
        self, scorer: Scorer, *, rule: Literal["sigmoid", "hard"], tie_tolerance: float
    ) -> None:
        self._scorer, self._rule, self._tie_tolerance = scorer, rule, tie_tolerance

    def judge(self, requests: Sequence[PairRequest]) -> list[PairVerdict]:
        """Return one verdict for each request, in order.

        A response that cannot be rated passes its status to the pair.
        """
        if not requests:
            return []
        to_rate: list[ScoreRequest] = []
        for number, request in enumerate(requests):
            shown = ScoreRequest("", number, request.messages, request.first, {})
            to_rate += [shown, shown._replace(response=request.second)]

        scores = self._scorer.score(to_rate)
        verdicts = []
        for first, second in zip(scores[::2], scores[1::2], strict=True):
            tally = Counter(first.tally) + Counter(second.tally)
            verdicts.append(self._compare(first, second)._replace(tally=tally))
        return verdicts

    def close(self) -> None:
        """Release the model's memory."""
        self._scorer.close()

    def _compare(self, first: Score, second: Score) -> PairVerdict:
        for name, score in (("first", first), ("second", second)):
            if score.reward is None or not np.isfinite(score.reward):
                status = score.status if score.status != "ok" else "not_finite"
                reason = f"the {name} response: {score.reason}"
                return PairVerdict(None, status=status, reason=reason)
        assert first.reward is not None
        assert second.reward is not None

        hard = preference(
            np.array([first.reward]), np.array([second.reward]), tie_tolerance=self._tie_tolerance
        )
        # The sigmoid, without overflow.
        graded = float(0.5 * (1.0 + np.tanh(0.5 * (first.reward - second.reward))))
        return PairVerdict(
            preference=graded if self._rule == "sigmoid" else hard,
            choice={1.0: "first", 0.0: "second"}.get(hard, "tie"),
            raw=json.dumps({"first": first.reward, "second": second.reward}),
        )
