"""Groups on disk for the tiny models, row by row."""

from pathlib import Path

import pyarrow as pa

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import GROUPS
from prefpipe.artifacts.store import Shard, open_output
from support.tiny_models import END_ID, make_tiny_tokenizer

TOKENIZER = make_tiny_tokenizer()
TURNS = [{"role": "user", "content": "Say something."}]
PROMPT = TOKENIZER.apply_chat_template(TURNS, add_generation_prompt=True, return_dict=False)


def row_of(prompt_id, i, answer, **changes):
    """A kept response, the first one positive; rewards fall by 1."""
    ids = [*TOKENIZER(answer, add_special_tokens=False)["input_ids"], END_ID]
    return {
        "prompt_id": prompt_id,
        "sample_idx": i,
        "role": "negative" if i else "positive",
        "reward": -float(i),
        "messages": TURNS,
        "response": answer,
        "model": "org/tiny",
        "prompt_token_ids": PROMPT,
        "response_token_ids": ids,
        "finish_reason": "stop",
        "status": "ok",
        "rank": i,
    } | changes


def write_groups(folder, rows_by_part, models, note="select", sampling=None) -> Path:
    """Write a groups artifact, each part's rows given; None leaves the part out.

    ``sampling`` are settings in the identity of the candidates.
    """
    identity = {
        "stage": "select",
        "note": note,
        "candidates": {"stage": "generate", "models": models, **(sampling or {})},
    }
    output = open_output(
        folder,
        RunRecord("select", GROUPS.tag, len(rows_by_part), identity),
        shard=Shard(),
        overwrite=False,
    )
    for index, rows in enumerate(rows_by_part):
        if rows is not None:
            output.write(
                index,
                pa.Table.from_pylist(rows, schema=GROUPS.arrow()),
                counts={"ok": len(rows)},
                parents={},
            )
    return folder
