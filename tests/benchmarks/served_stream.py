"""What a run through a server takes longer than the server itself: `make bench-overhead`.

384 requests, 16 at a time, against a server on loopback whose answer times have a heavy tail (log-normal, mean 0.15 s), once
as one part and once as 24 parts, in turn: `generate`, and `score` with a judge. A run is measured from its first question's
arrival at the server to its last part on disk. Beside it stands a full server: the same times in the same order, each request
sent the moment a slot is free. Prints the factors, and the processor time that a request costs here.

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
from prefpipe.configs.score import ScoreConfig
from prefpipe.configs.stage import StageConfig
from prefpipe.execution.runtime import Runtime
from prefpipe.wiring.stages import run_stage

N_PROMPTS, N, N_SLOTS, MEAN_S = 96, 4, 16, 0.15
PART_SIZES = {"one part of 384": 96, "24 parts of 16": 4}


@dataclass
class Measured:
    """One run, and the processor time that a request took of this process."""

    elapsed_s: float
    full_s: float
    cpu_ms: float

    @property
    def factor(self) -> float:
        """How many times as long as a full server."""
        return self.elapsed_s / self.full_s


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    folder = Path(tempfile.mkdtemp(prefix="served-stream-"))
    prompts = folder / "prompts.jsonl"
    rows = [{"prompt_id": f"p{i}", "prompt": f"Question {i}? " * 8} for i in range(N_PROMPTS)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    measured: dict[tuple[str, str], list[Measured]] = {}
    with running_heavy_tailed_server(MEAN_S) as server:
        # imports, and the first of everything
        candidates, scores = configs(server, prompts, folder, part_size=96, n=1)
        run(server, candidates)
        run(server, scores)
        for number in range(rounds):
            for name, part_size in PART_SIZES.items():
                for config in configs(server, prompts, folder, part_size=part_size, n=N):
                    one = run(server, config)
                    measured.setdefault((config.stage, name), []).append(one)
                    print(
                        f"round {number}: {config.stage}, {name}: {one.elapsed_s:.2f} s, {one.factor:.3f} x a full "
                        f"server ({one.full_s:.2f} s), {one.cpu_ms:.2f} ms of processor a request",
                        flush=True,
                    )
    shutil.rmtree(folder)

    for (stage, name), runs in measured.items():
        print(
            f"{stage}, {name}: {median(one.factor for one in runs):.3f} x a full server (bar for 24 parts: 1.15)"
        )
    for stage in ("generate", "score"):
        one_part, parts = (measured[stage, name] for name in PART_SIZES)
        factors = [
            many.elapsed_s / one.elapsed_s for many, one in zip(parts, one_part, strict=True)
        ]
        print(
            f"{stage}: 24 parts of 16 against one part of 384: {median(factors):.3f} x (bar: 1.10)"
        )


def configs(
    server: HeavyTailedServer, prompts: Path, folder: Path, *, part_size: int, n: int
) -> tuple[GenerateConfig, ScoreConfig]:
    """Return a stage that samples, and one that rates what it sampled."""
    candidates = GenerateConfig(
        prompts=str(prompts),
        output=folder / "candidates",
        model=("m",),
        backend="openai",
        base_url=server.url,
        n=n,
        part_size=part_size,
        batch_size=N_SLOTS,
    )
    scores = ScoreConfig(
        candidates=folder / "candidates",
        output=folder / "scores",
        scorer=("judge:openai:m",),
        base_url=server.url,
        concurrency=N_SLOTS,
    )
    return candidates, scores


def run(server: HeavyTailedServer, config: StageConfig) -> Measured:
    """Return what one run takes, from an empty folder."""
    shutil.rmtree(config.output, ignore_errors=True)
    n_before = len(server.account()["questions"])
    cpu_before = time.process_time()
    summary = run_stage(config, Runtime())
    ended, cpu_s = time.monotonic(), time.process_time() - cpu_before

    questions = server.account()["questions"][n_before:]
    assert len(questions) == summary.n_rows == summary.counts["ok"], "each asked once, and answered"
    times_s = [answer_time_s(asked["text"], asked["seed"], MEAN_S) for asked in questions]
    return Measured(
        elapsed_s=ended - questions[0]["arrived"],
        full_s=full_server_s(times_s, N_SLOTS),
        cpu_ms=1000 * cpu_s / len(questions),
    )


if __name__ == "__main__":
    main()
