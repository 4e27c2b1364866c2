"""Whether a prompts file still holds what candidates were sampled from, and what changed."""

from functools import partial
from typing import Any

from prefpipe.artifacts.conversations import ReadingRules
from prefpipe.artifacts.prompt_shares import parse_prompt_share
from prefpipe.artifacts.prompts import Prompts, load_prompts
from prefpipe.artifacts.schemas import CANDIDATES
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import Artifact
from prefpipe.artifacts.tables.bad_rows import read_without_bad_rows
from prefpipe.artifacts.tool_calls import TEMPLATE_INPUT, rows_of
from prefpipe.errors import PrefpipeError


def changes_of_prompts(candidates: Artifact, source: Location) -> list[str]:
    """Return the changes of a prompts file since then, in sentences; [] if its hash is the same.

    The file is read as ``generate`` reads it, with the settings of the run, and of it the share
    that the run samples. Changes are found from the parts on disk, so that of a partial run only
    a lower bound can be given.
    """
    identity = candidates.record.identity
    rules = ReadingRules(
        prompts_are_text=bool(identity.get("prompts_are_text")),
        leave_out=identity.get("leave_out") or (),
        continue_final_message=bool(identity.get("continue_final_message")),
    )
    read = partial(
        load_prompts,
        str(source),
        system_prompt=identity.get("system_prompt"),
        keep_columns=_kept_columns(identity.get("columns")),
        drop_duplicates=bool(identity.get("drop_duplicate_prompts")),
        reserved=[*CANDIDATES.column_names, TEMPLATE_INPUT],
        rules=rules,
    )
    share = identity.get("prompt_share")
    try:
        prompts = read_without_bad_rows(read)[0] if identity.get("skip_bad_rows") else read()
        if share is not None:
            prompts = prompts.of_share(parse_prompt_share(share), str(source))
    except PrefpipeError as error:
        return [f"it cannot be read as it was: {error.message}"]

    if prompts.sha256() == identity.get("prompts"):
        return []
    return _differences(candidates, prompts)


def _kept_columns(text: Any) -> list[str] | None:
    """Return the columns that ``--columns`` named, None for all."""
    if text is None:
        return None
    names = [name.strip() for name in str(text).split(",")]
    return [name for name in names if name not in ("", "none")]


def _differences(candidates: Artifact, prompts: Prompts) -> list[str]:
    old = _messages_by_id(candidates)
    new = {prompt.prompt_id: prompt.messages for prompt in prompts.rows}
    n_added = len(new.keys() - old.keys())
    n_removed = len(old.keys() - new.keys())
    n_other_text = 0
    for prompt_id, messages in old.items():
        n_other_text += prompt_id in new and new[prompt_id] != messages

    lines = []
    # parts that are missing may hold what looks new
    if n_added and not candidates.missing():
        lines.append(f"prompts added: {n_added:,}")
    if n_removed:
        lines.append(f"prompts removed: {n_removed:,}")
    if n_other_text:
        lines.append(f"prompts with a different text under the same id: {n_other_text:,}")
    if not lines and [key for key in new if key in old] != list(old):
        lines.append("the prompts are in a different order")
    return lines or [
        "the prompts' own columns, or prompts of parts that are missing, are different"
    ]


def _messages_by_id(candidates: Artifact) -> dict[str, list[dict[str, str]]]:
    messages: dict[str, list[dict[str, str]]] = {}
    present = candidates.present(range(candidates.n_parts), allow_partial=True)
    for index in candidates.in_turn(present):
        try:
            rows = rows_of(candidates.read(index, ["prompt_id", "messages"])[0])
        except PrefpipeError:
            continue  # the problem of the part is reported elsewhere
        for row in rows:
            messages[row["prompt_id"]] = row["messages"]
    return messages
