"""What strategies need beside rewards and embeddings, made up by arithmetic for any pool."""

from typing import Any

import numpy as np

from prefpipe.maths.selection.registry import STRATEGIES


def evidence_for(strategy: str, n: int) -> dict[str, Any]:
    """Return the options of `select_responses` that a strategy cannot do without, of n candidates.

    Spreads are powers of two, so that bounds of rewards with few digits are exact.
    """
    needs = STRATEGIES[strategy].needs
    if needs == "uncertainty":
        return {"uncertainty": 0.5 ** (np.arange(n) * 7 % 5)}
    if needs == "samplers":
        names = ["big", "small"]
        samplers = [names[place % 2] for place in range(n)]
        return {"samplers": samplers, "chosen_from": "big", "rejected_from": "small"}
    return {}


def permuted(evidence: dict[str, Any], order: np.ndarray) -> dict[str, Any]:
    """Return the same of candidates in another order."""
    changed = dict(evidence)
    for name in ("uncertainty", "samplers"):
        if name in changed:
            changed[name] = np.asarray(changed[name])[order]
    return changed
