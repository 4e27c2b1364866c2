"""A whole optimizer step on one group: prompts once against once a response, with and without the logits tensor, beside TRL.

    make bench-train                                        two threads, SmolLM2-135M, float32: about 25 minutes
    python tests/benchmarks/train_step.py --model 1b --device cuda --bf16          one GPU, the shape of Llama-3.2-1B, random weights

One positive and seven negatives of random tokens. `packed`, `padded` and `packed:BUDGET` (two passes where the group is longer) are steps of
the trainer that ``train`` runs; `plain` makes every logit; `trl` is DPOTrainer on the seven pairs, reference log-probabilities at
hand. Each runs in a process of its own, which tells its best time after a first step and its peak memory.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

N_RESPONSES = 8
OBJECTIVE = "ampo"
LLAMA_1B = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}
TABLE = {
    (256, 256): ("packed", "padded", "plain", "trl"),
    (1024, 128): ("packed", "padded", "plain"),
    (64, 512): ("packed", "packed:2112", "packed:1088", "packed+checkpointing", "plain"),
}
"""Prompt and response tokens, and what is measured. 2112 and 1088 hold four and two responses of 512 tokens."""


def make_group(n_prompt: int, n_response: int) -> Any:
    from prefpipe.training.groups import Group, Response

    generator = torch.Generator().manual_seed(0)

    def tokens(n: int) -> list[int]:
        return torch.randint(100, 40_000, (n,), generator=generator).tolist()

    responses = [
        Response(r, tokens(n_response), float(-r), "positive" if r == 0 else "negative")
        for r in range(N_RESPONSES)
    ]
    return Group("p", tokens(n_prompt), responses)


def bundled_folder() -> Path:
    from prefpipe.models.location import locate_model

    return locate_model("bundled:smollm2-135m").path


def load_model(options: argparse.Namespace) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    if options.model == "1b":
        with torch.device(options.device):
            return AutoModelForCausalLM.from_config(
                LlamaConfig(**LLAMA_1B), dtype=torch.float32
            ).train()
    return (
        AutoModelForCausalLM.from_pretrained(bundled_folder(), dtype=torch.float32)
        .train()
        .to(options.device)
    )


def own_step(
    mode: str, n_prompt: int, n_response: int, options: argparse.Namespace
) -> tuple[Callable[[], None], Any]:
    """Return a step's gradient as ``train`` computes it, `packed`, in rows of a budget, or `padded`; and the model."""
    from transformers import AutoTokenizer

    from prefpipe.maths.objectives.registry import resolve_knobs
    from prefpipe.training.forward import share_prompts
    from prefpipe.training.settings import TrainSettings, training_arguments
    from prefpipe.training.trainer import GroupTrainer

    name, _, budget = mode.partition(":")
    model = load_model(options)
    if name.startswith("packed"):
        problem = share_prompts(model)
        assert problem is None, problem
    settings = TrainSettings(
        objective=OBJECTIVE,
        knobs=resolve_knobs(OBJECTIVE, {}),
        learning_rate=1e-6,
        global_batch_size=1,
        bf16=options.bf16,
        max_batch_tokens=int(budget or 1_000_000),
        gradient_checkpointing=name.endswith("+checkpointing"),
    )
    arguments = training_arguments(settings, Path(tempfile.mkdtemp()))
    group = make_group(n_prompt, n_response)
    trainer = GroupTrainer(
        model,
        arguments,
        settings,
        [group],
        tokenizer=AutoTokenizer.from_pretrained(bundled_folder()),
    )
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    inputs = trainer.data_collator([group])
    return lambda: trainer.training_step(model, inputs, 1), model


