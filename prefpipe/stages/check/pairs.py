"""What is to be known of groups as preferences: ties, copies, lengths, and what the length limit leaves of them."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefpipe.errors import InputError
from prefpipe.maths.compute.training_compute import TokenSums
from prefpipe.maths.statistics.calibration import preference_probabilities
from prefpipe.maths.statistics.rank_correlation import spearman, spearman_within
from prefpipe.training.groups import (
    Group,
    Key,
    Response,
    ResponseStatus,
    check_group,
    pairs_in,
    prepare_groups,
)
from prefpipe.training.shared_prompt import n_packed_tokens

OUTLYING = 10.0
"""Robust standard deviations from the median beyond which a reward is called an outlier **(ours)**."""
MAD_TO_STD = 1.4826
"""Of a normal distribution: standard deviation over median absolute deviation."""


class PairCheck:
    """Takes groups one by one; ``facts`` says what was seen."""

    def __init__(self, *, max_length: int, on_too_long: str) -> None:
        self.max_length = max_length
        # `error` stops at the first: here all of them are to be counted
        self.on_too_long = "truncate" if on_too_long == "truncate" else "drop"
        self.pairs: Counter[str] = Counter()
        self.fates: Counter[str] = Counter()
        self.fates_by_key: dict[Key, ResponseStatus] = {}
        self.broken: list[str] = []
        self.n_groups, self.n_left, self.largest = 0, 0, 0
        self.n_same_text, self.n_same_ids, self.n_equal_rewards = 0, 0, 0
        self.rewards: list[float] = []
        self.margins: list[float] = []
        self.lengths: list[int] = []
        self.totals: list[int] = []
        self.prompts: list[int] = []
        self.sums = np.zeros(5)

    def add(self, group: Group, texts: Sequence[str]) -> None:
        """Take in a group, its responses' texts beside it."""
        try:
            check_group(group, self.fates_by_key)  # keys of other parts too, as for train
            prepared = prepare_groups(
                [group], max_length=self.max_length, on_too_long=self.on_too_long
            )
        except InputError as error:
            self.broken.append(error.message)
            return
        self.n_groups += 1
        self.fates_by_key |= prepared.statuses
        self.fates.update(fate.status for fate in prepared.statuses.values())
        rewards = [response.reward for response in group.responses]
        self.n_equal_rewards += len(rewards) > 1 and min(rewards) == max(rewards)
        self.rewards += rewards
        self.lengths += [len(response.token_ids) for response in group.responses]
        self.totals += [
            len(group.prompt_token_ids) + len(response.token_ids) for response in group.responses
        ]
        self.prompts += [self.n_groups] * len(rewards)
        self.n_same_text += len(texts) - len(set(texts))
        self.n_same_ids += len(texts) - len(
            {tuple(response.token_ids) for response in group.responses}
        )
        text_of = dict(
            zip((response.sample_idx for response in group.responses), texts, strict=True)
        )
        room = self.max_length - len(group.prompt_token_ids)
        for chosen, rejected in pairs_in(group):
            self._add_pair(chosen, rejected, text_of, room)
        for kept in prepared.groups:
            self._add_kept(kept)

    def _add_pair(
        self, chosen: Response, rejected: Response, text_of: dict[int, str], room: int
    ) -> None:
        self.margins.append(chosen.reward - rejected.reward)
        longer = len(chosen.token_ids) - len(rejected.token_ids)
        self.pairs.update(
            n=1,
            tied=chosen.reward == rejected.reward,
            inverted=chosen.reward < rejected.reward,
            same_text=text_of[chosen.sample_idx] == text_of[rejected.sample_idx],
            chosen_longer=longer > 0,
            chosen_shorter=longer < 0,
            same_when_cut=_are_cut_alike(chosen, rejected, room),
        )

    def _add_kept(self, group: Group) -> None:
        prompt = len(group.prompt_token_ids)
        lengths = [len(response.token_ids) for response in group.responses]
        # the prompt attends to itself once, every response to it and to itself
        squared = prompt**2 + sum((prompt + length) ** 2 - prompt**2 for length in lengths)
        self.sums += np.array([1, len(lengths), prompt, sum(lengths), squared], np.float64)
        self.largest = max(self.largest, n_packed_tokens(group))
        self.n_left += 1

    def token_sums(self) -> TokenSums:
        """Return the tokens of one pass over what is left to train on, each prompt computed once."""
        return TokenSums(*self.sums.tolist())

    def facts(self) -> dict[str, Any]:
        """Return counts and figures as JSON values."""
        rewards, lengths, prompts = (
            np.array(values, np.float64) for values in (self.rewards, self.lengths, self.prompts)
        )
        return {
            "n_groups": self.n_groups,
            "n_groups_left": self.n_left,
            "n_responses": len(self.rewards),
            "n_groups_of_equal_rewards": self.n_equal_rewards,
            "n_same_text": self.n_same_text,
            "n_same_ids": self.n_same_ids,
            "broken": self.broken[:3],
            "n_broken": len(self.broken),
            "fates": dict(self.fates),
            "pairs": {
                name: self.pairs[name]
                for name in (
                    "n",
                    "tied",
                    "inverted",
                    "same_text",
                    "same_when_cut",
                    "chosen_longer",
                    "chosen_shorter",
                )
            },
            "reward_and_length": {
                "within_prompts": _or_none(spearman_within(rewards, lengths, prompts)),
                "over_all": _or_none(spearman(rewards, lengths)),
            },
            "outliers": outliers_of(rewards),
        }


NEAR = 0.05
"""Targets closer than this to 1/2 say next to nothing, those closer to 1 what DPO says **(ours)**."""


def targets_of(margins_N: np.ndarray, gamma: float) -> dict[str, Any]:
    """Return what MMPO is told of pairs: their targets ``p = sigma(gamma * margin)`` and how many are near 1/2, near 1.

    ``quantiles`` of 5, 25, 50, 75 and 95 %; ``share_near_half``: ``|p - 1/2| < NEAR``; ``share_near_one``: ``p > 1 - NEAR``.
    """
    finite = margins_N[np.isfinite(margins_N)]
    if not len(finite):
        return {
            "gamma": gamma,
            "n": 0,
            "quantiles": None,
            "share_near_half": None,
            "share_near_one": None,
        }
    p = preference_probabilities(gamma * finite)
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {
        "gamma": gamma,
        "n": len(p),
        "quantiles": {f"{level:g}": float(np.quantile(p, level)) for level in levels},
        "share_near_half": float((np.abs(p - 0.5) < NEAR).mean()),
        "share_near_one": float((p > 1.0 - NEAR).mean()),
    }


def outliers_of(rewards_N: np.ndarray) -> dict[str, Any]:
    """Return how many rewards lie more than ``OUTLYING`` robust standard deviations from the median, and the extremes."""
    finite = rewards_N[np.isfinite(rewards_N)]
    if not len(finite):
        return {"n": 0, "median": None, "scale": None, "min": None, "max": None}
    median = float(np.median(finite))
    scale = MAD_TO_STD * float(np.median(np.abs(finite - median)))
    n = int((np.abs(finite - median) > OUTLYING * scale).sum()) if scale > 0 else 0
    return {
        "n": n,
        "median": median,
        "scale": scale,
        "min": float(finite.min()),
        "max": float(finite.max()),
    }


def _are_cut_alike(chosen: Response, rejected: Response, room: int) -> bool:
    """Return whether two responses that differ are the same tokens within the ``room`` behind their prompt."""
    if room < 1 or list(chosen.token_ids) == list(rejected.token_ids):
        return False
    return list(chosen.token_ids[:room]) == list(rejected.token_ids[:room])


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
