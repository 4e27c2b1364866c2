"""``simpo``, ``online-rlhf``, ``ultrafeedback`` and ``jsonl``: one row a prompt, its responses in a list.

The first two hold lists side by side, the others an object for each response.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules
from prefpipe.artifacts.interchange.conversation_columns import (
    BesidePrompts,
    checked_prompt,
    checked_response_text,
    notes_of_keys_left_out,
    notes_of_texts_read_back,
    read_beside,
    unwrapped_responses,
)
from prefpipe.artifacts.interchange.pool import Pool, Response, gather
from prefpipe.artifacts.interchange.user_table import (
    Problems,
    UserTable,
    checked_id,
    checked_index,
    checked_list,
    checked_number,
    checked_optional_text,
    read_user_table,
    told,
)


class Item(NamedTuple):
    """One response of a row, not checked yet. ``name`` is where it stands, for messages; so is the second of each score."""

    name: str
    text: Any
    scores: Mapping[str, tuple[Any, str]]
    model: Any = None
    sample_idx: Any = None
    finish_reason: Any = None


Items = tuple[list[Item], str | None]
"""A row's responses, and what is wrong with the row."""


class Layout(NamedTuple):
    """Columns of a format with lists side by side: ``scores`` is scorer to column, and may be absent from a file."""

    prompt: str
    responses: str
    scores: Mapping[str, str]
    models: str | None = None
    is_strict: bool = False

    @property
    def hint(self) -> str:
        """What a row should hold."""
        beside = " and ".join(f"`{column}`" for column in self.scores.values())
        return f"each row needs `{self.prompt}` and `{self.responses}`, a list, and for scores {beside}, a list as long"


SIMPO = Layout("prompt", "all_generated_responses", {"rm_score": "all_rm_scores"})
ONLINE_RLHF = Layout("prompt", "responses", {"reward": "rewards"}, is_strict=True)
DISTILABEL = Layout("instruction", "generations", {"rating": "ratings"})
COMPLETION_SCORES = {"overall_score": "overall_score", "fine_grained_score": "fine-grained_score"}
TENS = (10, "10", "10.0")
MOST_OF_THE_POOR = 2.0
"""A mean of UltraFeedback's four aspects, from 1 to 5, with which 10 of 10 overall cannot be."""
CRITIQUE_OF_ONE = re.compile(
    r"\boverall(?: score| rating| quality)?\W{0,4}(?:is |of )?\W{0,2}1\b(?![.,]\d)", re.IGNORECASE
)
MAX_PLACES_SHOWN = 5
GROUP_COLUMNS = ("prompt_id", "messages", "responses", "strategy", "pairs")


def read_lists(
    source: str,
    layout: Layout,
    *,
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules = DEFAULT_RULES,
) -> Pool:
    """Read a file whose rows hold a prompt, a list of responses, and lists of scores beside it.

    Args:
        source: path or ``hf:`` reference.
        layout: the columns.
        columns: the user's columns that pass through.
        reserved: names that the artifact uses itself.
        rules: what the user says about the file's conversations.

    Raises:
        InputError: missing columns, lists of different lengths, and every row that cannot be used.
    """
    return _pool_of_lists(
        read_user_table(source, hint=layout.hint), layout, columns, reserved, rules
    )


def _pool_of_lists(
    table: UserTable,
    layout: Layout,
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules,
) -> Pool:
    table.require([layout.prompt, layout.responses], hint=layout.hint)
    scores = {scorer: column for scorer, column in layout.scores.items() if column in table.names}
    values = {
        name: table.values(name)
        for name in [
            layout.responses,
            *scores.values(),
            *([layout.models] if layout.models else []),
        ]
    }

    def items_of(row: int) -> Items:
        lists: dict[str, list[Any]] = {}
        for name, column in values.items():
            if name == layout.models and column[row] is None:
                continue
            lists[name], problem = checked_list(column[row], name)
            if problem is not None:
                return [], problem
        n_responses = len(lists[layout.responses])
        uneven = next((name for name, found in lists.items() if len(found) != n_responses), None)
        if uneven is not None:
            return (
                [],
                f"`{layout.responses}` holds {n_responses} and `{uneven}` {len(lists[uneven])}: one of each belongs together",
            )
        return [
            Item(
                f"{layout.responses}[{i}]",
                text,
                {scorer: (lists[name][i], f"{name}[{i}]") for scorer, name in scores.items()},
                lists[layout.models][i] if layout.models in lists else None,
            )
            for i, text in enumerate(lists[layout.responses])
        ], None

    used = {layout.prompt, *values, "prompt_id", *reserved}
    return gather_items(table, layout, items_of, tuple(scores), columns, used, rules)


