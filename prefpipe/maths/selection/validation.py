"""What `select_responses` takes: its options, and the arrays that are checked before anything."""

from numbers import Integral, Real
from typing import Any, Literal, TypedDict

import numpy as np

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.registry import STRATEGIES
from prefpipe.maths.selection.screening import LARGEST_REWARD

LARGEST_COORDINATE, SMALLEST_COORDINATE = 1e100, 1e-100
"""Embeddings and distances are squared: beyond these the squares are infinite, or nothing."""

ASYMMETRY = 1e-6
"""How far a distance matrix may be from a symmetric one with zeros on its diagonal, relative to its
largest entry."""


class SelectOptions(TypedDict, total=False):
    """Options of `select_responses`.

    Attributes:
        positives: positives wanted, at least 1 (default 1); at least one candidate is left to be a
            negative.
        min_margin: least reward difference between the lowest positive and a negative (0).
        near_duplicates: cosine similarity, in (0, 1], from which two embeddings count as one
            response (None: never); the higher reward stays.
        weight_temperature: T of Opt-Select's weights, ``"paper"`` (1), ``"auto"`` (the standard
            deviation of the prompt's rewards) or a number above 0.
        cover: whom the objective sums over, the candidate ``"negatives"`` or ``"all"``.
        n_init: k-means starts (10).
        time_limit_s: for one prompt's proof, counted in work so that the answer is the same on any
            machine (10).
    """

    positives: int
    min_margin: float
    near_duplicates: float | None
    weight_temperature: Literal["paper", "auto"] | float
    cover: Literal["negatives", "all"]
    n_init: int
    time_limit_s: float


def check_rewards(rewards: Any, mask: Any) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return rewards (P, R), 0 where masked, the mask, and whether one prompt was given."""
    array = as_numbers(rewards, "rewards").astype(np.float64)
    if array.ndim not in (1, 2):
        raise InputError(
            f"rewards have shape {array.shape}, expected (R,) or (P, R): a reward per candidate"
        )

    is_there = np.ones(array.shape, dtype=bool) if mask is None else np.asarray(mask)
    if is_there.shape != array.shape or is_there.dtype != bool:
        raise InputError(
            f"mask is {is_there.dtype} of shape {is_there.shape}, "
            f"expected bool of shape {array.shape}"
        )

    is_bad = is_there & ~(np.abs(array) <= LARGEST_REWARD)
    if is_bad.any():
        first = tuple(int(axis[0]) for axis in np.nonzero(is_bad))
        place = f"candidate {first[-1]}"
        if len(first) == 2:
            place += f" of prompt {first[0]}"
        raise InputError(
            f"the reward of {place} is {array[first]}",
            hint="mask candidates without a finite reward",
        )

    is_single = array.ndim == 1
    if is_single and is_there.sum() < 2:
        raise InputError(
            f"{is_there.sum()} usable candidates; "
            "selection needs at least 2, a positive and a negative",
            hint="generate more responses for the prompt, or drop it",
        )

    clean = np.where(is_there, array, 0.0)
    if is_single:
        return clean[None], is_there[None], True
    return clean, is_there, False


def check_options(strategy: str, k: int, seed: int, options: SelectOptions) -> None:
    """Refuse options that do not exist or are out of range.

    Raises:
        UsageError: naming the option, its value and what it takes.
    """
    unknown = sorted(set(options) - SelectOptions.__optional_keys__)
    if unknown:
        known = ", ".join(sorted(SelectOptions.__optional_keys__))
        raise UsageError(f"unknown selection option {unknown[0]!r}", hint=f"options: {known}")

    positives = options.get("positives", 1)
    n_init = options.get("n_init", 10)
    min_margin = options.get("min_margin", 0.0)
    time_limit_s = options.get("time_limit_s", 10.0)
    threshold = options.get("near_duplicates")
    cover = options.get("cover", "negatives")
    temperature: Any = options.get("weight_temperature", "paper")

    # Kinds before ranges: a text cannot be compared with a number.
    whole_numbers: dict[str, Any] = {"k": k, "seed": seed, "positives": positives, "n_init": n_init}
    for name, value in whole_numbers.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise UsageError(f"{name} is {value!r}; it is a whole number")
    numbers: dict[str, Any] = {"min_margin": min_margin, "time_limit_s": time_limit_s}
    if threshold is not None:
        numbers["near_duplicates"] = threshold
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Real):
            raise UsageError(f"{name} is {number!r}; it is a number")

    n_positives = STRATEGIES[strategy].n_positives
    if n_positives is not None and positives != n_positives:
        raise UsageError(
            f"{strategy} keeps {n_positives} positive, got positives={positives}",
            hint="use top-bottom for several positives",
        )
    if k < 1:
        raise UsageError(f"k is {k}; at least 1 negative is needed")
    if positives < 1:
        raise UsageError(f"positives is {positives}; at least 1 is needed")
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed is {seed}; seeds are at least 0 and below 2**64")
    if temperature not in ("paper", "auto"):
        is_number = isinstance(temperature, Real) and temperature is not True
        if not is_number or not 0.0 < float(temperature) < np.inf:
            raise UsageError(
                f"weight_temperature is {temperature!r}; it is paper, auto or a number > 0"
            )
    if cover not in ("negatives", "all"):
        raise UsageError(f"cover is {cover!r}; it is negatives or all")
    if not time_limit_s > 0.0:
        raise UsageError(f"time_limit_s is {time_limit_s}; it is > 0")
    if n_init < 1:
        raise UsageError(f"n_init is {n_init}; at least 1 start is needed")
    if not 0.0 <= min_margin < np.inf:
        raise UsageError(f"min_margin is {min_margin}; it is >= 0")
    if threshold is not None and not 0.0 < threshold <= 1.0:
        raise UsageError(f"near_duplicates is {threshold}; it is a cosine in (0, 1]")


def as_numbers(values: Any, name: str) -> np.ndarray:
    """Return anything that NumPy reads as an array of real numbers.

    Raises:
        InputError: ragged lists, texts, complex numbers, objects, tensors that NumPy cannot read.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} cannot be read as an array: {error}",
            hint="pass NumPy arrays or lists of equal lengths; "
            "of a torch tensor, .detach().cpu().float()",
        ) from error
    if array.dtype.kind not in "fiub" and array.size:
        raise InputError(f"{name} hold {array.dtype} values, not real numbers")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def check_geometry(
    strategy: str, shape: tuple[int, ...], is_single: bool, embeddings: Any, distances: Any
) -> tuple[np.ndarray | None, bool]:
    """Return embeddings (P, R, D) or distances (P, R, R), or None, and whether they are distances.

    Args:
        strategy: its name; it may need one of them.
        shape: (P, R) of the rewards.
        is_single: whether one prompt was given, without P in front.
        embeddings: as `select_responses` got them.
        distances: likewise.

    Raises:
        UsageError: both, or neither where the strategy needs one.
        InputError: another shape than the rewards ask for.
    """
    if embeddings is not None and distances is not None:
        raise UsageError("embeddings and distances were both given", hint="give one of them")
    if embeddings is None and distances is None:
        if STRATEGIES[strategy].needs == "embeddings":
            raise UsageError(
                f"{strategy} needs embeddings or distances",
                hint="run prefpipe embed, or use a strategy on rewards such as bottom-k",
            )
        return None, False

    is_distance = distances is not None
    name = "distances" if is_distance else "embeddings"
    array = as_numbers(distances if is_distance else embeddings, name)
    given_shape = array.shape
    if is_single:
        array = array[None]

    fits = array.ndim == 3 and array.shape[:2] == shape
    if fits and is_distance:
        fits = array.shape[2] == shape[1]
    if not fits:
        candidates, expected = f"{shape[1]} candidates", "(R, D)"
        if not is_single:
            candidates, expected = f"{shape[0]} prompts of {candidates}", "(P, R, D)"
        if is_distance:
            expected = "a square"
        raise InputError(f"{name} have shape {given_shape} for {candidates}, expected {expected}")
    return array, is_distance


