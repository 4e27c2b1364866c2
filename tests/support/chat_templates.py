"""Chat templates that behave like those of known families, in words of our own, and tiny models that have them.

``qwen3``: thoughts of earlier turns are dropped, ``enable_thinking=false`` writes an empty thought into the generation prompt.
``r1``: the generation prompt opens the thought, and finished turns are written without theirs. ``llama``: a header a turn, contents
trimmed, a ``date_string`` that has a default. ``gemma``: no system turn, the assistant is called model. ``plain``: no arguments.
"""

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import LlamaForCausalLM

from support.tiny_models import CHAT_TEMPLATE, END_ID, tiny_config, tokenizer_of_letters

QWEN3 = """
{%- set ns = namespace(last_question=0) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{% set ns.last_question = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{%- set thought = '' %}{% set said = message.content %}
{%- if message.reasoning_content is string %}{% set thought = message.reasoning_content %}
{%- elif '</think>' in said %}
{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{%- set said = said.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > ns.last_question and (loop.last or thought) %}
{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
{%- endif %}
{{- said + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""

R1 = """
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' + message.content.split('</think>')[-1].lstrip('\\n') + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""

LLAMA = """
{%- if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}
{{- 'Today is ' + date_string + '.\\n' }}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n\\n' + message.content | trim + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n\\n' }}{% endif %}"""

GEMMA = """
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{{- '<|im_start|>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}
{{- message.content | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>model\\n' }}{% endif %}"""

TEMPLATES = {"qwen3": QWEN3, "r1": R1, "llama": LLAMA, "gemma": GEMMA, "plain": CHAT_TEMPLATE}
MARKERS = ["<think>", "</think>"]


def make_tokenizer_with(family, *, has_marker_tokens=True):
    """Return a byte-level tokenizer of ASCII alone, with a family's template, so that whatever a model writes is text.

    ``<think>`` and ``</think>`` are tokens of it, or plain letters.
    """
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    symbols = [letters.pre_tokenize_str(chr(byte))[0][0] for byte in (10, *range(32, 127))]
    return tokenizer_of_letters(symbols, TEMPLATES[family], MARKERS if has_marker_tokens else ())


def make_lm_with(path, family, seed=3, **changes) -> Path:
    """Write a tiny model with a family's template; it ends turns and thoughts within some twenty tokens."""
    tokenizer = make_tokenizer_with(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(tiny_config(vocab_size=len(tokenizer), **changes)).eval()
        for token_id in (END_ID, tokenizer.convert_tokens_to_ids("</think>")):
            model.lm_head.weight.data[token_id] *= 3
        model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Path(path)
