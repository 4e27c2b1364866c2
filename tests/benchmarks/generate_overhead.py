"""How much `prefpipe generate` costs over the bare back-end on the same prompts: `make bench-overhead`.

All sides use one engine that is already loaded, the same requests and seeds; the bare side hands them over in one call. The
stage side adds reading and checking the prompts, tokenising, tables, digests, fsync and rename, for parts of several sizes: an
engine that runs empty at the end of each part shows in the small ones. Sides alternate, so that a slow spell of the machine
hits all; processor time is the figure to read where the machine is noisier than the difference.
"""

import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from prefpipe.artifacts.ids import seed_for
from prefpipe.artifacts.prompts import load_prompts
from prefpipe.backends.generators.hf_generator import HfGenerator
from prefpipe.backends.protocol import GenerationRequest, SamplingParams
from prefpipe.configs.generate import GenerateConfig
from prefpipe.execution.runtime import Runtime
from prefpipe.models.location import locate_model
from prefpipe.stages.generate import Sampler, run

MODEL = "bundled:smollm2-135m"
PROMPTS = Path(__file__).parents[2] / "sample_data" / "prompts.jsonl"
N, MAX_TOKENS, ROUNDS = 4, 64, 2
PART_SIZES = (128, 8, 2)


class KeptOpen:
    """The engine with a close() that does nothing, so that every round uses the same one."""

    def __init__(self, engine: HfGenerator) -> None:
        self.max_model_len, self.engine_version = engine.max_model_len, engine.engine_version
        self.encode, self.generate, self.has_room = engine.encode, engine.generate, engine.has_room

    def close(self) -> None:
        """Leave it open."""


def bare(engine: KeptOpen) -> int:
    """Sample everything in one call; return how many tokens that were."""
    requests = [
        GenerationRequest(
            p.prompt_id, i, p.messages, engine.encode(p.messages), seed_for(0, p.prompt_id, i), 1.0
        )
        for p in load_prompts(str(PROMPTS)).rows
        for i in range(N)
    ]
    return sum(len(a.token_ids) for a in engine.generate(requests, SamplingParams(MAX_TOKENS)))


def stage(engine: KeptOpen, part_size: int) -> int:
    """Run the stage; return how many tokens were sampled."""
    folder = Path(tempfile.mkdtemp())
    config = GenerateConfig(
        prompts=str(PROMPTS),
        output=folder / "candidates",
        model=(MODEL,),
        backend="transformers",
        n=N,
        temperature=(1.0,),
        max_tokens=MAX_TOKENS,
        part_size=part_size,
        max_error_rate=1.0,
    )
    sampler = Sampler(MODEL, locate_model(MODEL).identity(), lambda: engine)
    summary = run(config, [sampler], Runtime())
    shutil.rmtree(folder)
    return int(summary.facts["n_tokens"])


def main() -> None:
    engine = KeptOpen(HfGenerator(locate_model(MODEL), batch_size=64))
    sides: dict[str, Callable[[], int]] = {"bare, one call": lambda: bare(engine)}
    for size in PART_SIZES:
        sides[f"stage, --part-size {size}"] = lambda size=size: stage(engine, size)

    bare(engine)
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(ROUNDS):
        for name, sample in sides.items():
            started, started_cpu = time.perf_counter(), time.process_time()
            n_tokens = sample()
            wall_s, cpu_s = time.perf_counter() - started, time.process_time() - started_cpu
            speeds[name].append((n_tokens / wall_s, n_tokens / cpu_s))
            print(
                f"round {number}: {name}: {n_tokens} tokens, {wall_s:.1f} s, {cpu_s:.1f} s of processor time",
                flush=True,
            )

    print(
        f"{platform.processor() or platform.machine()}, Python {sys.version.split()[0]}; medians of {ROUNDS}:"
    )
    expected = median(cpu for _, cpu in speeds["bare, one call"])
    for name, each in speeds.items():
        by_clock, by_cpu = (median(column) for column in zip(*each, strict=True))
        print(
            f"{name}: {by_clock:.0f} tokens/s, {by_cpu:.0f} a second of processor time: {by_cpu / expected:.1%}"
        )


if __name__ == "__main__":
    main()
