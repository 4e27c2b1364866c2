"""Candidates and scores on disk, pool by pool, for tests of select."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import CANDIDATES, SCORES
from prefpipe.artifacts.store import Shard, open_output

Candidate = dict[str, Any]


def candidate(text: str, rewards: dict[str, float | None], **more: Any) -> Candidate:
    """One response: its text, what each scorer gave, and its model where that matters."""
    return {"text": text, "rewards": rewards, "model": "m", **more}


def rated(*rewards: float, tokens: tuple[int, ...] = ()) -> list[Candidate]:
    """A pool of one scorer, rm, with as many tokens a response as asked for."""
    return [
        candidate("abcdefgh"[place] * (tokens[place] if tokens else 1), {"rm": reward})
        for place, reward in enumerate(rewards)
    ]


def write_pools(folder: Path, pools: dict[str, list[Candidate]], *, part_size: int = 2) -> None:
    """Write candidates and scores, ``part_size`` prompts a part."""
    names = list(pools)
    scorers = sorted(
        {scorer for pool in pools.values() for each in pool for scorer in each["rewards"]}
    )
    n_parts = -(-len(names) // part_size)
    identity = {"stage": "generate", "version": 1, "pools": json.dumps(pools)}
    of_scores = {"scorers": [{"name": name} for name in scorers], "candidates": identity}
    records = {
        "candidates": RunRecord("generate", CANDIDATES.tag, n_parts, identity),
        "scores": RunRecord("score", SCORES.tag, n_parts, of_scores),
    }
    outputs = {
        name: open_output(folder / name, record, shard=Shard(), overwrite=False)
        for name, record in records.items()
    }
    for index in range(n_parts):
        candidates, scores = [], []
        for name in names[index * part_size : (index + 1) * part_size]:
            for place, each in enumerate(pools[name]):
                key = {"prompt_id": name, "sample_idx": place}
                candidates.append(key | row_of(name, each))
                for scorer, reward in each["rewards"].items():
                    status = "ok" if reward is not None else "unrated"
                    scores.append(key | {"scorer": scorer, "reward": reward, "status": status})
        table = pa.Table.from_pylist(candidates, schema=CANDIDATES.arrow())
        footer = outputs["candidates"].write(index, table, counts={"ok": len(table)}, parents={})
        table = pa.Table.from_pylist(scores, schema=SCORES.arrow())
        made_from = {"candidates": footer.data_sha256}
        outputs["scores"].write(index, table, counts={"ok": len(table)}, parents=made_from)


def row_of(prompt_id: str, each: Candidate) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": f"about {prompt_id}"}],
        "response": each["text"],
        "model": each["model"],
        "prompt_token_ids": [1, 2, 3],
        "response_token_ids": [5] * len(each["text"]),
        "n_prompt_tokens": 3,
        "n_response_tokens": len(each["text"]),
        "finish_reason": "stop",
        "logp": -1.0,
        "temperature": 1.0,
        "seed": 1,
        "status": "ok",
    }
