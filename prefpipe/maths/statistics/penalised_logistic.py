"""Logistic regression with soft labels, weights and an L1 penalty, solved to the last digits.

Three coefficients do not need a library. scikit-learn takes no soft labels, so every row would be
needed twice, with weights y and 1 - y; liblinear stops at a tolerance that moves the last figures
from release to release, scales its penalty by the number of rows twice over, and fits one problem
at a time, while the bootstrap has a thousand that differ only in the weights.

Newton's method with the L1 term (proximal Newton; Lee, Sun and Saunders 2014, SIAM J. Optim. 24)
converges in about six steps, for all resamples at once, and its answer can be checked: the
subgradient contains zero.

Axes: N rows, D features, B sets of weights.
"""

from itertools import combinations, product

import numpy as np
from scipy.special import expit

from prefpipe.errors import InputError

MAX_STEPS = 100
TOLERANCE = 1e-10
"""Largest violation of the optimality conditions that is taken for zero, as a share of the sum of
the weights."""


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return ``-y log sigmoid(x) - (1 - y) log sigmoid(-x)`` in nats; labels in [0, 1]."""
    return np.asarray(np.logaddexp(0.0, logits) - labels * logits)


def fit_penalised_logistic(
    features_ND: np.ndarray,
    labels_N: np.ndarray,
    weights_BN: np.ndarray,
    strength: float,
    start_D: np.ndarray | None = None,
) -> np.ndarray:
    """Return the coefficients (B, D) of the penalised fit for each of B sets of weights.

    They minimise::

        sum_i w_i CE(y_i, sigmoid(x_i . theta)) + strength * sum_j |theta_j|

    There is no intercept: a column of ones is one, and is penalised like the others. The objective
    is convex, and with ``strength > 0`` the minimum is finite also where the labels can be
    separated.

    Args:
        features_ND: x, (N, D).
        labels_N: y in [0, 1], (N,).
        weights_BN: w >= 0, (B, N).
        strength: factor of the penalty, > 0.
        start_D: where to begin, (D,); default zeros.

    Raises:
        InputError: no convergence within 100 steps from the start and another 100 from zero; finite
            data have never shown this.
    """
    n_features = features_ND.shape[1]
    begin_D = np.zeros(n_features) if start_D is None else start_D
    theta_BD = np.repeat(begin_D[None, :], len(weights_BN), axis=0)
    total_B = np.maximum(weights_BN.sum(axis=1), 1.0)

    # Every product of two features, from which all Hessians are made in one multiplication.
    pairs = product(range(n_features), repeat=2)
    products_NK = np.stack([features_ND[:, a] * features_ND[:, b] for a, b in pairs], axis=1)

    for step in range(2 * MAX_STEPS):
        # Far out the objective is flat, and with identical columns Newton's steps may cycle there:
        # start again from zero.
        if step == MAX_STEPS:
            theta_BD = np.zeros_like(theta_BD)

        probabilities_BN = expit(theta_BD @ features_ND.T)
        gradient_BD = (weights_BN * (probabilities_BN - labels_N)) @ features_ND
        if (_violation(theta_BD, gradient_BD, strength) <= TOLERANCE * total_B).all():
            return theta_BD

        curvature_BN = weights_BN * probabilities_BN * (1.0 - probabilities_BN)
        hessian_BDD = (curvature_BN @ products_NK).reshape(-1, n_features, n_features)
        target_BD = _minimum_of_model(theta_BD, gradient_BD, hessian_BDD, strength)
        theta_BD = _line_search(features_ND, labels_N, weights_BN, strength, theta_BD, target_BD)

    raise InputError(
        f"the logistic fit did not converge in {MAX_STEPS} steps from its start, nor from 0",
        hint="pass a stronger penalty, that is a smaller C",
    )


def _violation(theta_BD: np.ndarray, gradient_BD: np.ndarray, strength: float) -> np.ndarray:
    """Return by how much zero is outside the subgradient, the largest over coefficients, (B,)."""
    at_zero = np.maximum(np.abs(gradient_BD) - strength, 0.0)
    elsewhere = np.abs(gradient_BD + strength * np.sign(theta_BD))
    return np.asarray(np.where(theta_BD == 0.0, at_zero, elsewhere).max(axis=1))


def _minimum_of_model(
    theta_BD: np.ndarray, gradient_BD: np.ndarray, hessian_BDD: np.ndarray, strength: float
) -> np.ndarray:
    """Return the minimum (B, D) of the quadratic model plus penalty.

    Every pattern is tried of which coefficients are not zero, and of their signs. Few coefficients
    have few patterns (26 for three), and each is a linear system. Coordinate descent would creep
    where columns say the same, as t and 1 do in a resample with one length difference, with a step
    of the size of the penalty.
    """
    n_features = theta_BD.shape[1]
    pull_BD = np.einsum("bij,bj->bi", hessian_BDD, theta_BD) - gradient_BD
    # Far below the significant digits: it makes identical columns invertible.
    ridge_B = 1e-13 * np.einsum("bii->bi", hessian_BDD).max(axis=1) + 1e-280

    # The model is 1/2 x'Hx - pull.x + strength |x|, which is 0 at x = 0.
    best_BD = np.zeros_like(theta_BD)
    lowest_B = np.zeros(len(theta_BD))
    for size in range(1, n_features + 1):
        for kept in map(list, combinations(range(n_features), size)):
            hessian_BKK, pull_BK = hessian_BDD[:, kept][:, :, kept], pull_BD[:, kept]
            inverse_BKK = np.linalg.inv(hessian_BKK + ridge_B[:, None, None] * np.eye(size))

            for signs in product((-1.0, 1.0), repeat=size):
                x_BK = np.einsum("bij,bj->bi", inverse_BKK, pull_BK - strength * np.array(signs))
                quadratic_B = 0.5 * np.einsum("bi,bij,bj->b", x_BK, hessian_BKK, x_BK)
                penalty_B = strength * np.abs(x_BK).sum(axis=1)
                value_B = quadratic_B - (pull_BK * x_BK).sum(axis=1) + penalty_B

                # A solution counts if its signs are those that it was computed for.
                is_better_B = (np.sign(x_BK) == signs).all(axis=1) & (value_B < lowest_B)
                lowest_B = np.where(is_better_B, value_B, lowest_B)
                best_BD[is_better_B] = 0.0
                best_BD[np.ix_(is_better_B, kept)] = x_BK[is_better_B]
    return best_BD


def _line_search(
    features_ND: np.ndarray,
    labels_N: np.ndarray,
    weights_BN: np.ndarray,
    strength: float,
    theta_BD: np.ndarray,
    target_BD: np.ndarray,
) -> np.ndarray:
    """Return the target (B, D), or a shorter step towards it if the objective would rise."""

    def objective(at_BD: np.ndarray, rows: np.ndarray) -> np.ndarray:
        losses = cross_entropy(at_BD @ features_ND.T, labels_N)
        return np.asarray(
            (weights_BN[rows] * losses).sum(axis=1) + strength * np.abs(at_BD).sum(axis=1)
        )

    everyone = np.arange(len(theta_BD))
    before_B = objective(theta_BD, everyone)
    result_BD = target_BD.copy()

    # Near the minimum, a sum of thousands of terms differs by rounding.
    slack_B = 1e-13 * np.abs(before_B)
    rising = everyone[objective(result_BD, everyone) > before_B + slack_B]
    share = 1.0
    while len(rising) and share > 1e-10:
        share /= 2.0
        result_BD[rising] = theta_BD[rising] + share * (target_BD[rising] - theta_BD[rising])
        rising = rising[objective(result_BD[rising], rising) > before_B[rising] + slack_B[rising]]
    return result_BD
