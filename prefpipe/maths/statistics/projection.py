"""Points of many dimensions in two, so that they can be drawn."""

from typing import NamedTuple

import numpy as np

from prefpipe.errors import InputError

ROUNDING = 1e-9
"""Relative differences below this are rounding: of singular values to the largest norm, of coordinates to the largest."""


class Projection(NamedTuple):
    """Coordinates (R, 2), the share of the variance that each axis shows (2,), in [0, 1], and the dimensions they come from.

    The shares are 0 where all points are equal. What is not shown is ``1 - sum(shares)``.
    """

    coordinates: np.ndarray
    shares: np.ndarray
    n_dimensions: int


def project(vectors_RD: np.ndarray) -> Projection:
    """Return the first two principal components of points.

    Principal components are classical multidimensional scaling of the Euclidean distances (Torgerson 1952), which are the
    distances that selection works with. Distances in the plane are at most the real ones. Of each axis the coordinate that is
    furthest from 0 is positive, of equal ones the first, so the picture does not depend on the solver's signs.

    Args:
        vectors_RD: (R, D), finite, R and D at least 1.

    Raises:
        InputError: not a matrix, no point, or a number that is not finite.
    """
    vectors = np.asarray(vectors_RD, dtype=np.float64)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise InputError(
            f"embeddings have shape {vectors.shape}, expected (R, D): a vector for each candidate"
        )
    if not np.isfinite(vectors).all():
        raise InputError(
            f"the embedding of candidate {int(np.argmin(np.isfinite(vectors).all(axis=1)))} is not finite"
        )
    centred = vectors - vectors.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    singular[singular <= ROUNDING * np.linalg.norm(vectors, axis=1).max()] = 0.0
    n_axes = min(2, len(singular))
    coordinates, shares = np.zeros((len(vectors), 2)), np.zeros(2)
    coordinates[:, :n_axes] = left[:, :n_axes] * singular[:n_axes]
    total = float((singular**2).sum())
    if total > 0.0:
        shares[:n_axes] = singular[:n_axes] ** 2 / total
    return Projection(
        coordinates * _signs(coordinates) + 0.0, shares, vectors.shape[1]
    )  # + 0.0: no -0.0


def _signs(coordinates: np.ndarray) -> np.ndarray:
    """Return 1 or -1 for each axis, so that its coordinate furthest from 0 becomes positive."""
    sizes = np.abs(coordinates)
    first = np.argmax(sizes >= sizes.max(axis=0) * (1.0 - ROUNDING), axis=0)
    return np.where(coordinates[first, np.arange(coordinates.shape[1])] < 0.0, -1.0, 1.0)
