"""Several rows with scores of one response: ratings of several people, or samples of one text."""

from collections.abc import Collection, Sequence
from math import fsum, isfinite
from typing import Any

from prefpipe.artifacts.interchange.pool import ImportedResponse
from prefpipe.artifacts.interchange.row_problems import Problems
from prefpipe.artifacts.interchange.score_columns import words_of
from prefpipe.artifacts.interchange.user_table import UserTable
from prefpipe.artifacts.tables.values import shortened

RATER_WORDS = {
    "annotator",
    "rater",
    "judge",
    "evaluator",
    "worker",
    "reviewer",
    "labeler",
    "labeller",
    "assessor",
}
"""Words of columns that say who rated a response."""


def raters_of_rows(table: UserTable | None, reserved: Collection[str | None]) -> list[str]:
    """Return for each row who rated it; [] if no column says so."""
    if table is None:
        return []
    names = [name for name in table.names if RATER_WORDS & set(words_of(name))]
    columns = [map(repr, table.values(name)) for name in names if name not in reserved]
    return [" ".join(values) for values in zip(*columns, strict=True)]


def one_response_each(
    members: Sequence[list[ImportedResponse]],
    on_duplicate: str,
    problems: Problems,
    raters: Sequence[str] = (),
) -> tuple[list[list[ImportedResponse]], list[str]]:
    """Make one response of several rows that rate it.

    Rows are of one response where they have one key, or, without keys, one text of one model.

    Without keys the same text may also have been sampled twice. All such rows of a file are taken
    for ratings where some of them have different scores, or different raters, and for samples where
    none has. Two rows with one key that say the same are a mistake and stay.

    Args:
        members: the responses of each prompt.
        on_duplicate: ``mean``, ``first`` or ``refuse``.
        problems: where refused ones are noted.
        raters: who rated each row of the file; () where it does not say.

    Returns:
        The responses of each prompt, and what was done.
    """
    ratings, samples = _ratings_and_samples(members, raters)
    notes = _notes_of_shared_texts(members)
    if samples:
        n_rows = sum(len(rows) - 1 for rows in samples)
        notes.append(
            f"responses that repeat text and scores of another one of their prompt: {n_rows:,}, "
            "kept as separate samples"
        )

    if not ratings:
        return list(members), notes
    if on_duplicate == "refuse":
        for rows in ratings:
            places = [response.place for response in rows]
            problems.add(rows[1].place, _contradiction(rows), contradicted=places)
        return list(members), notes

    # by the object itself: one row of a file may hold the same text twice
    joined = {id(rows[0]): _joined(rows, on_duplicate) for rows in ratings}
    absorbed: set[int] = set()
    for rows in ratings:
        absorbed.update(map(id, rows[1:]))
    kept = []
    for responses in members:
        remaining = [response for response in responses if id(response) not in absorbed]
        kept.append([joined.get(id(response), response) for response in remaining])
    notes.append(_note_of_ratings(ratings, on_duplicate))
    return kept, notes


def _ratings_and_samples(
    members: Sequence[list[ImportedResponse]], raters: Sequence[str]
) -> tuple[list[list[ImportedResponse]], list[list[ImportedResponse]]]:
    """Return the rows of each response that several people rated, and of each that came twice."""
    keyed: list[list[ImportedResponse]] = []
    unkeyed: list[list[ImportedResponse]] = []
    for responses in members:
        for rows in _rows_of_each_response(responses):
            if len(rows) == 1:
                continue
            if rows[0].sample_idx is None:
                unkeyed.append(rows)
            elif _differ(rows, raters):
                keyed.append(rows)

    # one difference decides for the file: the same people rate some responses alike
    if any(_differ(rows, raters) for rows in unkeyed):
        return keyed + unkeyed, []
    return keyed, unkeyed


def _rows_of_each_response(responses: Sequence[ImportedResponse]) -> list[list[ImportedResponse]]:
    """Return the rows of each response of a prompt, in the order of the file."""
    rows: dict[Any, list[ImportedResponse]] = {}
    for number, response in enumerate(responses):
        key: tuple[Any, Any]
        if response.text is None:
            # what has no text is like no other
            key = ("failed", number)
        elif response.sample_idx is not None:
            # another text under one index is no rating of it: numbering refuses it
            key = (response.sample_idx, response.text)
        else:
            key = (response.text, response.model)
        rows.setdefault(key, []).append(response)
    return list(rows.values())


def _differ(rows: Sequence[ImportedResponse], raters: Sequence[str]) -> bool:
    """Return whether rows of one text have different scores, or different raters."""
    if raters and len({raters[response.row] for response in rows}) > 1:
        return True
    return len({repr(sorted(response.scores.items())) for response in rows}) > 1


def _joined(rows: Sequence[ImportedResponse], on_duplicate: str) -> ImportedResponse:
    """Return the one response of several rows with its scores."""
    first = rows[0]
    if on_duplicate == "first":
        return first

    scores: dict[str, float | None] = {}
    for scorer in first.scores:
        given = [score for row in rows if (score := row.scores[scorer]) is not None]
        # NaN is how tables write a rater who gave none
        finite = [score for score in given if isfinite(score)]
        if finite:
            # fsum is exact: the order of the ratings decides nothing
            scores[scorer] = fsum(finite) / len(finite)
        else:
            # a single NaN or infinity is reported in the row's status
            scores[scorer] = given[0] if given else None
    return first._replace(scores=scores)


def _contradiction(rows: Sequence[ImportedResponse]) -> str:
    """Return how the first two rows of a response contradict each other."""
    first, second = rows[:2]
    differing = [name for name in first.scores if first.scores[name] != second.scores[name]]
    # raters may differ where no score does
    scorer = next(iter([*differing, *first.scores]), "")
    return (
        f"prompt {first.prompt_id}: one response has {scorer} {second.scores.get(scorer)} here "
        f"and {first.scores.get(scorer)} at {first.place}: {shortened(first.text)} (pass "
        "--on-duplicate mean to use the mean)"
    )


def _note_of_ratings(ratings: Sequence[Sequence[ImportedResponse]], on_duplicate: str) -> str:
    """Return what was made of rows that rate one response, with their number and first place."""
    fewest, most = min(map(len, ratings)), max(map(len, ratings))
    n_rows = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    first, second = ratings[0][:2]
    becomes = "the mean of its scores" if on_duplicate == "mean" else "the first of its scores"
    return (
        f"{len(ratings):,} responses occur in {n_rows} rows each, first at {first.place} and "
        f"{second.place}: each becomes one candidate with {becomes} (--on-duplicate "
        f"{on_duplicate}); to keep equal texts as separate samples, add a sample_idx"
    )


def _notes_of_shared_texts(members: Sequence[Sequence[ImportedResponse]]) -> list[str]:
    """Return how many texts several models wrote that have another score each.

    Selection keeps one candidate of a text.
    """
    n_texts = 0
    for responses in members:
        # scores as texts, so that NaN is NaN
        scores: dict[str, set[str]] = {}
        models: dict[str, set[str | None]] = {}
        for response in responses:
            if response.text is not None:
                scores.setdefault(response.text, set()).add(repr(sorted(response.scores.items())))
                models.setdefault(response.text, set()).add(response.model)
        for text, different_scores in scores.items():
            n_texts += len(models[text]) > 1 and len(different_scores) > 1
    if not n_texts:
        return []
    note = (
        f"texts that several models wrote, with different scores: {n_texts:,}, one candidate "
        "each; `select` keeps the first of them"
    )
    return [note]