def gather_items(
    table: UserTable,
    layout: Layout,
    items_of: Callable[[int], Items],
    scorers: Sequence[str],
    columns: Sequence[str] | None,
    used: set[str],
    rules: ReadingRules,
    *,
    on_duplicate: str | None = None,
) -> Pool:
    """Return the pool of a file whose rows hold a prompt and several responses.

    Args:
        table: the file.
        layout: where its prompts are.
        items_of: returns a row's responses, and what is wrong with the row.
        scorers: names of the scores.
        columns: the user's columns that pass through.
        used: names that cannot pass through.
        rules: what the user says about the file's conversations.
        on_duplicate: what several rows of one response come to; None where each is a sample of its own.

    Raises:
        InputError: every row that cannot be used.
    """
    problems = Problems(table.source)
    beside = read_beside(table.names, table.values, table.table.num_rows, rules=rules, taken=used)
    responses = _responses(table, layout, items_of, problems, beside, rules)
    pool = gather(
        responses,
        problems,
        scorers=scorers,
        table=table,
        columns=columns,
        reserved=sorted({*used, *beside.used}),
        on_duplicate=on_duplicate,
    )
    prompts = table.values(layout.prompt)
    pool.notes.extend([*beside.notes, *notes_of_keys_left_out({layout.prompt: prompts}, rules)])
    if layout.prompt != "messages":
        pool.notes.extend(notes_of_texts_read_back(prompts, rules))
    return pool


def _responses(
    table: UserTable,
    layout: Layout,
    items_of: Callable[[int], Items],
    problems: Problems,
    beside: BesidePrompts,
    rules: ReadingRules,
) -> Iterator[Response]:
    """Yield the responses of every row that is fine; what is wrong with the others is noted."""
    ids = table.values_or_none("prompt_id")
    rows = [items_of(row) for row in range(table.table.num_rows)]
    texts = iter(unwrapped_responses([item.text for items, _ in rows for item in items], rules))
    for row, (place, prompt) in enumerate(
        zip(table.places, table.values(layout.prompt), strict=True)
    ):
        turns, problem = checked_prompt(
            prompt, layout.prompt, is_strict=layout.is_strict, rules=rules, beside=beside.rows[row]
        )
        problem = beside.problems[row] or problem
        prompt_id = None
        if problem is None and "prompt_id" in table.names:
            prompt_id, problem = checked_id(ids[row], "prompt_id")
        items, its_problem = rows[row]
        for sentence in (problem, its_problem):
            if sentence is not None:
                problems.add(place, sentence)
        for item in items:
            response = _checked(item._replace(text=next(texts)), place, problems, rules)
            if problem is None:
                yield response._replace(row=row, messages=turns, prompt_id=prompt_id)


def _checked(item: Item, place: str, problems: Problems, rules: ReadingRules) -> Response:
    """Return an item as a response that still lacks row and prompt; what is wrong with it is noted."""
    text, problem = checked_response_text(item.text, item.name, rules)
    found = [problem]
    scores: dict[str, float | None] = {}
    for scorer, (value, name) in item.scores.items():
        scores[scorer], problem = checked_number(value, name)
        found.append(problem)
    sample_idx, problem = checked_index(item.sample_idx, f"{item.name}.sample_idx")
    model, its_problem = checked_optional_text(item.model, f"the model of {item.name}")
    reason, last_problem = checked_optional_text(item.finish_reason, f"{item.name}.finish_reason")
    for sentence in (*found, problem, its_problem, last_problem):
        if sentence is not None:
            problems.add(place, sentence)
    return Response(0, place, [], text, None, sample_idx, model, reason, None, scores)


