"""Rates with a reward model: a sequence classifier with one output.

Loading makes wrong scores an error. These would silently give plausible numbers and are refused: a
head that was never trained (a weight missing from the files), several labels, no pad token, no chat
template, scores that padding changes, pickled weights, an adapter.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from prefpipe.backends.device import find_device, turns_on
from prefpipe.backends.open_calls import Answered, OpenCalls
from prefpipe.backends.protocol import Message, Score, ScoreRequest
from prefpipe.backends.scorers.padding_self_test import CONVERSATIONS, judge_padding
from prefpipe.errors import ModelError, PrefpipeWarning
from prefpipe.models.files import ModelFiles
from prefpipe.text.chat_template import ChatTemplate
from prefpipe.text.control_text import CONTROL_TEXT, N_READ
from prefpipe.text.control_tokens import TemplateError

REMOTE_CODE_HINT: Final = "pass --trust-remote-code if the model brings code that you trust"
NO_LIMIT: Final = 1_000_000
"""Tokenizers without a limit report a huge number; anything above this means no limit."""
READ: Final[Mapping[str, float]] = {N_READ: 1}


class RewardModelScorer:
    """A reward model that reads the conversation and the response in its own chat template.

    Of several concurrent calls one is on the device; the others tokenise or wait.

    Args:
        model: a checked model folder.
        dtype: ``auto``: float32 on CPU, bfloat16 with a float32 head on a GPU.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: in rows, which are sorted by length first; no score depends on its batch beyond
            rounding.
        max_length: in tokens, default the model's own limit; a longer conversation is not truncated
            but gets the status ``too_long``.
        trust_remote_code: run Python files that come with the model.

    Raises:
        ModelError: see the module's text.
    """

    def __init__(
        self,
        model: ModelFiles,
        *,
        dtype: str = "auto",
        device: str = "auto",
        batch_size: int = 8,
        max_length: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self._name = model.requested
        self._device = find_device(device)
        self._dtype = _find_dtype(dtype, self._device)
        self._batch_size = batch_size
        self._calls = OpenCalls()

        _refuse_other_kinds(model, trust_remote_code)
        self._tokenizer = _load_tokenizer(model, trust_remote_code)
        self._template = ChatTemplate(self._tokenizer, today=model.template_date)
        self._template.self_test(self._name, answered=True)
        self._turns = turns_on(self._device)
        self._read_with_control_text = {**READ, CONTROL_TEXT + self._template.control_token: 1}

        self._model = _load_model(model, self._dtype, trust_remote_code).to(self._device)
        # The model finds the last token by its pad id, so it must equal this class's padding.
        self._pad_id: int = self._tokenizer.pad_token_id
        self._model.config.get_text_config().pad_token_id = self._pad_id
        self.max_length = max_length or self._own_limit()
        """Longest conversation, in tokens."""
        self.example = self._render_example()
        """The model's input for a small conversation, special tokens included.

        It lets a person check the template.
        """
        self._test_padding()

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Return one score for each request, in order.

        Statuses: ``ok``; ``too_long``; ``template_error``: the chat template refuses the
        conversation, or the response cannot be distinguished from the turns that it writes;
        ``not_finite``: the model gave NaN or infinity. Tallies count conversations that were read,
        and those with the text of a control token.
        """
        scores: dict[int, Score] = {}
        readable: list[tuple[int, list[int], Mapping[str, float]]] = []
        for place, request in enumerate(requests):
            try:
                token_ids = self.encode(request.messages, request.response)
            except TemplateError as error:
                scores[place] = Score(None, "template_error", error.why)
                continue
            holds_control_text = self._template.holds_control_text(request.response)
            tally = self._read_with_control_text if holds_control_text else READ
            if len(token_ids) > self.max_length:
                reason = f"{len(token_ids)} tokens, the limit is {self.max_length}"
                scores[place] = Score(None, "too_long", reason, tally=tally)
            else:
                readable.append((place, token_ids, tally))

        # Rows of similar length share a batch. The longest come first, so that a lack of memory
        # shows early.
        readable.sort(key=lambda item: len(item[1]), reverse=True)
        rewards = self._rewards([token_ids for _, token_ids, _ in readable], self._batch_size)
        for (place, _, tally), reward in zip(readable, rewards, strict=True):
            if math.isfinite(reward):
                scores[place] = Score(reward, tally=tally)
            else:
                reason = f"the model gave {reward}"
                scores[place] = Score(None, "not_finite", reason, tally=tally)
        return [scores[place] for place in range(len(requests))]

    def answered(self) -> Answered:
        """Return how many conversations of the open calls are rated."""
        return self._calls.answered()

    def close(self) -> None:
        """Release the model's memory."""
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def encode(self, messages: Sequence[Message], response: str) -> list[int]:
        """Return the model's input for a conversation and its response.

        Raises:
            TemplateError: as `ChatTemplate.rated_ids`.
        """
        return self._template.rated_ids(messages, response)

    def _rewards(self, rows: Sequence[list[int]], batch_size: int) -> list[float]:
        if not rows:
            return []
        batches = [
            self._padded(rows[begin : begin + batch_size])
            for begin in range(0, len(rows), batch_size)
        ]
        logits = []
        with self._calls.call(len(rows)) as count, self._turns.turn():
            for batch in batches:
                logits.append(self._forward(*batch))
                count(len(batch[0]))
        # Not earlier: a GPU computes asynchronously, and may already work on the next call's.
        rewards: list[float] = torch.cat(logits).cpu().tolist()
        return rewards

    def _padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Return ids and attention mask of a batch.

        Rows are padded at the right, so that positions equal those of the row alone.
        """
        width = max(map(len, rows))
        input_ids = torch.full((len(rows), width), self._pad_id)
        attention_mask = torch.zeros((len(rows), width), dtype=torch.long)
        for place, row in enumerate(rows):
            input_ids[place, : len(row)] = torch.tensor(row)
            attention_mask[place, : len(row)] = 1
        return input_ids, attention_mask

    @torch.inference_mode()
    def _forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the rewards of a batch, on the device."""
        output = self._model(
            input_ids=input_ids.to(self._device), attention_mask=attention_mask.to(self._device)
        )
        rewards: Tensor = output.logits[:, 0].float()
        return rewards

    def _own_limit(self) -> int:
        config = self._model.config.get_text_config()
        limits = [
            getattr(config, "max_position_embeddings", None),
            self._tokenizer.model_max_length,
        ]
        return min([limit for limit in limits if limit and limit < NO_LIMIT], default=NO_LIMIT)

    def _render_example(self) -> str:
        token_ids = self.encode(*CONVERSATIONS[0])
        bos = self._tokenizer.bos_token_id
        if bos is not None and token_ids[:2] == [bos, bos]:
            raise ModelError(
                f"the chat template of {self._name} writes the token "
                f"{self._tokenizer.bos_token!r} twice at the start",
                hint="correct chat_template.jinja in a copy of the model's folder",
            )
        example: str = self._tokenizer.decode(token_ids)
        return example

    def _test_padding(self) -> None:
        rows = [self.encode(*conversation) for conversation in CONVERSATIONS]
        alone = self._rewards(rows, 1)
        padded = self._rewards(rows, len(rows))
        verdict = judge_padding(alone, padded, exact=self._dtype == torch.float32)
        if verdict.problem and verdict.fatal:
            raise ModelError(
                f"{self._name} fails the self-test: {verdict.problem}",
                hint="do not trust its scores; try --dtype float32, and report the problem to the "
                "model's authors",
            )
        if verdict.problem:
            warnings.warn(f"{self._name}: {verdict.problem}", PrefpipeWarning, stacklevel=3)