def checked_geometry(
    array: np.ndarray, mask_PR: np.ndarray, *, is_distance: bool, first_prompt: int | None
) -> np.ndarray:
    """Return a slice of embeddings or distances with 0 where the mask has nothing.

    Args:
        array: embeddings (P, R, D) or distances (P, R, R).
        mask_PR: (P, R) bool, True where there is a candidate.
        is_distance: which of the two they are.
        first_prompt: number of the slice's first prompt, for messages; None for the only prompt.

    Raises:
        InputError: not finite, negative or asymmetric distances, a distance of a candidate to
            itself, or numbers whose squares would overflow or vanish.
    """
    if is_distance:
        what, dtype = "a distance", np.dtype(np.float64)
        is_there = mask_PR[:, :, None] & mask_PR[:, None, :]
    else:
        what, dtype = "the embedding", array.dtype
        is_there = mask_PR[:, :, None]
    clean = np.where(is_there, array, 0).astype(dtype, copy=False)

    sizes = np.abs(clean)
    largest_P11 = sizes.max(axis=(1, 2), initial=0.0, keepdims=True)

    # Where each problem is; the first that is anywhere is named.
    problems: list[tuple[np.ndarray, str]] = [(~np.isfinite(clean), "not finite")]
    if is_distance:
        tolerance = ASYMMETRY * largest_P11
        is_diagonal = np.eye(clean.shape[1], dtype=bool)[None]
        is_asymmetric = np.abs(clean - clean.transpose(0, 2, 1)) > tolerance
        problems += [
            (clean < 0.0, "negative"),
            (is_diagonal & (clean > tolerance), "not zero to itself"),
            (is_asymmetric, "not the same in both directions"),
        ]
    # In float64: float16 and float32 hold neither limit.
    is_largest = sizes == largest_P11
    largest_P11 = largest_P11.astype(np.float64)
    is_huge_P11 = largest_P11 > LARGEST_COORDINATE
    is_tiny_P11 = (largest_P11 > 0.0) & (largest_P11 < SMALLEST_COORDINATE)
    problems += [
        (is_largest & is_huge_P11, f"beyond {LARGEST_COORDINATE:g}: scale it down"),
        (
            is_largest & is_tiny_P11,
            f"below {SMALLEST_COORDINATE:g}, and so are all others: scale them up",
        ),
    ]

    for is_bad, problem in problems:
        if is_bad.any():
            p, candidate = (int(axis[0]) for axis in np.nonzero(is_bad)[:2])
            place = f"candidate {candidate}"
            if first_prompt is not None:
                place += f" of prompt {first_prompt + p}"
            raise InputError(f"{what} of {place} is {problem}")
    return clean
