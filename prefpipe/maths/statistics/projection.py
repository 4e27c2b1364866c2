"""Points of many dimensions in two, so that they can be drawn."""

from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA

from prefpipe.errors import InputError

ROUNDING = 1e-9
"""Relative differences below this are rounding: of singular values to the largest norm, of
coordinates to the largest."""


class Projection(NamedTuple):
    """Coordinates (R, 2), the share of the variance that each axis shows, and where they come from.

    ``shares`` (2,) are in [0, 1], and 0 where all points are equal. The share not shown is ``1 -
    sum(shares)``. ``n_dimensions`` are those of the points.
    """

    coordinates: np.ndarray
    shares: np.ndarray
    n_dimensions: int


def project(vectors_RD: np.ndarray) -> Projection:
    """Return the first two principal components of points.

    Principal components are classical multidimensional scaling of the Euclidean distances
    (Torgerson 1952), which are the distances that selection works with. Distances in the plane are
    at most the real ones. Of each axis the coordinate that is furthest from 0 is positive, of equal
    ones the first, so the picture does not depend on the solver's signs.

    Args:
        vectors_RD: (R, D), finite, R and D at least 1.

    Raises:
        InputError: not a matrix, no point, or a number that is not finite.
    """
    vectors = np.asarray(vectors_RD, dtype=np.float64)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise InputError(
            f"embeddings have shape {vectors.shape}, expected (R, D): one vector per candidate"
        )
    is_finite = np.isfinite(vectors).all(axis=1)
    if not is_finite.all():
        raise InputError(f"the embedding of candidate {int(np.argmin(is_finite))} is not finite")

    # The full solver is deterministic. Points without spread would divide by a variance of 0.
    pca = PCA(svd_solver="full")
    with np.errstate(invalid="ignore", divide="ignore"):
        components = pca.fit_transform(vectors)

    # An axis within rounding counts as none and adds no variance.
    largest_norm = np.linalg.norm(vectors, axis=1).max()
    is_axis = pca.singular_values_ > ROUNDING * largest_norm
    squares = np.where(is_axis, pca.singular_values_, 0.0) ** 2

    n_axes = min(2, len(squares))
    coordinates, shares = np.zeros((len(vectors), 2)), np.zeros(2)
    if is_axis.any():
        coordinates[:, :n_axes] = np.where(is_axis, components, 0.0)[:, :n_axes]
        shares[:n_axes] = squares[:n_axes] / squares.sum()

    # Adding 0.0 turns -0.0 into 0.0.
    return Projection(coordinates * _signs(coordinates) + 0.0, shares, vectors.shape[1])


def _signs(coordinates: np.ndarray) -> np.ndarray:
    """Return 1 or -1 for each axis, so that its coordinate furthest from 0 becomes positive."""
    sizes = np.abs(coordinates)
    is_furthest = sizes >= sizes.max(axis=0) * (1.0 - ROUNDING)
    first = np.argmax(is_furthest, axis=0)
    return np.where(coordinates[first, np.arange(coordinates.shape[1])] < 0.0, -1.0, 1.0)
