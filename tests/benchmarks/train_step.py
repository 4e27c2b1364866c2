"""A whole optimizer step on one group: prompts once against once a response, with and without the logits tensor, beside TRL.

    make bench-train

SmolLM2-135M in float32, one positive and seven negatives of random tokens. Every mode runs in a process of its own, which tells its best
time of several steps and its peak memory.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

N_RESPONSES = 8
SHAPES = [(256, 256), (1024, 128)]
MODES = ("packed", "padded", "plain", "trl")


def make_group(n_prompt: int, n_response: int) -> Any:
    from prefpipe.training.groups import Group, Response

    generator = torch.Generator().manual_seed(0)

    def tokens(n: int) -> list[int]:
        return torch.randint(100, 40_000, (n,), generator=generator).tolist()

    responses = [Response(r, tokens(n_response), float(-r), "positive" if r == 0 else "negative") for r in range(N_RESPONSES)]
    return Group("p", tokens(n_prompt), responses)


def load_model() -> Any:
    from transformers import AutoModelForCausalLM

    from prefpipe.backends.model_location import locate_model

    path = locate_model("bundled:smollm2-135m").path
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).train(), path


def own_step(mode: str, n_prompt: int, n_response: int) -> Callable[[], None]:
    """Return a step of AMPO as ``train`` takes it (packed, padded), or with every logit in memory (plain)."""
    from prefpipe.maths.logps import ResponseLogps, sum_response_logps, token_logps
    from prefpipe.maths.losses import Targets
    from prefpipe.maths.objectives import resolve_knobs
    from prefpipe.maths.scores import group_losses, score_responses
    from prefpipe.training.batches import GroupCollator
    from prefpipe.training.forward import group_logps, share_prompts

    model, _ = load_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    if mode == "packed":
        assert share_prompts(model) is None
    batch = GroupCollator(0, packed=mode == "packed")([make_group(n_prompt, n_response)])
    knobs = resolve_knobs("ampo", {})

    def plain_logps() -> ResponseLogps:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        mask = batch["response_mask"]
        logps = token_logps(logits[:, :-1], batch["input_ids"][:, 1:])[mask[:, 1:]]
        found = sum_response_logps(logps, mask)
        return ResponseLogps(found.logps[None], found.n_tokens[None])

    def step() -> None:
        policy = plain_logps() if mode == "plain" else group_logps(model, batch)
        targets = Targets(batch["rewards"], batch["positives"], batch["slots"] >= 0)
        scores = score_responses("ampo", policy, None, targets.mask, knobs)
        group_losses("ampo", scores, targets, knobs).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def trl_step(n_prompt: int, n_response: int) -> Callable[[], None]:
    """Return a step of TRL's DPOTrainer on the seven pairs of the group, reference log-probabilities at hand."""
    import tempfile

    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    model, path = load_model()
    group = make_group(n_prompt, n_response)
    best, *rest = group.responses
    rows = {
        "prompt_ids": [group.prompt_token_ids] * len(rest), "chosen_ids": [best.token_ids] * len(rest),
        "rejected_ids": [other.token_ids for other in rest],
        "ref_chosen_logps": [-100.0] * len(rest), "ref_rejected_logps": [-100.0] * len(rest),
    }  # fmt: skip
    text = {"prompt": ["a"] * len(rest), "chosen": [" b"] * len(rest), "rejected": [" c"] * len(rest)}
    arguments = DPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=len(rest), max_length=None, report_to="none", use_cpu=True,
        gradient_checkpointing=False, bf16=False, precompute_ref_log_probs=False, learning_rate=1e-6, disable_tqdm=True,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=model, ref_model=None, args=arguments, train_dataset=Dataset.from_dict(text),
        processing_class=AutoTokenizer.from_pretrained(path),
    )  # fmt: skip
    trainer.precompute_ref_logps = True
    batch = trainer.data_collator([{name: values[i] for name, values in rows.items()} for i in range(len(rest))])
    optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=1e-6)

    def step() -> None:
        trainer.compute_loss(trainer.model, batch).backward()
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(mode: str, n_prompt: int, n_response: int, repeats: int) -> dict[str, float]:
    """Return the best time of a step and how far memory rose above the loaded model and its optimizer's state."""
    step = trl_step(n_prompt, n_response) if mode == "trl" else own_step(mode, n_prompt, n_response)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return {"step_s": min(times), "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def in_own_process(mode: str, n_prompt: int, n_response: int, repeats: int) -> dict[str, float]:
    """Measure in a process of its own, so that one mode's memory is not another's."""
    words = [sys.executable, __file__, "--only", mode, str(n_prompt), str(n_response), str(repeats)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def counted_ratio(n_prompt: int, n_response: int) -> float:
    """Return how many times fewer operations a packed step has: matrix products of the layers, the output and the attention.

    The layers see every token, the output the tokens that predict a response token, and a token's attention the tokens before it.
    """
    from prefpipe.backends.model_shape import named_shape

    shape = named_shape("bundled:smollm2-135m").shape
    output = 2.0 * shape.n_output_parameters * N_RESPONSES * n_response

    def operations(n_tokens: int, n_seen: float) -> float:
        return 2.0 * shape.n_layer_parameters * n_tokens + output + 2.0 * shape.attention_width * n_seen

    length = n_prompt + n_response
    padded = operations(N_RESPONSES * length, N_RESPONSES * length**2 / 2)
    seen = n_prompt**2 / 2 + N_RESPONSES * (n_prompt * n_response + n_response**2 / 2)
    return padded / operations(n_prompt + N_RESPONSES * n_response, seen)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs=4, metavar=("MODE", "PROMPT", "RESPONSE", "REPEATS"))
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    if options.only:
        mode, *numbers = options.only
        print(json.dumps(measure(mode, *map(int, numbers))))
        return
    for n_prompt, n_response in SHAPES:
        counted = counted_ratio(n_prompt, n_response)
        modes = [mode for mode in MODES if mode != "trl" or (n_prompt, n_response) == (256, 256)]
        found = {mode: in_own_process(mode, n_prompt, n_response, options.repeats) for mode in modes}
        ours = found["packed"]["step_s"]
        print(f"{n_prompt:>5} + {n_response:<4} operations {counted:.2f} x   " + "   ".join(
            f"{mode} {values['step_s']:6.2f} s = {values['step_s'] / ours:.2f} x, {values['peak_gib']:.1f} GiB"
            for mode, values in found.items()), flush=True)  # fmt: skip
    for mode in ("packed", "padded", "plain"):
        values = in_own_process(mode, 64, 512, 2)
        print(f"   64 + 512  {mode:<7} {values['step_s']:6.2f} s   peak {values['peak_gib']:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
