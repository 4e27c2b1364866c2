"""Throughput of ``prefpipe select`` on synthetic pools, beside what pyarrow needs to read the same columns.

    python tests/benchmarks/select_throughput.py --prompts 60000 --folder runs/bench

200,000 prompts take 13 GB of disk.

Pools of 32 candidates with 384-dimensional unit vectors in six clusters, responses of about 500 characters and 120 tokens.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import CANDIDATES, SCORES, embeddings_schema
from prefpipe.artifacts.store import Output, Shard, open_output

PART_SIZE = 128


class Shape(NamedTuple):
    """Candidates a prompt, and what each has: dimensions, words and tokens."""

    R: int = 32
    D: int = 384
    words: int = 90
    tokens: int = 120


WORDS = [
    "the",
    "model",
    "answers",
    "a",
    "question",
    "about",
    "rivers",
    "and",
    "the",
    "people",
    "who",
    "live",
    "beside",
    "them",
    "in",
    "plain",
    "words",
    "with",
    "one",
    "example",
]


def make_pools(folder: Path, n_prompts: int, shape: Shape) -> None:
    """Write candidates, scores and embeddings of ``n_prompts`` prompts, unless they are there."""
    R = shape.R
    n_parts = -(-n_prompts // PART_SIZE)
    identity = {"stage": "generate", "version": 1, "synthetic": n_prompts, **shape._asdict()}
    records = {
        "candidates": RunRecord("generate", CANDIDATES.tag, n_parts, identity),
        "scores": RunRecord(
            "score", SCORES.tag, n_parts, {"scorers": [{"name": "rm"}], "candidates": identity}
        ),
        "embeddings": RunRecord(
            "embed",
            embeddings_schema(shape.D, half=False).tag,
            n_parts,
            {"model": "random", "candidates": identity},
        ),
    }
    outputs = {
        name: open_output(folder / name, record, shard=Shard(), overwrite=False)
        for name, record in records.items()
    }
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, shape.words)) + f" {i}" for i in range(PART_SIZE * R)]
    token_ids = [
        rng.integers(0, 49152, shape.tokens).astype(np.int32) for _ in range(PART_SIZE * R)
    ]
    for index in range(n_parts):
        if all(output.part_path(index).exists() for output in outputs.values()):
            continue
        n_here = min(PART_SIZE, n_prompts - index * PART_SIZE)
        _write_part(outputs, index, n_here, texts, token_ids, shape)


def _write_part(
    outputs: dict[str, Output],
    index: int,
    n_prompts: int,
    texts: list[str],
    token_ids: list[np.ndarray],
    shape: Shape,
) -> None:
    R, D = shape.R, shape.D
    rng, n = np.random.default_rng([1, index]), n_prompts * R
    ids = pa.array(np.repeat([f"prompt-{index * PART_SIZE + p:07d}" for p in range(n_prompts)], R))
    samples = pa.array(np.tile(np.arange(R, dtype=np.int32), n_prompts))
    text = f"Tell me something about number {index}, in about ninety words."
    ok, none = pa.array(["ok"] * n), pa.nulls(n, pa.string())
    columns = {
        "prompt_id": ids,
        "sample_idx": samples,
        "messages": [[{"role": "user", "content": text}]] * n,
        "response": texts[:n],
        "model": ["m"] * n,
        "prompt_token_ids": [list(range(40))] * n,
        "response_token_ids": token_ids[:n],
        "n_prompt_tokens": [40] * n,
        "n_response_tokens": [shape.tokens] * n,
        "finish_reason": ["stop"] * n,
        "logp": rng.normal(-90, 9, n),
        "temperature": [0.8] * n,
        "seed": rng.integers(0, 2**48, n),
        "duplicate_of": pa.nulls(n, pa.int32()),
        "status": ok,
        "reason": none,
    }
    schema = CANDIDATES.arrow()
    table = pa.Table.from_arrays(
        [pa.array(columns[field.name], field.type) for field in schema], schema=schema
    )
    footer = outputs["candidates"].write(index, table, counts={"ok": n}, parents={})
    made_from = {"candidates": footer.data_sha256}
    schema = SCORES.arrow()
    columns = {
        "prompt_id": ids,
        "sample_idx": samples,
        "scorer": ["rm"] * n,
        "reward": rng.normal(0, 2, n),
        "detail": none,
        "status": ok,
        "reason": none,
    }
    table = pa.Table.from_arrays(
        [pa.array(columns[field.name], field.type) for field in schema], schema=schema
    )
    outputs["scores"].write(index, table, counts={"ok": n}, parents=made_from)
    centres = rng.standard_normal((n_prompts, 6, D), dtype=np.float32)
    vectors = np.take_along_axis(centres, rng.integers(6, size=(n_prompts, R, 1)), axis=1)
    vectors = vectors + 0.7 * rng.standard_normal(vectors.shape, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), D)
    table = pa.Table.from_arrays(
        [
            ids,
            samples,
            column,
            pa.array([shape.tokens] * n, pa.int32()),
            pa.array([False] * n),
            ok,
            none,
        ],
        schema=embeddings_schema(D, half=False).arrow(),
    )
    outputs["embeddings"].write(index, table, counts={"ok": n}, parents=made_from)


def time_reading(folder: Path) -> float:
    """Return the seconds that pyarrow needs to read the columns that select reads, with all cores."""
    started = time.perf_counter()
    for name, columns in (
        ("candidates", None),
        ("scores", None),
        ("embeddings", ["prompt_id", "sample_idx", "embedding", "status"]),
    ):
        for path in sorted((folder / name).glob("part-*.parquet")):
            pq.read_table(path, columns=columns)
    return time.perf_counter() - started


MEASURE = """
import resource, subprocess, sys, json
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"code": code, "peak_bytes": usage.ru_maxrss * 1024, "cpu_s": usage.ru_utime + usage.ru_stime}))
"""


def time_select(folder: Path, output: Path, *flags: str) -> dict[str, float]:
    """Run the whole command in a process of its own; return wall time, processor time and peak memory."""
    words = [
        "-m",
        "prefpipe",
        "select",
        folder / "candidates",
        "--scores",
        folder / "scores",
        "--embeddings",
        folder / "embeddings",
        "-o",
        output,
        "--overwrite",
        *flags,
    ]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["code"] == 0, done.stderr
    return found | {"wall_s": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, nargs="+", default=[1000, 10_000, 60_000, 200_000])
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    parser.add_argument("--strategies", nargs="+", default=["opt-select"])
    parser.add_argument("--repeats", type=int, default=2, help="the best of so many is told")
    parser.add_argument("--shape", type=int, nargs=4, default=Shape(), help="R D words tokens")
    options = parser.parse_args()
    shape = Shape(*options.shape)
    for n_prompts in options.prompts:
        folder = options.folder / f"pools-{n_prompts}-{'x'.join(map(str, shape))}"
        make_pools(folder, n_prompts, shape)
        for strategy in options.strategies:
            reads = [time_reading(folder) for _ in range(options.repeats)]
            runs = [
                time_select(folder, folder / "groups", "--strategy", strategy, "--k", "7")
                for _ in range(options.repeats)
            ]
            read_s, best = min(reads), min(runs, key=lambda run: run["wall_s"])
            print(
                f"{n_prompts:>7} prompts  {strategy:<11} read {read_s:6.2f} s  select {best['wall_s']:6.2f} s = "
                f"{best['wall_s'] / read_s:.2f} x  {best['wall_s'] / n_prompts * 1e6:6.0f} us a prompt  "
                f"processor {best['cpu_s']:6.1f} s  peak {best['peak_bytes'] / 2**20:5.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
