"""``--gamma auto``: what MMPO's gamma is chosen by."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from prefpipe.artifacts.store import Artifact, open_input
from prefpipe.configs.train import AUTO, TrainConfig
from prefpipe.errors import UsageError
from prefpipe.maths.statistics.rater_agreement import (
    AgreedGamma,
    RatedPairs,
    gamma_of_agreement,
    gamma_of_point,
    rated_pairs,
)


def gamma_of(config: TrainConfig, say: Callable[[str], None]) -> float | None:
    """Return gamma as it was given, or chosen as ``--gamma auto`` asks; None where none was given.

    Args:
        config: checked.
        say: is told what a chosen gamma means.

    Raises:
        InputError: no scores.
        UsageError: fewer than two raters, or ratings that no gamma fits.
    """
    if config.gamma is None:
        return None
    if config.gamma != AUTO:
        return float(config.gamma)

    if config.point_wins is not None:
        gamma = gamma_of_point(config.point_wins)
        say(f"--gamma auto is {gamma:.4g}: one point better wins {config.point_wins:.1%}")
        return gamma

    assert config.rater_scores is not None
    scores = open_input(config.rater_scores, schema="scores", name="--rater-scores")
    raters, agreed = _fit(scores, config.rater_scores)
    # targets of a pair one point apart, as --point-wins would state it
    point = 1.0 / (1.0 + np.exp(-agreed.gamma))
    say(
        f"--gamma auto is {agreed.gamma:.4g}: {len(raters)} raters ({', '.join(raters)}) "
        f"order {agreed.agreement:.1%} of {agreed.n_pairs:,} pairs alike; one point better wins "
        f"{point:.1%}"
    )
    return agreed.gamma


def _fit(scores: Artifact, path: Path) -> tuple[list[str], AgreedGamma]:
    """Return the raters, and the gamma that fits their agreement."""
    columns = ["prompt_id", "sample_idx", "scorer", "reward"]
    rows = pl.DataFrame(scores.read_all(columns)).drop_nulls("reward")
    raters = sorted(rows["scorer"].unique())
    if len(raters) < 2:
        raise UsageError(
            f"--rater-scores {path} has {len(raters)} rater ({', '.join(raters)}), and agreement "
            "needs two",
            hint="import the ratings of each rater as a scorer of its own, "
            "--reward-column alice=COLUMN --reward-column bob=COLUMN",
        )

    wide = rows.pivot(on="scorer", index=["prompt_id", "sample_idx"], values="reward")
    gaps, outcomes = [], []
    for prompt in wide.sort("prompt_id", "sample_idx").partition_by("prompt_id"):
        pairs = rated_pairs(prompt.select(raters).cast(pl.Float64).fill_null(np.nan).to_numpy())
        gaps.append(pairs.gaps)
        outcomes.append(pairs.outcomes)
    return raters, gamma_of_agreement(RatedPairs(np.concatenate(gaps), np.concatenate(outcomes)))
