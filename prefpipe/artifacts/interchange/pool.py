"""What is read from other tools' files: prompts with their responses and scores, keyed and checked.

Every reader hands over its responses one by one; ``gather`` joins them by prompt, numbers them and refuses what two rows
say differently.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, isfinite
from typing import Any, NamedTuple

import pyarrow as pa

from prefpipe.artifacts.conversations import OTHER_SYSTEM, Turns
from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.interchange.score_columns import words_of
from prefpipe.artifacts.interchange.user_table import Problems, UserTable, told
from prefpipe.artifacts.prompts import Prompt, Prompts
from prefpipe.artifacts.tables.columns import python_rows
from prefpipe.artifacts.tool_calls import holds_tools
from prefpipe.errors import InputError, UsageError

RATER_WORDS = (
    "annotator",
    "rater",
    "judge",
    "evaluator",
    "worker",
    "reviewer",
    "labeler",
    "labeller",
    "assessor",
)
"""Words of columns that say who rated a response."""


class Response(NamedTuple):
    """One response of a file.

    ``row`` is the number of its row, from 0, ``place`` its name in messages. ``prompt_id`` None is the messages' hash,
    ``sample_idx`` None the order within the prompt. ``failure`` says why there is no text. ``scores`` by scorer: None where
    the file has no score.
    """

    row: int
    place: str
    messages: Turns
    text: str | None
    prompt_id: str | None = None
    sample_idx: int | None = None
    model: str | None = None
    finish_reason: str | None = None
    failure: str | None = None
    scores: Mapping[str, float | None] = {}


@dataclass(frozen=True)
class Pool:
    """All prompts of a file in the order in which they first stand there, each one's responses by ``sample_idx`` beside it."""

    prompts: Prompts
    responses: list[list[Response]]
    scorers: tuple[str, ...]
    notes: list[str] = field(default_factory=list)

    @property
    def n_responses(self) -> int:
        """Responses of all prompts."""
        return sum(map(len, self.responses))


def gather(
    responses: Iterable[Response],
    problems: Problems,
    *,
    scorers: Sequence[str],
    table: UserTable | None = None,
    columns: Sequence[str] | None = (),
    reserved: Sequence[str] = (),
    on_duplicate: str | None = None,
) -> Pool:
    """Join responses by prompt and number them.

    Args:
        responses: in the order of the file.
        problems: what the reader has found already; told here together with what is found now.
        scorers: names of the scores.
        table: where the user's columns are.
        columns: those that pass through; None for all that hold one value for each prompt.
        reserved: names that cannot pass through: those of the artifact, and those that the reader has used.
        on_duplicate: what several rows with scores of one response come to, ``mean``, ``first`` or ``refuse``; None where every
            row is a sample of its own.

    Raises:
        InputError: two texts for one prompt, two responses under one key, and the reader's problems.
    """
    by_prompt: dict[str, list[Response]] = {}
    for response in responses:
        prompt_id = (
            response.prompt_id
            if response.prompt_id is not None
            else prompt_id_of(response.messages)
        )
        members = by_prompt.setdefault(prompt_id, [])
        if members and members[0].messages != response.messages:
            problems.add(response.place, _difference_of_prompts(prompt_id, members[0], response))
        members.append(response._replace(prompt_id=prompt_id))

    rated = list(by_prompt.values())
    notes: list[str] = []
    if on_duplicate is not None and scorers:
        raters = _values_of_raters(table, reserved)
        rated, notes = one_response_each(rated, on_duplicate, problems, raters)

    numbered = [_numbered(members, problems) for members in rated]
    problems.raise_if_any()
    prompts = [Prompt(prompt_id, members[0].messages) for prompt_id, members in by_prompt.items()]
    theirs, column_notes = _user_columns(table, list(by_prompt.values()), columns, reserved)
    carries_tools = any(holds_tools(prompt.messages) for prompt in prompts)
    return Pool(
        Prompts(prompts, theirs, carries_tools=carries_tools),
        numbered,
        tuple(scorers),
        [*notes, *column_notes],
    )


def _difference_of_prompts(prompt_id: str, first: Response, other: Response) -> str:
    """Return what two rows of one prompt say differently: all of it, or the system turn alone."""
    texts = [
        [turn for turn in response.messages if turn["role"] != "system"]
        for response in (first, other)
    ]
    if texts[0] == texts[1]:
        return f"prompt {prompt_id} {OTHER_SYSTEM} {first.place}"
    return f"prompt {prompt_id} has another text here than at {first.place}"


