"""Groups as preferences: ties, copies, lengths, and what remains under the length limit."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from prefpipe.errors import InputError
from prefpipe.maths.compute.training_compute import TokenSums
from prefpipe.maths.statistics.rank_correlation import spearman, spearman_within
from prefpipe.training.groups import (
    ROLES,
    Group,
    Key,
    Response,
    ResponseStatus,
    check_group,
    missing_role,
    pairs_in,
    prepare_groups,
)
from prefpipe.training.shared_prompt import n_packed_tokens

OUTLYING = 10.0
"""Robust standard deviations from the median beyond which a reward is an outlier **(ours)**."""
MAD_TO_STD = 1.4826
"""Of a normal distribution: standard deviation over median absolute deviation."""
PAIR_COUNTS = (
    "n",
    "tied",
    "inverted",
    "same_text",
    "same_when_cut",
    "chosen_longer",
    "chosen_shorter",
)


class PairCheck:
    """Takes groups one by one; ``facts`` returns the figures.

    Counted in a loop, not by polars: responses come as Python's lists of token ids, group by group.
    """

    def __init__(
        self, *, max_length: int, on_too_long: str, roles: tuple[str, ...] = ROLES
    ) -> None:
        self.max_length = max_length
        # Those that the objective reads.
        self.roles = roles
        # `error` stops at the first: here all of them are to be counted.
        self.on_too_long = "truncate" if on_too_long == "truncate" else "drop"
        self.statuses: dict[Key, ResponseStatus] = {}
        self.broken: list[str] = []

        # Of groups, as they came and as they are left to train on.
        self.n_groups, self.n_equal_rewards, self.n_negatives = 0, 0, 0
        self.n_left, self.largest = 0, 0
        self.sums = np.zeros(5)

        # Of responses: ``prompts`` is the number of each one's group, ``totals`` counts its prompt.
        self.rewards: list[float] = []
        self.lengths: list[int] = []
        self.totals: list[int] = []
        self.prompts: list[int] = []
        self.n_same_text, self.n_same_ids = 0, 0

        # Of pairs.
        self.pairs: Counter[str] = Counter()
        self.margins: list[float] = []

    def add(self, group: Group, texts: Sequence[str]) -> list[Group]:
        """Add a group with the texts of its responses.

        Returns:
            The group as it is left to train on; [] if nothing is.
        """
        try:
            check_group(group, self.statuses)  # keys of other parts too, as for train
            prepared = prepare_groups(
                [group],
                max_length=self.max_length,
                on_too_long=self.on_too_long,
                find_missing=partial(missing_role, roles=self.roles),
                roles=self.roles,
            )
        # Counted, and in no other figure: train would refuse it.
        except InputError as error:
            self.broken.append(error.message)
            return []

        self.n_groups += 1
        self.statuses |= prepared.statuses
        self.n_negatives += sum(each.role == "negative" for each in group.responses)

        # What the objective does not read is in no figure.
        text_of = {}
        for response, text in zip(group.responses, texts, strict=True):
            if response.role in self.roles:
                text_of[response.sample_idx] = text
        used = [each for each in group.responses if each.sample_idx in text_of]
        self._add_responses(group._replace(responses=used), list(text_of.values()))
        room = self.max_length - len(group.prompt_token_ids)
        if self.roles == ROLES:
            for chosen, rejected in pairs_in(group):
                self._add_pair(chosen, rejected, text_of, room)
        for kept in prepared.groups:
            self._add_kept(kept)
        return prepared.groups

    def _add_responses(self, group: Group, texts: Sequence[str]) -> None:
        rewards, n_prompt_tokens = [], len(group.prompt_token_ids)
        for response in group.responses:
            rewards.append(response.reward)
            self.lengths.append(len(response.token_ids))
            self.totals.append(n_prompt_tokens + len(response.token_ids))
            self.prompts.append(self.n_groups)
        self.rewards += rewards
        if self.roles == ROLES:
            self.n_equal_rewards += len(rewards) > 1 and min(rewards) == max(rewards)

        different_ids = {tuple(response.token_ids) for response in group.responses}
        self.n_same_text += len(texts) - len(set(texts))
        self.n_same_ids += len(texts) - len(different_ids)

    def _add_pair(
        self, chosen: Response, rejected: Response, text_of: Mapping[int, str], room: int
    ) -> None:
        n_longer = len(chosen.token_ids) - len(rejected.token_ids)
        self.margins.append(chosen.reward - rejected.reward)
        self.pairs.update(
            n=1,
            tied=chosen.reward == rejected.reward,
            inverted=chosen.reward < rejected.reward,
            same_text=text_of[chosen.sample_idx] == text_of[rejected.sample_idx],
            chosen_longer=n_longer > 0,
            chosen_shorter=n_longer < 0,
            same_when_cut=_are_cut_alike(chosen, rejected, room),
        )

    def _add_kept(self, group: Group) -> None:
        prompt = len(group.prompt_token_ids)
        lengths = [len(response.token_ids) for response in group.responses]
        # The prompt attends to itself once, every response to it and to itself.
        squared = prompt**2 + sum((prompt + length) ** 2 - prompt**2 for length in lengths)
        self.sums += np.array([1, len(lengths), prompt, sum(lengths), squared], np.float64)
        self.largest = max(self.largest, n_packed_tokens(group))
        self.n_left += 1

    def token_sums(self) -> TokenSums:
        """Return the tokens of one pass over what is left to train on, each prompt once."""
        return TokenSums(*self.sums.tolist())

    def facts(self) -> dict[str, Any]:
        """Return counts and figures as JSON values."""
        rewards = np.array(self.rewards, np.float64)
        lengths = np.array(self.lengths, np.float64)
        prompts = np.array(self.prompts, np.float64)
        statuses = Counter(each.status for each in self.statuses.values())
        return {
            "n_groups": self.n_groups,
            "n_groups_left": self.n_left,
            "n_responses": len(rewards),
            "n_negatives": self.n_negatives,
            "n_groups_of_equal_rewards": self.n_equal_rewards,
            "n_same_text": self.n_same_text,
            "n_same_ids": self.n_same_ids,
            "broken": self.broken[:3],
            "n_broken": len(self.broken),
            "fates": dict(statuses),
            "pairs": {name: self.pairs[name] for name in PAIR_COUNTS},
            "reward_and_length": {
                "within_prompts": _or_none(spearman_within(rewards, lengths, prompts)),
                "over_all": _or_none(spearman(rewards, lengths)),
            },
            "outliers": outliers_of(rewards),
        }


def outliers_of(rewards_N: np.ndarray) -> dict[str, Any]:
    """Return how many rewards lie far from the median, and the extremes.

    Far is more than ``OUTLYING`` robust standard deviations.
    """
    finite = rewards_N[np.isfinite(rewards_N)]
    if not len(finite):
        return {"n": 0, "median": None, "scale": None, "min": None, "max": None}

    median = float(np.median(finite))
    deviations = np.abs(finite - median)
    scale = MAD_TO_STD * float(np.median(deviations))
    # Where half of the rewards or more are equal there is no scale, and nothing is called outlying.
    n_outliers = 0
    if scale > 0:
        n_outliers = int((deviations > OUTLYING * scale).sum())
    return {
        "n": n_outliers,
        "median": median,
        "scale": scale,
        "min": float(finite.min()),
        "max": float(finite.max()),
    }


def _are_cut_alike(chosen: Response, rejected: Response, room: int) -> bool:
    """Return whether two different responses have the same tokens within the length limit."""
    if room < 1 or list(chosen.token_ids) == list(rejected.token_ids):
        return False
    return list(chosen.token_ids[:room]) == list(rejected.token_ids[:room])


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
