"""Random numbers inside compiled loops: SplitMix64 (Steele, Lea and Flood 2014).

Own code, because a compiled loop cannot make a NumPy generator from a seed. It gives the same
numbers on every machine and release.
"""

import numpy as np

from prefpipe.maths.compute.compiled import compiled

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27 = np.uint64(30), np.uint64(27)
_SHIFT_31, _SHIFT_11 = np.uint64(31), np.uint64(11)


@compiled
def seed_state(seed: np.uint64) -> np.ndarray:
    """Return a generator's state (1,) for a seed below 2**64."""
    state = np.empty(1, dtype=np.uint64)
    state[0] = np.uint64(seed)
    return state


@compiled
def draw_share(state: np.ndarray) -> float:
    """Return a number in [0, 1), 53 bits, and move the state on."""
    state[0] += _GOLDEN
    z = state[0]
    z = (z ^ (z >> _SHIFT_30)) * _MIX_1
    z = (z ^ (z >> _SHIFT_27)) * _MIX_2
    z = z ^ (z >> _SHIFT_31)
    return np.float64(z >> _SHIFT_11) * (1.0 / 9007199254740992.0)


@compiled
def draw_below(state: np.ndarray, n: int) -> int:
    """Return an integer in [0, n), n far below 2**53, and move the state on."""
    return int(draw_share(state) * n)