def _find_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _refuse_other_kinds(model: ModelFiles, trust_remote_code: bool) -> None:
    """Refuse anything but a reward model before its weights are read."""
    if not (model.path / "config.json").is_file():
        raise ModelError(
            f"{model.requested} has no config.json in {model.path}, so it is not a whole model",
            hint="pass a sequence classifier; merge an adapter into its model first with `prefpipe "
            "merge`",
        )
    if not any(model.path.glob("*.safetensors")):
        raise ModelError(
            f"{model.requested} has no safetensors weights in {model.path} "
            "(pickled weights can run code)",
            hint="convert it to safetensors once with save_pretrained, if you trust the files",
        )
    try:
        config = AutoConfig.from_pretrained(
            model.path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the config of {model.requested} cannot be read: {error}", hint=REMOTE_CODE_HINT
        ) from error
    if config.num_labels != 1:
        architectures = ", ".join(config.architectures or ["no architecture"])
        raise ModelError(
            f"{model.requested} has {config.num_labels} labels ({architectures}); "
            "a reward model has one",
            hint="pass a sequence classifier trained with num_labels=1",
        )


def _load_tokenizer(model: ModelFiles, trust_remote_code: bool) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the tokenizer of {model.requested} cannot be loaded: {error}", hint=REMOTE_CODE_HINT
        ) from error
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"the tokenizer of {model.requested} has no pad token, "
            "which batches of different lengths need",
            hint="set pad_token in tokenizer_config.json to the token used in the model's training",
        )
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of {model.requested} has no chat template, and another model's "
            "would give wrong scores",
            hint="add the chat_template.jinja used in the model's training to a copy of its folder",
        )
    return tokenizer


def _load_model(model: ModelFiles, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    transformers_logging.disable_progress_bar()
    try:
        loaded, info = AutoModelForSequenceClassification.from_pretrained(
            model.path,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{model.requested} cannot be loaded as a sequence classifier: {error}",
            hint=REMOTE_CODE_HINT,
        ) from error

    untrained = sorted(info["missing_keys"]) + sorted(key for key, *_ in info["mismatched_keys"])
    if untrained:
        raise ModelError(
            f"the files of {model.requested} lack {_list(untrained)}: "
            "these weights would be random",
            hint="pass a trained reward model; a language model has no score head",
        )
    # A language model's output projection may remain in the file; it is not needed.
    unused = sorted(key for key in info["unexpected_keys"] if not key.startswith("lm_head"))
    if unused:
        warnings.warn(
            f"{model.requested} has weights that {type(loaded).__name__} does not use: "
            f"{_list(unused)}. If they belong to the head, the scores are wrong: try "
            "--trust-remote-code",
            PrefpipeWarning,
            stacklevel=3,
        )
    if dtype != torch.float32:
        _keep_head_exact(loaded)
    return loaded.eval()


def _keep_head_exact(model: Any) -> None:
    """Move everything outside the backbone to float32.

    Rewards lie closer together than bfloat16's 3 digits.
    """

    def to_float32(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(value.float() if value.is_floating_point() else value for value in inputs)

    for name, module in model.named_children():
        if name != model.base_model_prefix:
            module.float()
            module.register_forward_pre_hook(to_float32)


def _list(keys: Sequence[str], most: int = 5) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