def _values_of_raters(table: UserTable | None, reserved: Sequence[str]) -> list[str]:
    """Return for each row who rated it, as far as the file says so in a column that holds nothing else."""
    if table is None:
        return []
    words = {name: words_of(name) for name in table.names if name not in reserved}
    names = [name for name, parts in words.items() if any(word in RATER_WORDS for word in parts)]
    columns = [list(map(repr, table.values(name))) for name in names]
    return [" ".join(values) for values in zip(*columns, strict=True)]


def one_response_each(
    members: Sequence[list[Response]],
    on_duplicate: str,
    problems: Problems,
    raters: Sequence[str] = (),
) -> tuple[list[list[Response]], list[str]]:
    """Return each prompt's responses, several rows with scores of one response made one, and what was done.

    Rows are of one response where they have one key, or, without keys, one text of one model. Without keys the same text may
    also have been sampled twice: all such rows of a file are taken for ratings where some of them have different scores, or
    different raters, and for samples where none has. Two rows with one key that say the same are a mistake and stay.

    Args:
        members: the responses of each prompt.
        on_duplicate: ``mean``, ``first`` or ``refuse``.
        problems: where refused ones are noted.
        raters: who rated each row of the file; () where it does not say.
    """
    several = [bundle for responses in members for bundle in _bundles(responses) if len(bundle) > 1]
    keyed = [
        bundle for bundle in several if bundle[0].sample_idx is not None and _differ(bundle, raters)
    ]
    unkeyed = [bundle for bundle in several if bundle[0].sample_idx is None]
    are_ratings = any(_differ(bundle, raters) for bundle in unkeyed)
    ratings = [*keyed, *(unkeyed if are_ratings else [])]

    notes = _notes_of_shared_texts(members)
    if unkeyed and not are_ratings:
        n_rows = sum(len(bundle) - 1 for bundle in unkeyed)
        notes.append(
            f"responses that repeat text and scores of another of their prompt: {n_rows:,}, samples of their own"
        )
    if not ratings:
        return list(members), notes
    if on_duplicate == "refuse":
        for bundle in ratings:
            places = [response.place for response in bundle]
            problems.add(bundle[1].place, _sentence_of_duplicate(bundle), contradicted=places)
        return list(members), notes

    # by the object itself: one row of a file may hold the same text twice
    joined = {id(bundle[0]): _joined(bundle, on_duplicate) for bundle in ratings}
    gone = {id(response) for bundle in ratings for response in bundle[1:]}
    kept = [
        [joined.get(id(response), response) for response in responses if id(response) not in gone]
        for responses in members
    ]
    return kept, [*notes, _note_of_duplicates(ratings, on_duplicate)]


def _notes_of_shared_texts(members: Sequence[Sequence[Response]]) -> list[str]:
    """Return how many texts several models wrote that have another score each: selection keeps one candidate of a text."""
    n_texts = 0
    for responses in members:
        scores: dict[str, set[str]] = {}
        models: dict[str, set[str | None]] = {}
        for response in responses:
            if response.text is not None:
                scores.setdefault(response.text, set()).add(repr(sorted(response.scores.items())))
                models.setdefault(response.text, set()).add(response.model)
        n_texts += sum(len(models[text]) > 1 and len(found) > 1 for text, found in scores.items())
    what = "texts that several models wrote, with different scores"
    return (
        [f"{what}: {n_texts:,}, a candidate each; `select` keeps the first of them"]
        if n_texts
        else []
    )


def _bundles(responses: Sequence[Response]) -> list[list[Response]]:
    """Return the rows of each response of a prompt, in the order in which responses first stand in the file."""
    bundles: dict[Any, list[Response]] = {}
    for number, response in enumerate(responses):
        key: Any = (
            (response.sample_idx, response.text)
            if response.sample_idx is not None
            else (response.text, response.model)
        )
        bundles.setdefault(("failed", number) if response.text is None else key, []).append(
            response
        )
    return list(bundles.values())


def _differ(bundle: Sequence[Response], raters: Sequence[str]) -> bool:
    """Return whether rows of one text have different scores, or different raters."""
    scores = {repr(sorted(response.scores.items())) for response in bundle}
    names = {raters[response.row] for response in bundle} if raters else set()
    return len(scores) > 1 or len(names) > 1


def _joined(bundle: Sequence[Response], on_duplicate: str) -> Response:
    """Return the one response of several rows with its scores."""
    first = bundle[0]
    if on_duplicate == "first":
        return first
    scores: dict[str, float | None] = {}
    for scorer in first.scores:
        given = [value for response in bundle if (value := response.scores[scorer]) is not None]
        finite = [
            value for value in given if isfinite(value)
        ]  # NaN is how tables write a rater who gave none
        scores[scorer] = fsum(finite) / len(finite) if finite else next(iter(given), None)
    return first._replace(scores=scores)


