"""Loads a reward model, gives it a head, and saves it in the form that `score` reads.

Training starts from a causal language model or a bare encoder, with a random head drawn by the
seed; or from a sequence classifier with one label, which is trained further. Weights are float32
whatever ``bf16`` says (it computes under autocast), as `score` loads them on a CPU, so that its
scores equal those of training.

Adapters are merged at the end: a reward model is one folder. With LoRA all weights of the head are
trained beside the adapters.

The pad token. A classifier finds the end of a row as the last token that is not the pad token.
If a conversation ends with the padding token itself (``pad_token = eos_token`` in many tokenizers),
the score would be read one token early. So a pad token is chosen that does not end conversations,
and the saved tokenizer and configuration name it.
"""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from prefpipe.artifacts.template_dates import CLOCK
from prefpipe.errors import InputError, ModelError, UsageError
from prefpipe.models.files import ModelFiles
from prefpipe.text.chat_template import ChatTemplate
from prefpipe.training.encoding import begins_with_two_bos
from prefpipe.training.head_scores import score_head
from prefpipe.training.policy import LoraSettings, Policy, turn_dropout_off
from prefpipe.training.ranks import loading_whole

PAD_TOKEN = "<|pad|>"  # noqa: S105 - a token of the vocabulary

KINDS = ("causal-lm", "sequence-classification", "sentence-transformers")
"""Kinds of models that training may start from."""

_WORST_LENGTH = 1_000_000
"""Tokenizers without a limit report a huge number."""

_EXAMPLE = ([{"role": "user", "content": "What is 2 + 2?"}], "2 + 2 is 4.")


def require_reward_start(files: ModelFiles, chat_template: Path | None) -> None:
    """Refuse a start model that cannot become a reward model, before anything is loaded.

    Raises:
        ModelError: it is an adapter, or there is no chat template.
        UsageError: the template's file cannot be read.
    """
    if files.kind not in KINDS:
        raise ModelError(
            f"{files.requested} is an adapter; a reward model starts from a whole model",
            hint="merge the adapter into its base first with `prefpipe merge`",
        )
    if chat_template is not None:
        read_template(chat_template)
    elif files.chat_template_hash is None:
        raise ModelError(
            f"{files.requested} has no chat template, which a reward model needs to read "
            "conversations",
            hint="pass --chat-template FILE; docs/guides/reward-models.md has one for encoders "
            "of the BERT family",
        )


