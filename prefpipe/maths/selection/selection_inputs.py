"""What `prefpipe.maths.selection.selection` takes: options, and arrays that are checked first."""

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Literal, TypedDict

import numpy as np

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.pool_strategies import STRATEGIES, Strategy
from prefpipe.maths.selection.screening import LARGEST_REWARD
from prefpipe.spelling import nearest

LARGEST_COORDINATE, SMALLEST_COORDINATE = 1e100, 1e-100
"""Embeddings and distances are squared: beyond these the squares are infinite, or nothing."""

ASYMMETRY = 1e-6
"""How far a distance matrix may be from a symmetric one with zeros on its diagonal, relative to its largest entry."""


class SelectOptions(TypedDict, total=False):
    """Options of `select_responses`.

    ``positives``: positives wanted, at least 1 (default 1); at least one candidate is left to be a negative.
    ``min_margin``: least reward difference between the lowest positive and a negative (0). ``near_duplicates``: cosine
    similarity, in (0, 1], from which two embeddings count as one response (None: never); the higher reward stays.
    ``weight_temperature``: T of Opt-Select's weights, ``"paper"`` (1), ``"auto"`` (the standard deviation of the prompt's
    rewards) or a number above 0. ``cover``: whom the objective sums over, the candidate ``"negatives"`` or ``"all"``.
    ``n_init``: k-means starts (10). ``time_limit_s``: for one prompt's proof, counted in work so that the answer is the same
    on any machine (10).
    """

    positives: int
    min_margin: float
    near_duplicates: float | None
    weight_temperature: Literal["paper", "auto"] | float
    cover: Literal["negatives", "all"]
    n_init: int
    time_limit_s: float


def find_strategy(name: str) -> Strategy:
    """Return the strategy called ``name``; raise UsageError with the nearest name otherwise."""
    if isinstance(name, str) and name in STRATEGIES:
        return STRATEGIES[name]
    near = nearest(name, STRATEGIES)
    hint = f"did you mean {near}?" if near else f"strategies: {', '.join(STRATEGIES)}"
    raise UsageError(f"unknown selection strategy {name!r}", hint=hint)


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
            f"mask is {is_there.dtype} of shape {is_there.shape}, expected bool of shape {array.shape}"
        )
    is_bad = is_there & ~(np.abs(array) <= LARGEST_REWARD)
    if is_bad.any():
        first = tuple(int(axis[0]) for axis in np.nonzero(is_bad))
        whose = f"candidate {first[-1]}" + (f" of prompt {first[0]}" if len(first) == 2 else "")
        raise InputError(
            f"the reward of {whose} is {array[first]}",
            hint="mask candidates without a finite reward",
        )
    if array.ndim == 1 and is_there.sum() < 2:
        raise InputError(
            f"{is_there.sum()} usable candidates; selection needs at least 2, a positive and a negative",
            hint="generate more responses for the prompt, or drop it",
        )
    is_single = array.ndim == 1
    clean = np.where(is_there, array, 0.0)
    return (clean[None], is_there[None], True) if is_single else (clean, is_there, False)


def check_options(strategy: str, k: int, seed: int, options: SelectOptions) -> None:
    """Refuse options that do not exist or are out of range.

    Raises:
        UsageError: naming the option, its value and what it takes.
    """
    unknown = sorted(set(options) - SelectOptions.__optional_keys__)
    if unknown:
        known = ", ".join(sorted(SelectOptions.__optional_keys__))
        raise UsageError(f"unknown selection option {unknown[0]!r}", hint=f"options: {known}")
    whole: dict[str, Any] = {
        "k": k,
        "seed": seed,
        "positives": options.get("positives", 1),
        "n_init": options.get("n_init", 10),
    }
    _refuse_kinds(whole, Integral, "a whole number")
    numbers: dict[str, Any] = {
        "min_margin": options.get("min_margin", 0.0),
        "time_limit_s": options.get("time_limit_s", 10.0),
    }
    numbers |= (
        {}
        if options.get("near_duplicates") is None
        else {"near_duplicates": options["near_duplicates"]}
    )
    _refuse_kinds(numbers, Real, "a number")
    positives, n_positives = options.get("positives", 1), STRATEGIES[strategy].n_positives
    if n_positives is not None and positives != n_positives:
        raise UsageError(
            f"{strategy} keeps {n_positives} positive, got positives={positives}",
            hint="use top-bottom for several positives",
        )
    temperature: Any = options.get("weight_temperature", "paper")
    is_number = (
        isinstance(temperature, Real)
        and temperature is not True
        and 0.0 < float(temperature) < np.inf
    )
    threshold = options.get("near_duplicates")
    checks = (
        (k >= 1, f"k is {k}; at least 1 negative is needed"),
        (positives >= 1, f"positives is {positives}; at least 1 is needed"),
        (0 <= seed < 2**64, f"seed is {seed}; seeds are at least 0 and below 2**64"),
        (
            temperature in ("paper", "auto") or is_number,
            f"weight_temperature is {temperature!r}; it is paper, auto or a number > 0",
        ),
        (
            options.get("cover", "negatives") in ("negatives", "all"),
            f"cover is {options.get('cover')!r}; it is negatives or all",
        ),
        (
            options.get("time_limit_s", 10.0) > 0.0,
            f"time_limit_s is {options.get('time_limit_s')}; it is > 0",
        ),
        (
            options.get("n_init", 10) >= 1,
            f"n_init is {options.get('n_init')}; at least 1 start is needed",
        ),
        (
            0.0 <= options.get("min_margin", 0.0) < np.inf,
            f"min_margin is {options.get('min_margin')}; it is >= 0",
        ),
        (
            threshold is None or 0.0 < threshold <= 1.0,
            f"near_duplicates is {threshold}; it is a cosine in (0, 1]",
        ),
    )
    for holds, sentence in checks:
        if not holds:
            raise UsageError(sentence)