def _sentence_of_duplicate(bundle: Sequence[Response]) -> str:
    first, second = bundle[:2]
    scorer = next(
        (name for name in first.scores if first.scores[name] != second.scores[name]),
        next(iter(first.scores), ""),
    )
    return (
        f"prompt {first.prompt_id}: one response has {scorer} {second.scores.get(scorer)} here and {first.scores.get(scorer)} at "
        f"{first.place}: {told(first.text)} (--on-duplicate mean takes the mean)"
    )


def _note_of_duplicates(bundles: Sequence[Sequence[Response]], on_duplicate: str) -> str:
    """Return what was made of rows with several scores of one response, with their number and the first place."""
    sizes = sorted(map(len, bundles))
    how_many = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
    first = bundles[0]
    becomes = "the mean of its scores" if on_duplicate == "mean" else "the first of its scores"
    return (
        f"{len(bundles):,} responses stand in {how_many} rows each, first at {first[0].place} and {first[1].place}: each is one "
        f"candidate with {becomes} (--on-duplicate {on_duplicate}); samples of the same text need a sample_idx"
    )


def _numbered(members: list[Response], problems: Problems) -> list[Response]:
    """Give a prompt's responses their indices: those that the file brings, or the order."""
    given = [response for response in members if response.sample_idx is not None]
    if not given:
        return [response._replace(sample_idx=number) for number, response in enumerate(members)]
    if len(given) < len(members):
        stray = next(response for response in members if response.sample_idx is None)
        problems.add(
            stray.place,
            f"it has no sample_idx, and others of prompt {stray.prompt_id} have one, such as {given[0].place}",
        )
        return members
    places: dict[Any, str] = {}
    for response in members:
        if response.sample_idx in places:
            problems.add(
                response.place,
                f"prompt {response.prompt_id}, sample {response.sample_idx} stands at {places[response.sample_idx]} already",
                contradicted=_contradicted(response, members),
            )
        places.setdefault(response.sample_idx, response.place)
    return sorted(members, key=lambda response: response.sample_idx or 0)


def _contradicted(response: Response, members: Sequence[Response]) -> list[str]:
    """Return the places of the rows that hold another text under the key of a response: those with its text only repeat it."""
    same_key = [member for member in members if member.sample_idx == response.sample_idx]
    differ = any(member.text != response.text for member in same_key)
    return [member.place for member in same_key] if differ else []


def _user_columns(
    table: UserTable | None,
    members: Sequence[Sequence[Response]],
    wanted: Sequence[str] | None,
    reserved: Sequence[str],
) -> tuple[pa.Table, list[str]]:
    """Return the user's columns with a row for each prompt, and a line for each that does not pass through."""
    rows = pa.array([responses[0].row for responses in members], pa.int64())
    if table is None or wanted == ():
        return pa.table({}), []
    theirs = (
        [name for name in table.names if name not in reserved] if wanted is None else list(wanted)
    )
    _refuse_names(table, theirs, reserved)
    varying = {
        name: place
        for name in theirs
        if (place := _place_of_difference(table, name, members)) is not None
    }
    if wanted is not None and varying:
        name, place = next(iter(varying.items()))
        raise InputError(
            f"{table.source}, {place}: `{name}` has another value than an earlier row of the same prompt",
            hint=f"a column that belongs to the responses cannot pass through; leave `{name}` out of --columns",
        )
    kept = [name for name in theirs if name not in varying]
    notes = (
        [f"columns that differ within a prompt and are left out: {', '.join(varying)}"]
        if varying
        else []
    )
    return table.table.select(kept).take(rows), notes


def _refuse_names(table: UserTable, theirs: Sequence[str], reserved: Sequence[str]) -> None:
    unknown = [name for name in theirs if name not in table.names]
    if unknown:
        raise UsageError(
            f"--columns names `{unknown[0]}`, which {table.source} does not have; it has: {', '.join(table.names)}"
        )
    clash = [name for name in theirs if name in reserved]
    if clash:
        raise UsageError(
            f"--columns names `{clash[0]}`, which the candidates hold in a column of their own already",
            hint="leave it out of --columns, or rename it in the file",
        )
    twice = [name for name, count in Counter(theirs).items() if count > 1]
    if twice:
        raise UsageError(f"--columns names `{twice[0]}` twice")


def _place_of_difference(
    table: UserTable, name: str, members: Sequence[Sequence[Response]]
) -> str | None:
    """Return the place of the first row whose value is not that of its prompt's first row."""
    values = [
        repr(row[name]) for row in python_rows(table.table.select([name]))
    ]  # the text of NaN equals itself
    for responses in members:
        for response in responses[1:]:
            if values[response.row] != values[responses[0].row]:
                return response.place
    return None
