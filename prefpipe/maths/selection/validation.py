"""The arguments of `select_responses`: its options, and checks of its arrays."""

from numbers import Integral, Real
from typing import Any, Literal, TypedDict

import numpy as np

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.pools import NO_EVIDENCE, Evidence
from prefpipe.maths.selection.registry import STRATEGIES
from prefpipe.maths.selection.samplers import Samplers
from prefpipe.maths.selection.screening import LARGEST_REWARD

LARGEST_COORDINATE, SMALLEST_COORDINATE = 1e100, 1e-100
"""Embeddings and distances are squared: beyond these limits squares overflow or vanish."""

SMALLEST_PLAIN_NORM, LARGEST_PLAIN_NORM = 1e-180, 1e180
"""Squared norms between these leave no coordinate beyond the limits, with up to 1e20 dimensions."""

MOST_STARTS = 1_000_000
"""Limit of k-means starts, counted by a compiled loop."""

ASYMMETRY = 1e-6
"""How far a distance matrix may be from a symmetric one with zeros on its diagonal, relative to its
largest entry."""


class SelectOptions(TypedDict, total=False):
    """Options of `select_responses`.

    Attributes:
        positives: positives wanted, at least 1 (default 1); at least one candidate remains for a
            negative.
        min_margin: minimum reward difference between the lowest positive and a negative (0).
        near_duplicates: cosine similarity, in (0, 1], from which two embeddings count as one
            response (None: never); the higher reward stays.
        weight_temperature: T of Opt-Select's weights, ``"paper"`` (1), ``"auto"`` (the standard
            deviation of the prompt's rewards) or a number above 0.
        cover: candidates that the objective sums over: ``"negatives"`` or ``"all"``.
        n_init: k-means starts (10).
        time_limit_s: for one prompt's proof, counted in work so that the answer is the same on any
            machine (10).
        uncertainty: shape of the rewards, finite, at least 0, on their scale, for ``delta-ucb``,
            ``drts`` and ``delta-quantile``: the `prefpipe.scorer_spread` of several scorers, or the
            standard deviation of an ensemble.
        samplers: for ``delta``: shape of the rewards, the model of each response.
        position: c of ``reward-position``, in standard deviations from the mean (-2).
        spread_weight: b of the bounds ``r + b s`` and ``r - b s``, at least 0 (1).
        quantile: q of ``delta-quantile``, in [0, 1] (0.05).
        chosen_from: the sampler of the positives of ``delta``, a value of ``samplers``.
        rejected_from: the sampler of its negatives.
    """

    positives: int
    min_margin: float
    near_duplicates: float | None
    weight_temperature: Literal["paper", "auto"] | float
    cover: Literal["negatives", "all"]
    n_init: int
    time_limit_s: float
    uncertainty: Any
    samplers: Any
    position: float
    spread_weight: float
    quantile: float
    chosen_from: Any
    rejected_from: Any


DEFAULT_OPTIONS: SelectOptions = {
    "positives": 1,
    "min_margin": 0.0,
    "near_duplicates": None,
    "weight_temperature": "paper",
    "cover": "negatives",
    "n_init": 10,
    "time_limit_s": 10.0,
    "position": -2.0,
    "spread_weight": 1.0,
    "quantile": 0.05,
}
"""Defaults of the options; those that only some strategies need have none."""


def with_defaults(options: SelectOptions) -> SelectOptions:
    """Return options with defaults filled in."""
    return {**DEFAULT_OPTIONS, **options}