def _refuse_kinds(values: Mapping[str, Any], kind: Any, words: str) -> None:
    for name, value in values.items():
        if not isinstance(value, kind) or value is True or value is False:
            raise UsageError(f"{name} is {value!r}; it is {words}")


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
            hint="pass NumPy arrays or lists of equal lengths; of a torch tensor, .detach().cpu().float()",
        ) from error
    if array.dtype.kind not in "fiub" and array.size:
        raise InputError(f"{name} hold {array.dtype} values, not real numbers")
    return array.astype(np.float64) if array.dtype.kind != "f" else array


def check_geometry(
    strategy: str, shape: tuple[int, ...], is_single: bool, embeddings: Any, distances: Any
) -> tuple[np.ndarray | None, bool]:
    """Return embeddings (P, R, D) or distances (P, R, R), or None, and whether they are distances."""
    if embeddings is not None and distances is not None:
        raise UsageError("embeddings and distances were both given", hint="give one of them")
    if embeddings is None and distances is None:
        if STRATEGIES[strategy].needs == "embeddings":
            raise UsageError(
                f"{strategy} needs embeddings or distances",
                hint="run prefpipe embed, or use a strategy on rewards such as bottom-k",
            )
        return None, False
    name = "embeddings" if distances is None else "distances"
    array = as_numbers(embeddings if distances is None else distances, name)
    given = array.shape
    if is_single:
        array = array[None]
    expected = "(R, D)" if is_single else "(P, R, D)"
    if (
        array.ndim != 3
        or array.shape[:2] != shape
        or (distances is not None and array.shape[2] != shape[1])
    ):
        whole = (
            f"{shape[1]} candidates"
            if is_single
            else f"{shape[0]} prompts of {shape[1]} candidates"
        )
        raise InputError(
            f"{name} have shape {given} for {whole}, expected {expected if distances is None else 'a square'}"
        )
    return array, distances is not None


def checked_geometry(
    array: np.ndarray, mask_PR: np.ndarray, *, is_distance: bool, first_prompt: int | None
) -> np.ndarray:
    """Return a slice of embeddings or distances with 0 where the mask has nothing; refuse numbers that cannot be.

    Raises:
        InputError: not finite, negative or asymmetric distances, a distance of a candidate to itself, or numbers whose squares
            would overflow or vanish.
    """
    is_there = mask_PR[:, :, None] & mask_PR[:, None, :] if is_distance else mask_PR[:, :, None]
    clean = np.where(is_there, array, 0).astype(
        np.float64 if is_distance else array.dtype, copy=False
    )
    what = "a distance" if is_distance else "the embedding"
    largest_P11 = np.abs(clean).max(axis=(1, 2), initial=0.0, keepdims=True)
    is_largest = np.abs(clean) == largest_P11
    problems: list[tuple[np.ndarray, str]] = [(~np.isfinite(clean), "not finite")]
    if is_distance:
        tolerance = ASYMMETRY * largest_P11
        own = np.eye(clean.shape[1], dtype=bool)[None]
        problems += [
            (clean < 0.0, "negative"),
            (own & (clean > tolerance), "not zero to itself"),
            (
                np.abs(clean - clean.transpose(0, 2, 1)) > tolerance,
                "not the same in both directions",
            ),
        ]
    problems += [
        (
            is_largest & (largest_P11.astype(np.float64) > LARGEST_COORDINATE),
            f"beyond {LARGEST_COORDINATE:g}: scale it down",
        ),
        (
            is_largest
            & (largest_P11 > 0.0)
            & (largest_P11.astype(np.float64) < SMALLEST_COORDINATE),
            f"below {SMALLEST_COORDINATE:g}, and so are all others: scale them up",
        ),
    ]
    for is_bad, words in problems:
        if is_bad.any():
            p, candidate = (int(axis[0]) for axis in np.nonzero(is_bad)[:2])
            whose = f"candidate {candidate}" + (
                f" of prompt {first_prompt + p}" if first_prompt is not None else ""
            )
            raise InputError(f"{what} of {whose} is {words}")
    return clean
