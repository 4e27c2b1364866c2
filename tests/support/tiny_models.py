"""Tiny random models for tests: real Hugging Face folders, a few kilobytes, written in milliseconds.

Two Llama layers, hidden size 32, a byte-level tokenizer without merges (one token a byte, plus four special
tokens) and a ChatML template. Weights depend on ``seed`` alone. ``initializer_range`` is ten times the usual, so
that the distributions are far from flat and greedy answers depend on the prompt; the row of the end-of-turn token
in the output matrix is three times larger, so that sampled answers end after some twenty tokens.
"""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
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
    return tokenizer_of_letters(sorted(pre_tokenizers.ByteLevel.alphabet()), CHAT_TEMPLATE)


def tokenizer_of_letters(symbols, chat_template, tokens=()) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer without merges: ids 0-3 are special, then a symbol each, then ``tokens``, which are not special."""
    vocab = {symbol: index for index, symbol in enumerate([*SPECIAL_TOKENS, *symbols])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        chat_template=chat_template,
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
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.2,
        pad_token_id=PAD_ID,
    )
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


FAMILIES = ("chatml", "llama3", "gemma", "bert", "unigram", "llama2")
"""Kinds of tokenizers and templates that `make_tokenizer_like` imitates."""


def make_tokenizer_like(family) -> PreTrainedTokenizerFast:
    """Return a tiny tokenizer with the control tokens, the habits and the chat template of a family of models.

    ``llama3``: header tokens, a BOS, contents trimmed. ``gemma``: spaces are ``▁``, what is unknown becomes bytes. ``bert``:
    lower case, and control tokens that are looked for in lower case as well. ``unigram``: pieces, of which the control tokens
    are some, that find themselves in plain text. ``llama2``: a space in front of every text, turns in plain words.
    """
    if family == "chatml":
        return make_tiny_tokenizer()
    made = {
        "llama3": _like_llama3,
        "gemma": _like_gemma,
        "bert": _like_bert,
        "unigram": _like_unigram,
        "llama2": _like_llama2,
    }
    return made[family]()


def _finished(tokenizer, special, template, *, eos, bos=None, normalized=False):
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=normalized) for text in special]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=special[0],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        chat_template=template,
    )


def _like_llama3():
    special = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ]
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    # newlines join, as with nearly every tokenizer
    vocab = {symbol: index for index, symbol in enumerate([*symbols, "ĊĊ", "ĊĊĊ"])}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[("Ċ", "Ċ"), ("ĊĊ", "Ċ")], ignore_merges=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    template = (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + "
        "'<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        "{% endif %}"
    )
    return _finished(tokenizer, special, template, eos="<|eot_id|>", bos="<|begin_of_text|>")


def _like_gemma():
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "\n", *letters]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<pad>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    template = (
        "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + "
        "m.content | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    )
    return _finished(tokenizer, special, template, eos="<end_of_turn>", bos="<bos>")


def _like_bert():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(
        models.WordPiece(
            vocab={piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"
        )
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    template = "[CLS]{% for m in messages %}{{ m.content + '[SEP]' }}{% endfor %}"
    made = _finished(tokenizer, special, template, eos="[SEP]", normalized=True)
    made.unk_token = "[UNK]"
    return made


def _like_unigram():
    special = ["<pad>", "</s>", "<s>"]
    letters = ["▁", *(chr(code) for code in range(33, 127)), "\n"]
    pieces = (
        [(piece, 0.0) for piece in special]
        + [("<unk>", -20.0)]
        + [(letter, -5.0) for letter in letters]
    )
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never", split=False)
    template = "{% for m in messages %}{{ '<s>' + m.role + '\n' + m.content + '</s>' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
    return _finished(tokenizer, special, template, eos="</s>")


def _like_llama2():
    special = ["<unk>", "<s>", "</s>"]
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '\n\nHuman: ' + m.content }}{% else %}"
        "{{ '\n\nAssistant: ' + m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n\nAssistant: ' }}{% else %}{{ eos_token }}{% endif %}"
    )
    return _finished(tokenizer, special, template, eos="</s>", bos="<s>")


TOOLS_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>tools\n' }}{% for tool in tools %}{{ tool | tojson + '\n' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{% for call in message.tool_calls or [] %}{{ '<call>' + call.function | tojson + '</call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""`CHAT_TEMPLATE` of a model that knows tools: those it has and its calls are written as JSON."""
