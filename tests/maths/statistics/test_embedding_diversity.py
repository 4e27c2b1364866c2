"""The mean cosine distance of a prompt's responses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.maths.statistics.embedding_diversity import mean_pairwise_distance


def test_the_mean_distance_of_few_embeddings_is_that_by_hand():
    """Right angles: every pair at distance 1. Opposites: 2. (1, 0) and (1, 1): 1 - 1/sqrt 2."""
    assert mean_pairwise_distance(np.eye(3)) == pytest.approx(1)
    assert mean_pairwise_distance(np.array([[1.0, 0], [-2, 0]])) == pytest.approx(2)
    assert mean_pairwise_distance(np.array([[1.0, 0], [1, 1]])) == pytest.approx(1 - 0.5**0.5)


@given(st.integers(2, 7), st.integers(1, 5), st.integers(0, 10**6))
def test_the_mean_distance_is_over_pairs_in_any_order(n, d, seed):
    vectors = np.random.default_rng(seed).normal(size=(n, d))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [1 - units[i] @ units[j] for i in range(n) for j in range(i)]
    found = mean_pairwise_distance(vectors)
    assert found == pytest.approx(np.mean(pairs), abs=1e-12)
    assert mean_pairwise_distance(vectors[::-1]) == pytest.approx(found)
    assert 0 <= found <= n / (n - 1) + 1e-9


def test_copies_are_at_0_and_half_precision_is_enough():
    vector = np.random.default_rng(0).normal(size=384).astype(np.float16)
    assert mean_pairwise_distance(np.stack([vector] * 4)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "vectors", [np.zeros((0, 4)), np.ones((1, 4)), np.array([[1.0, 0], [0, 0]])]
)
def test_fewer_than_two_embeddings_have_no_distance(vectors):
    """Zeros stand for no embedding: they are not at distance 1 from everything."""
    assert np.isnan(mean_pairwise_distance(vectors))
