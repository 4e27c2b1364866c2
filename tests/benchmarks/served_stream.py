"""What a run through a server takes longer than the server itself: `make bench-overhead`.

384 requests, 16 at a time, against a server on loopback whose answer times have a heavy tail (log-normal, mean 0.15 s), once
as one part and once as 24 parts, in turn. A run is measured from its first question's arrival at the server to its last part on disk.
Beside it stands a full server: the same times in the same order, each request sent the moment a slot is free. Prints the
factors, and the processor time that a request costs here.

    PYTHONPATH=tests python tests/benchmarks/served_stream.py [ROUNDS]
"""

import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from support.heavy_tailed_server import (
    HeavyTailedServer,
    answer_time_s,
    full_server_s,
    running_heavy_tailed_server,
)

from prefpipe.configs.generate import GenerateConfig
from prefpipe.execution.runtime import Runtime
from prefpipe.wiring.stages import run_stage

N_PROMPTS, N, N_SLOTS, MEAN_S = 96, 4, 16, 0.15
PART_SIZES = {"one part of 384": 96, "24 parts of 16": 4}
FULL = "full server"


@dataclass
class Measured:
    """One run."""

    elapsed_s: float
    full_s: float
    cpu_ms: float
    """Of this process, a request."""


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    folder = Path(tempfile.mkdtemp(prefix="served-stream-"))
    prompts = folder / "prompts.jsonl"
    rows = [{"prompt_id": f"p{i}", "prompt": f"Question {i}? " * 8} for i in range(N_PROMPTS)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    measured: dict[str, list[Measured]] = {name: [] for name in PART_SIZES}
    with running_heavy_tailed_server(MEAN_S) as server:
        # imports, and the first of everything
        run(server, prompts, folder / "warm", part_size=96, n=1)
        for number in range(rounds):
            for name, part_size in PART_SIZES.items():
                one = run(server, prompts, folder / "out", part_size=part_size, n=N)
                measured[name].append(one)
                print(
                    f"round {number}: {name}: {one.elapsed_s:.2f} s, {one.elapsed_s / one.full_s:.3f} x a full "
                    f"server ({one.full_s:.2f} s), {one.cpu_ms:.2f} ms of processor a request",
                    flush=True,
                )
    shutil.rmtree(folder)

    one_part, parts = measured.values()
    to_full = {
        name: median(one.elapsed_s / one.full_s for one in runs) for name, runs in measured.items()
    }
    to_one = median(a.elapsed_s / b.elapsed_s for a, b in zip(parts, one_part, strict=True))
    for name, factor in to_full.items():
        print(f"{name}: {factor:.3f} x a full server (bar for 24 parts: 1.15)")
    print(f"24 parts of 16 against one part of 384: {to_one:.3f} x (bar: 1.10)")


def run(
    server: HeavyTailedServer, prompts: Path, output: Path, *, part_size: int, n: int
) -> Measured:
    """Return what one run takes, from an empty folder."""
    shutil.rmtree(output, ignore_errors=True)
    config = GenerateConfig(
        prompts=str(prompts),
        output=output,
        model=("m",),
        backend="openai",
        base_url=server.url,
        n=n,
        part_size=part_size,
        batch_size=N_SLOTS,
    )
    n_before = len(server.account()["questions"])
    cpu_before = time.process_time()
    run_stage(config, Runtime())
    ended, cpu_s = time.monotonic(), time.process_time() - cpu_before

    questions = server.account()["questions"][n_before:]
    times_s = [answer_time_s(asked["text"], asked["seed"], MEAN_S) for asked in questions]
    assert len(questions) == N_PROMPTS * n
    return Measured(
        elapsed_s=ended - questions[0]["arrived"],
        full_s=full_server_s(times_s, N_SLOTS),
        cpu_ms=1000 * cpu_s / len(questions),
    )


if __name__ == "__main__":
    main()
