"""Train a policy on groups of one pair each with TRL's DPOTrainer, as `prefpipe train` would.

    python sample_data/studies/trl_dpo.py GROUPS -o POLICY --model MODEL --max-steps 20

For study F. GROUPS is written by `prefpipe select --strategy best-worst`, and exported here by
`prefpipe export --format trl`. Flags have the names and the meaning that they have for `prefpipe
train`; what is no flag here is the same for both: AdamW without decay, gradients clipped to norm 1,
weights in float32, no dropout, the reference is the model itself.

What is made equal: the pairs, their order, which is that of `prefpipe train --seed`, and where a
response ends. TRL writes the conversation with the chat template and trains on all that comes after
the prompt; many templates write a newline behind the end of a turn, which no policy samples. It is
cut off. What is left unequal are pairs whose texts TRL makes into other tokens than those that were
sampled, which POLICY/trl.json counts; with --sampled-tokens they are equal, too.

It trains to one place: a study that judges two calls it twice. Needed: `pip install trl datasets`.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import DPOConfig, DPOTrainer

import prefpipe
from prefpipe.artifacts.atomic import atomic_folder
from prefpipe.configs.export import ExportConfig
from prefpipe.errors import PrefpipeError
from prefpipe.execution.runtime import Runtime
from prefpipe.models.location import locate_model
from prefpipe.stages.export.groups import run as export
from prefpipe.stages.train.seen_tokens import MAX_LENGTH, trained_prompts
from prefpipe.training.batches import order_of_epoch

Row = dict[str, Any]
Tokens = tuple[list[int], list[int]]


def main(words: list[str] | None = None) -> None:
    """Train, and write the model folder under its name when it is whole.

    ``words``: of the command line, None: those of this process.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("groups", type=Path, help="folder written by select, a pair a prompt")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", required=True, help="as `prefpipe train` takes it")
    parser.add_argument("--max-steps", type=int, required=True)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--global-batch-size", type=int, default=4)
    parser.add_argument("--warmup-steps", type=int, default=2)
    parser.add_argument("--lr-scheduler-type", default="linear")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sampled-tokens",
        action="store_true",
        help="train on the tokens that were sampled, in place of those that TRL makes of the texts",
    )
    given = parser.parse_args(words)

    try:
        pairs = pairs_as_trained(given.groups)
        model = locate_model(given.model).path
    except PrefpipeError as error:
        sys.exit(f"error: {error}\nhint: {error.hint}")

    rows = rows_in_order(
        pairs,
        seed=given.seed,
        global_batch_size=given.global_batch_size,
        n_steps=given.max_steps,
    )
    with atomic_folder(given.output, overwrite=True) as folder:
        train(rows, sampled_tokens(given.groups), model, folder, given)
    print(given.output)


def exported_pairs(groups: Path) -> list[Row]:
    """Return the pairs of the groups as `prefpipe export` writes them for TRL, a row each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        config = ExportConfig(groups=groups, output=path, format="trl")
        export(config, Runtime(log=lambda line: print(line, file=sys.stderr)))
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pairs_as_trained(groups: Path) -> list[Row]:
    """Return the exported pairs, which must be those that `prefpipe train` takes, and weighs alike.

    Of several pairs of a prompt it would take the mean first, and TRL does not. A pair that it
    leaves out would shift the order of all others.
    """
    pairs = exported_pairs(groups)
    prompts = [pair["prompt_id"] for pair in pairs]
    if len(set(prompts)) < len(prompts):
        sys.exit("error: a prompt has several pairs; select with --strategy best-worst")
    if prompts != [prompt.prompt_id for prompt in trained_prompts(groups)]:
        sys.exit("error: prefpipe leaves out pairs that are exported; `prefpipe check` names them")
    return pairs


def rows_in_order(rows: list[Row], *, seed: int, global_batch_size: int, n_steps: int) -> list[Row]:
    """Return the pairs in the order in which `prefpipe train` comes to them.

    A step that would be the short last one of a pass is refused, for TRL fills it from the next.
    """
    n_wanted = n_steps * global_batch_size
    if n_wanted > len(rows) and len(rows) % global_batch_size:
        sys.exit(
            f"error: {n_steps} steps of {global_batch_size} are more than one pass over "
            f"{len(rows)} pairs, and the last step of a pass would be short"
        )

    in_order: list[Row] = []
    for epoch in range(-(-n_wanted // len(rows))):
        in_order += [rows[place] for place in order_of_epoch(len(rows), seed, epoch)]
    return in_order[:n_wanted]


def sampled_tokens(groups: Path) -> dict[tuple[str, int], Tokens]:
    """Return the tokens of each prompt and response as they were sampled."""
    columns = ["prompt_id", "sample_idx", "prompt_token_ids", "response_token_ids"]
    rows = prefpipe.read(groups).select(columns).drop_nulls().rows()
    return {(prompt_id, number): (prompt, ids) for prompt_id, number, prompt, ids in rows}


def train(
    rows: list[Row],
    sampled: dict[tuple[str, int], Tokens],
    model: Path,
    folder: Path,
    given: argparse.Namespace,
) -> None:
    """Train on the rows as they come, and write model, tokenizer and ``trl.json``."""
    settings = DPOConfig(
        output_dir=str(folder),
        beta=given.beta,
        loss_type=["sigmoid"],
        learning_rate=given.learning_rate,
        # one pair at a time, as memory allows on a CPU
        per_device_train_batch_size=1,
        gradient_accumulation_steps=given.global_batch_size,
        train_sampling_strategy="sequential",
        max_steps=given.max_steps,
        lr_scheduler_type=given.lr_scheduler_type,
        warmup_steps=given.warmup_steps,
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=MAX_LENGTH,
        disable_dropout=True,
        gradient_checkpointing=given.gradient_checkpointing,
        bf16=given.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=given.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    pairs = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=settings,
        train_dataset=datasets.Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    # stdout is for the policy's path
    trainer.remove_callback(PrinterCallback)

    made = [as_trained(tokens, tokenizer.eos_token_id) for tokens in trainer.train_dataset]
    stored = [as_sampled(row, sampled) for row in rows]
    trainer.train_dataset = datasets.Dataset.from_list(stored if given.sampled_tokens else made)

    started = time.monotonic()
    trainer.train()
    elapsed_s = time.monotonic() - started
    trainer.save_model(str(folder))
    # `save_model` leaves it behind, and it would be of no use to whoever samples
    (folder / "training_args.bin").unlink(missing_ok=True)

    figures = {
        "elapsed_s": elapsed_s,
        "n_pairs": len(rows),
        "n_pairs_of_other_tokens": sum(
            one != other for one, other in zip(made, stored, strict=True)
        ),
        "log": trainer.state.log_history,
    }
    text = json.dumps(figures, indent=1)
    (folder / "trl.json").write_text(f"{text}\n", encoding="utf-8")


def as_trained(tokens: Row, end: int) -> Row:
    """Return TRL's tokens of a pair without what the template writes behind an end of sequence."""
    cut = {"prompt_ids": tokens["prompt_ids"]}
    for name in ("chosen_ids", "rejected_ids"):
        ids = tokens[name]
        cut[name] = ids[: ids.index(end) + 1] if end in ids else ids
    return cut


def as_sampled(row: Row, sampled: dict[tuple[str, int], Tokens]) -> Row:
    """Return the tokens of a pair that were sampled."""
    prompt, chosen = sampled[row["prompt_id"], row["chosen_sample_idx"]]
    _, rejected = sampled[row["prompt_id"], row["rejected_sample_idx"]]
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


if __name__ == "__main__":
    main()
