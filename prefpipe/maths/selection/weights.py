"""The weights of Opt-Select's objective: how much each covered response counts."""

from typing import Literal

import numpy as np


def resolve_temperature(rewards_R: np.ndarray, setting: Literal["paper", "auto"] | float) -> float:
    """Return T: 1 for ``"paper"``, the standard deviation (ddof 0) of the rewards for ``"auto"``.

    ``"auto"`` makes the choice independent of the reward's scale. Equal rewards give 1: their
    weights are equal at any temperature.
    """
    if setting == "paper":
        return 1.0
    if setting == "auto":
        return float(rewards_R.std()) or 1.0
    return float(setting)


def pool_temperatures(
    rewards_PR: np.ndarray,
    mask_PR: np.ndarray,
    clients_PR: np.ndarray,
    setting: Literal["paper", "auto"] | float,
) -> np.ndarray:
    """Return T of each prompt (P,), of all its candidates; 1 if it covers no candidate."""
    if setting == "paper":
        return np.full(len(rewards_PR), 1.0)
    if setting != "auto":
        return np.full(len(rewards_PR), float(setting))

    temperatures_P = np.ones(len(rewards_PR))
    for p in np.flatnonzero(clients_PR.any(axis=1)):
        temperatures_P[p] = resolve_temperature(rewards_PR[p, mask_PR[p]], setting)
    return temperatures_P


def pool_weights(
    rewards_PR: np.ndarray, clients_PR: np.ndarray, temperatures_P: np.ndarray
) -> np.ndarray:
    """Return the clients' weights (P, R), the largest 1; 0 elsewhere and where they underflow.

    ``w_i = exp((min r - r_i) / T)`` in (0, 1], the lowest reward being that of the clients. AMPO
    writes ``exp(mean r - r_i)``. That differs by the factor ``exp((mean r - min r) / T)``, the same
    for all i, which changes no choice but overflows for rewards that span hundreds; multiply a cost
    by it to get the paper's number.
    """
    lowest_P = np.where(clients_PR, rewards_PR, np.inf).min(axis=1, initial=np.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        all_PR = np.exp((lowest_P[:, None] - rewards_PR) / temperatures_P[:, None])

    # For candidates that are not clients the exponent may have any value.
    weights_PR = np.zeros(rewards_PR.shape)
    weights_PR[clients_PR] = all_PR[clients_PR]
    return weights_PR
