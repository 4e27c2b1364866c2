"""Train a policy on exported pairs with TRL's DPOTrainer, for study F.

    python sample_data/studies/trl_dpo.py PAIRS.jsonl -o POLICY --model FOLDER --max-steps 20

PAIRS is written by `prefpipe export --format trl`. Hyper-parameters are those of `prefpipe train`
under the same names; what is not a flag here has the default of both (AdamW without decay,
gradients clipped to norm 1, float32, no dropout).
"""

import argparse
import json
import time
from pathlib import Path

import datasets
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--global-batch-size", type=int, default=4)
    parser.add_argument("--max-steps", type=int, default=20)
    parser.add_argument("--warmup-steps", type=int, default=2)
    parser.add_argument("--lr-scheduler-type", default="linear")
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    lines = given.pairs.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    pairs = datasets.Dataset.from_list(
        [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
    )

    settings = DPOConfig(
        output_dir=str(given.output),
        beta=given.beta,
        loss_type=["sigmoid"],
        learning_rate=given.learning_rate,
        # one pair at a time and no padding, as memory allows on a CPU
        per_device_train_batch_size=1,
        gradient_accumulation_steps=given.global_batch_size,
        max_steps=given.max_steps,
        lr_scheduler_type=given.lr_scheduler_type,
        warmup_steps=given.warmup_steps,
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=given.max_length,
        disable_dropout=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        seed=given.seed,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
    )
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(given.model, dtype="float32"),
        args=settings,
        train_dataset=pairs,
        processing_class=tokenizer,
    )

    started = time.monotonic()
    trainer.train()
    elapsed_s = time.monotonic() - started
    trainer.save_model(str(given.output))
    log = {"elapsed_s": elapsed_s, "n_pairs": len(rows), "log": trainer.state.log_history}
    (given.output / "trl.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
