"""Win rates of one or several files of preferences: raw beside length-controlled, with what they were made of."""

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
from prefpipe.stages.evaluate.comparison import length_notes
from prefpipe.stages.evaluate.win_rate_recipes import (
    Beside,
    differences_of_recipes,
    notes_of_folder,
    recipe_of,
)


class WinRateSources(NamedTuple):
    """The files beside the annotations, and how their preferences are written."""

    baseline_outputs: str | None = None
    difficulty: str | None = None
    regularising_rows: str | None = None
    scale: str | None = None
    category: str | None = None
    allow_missing: bool = False


class Prepared(NamedTuple):
    """One file's rows that have a preference, all its rows, the file as it was read, and notes on it."""

    rows: Annotations
    everyone: Annotations
    read: Annotations
    notes: list[str]


class Drawing(NamedTuple):
    """Penalty of the length-controlled fit (None: the recipe's own choice), and both bootstraps."""

    penalty_c: float | None = None
    of_means: Bootstrap = Bootstrap()
    of_fits: Bootstrap = Bootstrap(n_draws=1_000)


def win_rates(
    paths: Sequence[str], sources: WinRateSources, drawing: Drawing, *, force: bool = False
) -> dict[str, Any]:
    """Return the figures of every file, and of each file after the first the paired difference to the first.

    Raises:
        InputError: rows that cannot be used, null preferences that are not allowed, other prompts where prompts are compared.
        FingerprintError: two files that differ in prompts, baseline or judge, without ``force``.
    """
    files = [_prepared(path, sources) for path in paths]
    files = [
        file._replace(
            rows=_in_order_of(files[0].rows, file.rows),
            everyone=_in_order_of(files[0].everyone, file.everyone),
        )
        for file in files
    ]
    beside = Beside(sources.difficulty, sources.regularising_rows, sources.category)
    recipes = [recipe_of(file.rows, file.read.prompts_sha256(), beside) for file in files]
    unlike = [
        differences_of_recipes((files[0].read, recipes[0]), (file.read, recipe))
        for file, recipe in zip(files[1:], recipes[1:], strict=True)
    ]
    if not force:
        _refuse_other_recipe(paths, unlike)
    fits = [_fit(file.everyone, sources, drawing) for file in files]
    judged_fits = [
        _fit(file.rows, sources, drawing) if file.read.n_missing else None for file in files
    ]
    results = [
        _figures(file, (fit, judged), drawing, recipe)
        for file, fit, judged, recipe in zip(files, fits, judged_fits, recipes, strict=True)
    ]
    differences = [
        _difference(files[0], file, (fits[0], fit), drawing) | {"recipe_differences": lines}
        for file, fit, lines in zip(files[1:], fits[1:], unlike, strict=True)
    ]
    return {
        "confidence": drawing.of_means.level,
        "bootstrap_draws": drawing.of_means.n_draws,
        "bootstrap_draws_of_fits": drawing.of_fits.n_draws,
        "bootstrap_seed": drawing.of_means.seed,
        "results": results,
        "differences": differences,
    }


def _prepared(path: str, sources: WinRateSources) -> Prepared:
    """Return the rows that count, with difficulty and baseline lengths beside them, and what is to be said about them."""
    read = read_annotations(path, scale=sources.scale, category=sources.category)
    notes = notes_of_folder(read)
    if read.n_missing:
        if not sources.allow_missing:
            raise InputError(
                f"{path}: {read.n_missing:,} of {len(read.preferences):,} rows have no preference",
                hint="judge them again, or leave them out and have them counted with --allow-missing",
            )
        notes.append(
            f"{read.n_missing:,} of {len(read.preferences):,} rows have no preference and are left out of the win rate"
        )
    place = None
    if sources.difficulty is not None:
        matched = read_difficulty(sources.difficulty, read)
        read, place = replace(read, difficulty=matched.values), matched.place
        notes.append(f"difficulty is matched by {matched.by}" + _unused(matched.n_unused))
    if sources.baseline_outputs is not None:
        matched = read_baseline_lengths(sources.baseline_outputs, read)
        read = replace(read, baseline_lengths=matched.values)
        notes.append(
            f"the baseline's responses are matched by {matched.by}" + _unused(matched.n_unused)
        )
    known = read.known()
    if not known.preferences:
        raise InputError(f"{path}: no row has a preference", hint="judge them first")
    n_again = _n_said_again(known)
    if n_again:
        notes.append(
            f"{n_again:,} rows say again what another row says: same prompt, lengths, judge and preference"
        )
    is_by_row = sources.difficulty is not None and place is None
    everyone = read
    if read.record is None and not is_by_row:
        known, everyone = _in_own_order(known, place), _in_own_order(read, place)
    return Prepared(known, everyone, read, notes)


def _in_own_order(rows: Annotations, place: Mapping[str, int] | None) -> Annotations:
    """Return rows in an order that is not the file's: folds and resamples, and so the figures, do not depend on it then.

    That of the table of difficulties, where there is one, else that of the prompts as texts.
    """
    keys, preferences = rows.keys, rows.preferences
    sides = [rows.lengths or preferences, rows.baseline_lengths or preferences]
    known = {} if place is None else place

    def rank(row: int) -> tuple[int, str, list[float]]:
        return (
            known.get(keys[row], len(known)),
            keys[row],
            [preferences[row], *(side[row] for side in sides)],
        )

    return rows.at(sorted(range(len(keys)), key=rank))