def check_rewards(
    rewards: Any, mask: Any, *, n_spared: int = 1
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return rewards (P, R), 0 where masked, the mask, and whether one prompt was given.

    Args:
        rewards: as passed to `select_responses`.
        mask: as passed to it.
        n_spared: candidates that must remain for negatives: 1, or 0 for ``best-of-n``.
    """
    array = as_numbers(rewards, "rewards").astype(np.float64)
    if array.ndim not in (1, 2):
        raise InputError(
            f"rewards have shape {array.shape}, expected (R,) or (P, R): one reward per candidate"
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
            f"the reward of {place} is {array[first]}, not a finite number",
            hint="mask candidates without a finite reward",
        )

    is_single = array.ndim == 1
    if is_single and is_there.sum() < 1 + n_spared:
        needed = "at least 2, a positive and a negative" if n_spared else "one"
        raise InputError(
            f"{is_there.sum()} usable candidates; selection needs {needed}",
            hint="generate more responses for the prompt, or drop it",
        )

    clean = np.where(is_there, array, 0.0)
    if is_single:
        return clean[None], is_there[None], True
    return clean, is_there, False


def check_options(strategy: str, k: int, seed: int, options: SelectOptions) -> None:
    """Refuse options that do not exist or are out of range.

    Raises:
        UsageError: names the option, its value and its allowed values.
    """
    unknown = sorted(set(options) - SelectOptions.__optional_keys__)
    if unknown:
        known = ", ".join(sorted(SelectOptions.__optional_keys__))
        raise UsageError(f"unknown selection option {unknown[0]!r}", hint=f"options: {known}")

    given = with_defaults(options)
    _check_kinds(k, seed, given)
    n_positives = STRATEGIES[strategy].n_positives
    if n_positives is not None and given["positives"] != n_positives:
        raise UsageError(
            f"{strategy} keeps {n_positives} positive, but positives is {given['positives']}",
            hint="use top-bottom to keep several positives",
        )

    _check_ranges(k, seed, given)
    if given["min_margin"] > 0.0 and not STRATEGIES[strategy].takes_margin:
        raise UsageError(
            f"min_margin does not apply to {strategy}",
            hint="to drop prompts by their spread of rewards, use filter_prompts",
        )


def _check_kinds(k: int, seed: int, options: SelectOptions) -> None:
    """Refuse values that are not numbers: a text cannot be compared with a range."""
    whole_numbers: dict[str, Any] = {
        "k": k,
        "seed": seed,
        "positives": options["positives"],
        "n_init": options["n_init"],
    }
    for name, value in whole_numbers.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise UsageError(f"{name} is {value!r}; it must be a whole number")

    numbers: dict[str, Any] = {
        "min_margin": options["min_margin"],
        "time_limit_s": options["time_limit_s"],
        "position": options["position"],
        "spread_weight": options["spread_weight"],
        "quantile": options["quantile"],
    }
    if options["near_duplicates"] is not None:
        numbers["near_duplicates"] = options["near_duplicates"]
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Real):
            raise UsageError(f"{name} is {number!r}; it must be a number")
        try:
            float(number)
        except OverflowError as error:
            raise UsageError(f"{name} is larger than any floating-point number") from error


def _check_ranges(k: int, seed: int, options: SelectOptions) -> None:
    """Refuse numbers and words that an option does not allow."""
    if k < 1:
        raise UsageError(f"k is {k}; at least 1 negative is needed")
    if options["positives"] < 1:
        raise UsageError(f"positives is {options['positives']}; at least 1 is needed")
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed is {seed}; it must be at least 0 and below 2**64")

    temperature: Any = options["weight_temperature"]
    if temperature not in ("paper", "auto"):
        is_number = isinstance(temperature, Real) and temperature is not True
        if not is_number or not 0.0 < float(temperature) < np.inf:
            raise UsageError(
                f"weight_temperature is {temperature!r}; it must be paper, auto or a number > 0"
            )
    if options["cover"] not in ("negatives", "all"):
        raise UsageError(f"cover is {options['cover']!r}; it must be negatives or all")
    if not options["time_limit_s"] > 0.0:
        raise UsageError(f"time_limit_s is {options['time_limit_s']}; it must be > 0")

    n_init = options["n_init"]
    if n_init < 1:
        raise UsageError(f"n_init is {n_init}; at least 1 start is needed")
    if n_init > MOST_STARTS:
        raise UsageError(f"n_init is {n_init}; at most {MOST_STARTS:,} starts are possible")

    if not 0.0 <= options["min_margin"] < np.inf:
        raise UsageError(f"min_margin is {options['min_margin']}; it must be >= 0")
    threshold = options["near_duplicates"]
    if threshold is not None and not 0.0 < threshold <= 1.0:
        raise UsageError(f"near_duplicates is {threshold}; it must be a cosine in (0, 1]")
    if not np.isfinite(options["position"]):
        raise UsageError(f"position is {options['position']}; it must be a finite number")
    if not 0.0 <= options["spread_weight"] < np.inf:
        raise UsageError(f"spread_weight is {options['spread_weight']}; it must be >= 0")
    if not 0.0 <= options["quantile"] <= 1.0:
        raise UsageError(f"quantile is {options['quantile']}; it must be in [0, 1]")


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
            hint="pass NumPy arrays or lists of equal lengths; convert a torch tensor with "
            ".detach().cpu().float()",
        ) from error
    if array.dtype.kind not in "fiub" and array.size:
        raise InputError(f"{name} hold {array.dtype} values, not real numbers")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def check_geometry(
    strategy: str, shape: tuple[int, ...], is_single: bool, embeddings: Any, distances: Any
) -> tuple[np.ndarray | None, bool]:
    """Return embeddings (P, R, D) or distances (P, R, R), or None, and whether they are distances.

    Args:
        strategy: the strategy's name; it may need one of them.
        shape: (P, R) of the rewards.
        is_single: whether one prompt was given, without P in front.
        embeddings: as passed to `select_responses`.
        distances: as passed to it.

    Raises:
        UsageError: both are given, or neither although the strategy needs one.
        InputError: the shape does not match the rewards.
    """
    if embeddings is not None and distances is not None:
        raise UsageError("embeddings and distances were both given", hint="pass only one of them")
    if embeddings is None and distances is None:
        if STRATEGIES[strategy].needs == "embeddings":
            raise UsageError(
                f"{strategy} needs embeddings or distances",
                hint="run `prefpipe embed`, or use a strategy on rewards such as bottom-k",
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


def are_plain_norms(squared_norms_PR: np.ndarray) -> bool:
    """Return whether squared norms (P, R) alone show that `checked_geometry` would refuse nothing.

    The largest of a prompt is at least the square of its largest coordinate, and at most D times
    that. Infinity makes an infinite norm and NaN a NaN, which are outside any range.
    """
    largest_P = squared_norms_PR.max(axis=1, initial=0.0)
    is_plain_P = (largest_P >= SMALLEST_PLAIN_NORM) & (largest_P <= LARGEST_PLAIN_NORM)
    return bool(is_plain_P.all())


def checked_geometry(
    array: np.ndarray, mask_PR: np.ndarray, *, is_distance: bool, first_prompt: int | None
) -> np.ndarray:
    """Return a slice of embeddings or distances, 0 where the mask is False.

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

    # Where each problem occurs; the first one that occurs is named.
    problems: list[tuple[np.ndarray, str]] = [(~np.isfinite(clean), "not finite")]
    if is_distance:
        tolerance = ASYMMETRY * largest_P11
        is_diagonal = np.eye(clean.shape[1], dtype=bool)[None]
        # Two infinities have no difference, but they are reported before it matters.
        with np.errstate(invalid="ignore"):
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


def checked_evidence(
    strategy: str,
    rewards_PR: np.ndarray,
    mask_PR: np.ndarray,
    options: SelectOptions,
    *,
    is_single: bool,
) -> Evidence:
    """Return what the strategy needs beside rewards and distances.

    Args:
        strategy: its name.
        rewards_PR: (P, R).
        mask_PR: (P, R) bool.
        options: ``uncertainty``, or ``samplers``, ``chosen_from`` and ``rejected_from``.
        is_single: whether one prompt was given, without P in front.

    Raises:
        UsageError: something that the strategy needs is missing.
        InputError: a shape other than the rewards', a spread that is not finite or below 0, or a
            sampler without a response.
    """
    needs = STRATEGIES[strategy].needs
    if needs == "uncertainty":
        return _checked_spreads(
            strategy, rewards_PR, mask_PR, options.get("uncertainty"), is_single=is_single
        )
    if needs == "samplers":
        return _checked_samplers(strategy, rewards_PR, mask_PR, options, is_single=is_single)
    return NO_EVIDENCE


def _checked_spreads(
    strategy: str,
    rewards_PR: np.ndarray,
    mask_PR: np.ndarray,
    uncertainty: Any,
    *,
    is_single: bool,
) -> Evidence:
    if uncertainty is None:
        raise UsageError(
            f"{strategy} needs uncertainty: the spread of several scorers",
            hint="pass uncertainty=prefpipe.scorer_spread(scores, rewards), or use best-worst",
        )
    spreads = as_numbers(uncertainty, "uncertainty").astype(np.float64)
    spreads_PR = _like_rewards(spreads, rewards_PR, "uncertainty", is_single=is_single)

    is_bad_PR = mask_PR & ~((spreads_PR >= 0.0) & (spreads_PR <= LARGEST_REWARD))
    if is_bad_PR.any():
        p, candidate = (int(axis[0]) for axis in np.nonzero(is_bad_PR))
        place = f"candidate {candidate}" if is_single else f"candidate {candidate} of prompt {p}"
        raise InputError(
            f"the uncertainty of {place} is {spreads_PR[p, candidate]}; it must be finite and >= 0",
            hint="mask candidates without a score from every scorer",
        )
    return Evidence(spreads=np.where(mask_PR, spreads_PR, 0.0))


def _checked_samplers(
    strategy: str,
    rewards_PR: np.ndarray,
    mask_PR: np.ndarray,
    options: SelectOptions,
    *,
    is_single: bool,
) -> Evidence:
    for name in ("samplers", "chosen_from", "rejected_from"):
        if options.get(name) is None:
            raise UsageError(
                f"{strategy} needs {name}",
                hint="pass samplers=names, chosen_from=one of them, rejected_from=another",
            )
    chosen_from, rejected_from = options["chosen_from"], options["rejected_from"]
    for name, value in (("chosen_from", chosen_from), ("rejected_from", rejected_from)):
        if np.ndim(value) != 0:
            raise UsageError(f"{name} is {value!r}; it must name one sampler")
    if chosen_from == rejected_from:
        raise UsageError(
            f"chosen_from and rejected_from are both {chosen_from!r}; name two different samplers"
        )

    try:
        names = np.asarray(options["samplers"])
    except ValueError as error:
        raise InputError(f"samplers cannot be read as an array: {error}") from error
    names_PR = _like_rewards(names, rewards_PR, "samplers", is_single=is_single)
    is_chosen_PR = np.asarray(names_PR == chosen_from, dtype=bool) & mask_PR
    is_rejected_PR = np.asarray(names_PR == rejected_from, dtype=bool) & mask_PR
    for option, name, is_of_it_PR in (
        ("chosen_from", chosen_from, is_chosen_PR),
        ("rejected_from", rejected_from, is_rejected_PR),
    ):
        # An empty batch has no samplers and needs none.
        if mask_PR.any() and not is_of_it_PR.any():
            known = ", ".join(sorted({str(each) for each in names_PR[mask_PR]}))
            raise InputError(f"{option} is {name!r}, which is not one of the samplers: {known}")
    # names may differ and compare equal to an array's, which holds no 2**53 + 1 and no "a\\0"
    if (is_chosen_PR & is_rejected_PR).any():
        raise UsageError(
            f"chosen_from {chosen_from!r} and rejected_from {rejected_from!r} are one sampler "
            f"among {names_PR.dtype} values"
        )
    return Evidence(samplers=Samplers(is_chosen_PR, is_rejected_PR))


def _like_rewards(
    values: np.ndarray, rewards_PR: np.ndarray, name: str, *, is_single: bool
) -> np.ndarray:
    """Return values (P, R) in the shape of the given rewards.

    Raises:
        InputError: they have another shape.
    """
    expected = rewards_PR.shape[1:] if is_single else rewards_PR.shape
    if values.shape != expected:
        raise InputError(f"{name} of shape {values.shape} for rewards of shape {expected}")
    return values[None] if is_single else values
