"""What small parts cost with vLLM: `prefpipe generate --part-size 4` beside `LLM.generate` with all requests at once.

64 prompts x 8 with SmolLM2-135M. Both sides use one engine that is already loaded, in a process of its own as users have it, the same ids, seeds and limits; the command's side adds
reading and checking the prompts, tokenising, rows, Parquet, fsync. They take turns, so that a slow spell of the machine hits both, and the prompts' cache is emptied before each.
Where the machine is noisier than the difference, read the number of steps (an engine that ran empty between parts would need more of them for the same tokens) and the processor time of
vLLM's processes.

`make bench-overhead` runs this where vLLM's environment is. On a CPU the engine has one thread, so that what prefpipe does beside it finds another core, as it does beside a GPU.
"""

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

from prefpipe.artifacts.ids import seed_for
from prefpipe.artifacts.prompts import load_prompts
from prefpipe.backends.protocol import GenerationRequest, SamplingParams
from prefpipe.configs.generate import GenerateConfig
from prefpipe.execution.runtime import Runtime
from prefpipe.models.location import locate_model
from prefpipe.stages.generate import Sampler, run

PROMPTS = Path(__file__).parents[2] / "sample_data" / "prompts.jsonl"
N_PROMPTS, N, PART_SIZE = 64, 8, 4
MAX_TOKENS = int(os.environ.get("MAX_TOKENS", "32"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
MODEL = "bundled:smollm2-135m"


class KeptOpen:
    """The engine with a close() that does nothing, so that every round uses the same one."""

    def __init__(self, engine) -> None:
        self.max_model_len = engine.max_model_len
        self.engine_version = getattr(engine, "engine_version", None)
        self.encode, self.generate, self.has_room = engine.encode, engine.generate, engine.has_room

    def close(self) -> None:
        """Leave it open."""


def write_prompts(path: Path) -> None:
    lines = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
    again = [{"prompt": "In one sentence: " + line["prompt"]} for line in lines]
    chosen = [{"prompt": line["prompt"]} for line in lines] + again
    path.write_text("".join(json.dumps(line) + "\n" for line in chosen[:N_PROMPTS]))


def processor_s(pids: list[int]) -> float:
    """The processor time that processes have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    from vllm.inputs import TokensPrompt

    from prefpipe.backends.generators.engine_processes import _descendants
    from prefpipe.backends.generators.vllm_engine import VllmGenerator

    model = locate_model(MODEL)
    generator = VllmGenerator(
        model,
        dtype="float32",
        max_model_len=1024,
        trust_remote_code=False,
        tensor_parallel_size=1,
        gpu_memory_utilization=0.5,
        enable_prefix_caching=True,
        enforce_eager=True,
    )
    folder = Path(tempfile.mkdtemp())
    prompts_path = folder / "prompts.jsonl"
    write_prompts(prompts_path)
    prompts = load_prompts(str(prompts_path))
    llm = generator._engine
    limits = SamplingParams(MAX_TOKENS)
    requests = [
        GenerationRequest(
            prompt.prompt_id,
            sample,
            prompt.messages,
            generator.encode(prompt.messages),
            seed_for(0, prompt.prompt_id, sample),
            1.0,
        )
        for prompt in prompts.rows
        for sample in range(N)
    ]
    assert len(requests) == N_PROMPTS * N

    n_steps = 0
    step = llm.llm_engine.step

    def counted_step():
        nonlocal n_steps
        n_steps += 1
        return step()

    llm.llm_engine.step = counted_step

    def all_at_once() -> tuple[int, float]:
        llm.reset_prefix_cache()
        given = [TokensPrompt(prompt_token_ids=list(each.prompt_token_ids)) for each in requests]
        params = [generator._params(each, limits) for each in requests]
        started = time.perf_counter()
        outputs = llm.generate(given, params, use_tqdm=False)
        elapsed_s = time.perf_counter() - started
        return sum(len(each.outputs[0].token_ids) for each in outputs), elapsed_s

    def part_by_part() -> tuple[int, float]:
        llm.reset_prefix_cache()
        output = folder / "candidates"
        config = GenerateConfig(
            prompts=str(prompts_path),
            output=output,
            model=(MODEL,),
            backend="vllm",
            n=N,
            temperature=(1.0,),
            max_tokens=MAX_TOKENS,
            part_size=PART_SIZE,
            max_error_rate=1.0,
        )
        started = time.perf_counter()
        summary = run(
            config, [Sampler(MODEL, model.identity(), lambda: KeptOpen(generator))], Runtime()
        )
        elapsed_s = time.perf_counter() - started
        shutil.rmtree(output)
        return int(summary.facts["n_tokens"]), elapsed_s

    pids = _descendants(os.getpid())
    generator.generate(requests[:64], SamplingParams(4))
    once_speeds, part_speeds = [], []
    for number in range(ROUNDS):
        # who goes first changes from round to round
        for side in (all_at_once, part_by_part)[:: 1 if number % 2 == 0 else -1]:
            n_steps, before_s = 0, processor_s(pids)
            n_tokens, elapsed_s = side()
            (once_speeds if side is all_at_once else part_speeds).append(n_tokens / elapsed_s)
            print(
                f"round {number}: {side.__name__:>12} {n_tokens:,} tokens in {elapsed_s:.2f} s = {n_tokens / elapsed_s:.1f} tokens/s, {n_steps} steps, {processor_s(pids) - before_s:.1f} s of processor time in vLLM",
                flush=True,
            )
    generator.close()
    shutil.rmtree(folder)

    print(
        f"{N_PROMPTS} prompts x {N}, {MAX_TOKENS} tokens at most, parts of {PART_SIZE}; {platform.processor() or platform.machine()}, Python {sys.version.split()[0]}"
    )
    print(
        f"median: all at once {median(once_speeds):.1f} tokens/s, part by part {median(part_speeds):.1f} tokens/s = {median(part_speeds) / median(once_speeds):.1%} (bar: 97 %)"
    )


if __name__ == "__main__":
    main()
