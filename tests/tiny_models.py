"""Tiny random models for tests: real Hugging Face folders, a few kilobytes, written in milliseconds.

Two Llama layers, hidden size 32, a byte-level tokenizer without merges (one token a byte, plus four special
tokens) and a ChatML template. Weights depend on ``seed`` alone. ``initializer_range`` is ten times the usual, so
that the distributions are far from flat and greedy answers depend on the prompt; the row of the end-of-turn token
in the output matrix is three times larger, so that sampled answers end after some twenty tokens.
"""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

SPECIAL_TOKENS = ["<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>"]
PAD_ID, BOS_ID, START_ID, END_ID = range(4)
FIRST_BYTE_ID = len(SPECIAL_TOKENS)
VOCAB_SIZE = FIRST_BYTE_ID + 256

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return the byte-level tokenizer: ids 0-3 are special, the rest one id a byte; it adds no BOS."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: index for index, symbol in enumerate([*SPECIAL_TOKENS, *symbols])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def tiny_config(**changes) -> LlamaConfig:
    """Return the two-layer Llama configuration, with ``changes`` on top."""
    settings = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "bos_token_id": BOS_ID,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
    }
    return LlamaConfig(**(settings | changes))


def make_tiny_causal_lm(path, seed=0, **changes) -> Path:
    """Write a causal language model with its tokenizer to ``path`` and return the path; ``changes`` are its configuration's."""
    return _save(LlamaForCausalLM, tiny_config(**changes), Path(path), seed)


def make_tiny_reward_model(path, seed=0) -> Path:
    """Write a one-label sequence classifier with its tokenizer and a pad token to ``path``; return the path."""
    return _save(LlamaForSequenceClassification, tiny_config(num_labels=1), Path(path), seed)


def make_tiny_encoder(path, seed=0) -> Path:
    """Write a bare BERT encoder with the tokenizer, which has no chat template, to ``path``; return the path."""
    config = BertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, initializer_range=0.2, pad_token_id=PAD_ID,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).eval().save_pretrained(path)
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(path)
    return Path(path)


def make_tiny_adapter(path, base_path, seed=0) -> Path:
    """Write a LoRA adapter of the causal model in ``base_path`` (both factors random: it changes the answers)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = LlamaForCausalLM.from_pretrained(base_path)
        lora = LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=["q_proj", "v_proj"],
            init_lora_weights=False,
            task_type="CAUSAL_LM",
        )
        get_peft_model(base, lora).save_pretrained(path)
    return Path(path)


def _save(model_class, config, path, seed) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).eval()
        if model_class is LlamaForCausalLM:
            model.lm_head.weight.data[END_ID] *= 3
        model.save_pretrained(path)
    make_tiny_tokenizer().save_pretrained(path)
    return path
