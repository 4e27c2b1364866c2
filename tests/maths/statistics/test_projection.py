"""Two dimensions of many: principal components, whatever the solver's signs."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from prefpipe.errors import InputError
from prefpipe.maths.statistics.projection import project


def vectors(n: int, n_dimensions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, n_dimensions)) * np.linspace(
        3.0, 0.5, n_dimensions
    )


def distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=2)


@pytest.mark.parametrize(("n", "n_dimensions"), [(3, 2), (8, 5), (32, 384), (64, 16), (5, 400)])
def test_the_projection_is_the_pca_up_to_signs(n: int, n_dimensions: int) -> None:
    points = vectors(n, n_dimensions)
    pca = PCA(n_components=2)
    expected = pca.fit_transform(points)
    found = project(points)
    assert np.abs(found.coordinates) == pytest.approx(np.abs(expected), abs=1e-9)
    assert found.shares == pytest.approx(pca.explained_variance_ratio_)
    assert found.n_dimensions == n_dimensions


def test_two_dimensions_keep_every_distance() -> None:
    points = vectors(20, 2)
    turned = (
        points @ np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))[0][:2]
    )  # a plane in seven dimensions
    found = project(turned)
    assert distances(found.coordinates) == pytest.approx(distances(points))
    assert found.shares.sum() == pytest.approx(1.0)


def test_distances_in_the_plane_are_at_most_the_real_ones() -> None:
    points = vectors(30, 50)
    assert (distances(project(points).coordinates) <= distances(points) + 1e-9).all()


def test_signs_do_not_depend_on_the_order_of_candidates_or_on_mirrors() -> None:
    points = vectors(12, 9)
    found = project(points)
    order = np.random.default_rng(2).permutation(12)
    assert project(points[order]).coordinates == pytest.approx(found.coordinates[order])
    assert project(points + 5.0).coordinates == pytest.approx(found.coordinates)
    assert project(-points).coordinates == pytest.approx(found.coordinates)
    assert (found.coordinates[np.abs(found.coordinates).argmax(axis=0), [0, 1]] > 0).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_equal_vectors_are_one_point(n: int, dtype: type) -> None:
    found = project(np.tile(vectors(1, 384).astype(dtype), (n, 1)))
    assert (found.coordinates == 0.0).all()
    assert (found.shares == 0.0).all()


def test_two_candidates_stand_on_one_axis() -> None:
    points = vectors(2, 10)
    found = project(points)
    assert found.coordinates[:, 1].tolist() == [0.0, 0.0]
    assert found.coordinates[0, 0] == pytest.approx(
        np.linalg.norm(points[0] - points[1]) / 2
    )  # the first is positive
    assert found.coordinates[1, 0] == pytest.approx(-found.coordinates[0, 0])
    assert found.shares == pytest.approx([1.0, 0.0])


def test_points_of_one_dimension_stand_on_one_axis() -> None:
    found = project(np.array([[1.0], [3.0], [8.0]]))
    assert found.coordinates.tolist() == pytest.approx(
        np.array([[-3.0, 0.0], [-1.0, 0.0], [4.0, 0.0]])
    )


@pytest.mark.parametrize(
    "bad", [np.zeros(3), np.zeros((0, 4)), np.zeros((4, 0)), np.zeros((2, 2, 2))]
)
def test_what_is_no_matrix_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="one vector per candidate"):
        project(bad)


def test_a_number_that_is_none_is_named() -> None:
    points = vectors(4, 3)
    points[2, 1] = np.nan
    with pytest.raises(InputError, match="the embedding of candidate 2 is not finite"):
        project(points)
