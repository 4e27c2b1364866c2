"""Commands over a bucket on loopback beside the same commands over a folder.

    PYTHONPATH=tests python tests/benchmarks/bucket_speed.py --prompts 10000 --parts 5000

``select`` reads pools of 32 candidates with 384-dimensional vectors and writes groups: 10,000
prompts are 1.3 GB. ``status`` looks at an artifact of many parts, with the list of footers that
prefpipe keeps beside them and without it. The server is ``rclone serve s3`` over the very files
that the folder holds; ``--server moto`` takes moto, which is slower itself. Runs alternate, and
medians are printed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from select_throughput import MEASURE, Shape, make_pools
from support.s3_servers import BUCKET, reach, running_moto, running_rclone

from prefpipe.artifacts.bucket_footers import FILE_NAME
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import SCORES
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.artifacts.store import Shard, open_output
from prefpipe.errors import PrefpipeWarning


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=10_000, help="0: no select")
    parser.add_argument("--parts", type=int, default=5000, help="0: no status")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--server", choices=["rclone", "moto"], default="rclone")
    parser.add_argument("--folder", type=Path, help="where the data is kept for the next time")
    options = parser.parse_args()

    with (
        tempfile.TemporaryDirectory(prefix="bucket-speed-") as temporary,
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", PrefpipeWarning)
        folder = options.folder or Path(temporary)
        with running_server(options.server, folder) as url:
            reach(url, patch)
            if options.prompts:
                measure_select(folder, options.prompts, options.repeats, options.server)
            if options.parts:
                measure_status(folder, options.parts, options.repeats)


@contextmanager
def running_server(name: str, folder: Path) -> Iterator[str]:
    """Start a server; rclone's files are those of a folder."""
    with running_moto() if name == "moto" else running_rclone(folder) as url:
        yield url


def measure_select(folder: Path, n_prompts: int, repeats: int, server: str) -> None:
    """Print the time and the memory of ``select`` from a folder and from the bucket."""
    local, root = folder / BUCKET / f"pools-{n_prompts}", Url("s3", f"{BUCKET}/pools-{n_prompts}")
    make_pools(local, n_prompts, Shape())
    if server == "moto":
        for kind in ("candidates", "scores", "embeddings"):
            for name in files.names_in(local / kind):
                files.write(root / kind / name, (local / kind / name).read_bytes())

    places: dict[str, Location] = {"folder": local, "bucket": root}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in places}
    for _ in range(repeats):
        for name, place in places.items():
            output = folder / "groups" if name == "folder" else Url("s3", f"{BUCKET}/groups")
            words = [
                *("select", place / "candidates", "--scores", place / "scores"),
                *("--embeddings", place / "embeddings", "-o", output, "--overwrite", "--k", 7),
            ]
            runs[name].append(measured(words))
    medians = {
        name: {key: statistics.median(run[key] for run in each) for key in each[0]}
        for name, each in runs.items()
    }
    for name, median in medians.items():
        print(
            f"select of {n_prompts:,} x 32 x 384, {name}: {median['wall_s']:.2f} s, processor "
            f"{median['cpu_s']:.1f} s, peak {median['peak_bytes'] / 2**20:.0f} MiB",
            flush=True,
        )
    ratio = medians["bucket"]["wall_s"] / medians["folder"]["wall_s"]
    print(f"bucket: {ratio:.2f} x the time of the folder, {os.cpu_count()} cores")


def measure_status(folder: Path, n_parts: int, repeats: int) -> None:
    """Print the time of ``status`` of an artifact of many small parts."""
    record = RunRecord("score", SCORES.tag, n_parts, {"scorers": [{"name": "rm"}]})
    row = {"prompt_id": "p", "sample_idx": 0, "scorer": "rm", "reward": 1.0, "status": "ok"}
    table = pa.Table.from_pylist([row], schema=SCORES.arrow())
    root = Url("s3", f"{BUCKET}/many-{n_parts}")
    for place in (folder / f"many-{n_parts}", root):
        output = open_output(place, record, shard=Shard(), overwrite=False)
        for index in sorted(set(range(n_parts)) - output.on_disk()):
            output.write(index, table, counts={"ok": 1}, parents={})
        output.keep_footers()

    def print_median(name: str, place: Location, *more: str) -> None:
        times_s = [measured(["status", place, *more])["wall_s"] for _ in range(repeats)]
        print(
            f"status of {n_parts:,} parts, {name}: {statistics.median(times_s):.2f} s", flush=True
        )

    print_median("folder", folder / f"many-{n_parts}")
    print_median("bucket", root)
    listed = files.read(root / FILE_NAME)
    files.delete(root / FILE_NAME)
    print_median("bucket without the list of footers", root)
    files.write(root / FILE_NAME, listed)


def measured(words: list[object]) -> dict[str, float]:
    """Run a command in a process of its own; return wall time, processor time and peak memory."""
    command = [sys.executable, "-m", "prefpipe", *map(str, words)]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    assert found["code"] == 0, done.stderr
    return found | {"wall_s": time.perf_counter() - started}


if __name__ == "__main__":
    main()