def read_template(path: Path) -> str:
    """Return the text of a chat template.

    Raises:
        UsageError: the file cannot be read, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--chat-template {path} cannot be read: {error}", hint="pass a Jinja file"
        ) from error
    if not text.strip():
        raise UsageError(
            f"--chat-template {path} is empty",
            hint="pass a Jinja file with --chat-template, such as chat_template.jinja",
        )
    return text


def with_template(files: ModelFiles, path: Path, day: str) -> ModelFiles:
    """Return the model with the date for another chat template, if that reads the clock.

    Raises:
        UsageError: as `read_template`.
    """
    reads_clock = CLOCK in read_template(path)
    return replace(files, reads_clock=reads_clock, template_date=day if reads_clock else None)


def load_reward_tokenizer(
    files: ModelFiles, *, chat_template: Path | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Return the tokenizer with its chat template, and a pad token that no conversation ends with.

    Raises:
        ModelError: the template fails on a question and its answer, drops them, or begins them with
            two BOS.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(
        files.tokenizer_path, trust_remote_code=trust_remote_code, local_files_only=True
    )
    if chat_template is not None:
        tokenizer.chat_template = read_template(chat_template)

    template = ChatTemplate(tokenizer, today=files.template_date)
    template.self_test(files.requested, answered=True)
    example = template.conversation_ids(*_EXAMPLE)
    problem = None
    if not example:
        problem = "produces no tokens for a question and its answer"
    elif begins_with_two_bos(example, tokenizer.bos_token_id):
        problem = f"writes {tokenizer.bos_token} twice at the start"
    if problem is not None:
        raise ModelError(
            f"the chat template {problem}",
            hint="correct the template, or pass another with --chat-template",
        )

    last_id = example[-1]
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == last_id:
        tokenizer.add_special_tokens({"pad_token": _spare_token(tokenizer, last_id) or PAD_TOKEN})
    tokenizer.padding_side = "right"
    return tokenizer


def _spare_token(tokenizer: Any, last_id: int) -> str | None:
    """Return a special token that may serve as padding.

    It does not end a conversation, and preferably does not occur in one.
    """
    needed = {tokenizer.bos_token, tokenizer.eos_token}
    for token in sorted(tokenizer.all_special_tokens, key=lambda token: token in needed):
        if tokenizer.convert_tokens_to_ids(token) != last_id:
            return str(token)
    return None


def longest_conversation(
    files: ModelFiles, tokenizer: Any, *, trust_remote_code: bool = False
) -> int:
    """Return how many tokens the model can read, by `score`'s count.

    Its configuration and its tokenizer may both set a limit.
    """
    config = AutoConfig.from_pretrained(
        files.path, trust_remote_code=trust_remote_code, local_files_only=True
    )
    n_positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    limits: list[int] = [limit for limit in (n_positions, tokenizer.model_max_length) if limit]
    return min([_WORST_LENGTH, *limits])


def load_reward_model(
    files: ModelFiles,
    tokenizer: PreTrainedTokenizerBase,
    *,
    lora: LoraSettings | None,
    seed: int,
    trust_remote_code: bool = False,
) -> Policy:
    """Load a model with a score head for training; its dropout is off.

    A fresh head is drawn from N(0, 1 / (hidden size + 1)) (arXiv 2009.01325), so that first scores
    differ by about 1 or less.

    Args:
        files: accepted by `require_reward_start`.
        tokenizer: from `load_reward_tokenizer`; a pad token that is new to the model gets an
            embedding row.
        lora: train adapters of this shape and the head; None trains all weights.
        seed: of the head and of the adapters' random start.
        trust_remote_code: run Python files that come with the model.

    Raises:
        ModelError: several labels, or no score head for this kind of model, or missing weights that
            are not the head's.
        UsageError: ``lora`` names modules the model lacks.
    """
    model = _load(files, seed=seed, trust_remote_code=trust_remote_code)
    # Never to fewer rows: many models have more rows than their tokenizer has tokens.
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    turn_dropout_off(model)
    if lora is not None:
        model = _add_lora(model, lora)
    return Policy(model, tokenizer, None)


def finished_reward_model(reward_model: Policy, *, trains_on: bool = False) -> Policy:
    """Return the trained model for saving, with adapters merged.

    Do not use the trained object afterwards, unless ``trains_on``: then a copy in the machine's
    memory is merged, because a device may have no room for two.
    """
    model = reward_model.model
    if not hasattr(model, "merge_and_unload"):
        return reward_model
    if trains_on:
        model = _copy_on_cpu(model)
    return reward_model._replace(model=model.merge_and_unload())


def _copy_on_cpu(model: Any) -> Any:
    # `deepcopy` reuses copies from its memo, by the object's id.
    copies: dict[int, Any] = {}
    for weight in model.parameters():
        copied = weight.detach().to("cpu", copy=True)
        copies[id(weight)] = torch.nn.Parameter(copied, requires_grad=weight.requires_grad)
    for buffer in model.buffers():
        copies[id(buffer)] = buffer.detach().to("cpu", copy=True)
    return deepcopy(model, copies)


def _load(files: ModelFiles, *, seed: int, trust_remote_code: bool) -> Any:
    set_seed(seed)
    transformers_logging.disable_progress_bar()
    # Missing weights are checked here and reported once.
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    labels = {} if files.kind == "sequence-classification" else {"num_labels": 1}
    try:
        with loading_whole(fsdp_sends=True):
            model, info = AutoModelForSequenceClassification.from_pretrained(
                files.path,
                dtype=torch.float32,
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                **labels,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{files.requested} cannot be loaded as a sequence classifier: {error}",
            hint="start from a causal language model, or from an encoder of the BERT family",
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)

    if model.config.num_labels != 1:
        raise ModelError(
            f"{files.requested} has {model.config.num_labels} labels; a reward model has one",
            hint="start from its language model or encoder",
        )
    _start_head(model, files, info)
    return model


def _start_head(model: Any, files: ModelFiles, info: dict[str, Any]) -> None:
    """Draw a head that the files lack.

    Other missing weights, and a classifier without its own head, are refused.
    """
    head = score_head(model)
    head_names = [name for name, module in model.named_modules() if module is head]
    missing, missing_of_head = set(), set()
    for key in info["missing_keys"]:
        if ".pooler." in key:
            continue  # an encoder without one gets a fresh one
        missing.add(key)
        if any(key.startswith(f"{name}.") for name in head_names):
            missing_of_head.add(key)

    # A classifier has its own head, which its files must hold, too.
    lost = missing
    if files.kind != "sequence-classification":
        lost = missing - missing_of_head
    if lost:
        raise ModelError(
            f"the files of {files.requested} lack {', '.join(sorted(lost)[:5])}: these weights "
            "would be random",
            hint="download or copy the model again",
        )

    if missing_of_head:
        linear = next(module for module in head.modules() if isinstance(module, torch.nn.Linear))
        torch.nn.init.normal_(linear.weight, std=1.0 / sqrt(linear.in_features + 1))
        if linear.bias is not None:
            torch.nn.init.zeros_(linear.bias)


def _add_lora(model: Any, lora: LoraSettings) -> Any:
    head = score_head(model)
    head_names = [name for name, module in model.named_children() if module is head]
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        modules_to_save=head_names,
        task_type="SEQ_CLS",
        target_modules=list(lora.target_modules) or _linear_layers(model),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return get_peft_model(model, config)
    except ValueError as error:
        raise UsageError(
            f"--lora-target-modules {', '.join(lora.target_modules)}: {error}",
            hint="leave --lora-target-modules out to adapt every linear layer",
        ) from error


def _linear_layers(model: Any) -> list[str]:
    """Return the linear layers of the backbone by name; the head is trained whole."""
    of_head = {id(module) for module in score_head(model).modules()}
    names = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and id(module) not in of_head:
            names.append(name)
    return names


def check_ends(prompt_id: str, ids: Sequence[int], pad_token_id: int) -> None:
    """Refuse a conversation that ends with the pad token: its score would be read one token early.

    Raises:
        InputError: it does.
    """
    if ids[-1] == pad_token_id:
        raise InputError(
            f"a conversation of prompt {prompt_id} ends with the pad token",
            hint="correct the chat template so that a response's turn ends with a token other than "
            "the pad token",
        )
