"""Win rates of one or several files of preferences, raw and length-controlled."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from prefpipe.artifacts.interchange.annotations import Annotations, read_annotations
from prefpipe.artifacts.interchange.prompt_values import (
    read_baseline_lengths,
    read_difficulty,
    read_regularising_rows,
)
from prefpipe.errors import FingerprintError, InputError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.length_control import (
    LengthControlled,
    PartlyJudged,
    RegularisingRows,
    length_controlled_difference,
    length_controlled_win_rate,
)
from prefpipe.maths.statistics.prompt_rows import rows_of_prompts
from prefpipe.maths.statistics.winrate import weighted_win_rate, win_rate, win_rate_difference
from prefpipe.stages.evaluate.length_control import notes_on_length
from prefpipe.stages.evaluate.win_rate_recipes import (
    WinRateSources,
    differences_of_recipes,
    notes_of_folder,
    recipe_of,
)


class AnnotatedFile(NamedTuple):
    """One file of preferences.

    ``judged``: its rows that have a preference; ``everyone``: all its rows, in the same order;
    ``read``: the file as it was read; ``notes``: notes for the reader.
    """

    judged: Annotations
    everyone: Annotations
    read: Annotations
    notes: list[str]


class Drawing(NamedTuple):
    """Penalty of the length-controlled fit (None: the recipe's own choice), and both bootstraps."""

    penalty_c: float | None = None
    of_means: Bootstrap = Bootstrap()
    of_fits: Bootstrap = Bootstrap(n_draws=1_000)


class Fits(NamedTuple):
    """A file's length-controlled fits, or why there is none.

    ``everyone`` is over all rows, as AlpacaEval's; ``judged`` over those with a preference, None if
    all have one.
    """

    everyone: LengthControlled | str
    judged: LengthControlled | str | None


def win_rates(
    paths: Sequence[str], sources: WinRateSources, drawing: Drawing, *, force: bool = False
) -> dict[str, Any]:
    """Return the figures of every file, and the paired difference of each to the first.

    Raises:
        InputError: rows that cannot be used, null preferences that are not allowed, other prompts
            where prompts are compared.
        FingerprintError: two files that differ in prompts, baseline or judge, without ``force``.
    """
    files = [_read(path, sources) for path in paths]

    # Resamples are shared by files of the same prompts, so these are in one order.
    as_read = files[0]
    for number, file in enumerate(files):
        files[number] = file._replace(
            judged=_in_order_of(as_read.judged, file.judged),
            everyone=_in_order_of(as_read.everyone, file.everyone),
        )
    first = files[0]  # in that order as well: several rows of one prompt stand together now

    recipes = [recipe_of(file.judged, file.read.prompts_sha256(), sources) for file in files]
    differences_to_first: list[list[str]] = []
    for path, file, recipe in zip(paths[1:], files[1:], recipes[1:], strict=True):
        lines = differences_of_recipes((first.read, recipes[0]), (file.read, recipe))
        if lines and not force:
            raise FingerprintError(
                f"{path} and {paths[0]} were not made by the same recipe:\n  " + "\n  ".join(lines),
                hint="compare results with the same prompts, baseline and judge, or pass --force",
            )
        differences_to_first.append(lines)

    fits = []
    for file in files:
        of_judged = _fit(file.judged, sources, drawing) if file.read.n_missing else None
        fits.append(Fits(_fit(file.everyone, sources, drawing), of_judged))

    results = []
    for file, fits_of_file, recipe in zip(files, fits, recipes, strict=True):
        results.append(_figures(file, fits_of_file, drawing, recipe))

    differences = []
    for number, lines in enumerate(differences_to_first, start=1):
        difference = _difference(first, files[number], (fits[0], fits[number]), drawing)
        differences.append(difference | {"recipe_differences": lines})
    return {
        "confidence": drawing.of_means.level,
        "bootstrap_draws": drawing.of_means.n_draws,
        "bootstrap_draws_of_fits": drawing.of_fits.n_draws,
        "bootstrap_seed": drawing.of_means.seed,
        "results": results,
        "differences": differences,
    }


def _read(path: str, sources: WinRateSources) -> AnnotatedFile:
    """Return the rows that count, with difficulty and baseline lengths.

    Raises:
        InputError: no row has a preference, or some have none and may not be left out.
    """
    read = read_annotations(path, scale=sources.scale, category=sources.category)
    notes = notes_of_folder(read)
    if read.n_missing:
        if not sources.allow_missing:
            raise InputError(
                f"{path}: {read.n_missing:,} of {len(read.preferences):,} rows have no preference",
                hint="judge them again, or pass --allow-missing to leave them out and report how "
                "many",
            )
        notes.append(
            f"{read.n_missing:,} of {len(read.preferences):,} rows have no preference and are left "
            "out of the win rate"
        )

    place_of_prompt = None
    if sources.difficulty is not None:
        matched = read_difficulty(sources.difficulty, read)
        read = replace(read, difficulty=matched.values)
        place_of_prompt = matched.place
        notes.append(f"difficulty is matched by {matched.by}" + _unused(matched.n_unused))

    if sources.baseline_outputs is not None:
        matched = read_baseline_lengths(sources.baseline_outputs, read)
        read = replace(read, baseline_lengths=matched.values)
        notes.append(
            f"the baseline's responses are matched by {matched.by}" + _unused(matched.n_unused)
        )

    # After difficulty and lengths are beside the rows: what is left out takes them along.
    judged = read.known()
    if not judged.preferences:
        raise InputError(f"{path}: no row has a preference", hint="judge them first")
    n_again = _n_said_again(judged)
    if n_again:
        notes.append(
            f"{n_again:,} rows repeat another row: same prompt, lengths, judge and preference"
        )

    # prefpipe's own folder and difficulties matched row by row keep the order that they have.
    everyone = read
    is_matched_by_row = sources.difficulty is not None and place_of_prompt is None
    if read.record is None and not is_matched_by_row:
        judged = _in_order_of_their_own(judged, place_of_prompt or {})
        everyone = _in_order_of_their_own(read, place_of_prompt or {})
    return AnnotatedFile(judged, everyone, read, notes)


def _in_order_of_their_own(rows: Annotations, place_of_prompt: Mapping[str, int]) -> Annotations:
    """Return rows in an order that is not the file's.

    Folds and resamples, and so the figures, then do not depend on the file's.

    Args:
        rows: to be sorted.
        place_of_prompt: in the table of difficulties, which decides first; {} if there is none.
            Then the prompts do, as texts.
    """
    preferences = rows.preferences
    # Where there are no lengths, preferences take their place and change no order.
    lengths = rows.lengths or preferences
    baseline_lengths = rows.baseline_lengths or preferences

    def rank(row: int) -> tuple[int, str, float, float, float]:
        key = rows.keys[row]
        place = place_of_prompt.get(key, len(place_of_prompt))
        return place, key, preferences[row], lengths[row], baseline_lengths[row]

    return rows.at(sorted(range(len(rows.keys)), key=rank))


def _n_said_again(rows: Annotations) -> int:
    """Return how many rows of AlpacaEval's format repeat another one.

    The format has one row a prompt and judge.
    """
    if rows.kind != "alpaca-eval" or len(rows.judges) > 1:
        return 0
    unknown = [0.0] * len(rows.preferences)
    contents = zip(
        rows.keys,
        rows.preferences,
        rows.lengths or unknown,
        rows.baseline_lengths or unknown,
        strict=True,
    )
    return len(rows.preferences) - len(set(contents))


def _in_order_of(first: Annotations, other: Annotations) -> Annotations:
    """Return rows with the prompts in the order of another file's, where both have the same.

    Resamples are then shared.
    """
    order = {key: number for number, key in enumerate(dict.fromkeys(first.keys))}
    if set(other.keys) != order.keys():
        return other
    return other.at(sorted(range(len(other.keys)), key=lambda row: order[other.keys[row]]))


def _unused(count: int) -> str:
    return f"; {count:,} prompts of that file are not annotated" if count else ""


def _fit(
    annotations: Annotations, sources: WinRateSources, drawing: Drawing
) -> LengthControlled | str:
    """Return the length-controlled win rate, or why there is none."""
    without = "no length-controlled win rate"
    if annotations.lengths is None or annotations.baseline_lengths is None:
        side = "policy" if annotations.lengths is None else "baseline"
        return f"{without}: the file does not hold the {side}'s responses or their lengths"
    regularising_rows = None
    if sources.regularising_rows is not None:
        regularising_rows = RegularisingRows(*read_regularising_rows(sources.regularising_rows))

    if rows_of_prompts(annotations.keys, len(annotations.keys)).n_prompts < 2:
        return f"{without}: there is one prompt"
    try:
        return length_controlled_win_rate(
            PartlyJudged(annotations.preferences),
            annotations.lengths,
            annotations.baseline_lengths,
            annotations.difficulty,
            prompt_ids=annotations.keys,
            regularising_rows=regularising_rows,
            penalty_c=drawing.penalty_c,
            bootstrap=drawing.of_fits,
        )
    except InputError as error:  # the win rate beside it does not need lengths
        return f"{without}: {error.message}"


def _figures(
    file: AnnotatedFile, fits: Fits, drawing: Drawing, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a file's figures."""
    rows = file.judged
    raw = win_rate(rows.preferences, rows.keys, bootstrap=drawing.of_means)
    weighted = None
    if rows.weights is not None:
        weighted = weighted_win_rate(
            rows.preferences, rows.weights, rows.keys, bootstrap=drawing.of_means
        )._asdict()

    controlled, controlled_judged = None, None
    notes = list(file.notes)
    if isinstance(fits.everyone, str):
        notes.append(fits.everyone)
    else:
        controlled = fits.everyone.figures()
        notes += notes_on_length(controlled)
    if isinstance(fits.judged, LengthControlled):
        controlled_judged = fits.judged.figures()
    return {
        "name": rows.policy or rows.source,
        "n_rows": len(rows.preferences),
        "n_rows_missing": file.read.n_missing,
        "win_rate": raw._asdict(),
        "arena_hard_score": weighted,
        "length_controlled": controlled,
        "length_controlled_judged_rows": controlled_judged,
        "mean_length_chars": _mean(rows.lengths),
        "mean_baseline_length_chars": _mean(rows.baseline_lengths),
        "notes": notes,
        "recipe": recipe,
    }


def _mean(values: Sequence[float] | None) -> float | None:
    return None if values is None else float(np.mean(values))


def _difference(
    first_file: AnnotatedFile, other_file: AnnotatedFile, fits: tuple[Fits, Fits], drawing: Drawing
) -> dict[str, Any]:
    """Return the difference of another file's figures to the first, paired by prompt."""
    first, other = first_file.judged, other_file.judged
    first_means, other_means = _means_by_prompt(first), _means_by_prompt(other)
    both = [key for key in first_means if key in other_means]
    difference: dict[str, Any] = {
        "name": other.policy or other.source,
        "from": first.policy or first.source,
        "n_prompts": len(both),
        "win_rate": None,
        "length_controlled": None,
    }
    if not both:
        difference["reason"] = (
            f"{first.source} and {other.source} have no prompt in common; prompts are matched by "
            "prompt_id if both files have it, else by their exact text"
        )
        return difference

    difference["win_rate"] = win_rate_difference(
        [first_means[key] for key in both],
        [other_means[key] for key in both],
        bootstrap=drawing.of_means,
    )._asdict()

    first_fit, other_fit = fits[0].everyone, fits[1].everyone
    first_prompts = list(dict.fromkeys(first_file.everyone.keys))
    other_prompts = list(dict.fromkeys(other_file.everyone.keys))
    if isinstance(first_fit, str) or isinstance(other_fit, str):
        return difference
    # Only then were both fits drawn from the same resamples.
    if first_prompts == other_prompts:
        gain = length_controlled_difference(first_fit, other_fit)
        difference["length_controlled"] = gain._asdict()
    return difference


def _means_by_prompt(rows: Annotations) -> dict[str, float]:
    """Return the mean preference of each prompt."""
    means = rows_of_prompts(rows.keys, len(rows.keys)).means(np.array(rows.preferences))
    return dict(zip(dict.fromkeys(rows.keys), means, strict=True))
