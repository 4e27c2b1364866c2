"""Holm's correction for several tests at once."""

import numpy as np

from prefpipe.errors import InputError


def holm(p_values_M: np.ndarray) -> np.ndarray:
    r"""Return the corrected p values (M,), each to be compared with the level itself.

    Holm 1979, "A simple sequentially rejective multiple test procedure". Of ascending p::

        corrected_(i) = max over j <= i of min(1, (M - j + 1) p_(j))

    Whatever the dependence between the tests, the probability that one or more true null
    hypotheses has a corrected p of at most alpha is at most alpha.

    A test without a p value yet (NaN) stays NaN but counts in M, so that finished tests of a
    declared family are corrected for the whole family.

    Raises:
        InputError: not one axis, or a p value outside [0, 1].
    """
    p_values_M = np.asarray(p_values_M, dtype=np.float64)
    if p_values_M.ndim != 1:
        raise InputError(f"p values of shape {p_values_M.shape}; expected one per test")
    is_known_M = ~np.isnan(p_values_M)
    known = p_values_M[is_known_M]
    is_outside = (known < 0.0) | (known > 1.0)
    if is_outside.any():
        raise InputError(f"a p value of {known[is_outside][0]:g}; p values must be in [0, 1]")

    ascending = np.argsort(known, kind="stable")
    factors = len(p_values_M) - np.arange(len(known))
    corrected = np.empty(len(known))
    corrected[ascending] = np.maximum.accumulate(np.minimum(1.0, factors * known[ascending]))
    corrected_M = np.full(len(p_values_M), np.nan)
    corrected_M[is_known_M] = corrected
    return corrected_M
