"""k-means clusters and the lowest-reward member of each."""

import warnings

import numpy as np
import pytest

from prefpipe.maths.clusters import choose_coreset, cluster_k_means


def test_each_cluster_gives_its_lowest_reward_member():
    """Three far groups of two; the lower reward of each is row 1, 2 and 5."""
    points = np.array([[0.0], [0.1], [10.0], [10.1], [20.0], [20.1]])
    rewards = np.array([0.5, 0.4, 0.1, 0.2, 0.9, 0.8])
    coreset = choose_coreset(rewards, points, 3, seed=0)
    assert coreset.chosen.tolist() == [1, 2, 5]
    assert coreset.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_equal_rewards_in_a_cluster_give_its_lower_row():
    points = np.array([[0.0], [0.1], [10.0], [10.1]])
    assert choose_coreset(np.zeros(4), points, 2, seed=0).chosen.tolist() == [0, 2]


@pytest.mark.parametrize("seed", range(5))
def test_the_chosen_are_the_lowest_of_the_labels_given(seed):
    rng = np.random.default_rng(seed)
    rewards, points = rng.normal(size=20), rng.normal(size=(20, 4))
    coreset = choose_coreset(rewards, points, 6, seed=seed)
    members = [np.flatnonzero(coreset.labels == label) for label in range(6)]
    assert sorted(group[np.argmin(rewards[group])] for group in members) == coreset.chosen.tolist()


def test_with_every_split_tried_the_clusters_have_the_least_inertia():
    """Eight points, two clusters: all 127 splits are tried."""
    rng = np.random.default_rng(7)
    points = rng.normal(size=(8, 2))

    def inertia(labels):
        groups = [points[labels == label] for label in np.unique(labels)]
        return sum(((group - group.mean(axis=0)) ** 2).sum() for group in groups)

    splits = [np.array([(code >> bit) & 1 for bit in range(8)]) for code in range(1, 128)]
    assert inertia(cluster_k_means(points, 2, seed=0)) == pytest.approx(min(inertia(split) for split in splits))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 9])
def test_fewer_distinct_points_than_clusters_are_filled_up_without_warnings(k):
    """Two distinct points among five rows: their lowest rewards first (rows 4 and 0), then the lowest left."""
    points = np.array([[1.0], [1.0], [2.0], [2.0], [2.0]])
    rewards = np.array([3.0, 5.0, 4.0, 2.0, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coreset = choose_coreset(rewards, points, k, seed=0)
    expected = {1: [4], 2: [0, 4], 3: [0, 3, 4], 4: [0, 2, 3, 4]}.get(k, [0, 1, 2, 3, 4])
    assert coreset.chosen.tolist() == expected


def test_points_apart_by_less_than_rounding_raise_no_warning():
    points = np.array([[0.0], [1e-300], [2e-300], [1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coreset = choose_coreset(np.arange(4.0), points, 3, seed=0)
    assert len(coreset.chosen) == 3


def test_labels_count_from_the_first_row():
    rng = np.random.default_rng(1)
    labels = cluster_k_means(rng.normal(size=(30, 3)), 5, seed=2)
    _, first_rows = np.unique(labels, return_index=True)
    assert first_rows.tolist() == sorted(first_rows.tolist())
    assert labels[0] == 0


def test_a_64_bit_seed_is_taken_and_repeats():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(12, 3))
    assert cluster_k_means(points, 4, seed=2**63).tolist() == cluster_k_means(points, 4, seed=2**63).tolist()