def read_ultrafeedback(
    source: str,
    *,
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules = DEFAULT_RULES,
) -> Pool:
    """Read UltraFeedback: ``completions`` with a score each, or distilabel's ``generations`` and ``ratings``.

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    hint = "each row needs `instruction` and `completions` (model, response, overall_score), or `generations` and `ratings`"
    table = read_user_table(source, hint=hint)
    if "completions" not in table.names and "generations" in table.names:
        models = next(
            (name for name in ("generation_models", "model_names") if name in table.names), None
        )
        prompt = next(
            (name for name in ("instruction", "input", "prompt") if name in table.names),
            "instruction",
        )
        return _pool_of_lists(
            table, DISTILABEL._replace(prompt=prompt, models=models), columns, reserved, rules
        )
    table.require(["instruction", "completions"], hint=hint)
    layout = Layout("instruction", "completions", COMPLETION_SCORES)
    pool = _pool_of_objects(
        table, layout, columns, {"instruction", "completions", "prompt_id", *reserved}, rules
    )
    pool.notes.extend([*_notes_of_system_prompts(table), *_notes_of_tens(table)])
    return pool


def _notes_of_system_prompts(table: UserTable) -> list[str]:
    """Return how many responses had a system prompt of their own, which is no part of the prompt that all share."""
    n_steered = 0
    for value in table.values("completions"):
        items = [item for item in checked_list(value, "")[0] if isinstance(item, dict)]
        n_steered += sum(bool(item.get("custom_system_prompt")) for item in items)
    return (
        [
            f"`custom_system_prompt` of {n_steered:,} responses is left out: it steered one model alone"
        ]
        if n_steered
        else []
    )


def _notes_of_tens(table: UserTable) -> list[str]:
    """Return which overall scores of 10 contradict what else the file says of the response.

    In the published data some answers whose critique says 1 have an overall score of 10; Argilla's cleaned copy sets them to 1.
    A mean of 2 or less of the four aspects, or a critique that speaks of 1, is what tells them.
    """
    places = []
    for place, value in zip(table.places, table.values("completions"), strict=True):
        for number, item in enumerate(checked_list(value, "")[0]):
            if (
                isinstance(item, dict)
                and item.get("overall_score") in TENS
                and _says_it_is_poor(item)
            ):
                places.append(f"{place} completions[{number}]")
    if not places:
        return []
    shown = ", ".join(places[:MAX_PLACES_SHOWN]) + (
        ", ..." if len(places) > MAX_PLACES_SHOWN else ""
    )
    contradiction = "overall scores of 10 that the aspects or the critique contradict, a known error of this data"
    what_to_do = "correct them to 1, or select with --reward fine_grained_score"
    return [f"{contradiction}: {len(places):,} ({shown}); {what_to_do}"]


def _says_it_is_poor(item: Mapping[str, Any]) -> bool:
    """Return whether the aspects or the critique of an answer say that it is among the worst."""
    aspects = item.get("fine-grained_score")
    if isinstance(aspects, int | float) and aspects <= MOST_OF_THE_POOR:
        return True
    critique = item.get("critique")
    return isinstance(critique, str) and CRITIQUE_OF_ONE.search(critique) is not None


def read_group_lines(
    source: str,
    *,
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules = DEFAULT_RULES,
) -> Pool:
    """Read what ``prefpipe export --format jsonl`` writes: one group a line, its responses with their rewards.

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    hint = "each line needs `prompt_id`, `messages` and `responses`, a list of sample_idx, response and reward"
    table = read_user_table(source, hint=hint)
    table.require(GROUP_COLUMNS[:3], hint=hint)
    layout = Layout("messages", "responses", {"reward": "reward"})
    return _pool_of_objects(table, layout, columns, {*GROUP_COLUMNS, *reserved}, rules)


def _pool_of_objects(
    table: UserTable,
    layout: Layout,
    columns: Sequence[str] | None,
    used: set[str],
    rules: ReadingRules,
) -> Pool:
    """Read rows whose list holds an object for each response; ``layout.scores`` is scorer to key."""
    values = table.values(layout.responses)
    objects = [
        item for value in values for item in checked_list(value, "")[0] if isinstance(item, dict)
    ]
    scores = {
        scorer: key for scorer, key in layout.scores.items() if any(key in item for item in objects)
    }

    def items_of(row: int) -> Items:
        found, problem = checked_list(values[row], layout.responses)
        strays = [item for item in found if not isinstance(item, dict)]
        if problem is not None or strays:
            return (
                [],
                problem
                or f"`{layout.responses}` holds {told(strays[0])}, where an object with `response` is needed",
            )
        return [
            _item(item, f"{layout.responses}[{i}]", scores) for i, item in enumerate(found)
        ], None

    return gather_items(table, layout, items_of, tuple(scores), columns, used, rules)


def _item(values: Mapping[str, Any], name: str, scores: Mapping[str, str]) -> Item:
    found = {scorer: (values.get(key), f"{name}.{key}") for scorer, key in scores.items()}
    return Item(
        f"{name}.response",
        values.get("response"),
        found,
        values.get("model"),
        values.get("sample_idx"),
        values.get("finish_reason"),
    )
