"""``simpo``, ``online-rlhf``, ``ultrafeedback`` and ``jsonl``: a prompt and a list of responses.

One row a prompt. The first two hold lists side by side, the others an object for each response.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from prefpipe.artifacts.interchange.checked_values import checked_list
from prefpipe.artifacts.interchange.listed_responses import (
    Item,
    gather_items,
    objects_in,
    refuse_uneven,
)
from prefpipe.artifacts.interchange.pool import Pool
from prefpipe.artifacts.interchange.read_options import ReadOptions
from prefpipe.artifacts.interchange.row_problems import UnusableRowError, needed
from prefpipe.artifacts.interchange.user_table import UserTable, read_user_table
from prefpipe.artifacts.tables.values import shortened


class ListColumns(NamedTuple):
    """Columns of a format with lists side by side.

    ``scores`` is scorer to column, and may be absent from a file. ``is_strict``: see
    `checked_prompt`.
    """

    prompt: str
    responses: str
    scores: Mapping[str, str]
    models: str | None = None
    is_strict: bool = False

    @property
    def hint(self) -> str:
        """What a row should hold."""
        scores = " and ".join(f"`{column}`" for column in self.scores.values())
        return (
            f"each row needs `{self.prompt}` and `{self.responses}`, a list, and for scores "
            f"{scores}, a list of the same length"
        )


SIMPO = ListColumns("prompt", "all_generated_responses", {"rm_score": "all_rm_scores"})
ONLINE_RLHF = ListColumns("prompt", "responses", {"reward": "rewards"}, is_strict=True)
DISTILABEL = ListColumns("instruction", "generations", {"rating": "ratings"})
COMPLETION_SCORES = {"overall_score": "overall_score", "fine_grained_score": "fine-grained_score"}
TENS = (10, "10", "10.0")
MOST_OF_THE_POOR = 2.0
"""A mean of UltraFeedback's four aspects, from 1 to 5, with which 10 of 10 overall cannot be."""
CRITIQUE_OF_ONE = re.compile(
    r"\boverall(?: score| rating| quality)?\W{0,4}(?:is |of )?\W{0,2}1\b(?![.,]\d)", re.IGNORECASE
)
MAX_PLACES_SHOWN = 5
GROUP_COLUMNS = ("prompt_id", "messages", "responses", "strategy", "pairs")


def read_simpo(source: str, options: ReadOptions) -> Pool:
    """Read SimPO's files: a prompt, its responses, and their rewards in a list beside them.

    Raises:
        InputError: missing columns, lists of different lengths, and every row that cannot be used.
    """
    table = read_user_table(source, hint=SIMPO.hint)
    return _pool_of_lists(table, SIMPO, options)


def read_online_rlhf(source: str, options: ReadOptions) -> Pool:
    """Read Online-RLHF's files: as SimPO's, under other names, and often templated.

    Raises:
        InputError: missing columns, lists of different lengths, and every row that cannot be used.
    """
    table = read_user_table(source, hint=ONLINE_RLHF.hint)
    return _pool_of_lists(table, ONLINE_RLHF, options)


def _pool_of_lists(table: UserTable, columns: ListColumns, options: ReadOptions) -> Pool:
    """Read rows that hold lists side by side."""
    table.require([columns.prompt, columns.responses], hint=columns.hint)
    scores = {scorer: name for scorer, name in columns.scores.items() if name in table.names}
    names = [columns.responses, *scores.values()]
    if columns.models is not None:
        names.append(columns.models)
    values = {name: table.values(name) for name in names}

    def items_of(row: int) -> list[Item]:
        lists: dict[str, list[Any]] = {}
        for name, column in values.items():
            # a row may be silent on its models, and on nothing else
            if name == columns.models and column[row] is None:
                continue
            lists[name] = needed(checked_list(column[row], name))
        refuse_uneven(lists, columns.responses)

        items = []
        for number, text in enumerate(lists[columns.responses]):
            scores_of_item = {}
            for scorer, name in scores.items():
                scores_of_item[scorer] = (lists[name][number], f"{name}[{number}]")
            model = lists[columns.models][number] if columns.models in lists else None
            items.append(Item(f"{columns.responses}[{number}]", text, scores_of_item, model))
        return items

    # no `on_duplicate`: each place of a list is a sample
    return gather_items(
        table,
        columns.prompt,
        items_of,
        tuple(scores),
        options,
        used=set(names),
        is_strict=columns.is_strict,
    )


