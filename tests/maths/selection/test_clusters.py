"""k-means clusters from distances, and the lowest-reward member of each."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from support.compiled_solvers import cluster_k_means

from prefpipe.maths.selection.clusters import choose_lowest_members
from prefpipe.maths.selection.distances import pairwise_distances


def inertia_of(points, labels):
    """The sum of squared distances to the means, from the points themselves."""
    groups = [points[labels == label] for label in np.unique(labels)]
    return sum(((group - group.mean(axis=0)) ** 2).sum() for group in groups)


def cluster(points, k, **settings):
    return cluster_k_means(cdist(points, points), k, **settings)


def test_the_first_row_of_each_cluster_is_chosen():
    """Rows stand by ascending reward, so the first is the lowest."""
    assert choose_lowest_members(np.array([0, 0, 1, 0, 1, 2]), 3).tolist() == [0, 2, 5]


@pytest.mark.parametrize(
    ("k", "expected"),
    [(1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3, 4])],
)
def test_missing_clusters_are_made_up_by_the_first_rows_left(k, expected):
    """Two clusters among five rows; with k = 1 there is one."""
    labels = np.zeros(5, dtype=np.int64) if k == 1 else np.array([0, 0, 1, 1, 1])
    assert choose_lowest_members(labels, min(k, 5)).tolist() == expected


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 3])
def test_with_every_split_tried_the_clusters_have_the_least_inertia(k):
    """Eight points: all assignments to k clusters are tried."""
    points = np.random.default_rng(7).normal(size=(8, 2))
    splits = (np.array([(code // k**place) % k for place in range(8)]) for code in range(k**8))
    least = min(inertia_of(points, labels) for labels in splits if len(np.unique(labels)) == k)
    found = cluster(points, k, seed=0)
    assert found.inertia == pytest.approx(least, rel=1e-9)
    assert inertia_of(points, found.labels) == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_inertia_needs_no_centres(seed):
    """``W / (2 n)`` summed over clusters is the inertia around the means, in 1 and in 384
    dimensions."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(31, 1 if seed % 2 else 384)) + 50.0
    found = cluster(points, 7, seed=seed)
    assert found.inertia == pytest.approx(inertia_of(points, found.labels), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_no_lloyd_step_and_no_single_move_improves_the_result(seed):
    """A result is a fixed point of Lloyd's algorithm, and of moving any one point to any other
    cluster."""
    points = np.random.default_rng(seed).normal(size=(20, 3))
    labels = cluster(points, 5, seed=seed).labels
    centres = np.stack([points[labels == label].mean(axis=0) for label in range(5)])
    assert (cdist(points, centres).argmin(axis=1) == labels).all()
    inertia = inertia_of(points, labels)
    for row in range(20):
        for target in range(5):
            moved = labels.copy()
            moved[row] = target
            assert len(np.unique(moved)) < 5 or inertia_of(points, moved) >= inertia * (1 - 1e-9)


@pytest.mark.slow
def test_clusters_are_as_tight_as_those_of_scikit_learn():
    """Forty pools of 31 points in six loose groups: never looser on average, and as tight or
    tighter on at least 90 %."""
    ours, theirs = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        points = rng.normal(size=(6, 64))[rng.integers(6, size=31)] + 0.7 * rng.normal(
            size=(31, 64)
        )
        ours.append(cluster(points, 7, seed=seed).inertia)
        theirs.append(
            inertia_of(points, KMeans(7, n_init=10, random_state=seed).fit_predict(points))
        )
    assert np.mean(ours) <= np.mean(theirs)
    assert np.mean(np.array(ours) <= np.array(theirs) * (1 + 1e-9)) >= 0.9


def test_more_starts_are_never_worse():
    points = np.random.default_rng(3).normal(size=(40, 2))
    inertias = [cluster(points, 9, seed=5, n_init=n_init).inertia for n_init in (1, 2, 5, 20)]
    assert inertias == sorted(inertias, reverse=True)


@pytest.mark.parametrize("k", [2, 3, 9])
def test_few_distinct_points_are_each_a_cluster_of_their_own(k):
    found = cluster(np.array([[1.0], [1.0], [2.0], [2.0], [2.0]]), k, seed=0)
    assert (found.labels.tolist(), found.inertia) == ([0, 0, 1, 1, 1], 0.0)


def test_labels_count_from_the_first_row_and_use_every_number():
    labels = cluster(np.random.default_rng(1).normal(size=(30, 3)), 5, seed=2).labels
    numbers, first_rows = np.unique(labels, return_index=True)
    assert numbers.tolist() == [0, 1, 2, 3, 4]
    assert first_rows.tolist() == sorted(first_rows.tolist())


def test_a_64_bit_seed_is_taken_and_repeats():
    points = np.random.default_rng(1).normal(size=(12, 3))
    assert (
        cluster(points, 4, seed=2**64 - 1).labels.tolist()
        == cluster(points, 4, seed=2**64 - 1).labels.tolist()
    )


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_distances_are_those_of_scipy_and_zero_between_equal_vectors(kind):
    points = np.random.default_rng(2).normal(size=(3, 9, 100)).astype(kind) + kind(100)
    points[1, 4] = points[1, 7]
    distances = pairwise_distances(points)
    for p in range(3):
        assert distances[p] == pytest.approx(
            cdist(points[p].astype(float), points[p].astype(float)), rel=1e-12
        )
    assert distances[1, 4, 7] == 0.0
    assert (distances == distances.transpose(0, 2, 1)).all()
