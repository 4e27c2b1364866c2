"""Small files of other tools for tests, and a reader that gives what an import would hold in a form that can be compared."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules
from prefpipe.artifacts.interchange.formats import read_pool
from prefpipe.artifacts.interchange.pool import Pool
from prefpipe.artifacts.interchange.read_options import ColumnNames, ReadOptions
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import CANDIDATES, GROUPS
from prefpipe.artifacts.store import Shard, open_output

SKY = [{"role": "user", "content": "What colour is the sky?"}]


def user(text: str) -> list[dict[str, str]]:
    """Return a prompt of one turn."""
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    """Return a response as a list of one turn."""
    return [{"role": "assistant", "content": text}]


def lines(path: Path, *rows: Any) -> str:
    """Write rows as JSON lines; a text stands as it is."""
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows),
        encoding="utf-8",
    )
    return str(path)


def read(
    source: str,
    kind: str,
    *,
    requests: str | None = None,
    columns: list[str] | None = None,
    rules: ReadingRules = DEFAULT_RULES,
    **names: Any,
) -> Pool:
    """Read a file as ``prefpipe import`` does; ``names`` are those of the long form."""
    columns = [] if columns is None and kind != "rows" else columns
    options = ReadOptions(
        columns=columns,
        reserved=CANDIDATES.column_names,
        rules=rules,
        requests=requests,
        names=ColumnNames(**names),
    )
    return read_pool(source, kind, options)


def held(pool: Pool) -> dict[tuple[str, int], Any]:
    """Return text, model and scores by key."""
    return {
        (response.prompt_id, response.sample_idx): (
            response.text,
            response.model,
            dict(response.scores),
        )
        for members in pool.responses
        for response in members
    }


def failures(pool: Pool) -> dict[tuple[str, int], str | None]:
    """Return why there is no text, by key."""
    return {
        (item.prompt_id, item.sample_idx): item.failure
        for members in pool.responses
        for item in members
    }


def kept(
    prompt_id: str, sample_idx: int, role: str, reward: float, text: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return a row of groups: a kept response."""
    row = dict.fromkeys(GROUPS.column_names) | {
        "prompt_id": prompt_id,
        "sample_idx": sample_idx,
        "role": role,
        "reward": reward,
        "rank": sample_idx,
        "messages": user(f"question {prompt_id}"),
        "response": text if text is not None else f"answer {prompt_id}.{sample_idx}",
        "model": f"m{sample_idx % 2}",
        "status": "ok",
    }
    return row | more


def rejected(prompt_id: str, status: str = "tie") -> dict[str, Any]:
    """Return a row of groups: a rejected prompt."""
    return dict.fromkeys(GROUPS.column_names) | {
        "prompt_id": prompt_id,
        "messages": user(f"question {prompt_id}"),
        "status": status,
    }


def write_groups(
    folder: Path,
    *parts: list[dict[str, Any]],
    missing: tuple[int, ...] = (),
    strategy: str = "bottom-k",
) -> Path:
    """Write an artifact of groups, as select does."""
    record = RunRecord(
        stage="select",
        schema=GROUPS.tag,
        n_parts=len(parts),
        identity={"stage": "select", "strategy": strategy},
    )
    output = open_output(folder, record, shard=Shard(), overwrite=False)
    for index, rows in enumerate(parts):
        if index not in missing:
            table = pa.Table.from_pylist(rows, schema=GROUPS.arrow())
            output.write(index, table, counts={"ok": len(rows)}, parents={})
    return folder