def plain_step(
    n_prompt: int, n_response: int, options: argparse.Namespace
) -> tuple[Callable[[], None], Any]:
    """Return a step's gradient with every prompt computed once a response and every logit in memory; and the model."""
    from prefpipe.maths.objectives.logps import ResponseLogps, sum_response_logps, token_logps
    from prefpipe.maths.objectives.losses import Targets
    from prefpipe.maths.objectives.registry import resolve_knobs
    from prefpipe.maths.objectives.scores import group_losses, score_responses
    from prefpipe.training.batches import GroupCollator
    from prefpipe.training.forward import to_device

    model = load_model(options)
    batch = to_device(
        GroupCollator(0)([make_group(n_prompt, n_response)]), torch.device(options.device)
    )
    knobs = resolve_knobs(OBJECTIVE, {})
    mask = batch["response_mask"]

    def step() -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
            logits = model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                use_cache=False,
            ).logits
            found = sum_response_logps(
                token_logps(logits[:, :-1], batch["input_ids"][:, 1:])[mask[:, 1:]], mask
            )
        policy = ResponseLogps(found.logps[None], found.n_tokens[None])
        targets = Targets(batch["rewards"], batch["positives"], batch["slots"] >= 0)
        scores = score_responses(OBJECTIVE, policy, None, targets.mask, knobs)
        group_losses(OBJECTIVE, scores, targets, knobs).mean().backward()

    return step, model


def trl_step(
    n_prompt: int, n_response: int, options: argparse.Namespace
) -> tuple[Callable[[], None], Any]:
    """Return the gradient of TRL's DPOTrainer on the seven pairs of the group; and the model."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    group = make_group(n_prompt, n_response)
    best, *rest = group.responses
    rows = {
        "prompt_ids": [group.prompt_token_ids] * len(rest),
        "chosen_ids": [best.token_ids] * len(rest),
        "rejected_ids": [other.token_ids for other in rest],
        "ref_chosen_logps": [-100.0] * len(rest),
        "ref_rejected_logps": [-100.0] * len(rest),
    }
    text = {
        "prompt": ["a"] * len(rest),
        "chosen": [" b"] * len(rest),
        "rejected": [" c"] * len(rest),
    }
    arguments = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=len(rest),
        max_length=None,
        report_to="none",
        use_cpu=options.device == "cpu",
        gradient_checkpointing=False,
        bf16=options.bf16,
        precompute_ref_log_probs=False,
        learning_rate=1e-6,
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model=load_model(options),
        ref_model=None,
        args=arguments,
        train_dataset=Dataset.from_dict(text),
        processing_class=AutoTokenizer.from_pretrained(bundled_folder()),
    )
    trainer.precompute_ref_logps = True
    batch = trainer.data_collator(
        [{name: values[i] for name, values in rows.items()} for i in range(len(rest))]
    )
    batch = trainer._prepare_inputs(batch)

    def step() -> None:
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()

    return step, trainer.model


def measure(
    mode: str, n_prompt: int, n_response: int, options: argparse.Namespace
) -> dict[str, float]:
    """Return the best time of a step and the peak memory of the process, or of the GPU."""
    if mode in ("plain", "trl"):
        gradient, model = (plain_step if mode == "plain" else trl_step)(
            n_prompt, n_response, options
        )
    else:
        gradient, model = own_step(mode, n_prompt, n_response, options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    is_cuda = options.device != "cpu"
    times = []
    for number in range(options.repeats + 1):
        started = time.perf_counter()
        gradient()
        if number == 0 and options.gradients:
            torch.save(
                {name: parameter.grad for name, parameter in model.named_parameters()},
                options.gradients,
            )
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    peak = (
        torch.cuda.max_memory_allocated()
        if is_cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    )
    return {"step_s": min(times[1:] or times), "peak_gib": peak / 2**30}


def in_own_process(
    mode: str, n_prompt: int, n_response: int, options: argparse.Namespace, *more: str
) -> dict[str, float]:
    """Measure in a process of its own, so that one mode's memory is not another's."""
    words = [
        sys.executable,
        __file__,
        "--only",
        mode,
        str(n_prompt),
        str(n_response),
        "--repeats",
        str(options.repeats),
        "--model",
        options.model,
        "--device",
        options.device,
        *(["--bf16"] if options.bf16 else []),
        *more,
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        killed = f"killed by signal {-done.returncode}" + (
            ", as for want of memory" if done.returncode == -9 else ""
        )
        return {
            "error": killed if done.returncode < 0 else done.stderr.strip().splitlines()[-1][:150]
        }
    return json.loads(done.stdout.splitlines()[-1])


def counted(n_prompt: int, n_response: int, options: argparse.Namespace) -> tuple[float, float]:
    """Return FLOP of the forward pass, once a response and packed: matrix products of the layers, the output and the attention.

    The layers see every token, the output the tokens that predict a response token, and a token's attention the tokens before it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

    from prefpipe.models.shape import shape_of

    config = (
        LlamaConfig(**LLAMA_1B)
        if options.model == "1b"
        else AutoConfig.from_pretrained(bundled_folder())
    )
    with torch.device("meta"):
        shape = shape_of(AutoModelForCausalLM.from_config(config), config).shape
    output = 2.0 * shape.n_output_parameters * N_RESPONSES * n_response

    def operations(n_tokens: int, n_seen: float) -> float:
        return (
            2.0 * shape.n_layer_parameters * n_tokens
            + output
            + 2.0 * shape.attention_width * n_seen
        )

    length = n_prompt + n_response
    seen = n_prompt**2 / 2 + N_RESPONSES * (n_prompt * n_response + n_response**2 / 2)
    packed = operations(n_prompt + N_RESPONSES * n_response, seen)
    return operations(N_RESPONSES * length, N_RESPONSES * length**2 / 2), packed