def read_ultrafeedback(source: str, options: ReadOptions) -> Pool:
    """Read UltraFeedback: ``completions`` with a score each, or distilabel's lists.

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    hint = (
        "each row needs `instruction` and `completions` (model, response, overall_score), or "
        "`generations` and `ratings`"
    )
    table = read_user_table(source, hint=hint)
    if "completions" not in table.names and "generations" in table.names:
        columns = DISTILABEL._replace(
            prompt=table.first_name(("instruction", "input", "prompt")) or "instruction",
            models=table.first_name(("generation_models", "model_names")),
        )
        return _pool_of_lists(table, columns, options)

    table.require(["instruction", "completions"], hint=hint)
    columns = ListColumns("instruction", "completions", COMPLETION_SCORES)
    pool = _pool_of_objects(table, columns, options)
    pool.notes.extend(_notes_of_system_prompts(table))
    pool.notes.extend(_notes_of_tens(table))
    return pool


def _notes_of_system_prompts(table: UserTable) -> list[str]:
    """Return how many responses had their own system prompt.

    It is no part of the prompt that all of them share.
    """
    completions = objects_in(table.values("completions"))
    n_steered = sum(bool(item.get("custom_system_prompt")) for item in completions)
    if not n_steered:
        return []
    return [
        (
            f"`custom_system_prompt` of {n_steered:,} responses is left out: it steered only one "
            "model"
        )
    ]


def _notes_of_tens(table: UserTable) -> list[str]:
    """Return which overall scores of 10 contradict what else the file says of the response.

    In the published data some answers whose critique says 1 have an overall score of 10; Argilla's
    cleaned copy sets them to 1. A mean of 2 or less of the four aspects, or a critique that speaks
    of 1, is what gives them away.
    """
    places = []
    for place, value in zip(table.places, table.values("completions"), strict=True):
        completions, _ = checked_list(value, "")
        for number, item in enumerate(completions):
            is_ten = isinstance(item, dict) and item.get("overall_score") in TENS
            if is_ten and _says_it_is_poor(item):
                places.append(f"{place} completions[{number}]")
    if not places:
        return []

    shown = ", ".join(places[:MAX_PLACES_SHOWN])
    if len(places) > MAX_PLACES_SHOWN:
        shown += ", ..."
    note = (
        "overall scores of 10 that the aspects or the critique contradict, a known error of this "
        f"dataset: {len(places):,} ({shown}); correct them to 1, or select with --reward "
        "fine_grained_score"
    )
    return [note]


def _says_it_is_poor(item: Mapping[str, Any]) -> bool:
    """Return whether the aspects or the critique of an answer say that it is among the worst."""
    aspects = item.get("fine-grained_score")
    if isinstance(aspects, int | float) and aspects <= MOST_OF_THE_POOR:
        return True
    critique = item.get("critique")
    return isinstance(critique, str) and CRITIQUE_OF_ONE.search(critique) is not None


def read_group_lines(source: str, options: ReadOptions) -> Pool:
    """Read what ``prefpipe export --format jsonl`` writes: one group a line.

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    hint = (
        "each line needs `prompt_id`, `messages` and `responses`, a list of sample_idx, response "
        "and reward"
    )
    table = read_user_table(source, hint=hint)
    table.require(GROUP_COLUMNS[:3], hint=hint)
    columns = ListColumns("messages", "responses", {"reward": "reward"})
    return _pool_of_objects(table, columns, options, used=GROUP_COLUMNS)


def _pool_of_objects(
    table: UserTable, columns: ListColumns, options: ReadOptions, used: tuple[str, ...] = ()
) -> Pool:
    """Read rows whose list holds an object for each response; ``scores`` is scorer to key."""
    values = table.values(columns.responses)
    objects = objects_in(values)
    # a score that no object has is no scorer; of those that lack one it is missing
    scores = {
        scorer: key
        for scorer, key in columns.scores.items()
        if any(key in item for item in objects)
    }

    def items_of(row: int) -> list[Item]:
        members = needed(checked_list(values[row], columns.responses))
        items = []
        for number, member in enumerate(members):
            if not isinstance(member, dict):
                raise UnusableRowError(
                    f"`{columns.responses}` holds {shortened(member)}, but an object with "
                    "`response` is needed"
                )
            items.append(_item_of_object(member, f"{columns.responses}[{number}]", scores))
        return items

    return gather_items(
        table,
        columns.prompt,
        items_of,
        tuple(scores),
        options,
        used={columns.responses, *used},
    )


def _item_of_object(member: Mapping[str, Any], name: str, scores: Mapping[str, str]) -> Item:
    return Item(
        name=f"{name}.response",
        text=member.get("response"),
        scores={scorer: (member.get(key), f"{name}.{key}") for scorer, key in scores.items()},
        model=member.get("model"),
        sample_idx=member.get("sample_idx"),
        finish_reason=member.get("finish_reason"),
    )
