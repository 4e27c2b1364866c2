"""The solver of the L1-penalised logistic regression: optimality, closed forms, and scikit-learn on
doubled rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from prefpipe.maths.statistics.penalised_logistic import (
    cross_entropy,
    fit_penalised_logistic,
)


def objective(theta, x, y, w, strength):
    return (w * cross_entropy(x @ theta, y)).sum() + strength * np.abs(theta).sum()


def problem(seed, n=60):
    rng = np.random.default_rng(seed)
    x = np.stack([rng.normal(size=n), rng.normal(size=n), np.ones(n)], axis=1)
    return x, rng.uniform(size=n), rng.uniform(0.1, 2.0, size=n)


def test_one_column_of_ones_has_a_closed_form():
    """With w = 1 the slope is N (p - mean y) + strength sign(theta) = 0: p = mean y - strength / N
    for a positive theta."""
    y = np.array([1.0, 1.0, 0.5, 1.0])
    theta = fit_penalised_logistic(np.ones((4, 1)), y, np.ones((1, 4)), 0.1)[0]
    assert expit(theta[0]) == pytest.approx(y.mean() - 0.1 / 4, abs=1e-10)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([1e-4, 0.05, 1.0, 10.0, 1e4]))
def test_no_step_in_any_direction_is_better(seed, strength):
    """The objective is convex: its minimum is where no small move lowers it."""
    x, y, w = problem(seed)
    theta = fit_penalised_logistic(x, y, w[None], strength)[0]
    best = objective(theta, x, y, w, strength)
    moves = np.concatenate(
        [np.eye(3), -np.eye(3), np.random.default_rng(seed).normal(size=(20, 3))]
    )
    assert all(
        objective(theta + size * move, x, y, w, strength) >= best - 1e-9
        for move in moves
        for size in (1e-5, 1e-3, 0.1)
    )


def test_a_penalty_above_every_slope_leaves_zeros():
    """At zero the slope of coefficient j is sum w x_j (1/2 - y); a greater penalty keeps it there,
    exactly."""
    x, y, w = problem(3)
    slopes = np.abs((w * (0.5 - y)) @ x)
    assert not fit_penalised_logistic(x, y, w[None], float(slopes.max()) * 1.001)[0].any()
    assert fit_penalised_logistic(x, y, w[None], float(slopes.max()) * 0.999)[0].any()


@pytest.mark.parametrize("penalty_c", [0.05, 1.0, 20.0])
def test_scikit_learn_finds_the_same_where_every_row_stands_twice(penalty_c):
    """Soft label y is a row of class 1 with weight w y and one of class 0 with weight w (1 - y)."""
    x, y, w = problem(5)
    model = LogisticRegression(
        C=penalty_c, l1_ratio=1, solver="saga", fit_intercept=False, tol=1e-10, max_iter=20_000
    )
    model.fit(
        np.concatenate([x, x]),
        np.repeat([1, 0], len(y)),
        sample_weight=np.concatenate([w * y, w * (1 - y)]),
    )
    ours = fit_penalised_logistic(x, y, w[None], 1 / penalty_c)[0]
    assert ours == pytest.approx(model.coef_[0], abs=2e-6)


def test_sets_of_weights_are_fitted_as_if_alone():
    x, y, w = problem(7)
    weights = np.stack([w, np.ones(len(w)), np.where(np.arange(len(w)) % 2, w, 0.0)])
    together = fit_penalised_logistic(x, y, weights, 0.5)
    alone = [fit_penalised_logistic(x, y, row[None], 0.5)[0] for row in weights]
    assert together == pytest.approx(np.stack(alone), abs=1e-8)
    dropped = fit_penalised_logistic(x[1::2], y[1::2], w[None, 1::2], 0.5)[0]
    assert together[2] == pytest.approx(dropped, abs=1e-8)


def test_labels_that_can_be_separated_have_a_finite_fit():
    x = np.stack([np.linspace(-1, 1, 40), np.ones(40)], axis=1)
    y = (x[:, 0] > 0).astype(float)
    theta = fit_penalised_logistic(x, y, np.ones((1, 40)), 1e-4)[0]
    assert np.isfinite(theta).all()
    assert theta[0] > 10


def test_a_column_of_zeros_gets_no_coefficient():
    x, y, w = problem(9)
    x[:, 0] = 0.0
    theta = fit_penalised_logistic(x, y, w[None], 0.1, start_D=np.ones(3))[0]
    assert theta[0] == 0.0


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(st.data())
def test_poor_data_have_a_fit_too(data):
    """Few rows, columns that say the same, labels that can be separated, a penalty that is hardly
    one: bootstraps draw such."""
    n = data.draw(st.integers(1, 12))
    values = st.sampled_from([-1.0, -0.76, -0.3, 0.0, 0.3, 0.76, 1.0])
    t, d = (np.array(data.draw(st.lists(values, min_size=n, max_size=n))) for _ in range(2))
    y = np.array(
        data.draw(
            st.lists(st.sampled_from([0.0, 0.0, 1.0, 1.0, 0.5, 1e-6]), min_size=n, max_size=n)
        )
    )
    w = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0]), min_size=n, max_size=n)))
    strength = data.draw(st.sampled_from([1e-4, 1e-2, 1.0]))
    x = np.stack([t, d, np.ones(n)] if data.draw(st.booleans()) else [t, np.ones(n)], axis=1)
    start = np.array(data.draw(st.sampled_from([0.0, 3.0, -8.0]))) * np.ones(x.shape[1])
    theta = fit_penalised_logistic(x, y, w[None], strength, start)[0]
    best = objective(theta, x, y, w, strength)
    moves = np.random.default_rng(0).normal(size=(30, x.shape[1]))
    assert all(
        objective(theta + size * move, x, y, w, strength) >= best - 1e-8
        for move in moves
        for size in (1e-4, 1e-2, 1.0)
    )


def test_a_start_far_out_where_columns_say_the_same_is_left_for_zero():
    """Found by chance: from -8 Newton's steps did not end."""
    x, y, w = np.ones((2, 2)), np.array([1.0, 0.0]), np.array([[2.0, 1.0]])
    near, far = (
        fit_penalised_logistic(x, y, w, 1e-4, start_D=np.full(2, start)) for start in (0.0, -8.0)
    )
    assert objective(far[0], x, y, w[0], 1e-4) == pytest.approx(
        objective(near[0], x, y, w[0], 1e-4), abs=1e-9
    )


def test_columns_that_say_the_same_share_nothing():
    """t = 1/2 everywhere: theta_len / 2 + theta_0 is what counts, and |theta_len| + |theta_0| is
    least with theta_0 alone."""
    x = np.stack([np.full(9, 0.5), np.ones(9)], axis=1)
    theta = fit_penalised_logistic(x, np.repeat([1.0, 0.0, 1.0], 3), np.ones((1, 9)), 1e-4)[0]
    assert theta[0] == 0.0
    assert theta[1] == pytest.approx(np.log(2), abs=1e-3)