def _n_said_again(rows: Annotations) -> int:
    """Return how many rows of AlpacaEval's format, which has one a prompt and judge, repeat another one."""
    if rows.kind != "alpaca-eval" or len(rows.judges) > 1:
        return 0
    nothing = [0.0] * len(rows.preferences)
    seen = zip(
        rows.keys,
        rows.preferences,
        rows.lengths or nothing,
        rows.baseline_lengths or nothing,
        strict=True,
    )
    return len(rows.preferences) - len(set(seen))


def _in_order_of(first: Annotations, other: Annotations) -> Annotations:
    """Return rows with the prompts in the order of another file's, where both are of the same: resamples are shared then."""
    order = {key: number for number, key in enumerate(dict.fromkeys(first.keys))}
    if set(other.keys) != order.keys():
        return other
    return other.at(sorted(range(len(other.keys)), key=lambda row: order[other.keys[row]]))


def _unused(count: int) -> str:
    return f"; {count:,} prompts of that file are not annotated" if count else ""


def _refuse_other_recipe(paths: Sequence[str], unlike: Sequence[Sequence[str]]) -> None:
    for path, lines in zip(paths[1:], unlike, strict=True):
        if lines:
            told = "\n  ".join(lines)
            raise FingerprintError(
                f"{path} and {paths[0]} are not of the same recipe:\n  {told}",
                hint="compare results of the same prompts, baseline and judge, or pass --force",
            )


def _fit(
    annotations: Annotations, sources: WinRateSources, drawing: Drawing
) -> LengthControlled | str:
    """Return the length-controlled figure, or why there is none."""
    if annotations.lengths is None or annotations.baseline_lengths is None:
        side = "policy" if annotations.lengths is None else "baseline"
        return f"no length-controlled win rate: the file does not hold the {side}'s responses or their lengths"
    extra = None
    if sources.regularising_rows is not None:
        read = read_regularising_rows(sources.regularising_rows)
        extra = RegularisingRows(*read)
    if rows_of_prompts(annotations.keys, len(annotations.keys)).n_prompts < 2:
        return "no length-controlled win rate: there is one prompt"
    try:
        return length_controlled_win_rate(
            PartlyJudged(annotations.preferences),
            annotations.lengths,
            annotations.baseline_lengths,
            annotations.difficulty,
            prompt_ids=annotations.keys,
            regularising_rows=extra,
            penalty_c=drawing.penalty_c,
            bootstrap=drawing.of_fits,
        )
    except InputError as error:  # the win rate beside it does not need lengths
        return f"no length-controlled win rate: {error.message}"


def _figures(
    file: Prepared,
    fits: tuple[LengthControlled | str, LengthControlled | str | None],
    drawing: Drawing,
    recipe: dict[str, Any],
) -> dict[str, Any]:
    """Return a file's figures; ``fits`` are over all rows, as AlpacaEval's, and over those with a preference alone."""
    rows, (fit, judged) = file.rows, fits
    raw = win_rate(rows.preferences, rows.keys, bootstrap=drawing.of_means)
    weighted = None
    if rows.weights is not None:
        weighted = weighted_win_rate(
            rows.preferences, rows.weights, rows.keys, bootstrap=drawing.of_means
        )._asdict()
    ours, theirs = rows.lengths, rows.baseline_lengths
    controlled = None if isinstance(fit, str) else fit.figures()
    return {
        "name": rows.policy or rows.source,
        "n_rows": len(rows.preferences),
        "n_rows_missing": file.read.n_missing,
        "win_rate": raw._asdict(),
        "arena_hard_score": weighted,
        "length_controlled": controlled,
        "length_controlled_judged_rows": judged.figures()
        if isinstance(judged, LengthControlled)
        else None,
        "mean_length_chars": float(np.mean(ours)) if ours is not None else None,
        "mean_baseline_length_chars": float(np.mean(theirs)) if theirs is not None else None,
        "notes": [*file.notes, *([str(fit)] if controlled is None else length_notes(controlled))],
        "recipe": recipe,
    }


def _difference(
    first_file: Prepared,
    other_file: Prepared,
    fits: tuple[LengthControlled | str, LengthControlled | str],
    drawing: Drawing,
) -> dict[str, Any]:
    """Return by how much another file's figures are higher, paired by prompt."""
    first, other = first_file.rows, other_file.rows
    rows, rows_of_other = (rows_of_prompts(item.keys, len(item.keys)) for item in (first, other))
    ours = dict(
        zip(dict.fromkeys(first.keys), rows.means(np.array(first.preferences)), strict=True)
    )
    theirs = dict(
        zip(
            dict.fromkeys(other.keys), rows_of_other.means(np.array(other.preferences)), strict=True
        )
    )
    both = [key for key in ours if key in theirs]
    names = {
        "name": other.policy or other.source,
        "from": first.policy or first.source,
        "n_prompts": len(both),
    }
    if not both:
        reason = (
            f"{first.source} and {other.source} have no prompt in common; prompts are matched by prompt_id where the files "
            "have it, else by their text, every character"
        )
        return names | {"win_rate": None, "length_controlled": None, "reason": reason}
    raw = win_rate_difference(
        [ours[key] for key in both], [theirs[key] for key in both], bootstrap=drawing.of_means
    )
    controlled = None
    are_same = list(dict.fromkeys(first_file.everyone.keys)) == list(
        dict.fromkeys(other_file.everyone.keys)
    )
    if not isinstance(fits[0], str) and not isinstance(fits[1], str) and are_same:
        controlled = length_controlled_difference(fits[0], fits[1])._asdict()
    return names | {"win_rate": raw._asdict(), "length_controlled": controlled}
