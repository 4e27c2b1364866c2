"""How much `prefpipe generate` costs over the bare back-end on the same prompts: `make bench-overhead`.

Both sides use one engine that is already loaded, the same requests, seeds and batches; the stage side adds reading and checking the
prompts, tokenising, the table, digests, fsync and rename. Sides alternate, so that a slow spell of the machine hits both; where the machine is noisier than the difference, the time
that the stage spends outside the engine's call, measured in the same run, is the figure to read.
"""

import platform
import shutil
import sys
import tempfile
import time
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

PROMPTS = Path(__file__).parents[2] / "sample_data" / "prompts.jsonl"
N, MAX_TOKENS, ROUNDS = 4, 32, 2


class KeptOpen:
    """The engine with a close() that does nothing, so that every round uses the same one."""

    def __init__(self, engine: HfGenerator) -> None:
        self.engine, self.max_model_len = engine, engine.max_model_len
        self.encode, self.generate = engine.encode, engine.generate

    def close(self) -> None:
        """Leave it open."""


def main() -> None:
    model = locate_model("bundled:smollm2-135m")
    engine = KeptOpen(HfGenerator(model, batch_size=64))
    prompts = load_prompts(str(PROMPTS))
    requests = [
        GenerationRequest(
            p.prompt_id, i, p.messages, engine.encode(p.messages), seed_for(0, p.prompt_id, i), 1.0
        )
        for p in prompts.rows
        for i in range(N)
    ]
    engine.generate(requests[:16], SamplingParams(8))
    bare_s, stage_s, outside_s = [], [], []
    for number in range(ROUNDS):
        started = time.perf_counter()
        answers = engine.generate(requests, SamplingParams(MAX_TOKENS))
        bare_s.append(time.perf_counter() - started)
        folder = Path(tempfile.mkdtemp())
        config = GenerateConfig(
            prompts=str(PROMPTS),
            output=folder / "candidates",
            model=("bundled:smollm2-135m",),
            n=N,
            temperature=(1.0,),
            max_tokens=MAX_TOKENS,
            max_error_rate=1.0,
        )
        started = time.perf_counter()
        run(config, [Sampler("bundled:smollm2-135m", model.identity(), lambda: engine)], Runtime())
        stage_s.append(time.perf_counter() - started)
        outside_s.append(stage_s[-1] - bare_s[-1])
        shutil.rmtree(folder)
        share = outside_s[-1] / (stage_s[-1] - outside_s[-1])
        told = f"prefpipe generate {stage_s[-1]:.2f} s, of which {outside_s[-1]:.3f} s ({share:.2%}) outside the engine"
        print(f"round {number}: bare {bare_s[-1]:.2f} s, {told}", flush=True)
    n_tokens = sum(len(answer.token_ids) for answer in answers)
    overhead = median(stage_s) / median(bare_s) - 1
    print(
        f"{len(requests)} responses, {n_tokens} tokens, {platform.processor() or platform.machine()}, Python {sys.version.split()[0]}"
    )
    print(
        f"median: bare {median(bare_s):.2f} s ({n_tokens / median(bare_s):.0f} tokens/s), stage {median(stage_s):.2f} s: {overhead:+.2%}"
    )


if __name__ == "__main__":
    main()
