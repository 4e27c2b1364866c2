"""What a study of this size could tell apart, before it is run: from assumed spreads."""

from pathlib import Path

import numpy as np

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.store import Artifact
from prefpipe.errors import PrefpipeError
from prefpipe.maths.statistics.detectable import (
    Spreads,
    detectable_difference,
    error_before,
    spread_of_samples,
)

OF_SEEDS, OF_PROMPTS, WITHIN_PROMPT = 0.02, 0.10, 0.20
"""Assumed of rewards in [0, 1]: by how much the difference of two arms varies from seed to seed and
from prompt to prompt, and the rewards of one prompt's responses."""


def detectable_note(
    scores: Path, *, n_seeds: int, n_prompts: int, n_samples: int, n_contrasts: int
) -> str:
    """Return the smallest difference of mean reward that the design finds, in words.

    Args:
        scores: of responses like those that will be judged; assumed where they are not there, or
            of several scorers.
        n_seeds: of each arm.
        n_prompts: that are held out.
        n_samples: of each for an arm.
        n_contrasts: that were declared.
    """
    measured = _within_prompt(scores)
    within = WITHIN_PROMPT if measured is None else measured
    spreads = Spreads(OF_SEEDS, OF_PROMPTS, spread_of_samples(within, n_samples))
    error = error_before(spreads, n_seeds, n_prompts)
    alone = detectable_difference(error)
    first = detectable_difference(error, n_tests=max(1, n_contrasts))
    found = "assumed" if measured is None else "measured"
    return (
        f"found with power 0.8: a difference of mean reward of {alone:.3f} by one contrast, of "
        f"{first:.3f} at Holm's first step of {max(1, n_contrasts)}; spread over seeds "
        f"{OF_SEEDS:g} and prompts {OF_PROMPTS:g} (assumed), of a prompt's samples {within:.2f} "
        f"({found})"
    )


def _within_prompt(scores: Path) -> float | None:
    """Return the standard deviation of rewards within a prompt, None where nothing says it."""
    try:
        table = Artifact(scores, read_run_record(scores)).read_all(
            ["prompt_id", "scorer", "reward"]
        )
    except PrefpipeError:
        return None
    if len(set(table["scorer"].to_pylist())) != 1:
        return None

    by_prompt: dict[str, list[float]] = {}
    for prompt_id, reward in zip(
        table["prompt_id"].to_pylist(), table["reward"].to_pylist(), strict=True
    ):
        if reward is not None:
            by_prompt.setdefault(prompt_id, []).append(reward)
    variances = [np.var(rewards, ddof=1) for rewards in by_prompt.values() if len(rewards) > 1]
    return float(np.sqrt(np.mean(variances))) if variances else None