def largest_difference(ours: Path, plain: Path) -> float:
    """Return the largest difference of two gradients, relative to the norm of the parameter's gradient."""
    pairs = [torch.load(path, map_location="cpu") for path in (ours, plain)]
    return max(
        float((pairs[0][name] - found).norm() / found.norm()) for name, found in pairs[1].items()
    )


@contextmanager
def gradient_files() -> Iterator[Callable[[str], Path]]:
    with tempfile.TemporaryDirectory() as folder:
        yield lambda mode: Path(folder) / mode.replace(":", "-")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        nargs=3,
        metavar=("MODE", "PROMPT", "RESPONSE"),
        help="one figure, in this process, as JSON",
    )
    parser.add_argument(
        "--shape",
        nargs=2,
        type=int,
        action="append",
        metavar=("PROMPT", "RESPONSE"),
        help="rows of the table",
    )
    parser.add_argument(
        "--repeats", type=int, default=1, help="steps after the first, of which the best counts"
    )
    parser.add_argument("--model", choices=("smollm2-135m", "1b"), default="smollm2-135m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument(
        "--tflops", type=float, default=989.5, help="peak of the GPU, for model FLOPs utilisation"
    )
    parser.add_argument("--gradients", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        mode, *numbers = options.only
        print(json.dumps(measure(mode, *map(int, numbers), options)))
        return
    device = (
        torch.cuda.get_device_name()
        if options.device != "cpu"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(
        f"{device}, torch {torch.__version__}, {options.model}, {'bfloat16 autocast' if options.bf16 else 'float32'}"
    )
    for shape in map(tuple, options.shape or TABLE):
        print_shape(shape, TABLE.get(shape, TABLE[256, 256]), options)


def print_shape(
    shape: tuple[int, int], modes: tuple[str, ...], options: argparse.Namespace
) -> None:
    n_prompt, n_response = shape
    each, once = counted(n_prompt, n_response, options)
    n_tokens = N_RESPONSES * n_response
    print(
        f"\n{n_prompt} + {N_RESPONSES} x {n_response} tokens; counted operations allow {each / once:.2f} x",
        flush=True,
    )
    with gradient_files() as file_of:
        plain = in_own_process("plain", *shape, options, "--gradients", str(file_of("plain")))
        found: dict[str, Any] = {}
        for mode in modes:
            is_own = mode not in ("plain", "trl")
            more = ("--gradients", str(file_of(mode))) if is_own else ()
            values = plain if mode == "plain" else in_own_process(mode, *shape, options, *more)
            found[mode] = values
            if "error" in values:
                print(f"  {mode:<21} {values['error']}", flush=True)
                continue
            line = f"  {mode:<21} {values['step_s']:8.3f} s = {values['step_s'] / found['packed']['step_s']:.2f} x packed"
            line += f"   {n_tokens / values['step_s']:8.0f} response tokens/s   peak {values['peak_gib']:.2f} GiB"
            if options.device != "cpu" and mode != "trl":
                work = 3.0 * (once if mode.startswith("packed") else each)
                line += f"   MFU {work / values['step_s'] / options.tflops / 1e12:.1%}"
            if is_own and "error" not in plain:
                line += f"   gradient {largest_difference(file_of(mode), file_of('plain')):.1e} from plain"
            print(line, flush=True)


if __name__ == "__main__":
    main()
