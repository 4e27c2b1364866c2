"""TRL itself takes what ``prefpipe export`` writes: its trainers tokenise it as meant and make a step on it."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from support.interchange_files import kept, rejected, write_groups
from support.tiny_models import make_tiny_causal_lm
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from prefpipe.cli.main import run

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "2+2?"},
]
PROMPTS = {
    "a": "<|im_start|>user\nquestion a<|im_end|>\n<|im_start|>assistant\n",
    "b": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_causal_lm(tmp_path_factory.mktemp("model") / "tiny")


def make_groups(folder: Path) -> Path:
    return write_groups(
        folder,
        [
            kept("a", 0, "positive", 2.0),
            kept("a", 1, "negative", 1.0),
            kept("a", 2, "negative", -1.0),
            rejected("c"),
        ],
        [
            kept("b", 0, "positive", 1.0, "four", messages=TURNS),
            kept("b", 1, "negative", 0.0, "five", messages=TURNS),
        ],
    )


def exported(tmp_path: Path, kind: str, suffix: str) -> datasets.Dataset:
    path = tmp_path / f"data{suffix}"
    assert (
        run(["export", str(make_groups(tmp_path / "groups")), "-o", str(path), "--format", kind])
        == 0
    )
    loader = "json" if suffix == ".jsonl" else "parquet"
    return datasets.load_dataset(
        loader, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )


def settings(tmp_path: Path) -> dict[str, Any]:
    return {
        "output_dir": str(tmp_path / "out"),
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "max_steps": 1,
        "max_length": 256,
        "per_device_train_batch_size": 2,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
    }


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_dpo(tmp_path: Path, model_folder: Path, suffix: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(model_folder),
        args=DPOConfig(**settings(tmp_path)),
        processing_class=tokenizer,
        train_dataset=exported(tmp_path, "trl", suffix),
    )
    seen = [
        [tokenizer.decode(row[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
        for row in trainer.train_dataset
    ]
    end = "<|im_end|>\n"
    assert seen == [
        [PROMPTS["a"], f"answer a.0{end}", f"answer a.1{end}"],
        [PROMPTS["a"], f"answer a.0{end}", f"answer a.2{end}"],
        [PROMPTS["b"], f"four{end}", f"five{end}"],
    ]
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))


@pytest.mark.slow
def test_kto(tmp_path: Path, model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    trainer = KTOTrainer(
        AutoModelForCausalLM.from_pretrained(model_folder),
        args=KTOConfig(**settings(tmp_path)),
        processing_class=tokenizer,
        train_dataset=exported(tmp_path, "trl-unpaired", ".jsonl"),
    )
    seen = {
        (tokenizer.decode(row["prompt_ids"]), tokenizer.decode(row["completion_ids"]), row["label"])
        for row in trainer.train_dataset
    }
    end = "<|im_end|>\n"
    assert seen == {
        (PROMPTS["a"], f"answer a.0{end}", True),
        (PROMPTS["a"], f"answer a.1{end}", False),
        (PROMPTS["a"], f"answer a.2{end}", False),
        (PROMPTS["b"], f"four{end}", True),
        (PROMPTS["b"], f"five{end}", False),
    }
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))


@pytest.mark.slow
def test_sft_has_its_loss_on_the_positives(tmp_path: Path, model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model_folder),
        args=SFTConfig(**settings(tmp_path)),
        processing_class=tokenizer,
        train_dataset=exported(tmp_path, "trl-sft", ".parquet"),
    )
    seen = []
    for row in trainer.train_dataset:
        ids, labels = row["input_ids"], row["labels"]
        prompt = [each for each, label in zip(ids, labels, strict=True) if label == -100]
        completion = [label for label in labels if label != -100]
        seen.append([tokenizer.decode(prompt), tokenizer.decode(completion)])
    end = "<|im_end|>\n"
    assert seen == [[PROMPTS["a"], f"answer a.0{end}"], [PROMPTS["b"], f"four{end}"]]
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))


@pytest.mark.slow
def test_sft_of_whole_conversations(tmp_path: Path, model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model_folder),
        args=SFTConfig(**settings(tmp_path)),
        processing_class=tokenizer,
        train_dataset=exported(tmp_path, "sft", ".jsonl"),
    )
    end = "<|im_end|>\n"
    seen = [tokenizer.decode(row["input_ids"]) for row in trainer.train_dataset]
    assert seen == [f"{PROMPTS['a']}answer a.0{end}", f"{PROMPTS['b']}four{end}"]
