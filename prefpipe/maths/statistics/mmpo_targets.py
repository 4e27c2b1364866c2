"""The targets that MMPO makes of pairs: how many of them say something."""

from typing import Any

import numpy as np

from prefpipe.maths.statistics.calibration import preference_probabilities

NEAR = 0.05
"""Targets closer to 1/2 say next to nothing, those closer to 1 what DPO says **(ours)**."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def targets_of(margins_N: np.ndarray, gamma: float) -> dict[str, Any]:
    """Return the targets that MMPO makes of pairs, ``p = sigma(gamma * margin)``.

    Keys: ``gamma``, ``n``, ``quantiles`` of 5, 25, 50, 75 and 95 %, ``share_near_half``:
    ``|p - 1/2| < NEAR``, and ``share_near_one``: ``p > 1 - NEAR``.
    """
    finite = margins_N[np.isfinite(margins_N)]
    if not len(finite):
        shares = {"share_near_half": None, "share_near_one": None}
        return {"gamma": gamma, "n": 0, "quantiles": None, **shares}

    p = preference_probabilities(gamma * finite)
    return {
        "gamma": gamma,
        "n": len(p),
        "quantiles": {f"{level:g}": float(np.quantile(p, level)) for level in QUANTILES},
        "share_near_half": float((np.abs(p - 0.5) < NEAR).mean()),
        "share_near_one": float((p > 1.0 - NEAR).mean()),
    }
