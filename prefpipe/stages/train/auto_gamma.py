"""``--gamma auto``: how MMPO's gamma is chosen."""

from collections.abc import Callable

import numpy as np
import polars as pl

from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import Artifact, open_input
from prefpipe.configs.train import AUTO
from prefpipe.errors import UsageError
from prefpipe.maths.statistics.rater_agreement import (
    AgreedGamma,
    RatedPairs,
    gamma_of_agreement,
    gamma_of_point,
    rated_pairs,
)


def gamma_of(
    gamma: str | None,
    *,
    point_wins: float | None,
    rater_scores: Location | None,
    say: Callable[[str], None],
) -> float | None:
    """Return gamma as it was given, or chosen as ``--gamma auto`` asks; None if none was given.

    Args:
        gamma: a number or ``auto``, checked.
        point_wins: of ``--point-wins``.
        rater_scores: of ``--rater-scores``.
        say: takes a line that says what a chosen gamma means.

    Raises:
        InputError: no scores.
        UsageError: fewer than two raters, or ratings that no gamma fits.
    """
    if gamma is None:
        return None
    if gamma != AUTO:
        return float(gamma)

    if point_wins is not None:
        of_point = gamma_of_point(point_wins)
        say(f"--gamma auto is {of_point:.4g}: one point better wins {point_wins:.1%}")
        return of_point

    assert rater_scores is not None
    scores = open_rater_scores(rater_scores)
    raters, agreed = _fit(scores, rater_scores)
    # targets of a pair one point apart, as --point-wins would state it
    point = 1.0 / (1.0 + np.exp(-agreed.gamma))
    say(
        f"--gamma auto is {agreed.gamma:.4g}: {len(raters)} raters ({', '.join(raters)}) "
        f"order {agreed.agreement:.1%} of {agreed.n_pairs:,} pairs alike; one point better wins "
        f"{point:.1%}"
    )
    return agreed.gamma


def open_rater_scores(folder: Location) -> Artifact:
    """Return the scores of ``--rater-scores``.

    Raises:
        InputError: there are none.
    """
    return open_input(folder, schema="scores", name="--rater-scores")


def _fit(scores: Artifact, path: Location) -> tuple[list[str], AgreedGamma]:
    """Return the raters, and the gamma that fits their agreement."""
    columns = ["prompt_id", "sample_idx", "scorer", "reward"]
    rows = pl.DataFrame(scores.read_all(columns)).drop_nulls("reward")
    raters = sorted(rows["scorer"].unique())
    if len(raters) < 2:
        raise UsageError(
            f"--rater-scores {path} has {len(raters)} rater ({', '.join(raters)}), and agreement "
            "needs two",
            hint="import the ratings of each rater as a separate scorer: --reward-column "
            "alice=COLUMN --reward-column bob=COLUMN",
        )

    wide = rows.pivot(on="scorer", index=["prompt_id", "sample_idx"], values="reward")
    gaps, outcomes = [], []
    for prompt in wide.sort("prompt_id", "sample_idx").partition_by("prompt_id"):
        pairs = rated_pairs(prompt.select(raters).cast(pl.Float64).fill_null(np.nan).to_numpy())
        gaps.append(pairs.gaps)
        outcomes.append(pairs.outcomes)
    return raters, gamma_of_agreement(RatedPairs(np.concatenate(gaps), np.concatenate(outcomes)))
