"""``nemo-rl``: NeMo-RL's ranked completions, as ``prefpipe export`` writes them too."""

from collections.abc import Mapping
from typing import Any

from prefpipe.artifacts.interchange.checked_values import (
    checked_index,
    checked_list,
    checked_number,
)
from prefpipe.artifacts.interchange.listed_responses import Item, gather_items, objects_in
from prefpipe.artifacts.interchange.pool import Pool
from prefpipe.artifacts.interchange.read_options import ReadOptions
from prefpipe.artifacts.interchange.row_problems import UnusableRowError, needed
from prefpipe.artifacts.interchange.user_table import read_user_table
from prefpipe.artifacts.tables.values import id_of, shortened

HINT = (
    "each row needs `context`, a list of turns, and `completions`, each with `rank` and "
    "`completion`, a list with the assistant's turn"
)
MINUS_RANK = "minus_rank"


def read_ranked(source: str, options: ReadOptions) -> Pool:
    """Read NeMo-RL's ranked completions, those of prefpipe under their own keys and scores.

    Without ``score`` and ``reward`` the reward is minus the rank, since rank 0 is the best.

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    table = read_user_table(source, hint=HINT)
    table.require(["context", "completions"], hint=HINT)
    completions = table.values("completions")
    contexts, ids = table.values("context"), table.values_or_none("prompt_id")
    objects = objects_in(completions)
    scorer = MINUS_RANK
    if any(item.get("score") is not None for item in objects):
        scorer = "score"
    elif any(item.get("reward") is not None for item in objects):
        scorer = "reward"

    # a response of several pairs is in several rows: it is read once
    seen: dict[tuple[str, int], Any] = {}

    def items_of(row: int) -> list[Item]:
        members = needed(checked_list(completions[row], "completions"))
        prompt_key = id_of(ids[row])[0] or repr(contexts[row])
        items = []
        for number, member in enumerate(members):
            item = _item(member, f"completions[{number}]", scorer)
            # its problem is reported when the item is checked
            sample_idx, _ = checked_index(item.sample_idx, "sample_idx")
            if sample_idx is not None:
                # what differs under its key stays, and is refused when responses are numbered
                key = (prompt_key, sample_idx)
                content = (item.text, item.scores[scorer][0], item.model)
                if seen.get(key) == content:
                    continue
                seen[key] = content
            items.append(item)
        return items

    # a file with its own keys is not joined: one key with two contents is refused
    has_keys = any(item.get("sample_idx") is not None for item in objects)
    pool = gather_items(
        table,
        "context",
        items_of,
        (scorer,),
        options,
        used={"completions", "scores", "margin"},
        on_duplicate=None if has_keys else options.rules.on_duplicate or "mean",
    )
    if scorer == MINUS_RANK:
        pool.notes.append(
            "the file holds ranks instead of scores: the reward of a response is minus its rank"
        )
    return pool


def _item(member: Any, name: str, scorer: str) -> Item:
    """Return one completion.

    Raises:
        UnusableRowError: it is none.
    """
    if not isinstance(member, Mapping):
        raise UnusableRowError(
            f"`{name}` is {shortened(member)}, but an object with `rank` and `completion` is needed"
        )

    turn = _turn(member.get("completion"), f"{name}.completion")
    score, where = member.get(scorer), f"{name}.{scorer}"
    if scorer == MINUS_RANK:
        where = f"{name}.rank"
        rank = needed(checked_number(member.get("rank"), where))
        if rank is None:
            raise UnusableRowError(f"`{where}` is null")
        score = 0.0 - rank  # no negative zero
    return Item(
        f"{name}.completion",
        turn.get("content"),
        {scorer: (score, where)},
        member.get("model"),
        member.get("sample_idx"),
    )


def _turn(completion: Any, name: str) -> Mapping[str, Any]:
    """Return the one turn of a completion, itself a text or a list of one turn.

    Raises:
        UnusableRowError: it is something else, or holds more than a text.
    """
    if isinstance(completion, str):
        return {"role": "assistant", "content": completion}

    turns = completion if isinstance(completion, list) else []
    is_one_turn = len(turns) == 1 and isinstance(turns[0], Mapping)
    if not is_one_turn or turns[0].get("role") != "assistant":
        raise UnusableRowError(f"`{name}` is {shortened(completion)}; one assistant turn is needed")

    turn: Mapping[str, Any] = turns[0]
    for key in sorted(turn.keys() - {"role", "content"}):
        if turn[key] not in (None, [], ""):
            raise UnusableRowError(f"`{name}` has `{key}`, and prefpipe reads only text")
    return turn
