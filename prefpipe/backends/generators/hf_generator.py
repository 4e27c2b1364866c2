"""The transformers back-end: sampling from any causal language model, on CPU or one GPU."""

import gc
import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from prefpipe.backends.chat_tokenizer import ChatTokenizer
from prefpipe.backends.device import find_device
from prefpipe.backends.generators.decoding import Sampled
from prefpipe.backends.generators.kv_cache import is_supported
from prefpipe.backends.generators.shared_decoder import Sample, SharedDecoder
from prefpipe.backends.open_calls import Answered
from prefpipe.backends.protocol import (
    TOO_LONG_PREFIX,
    Generation,
    GenerationRequest,
    Message,
    SamplingParams,
)
from prefpipe.errors import ModelError
from prefpipe.models.files import ModelFiles, merge_command, require_chat_template

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


class HfGenerator:
    """A generator on transformers' models with prefpipe's own decoding loop (see ``decoding``).

    `encode` and `generate` may be called from several threads: the rows of all calls share one
    batch. The answer to a request depends on its own prompt, seed and temperature. Other rows of
    the batch affect it only through the rounding of matrix products.

    ``dtype="auto"`` is float32 on CPU and bfloat16 on a GPU; ``batch_size`` counts sequences.

    Raises:
        ModelError: not a causal language model, no chat template, or missing weights.
    """

    def __init__(
        self,
        model: ModelFiles,
        *,
        dtype: DtypeName = "auto",
        device: str = "auto",
        batch_size: int = 64,
        max_model_len: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        require_chat_template(model)
        place = find_device(device)
        if dtype == "auto":
            dtype = "float32" if place.type == "cpu" else "bfloat16"
        self._tokenizer = ChatTokenizer(model, trust_remote_code=trust_remote_code)
        loaded = load_causal_lm(model, getattr(torch, dtype), trust_remote_code=trust_remote_code)
        self._model = loaded.to(place)
        if place.type == "cpu":
            _take_into_memory(self._model)
        self._decoder = SharedDecoder(
            self._model, self._tokenizer.eos_ids, batch_size, self._tokenizer.decode
        )

        limit = self._model.config.get_text_config().max_position_embeddings
        if max_model_len is not None and max_model_len > limit:
            raise ModelError(
                f"--max-model-len {max_model_len} is above the {limit} positions of "
                f"{model.requested}",
                hint=f"pass --max-model-len {limit} or less, or leave it out",
            )
        self.max_model_len = int(max_model_len or limit)
        self.engine_version = f"transformers {transformers.__version__}"

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the templated conversation, generation prompt included.

        Raises:
            InputError: the chat template refuses the conversation (such as a system turn, or two
                user turns in a row).
            ModelError: the template and the tokenizer both put a BOS in front.
        """
        return self._tokenizer.encode(messages)

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Return one generation for each request, in order; one that does not fit is an error.

        Raises:
            EngineDeadError: sampling failed, for example out of memory, or the generator was
                closed.
        """
        generations: dict[int, Generation] = {}
        samples: dict[int, Sample] = {}
        for index, request in enumerate(requests):
            prompt = tuple(request.prompt_token_ids) or tuple(self.encode(request.messages))
            if len(prompt) + params.max_tokens > self.max_model_len:
                reason = (
                    f"{TOO_LONG_PREFIX}{len(prompt)} + {params.max_tokens} tokens, "
                    f"the limit is {self.max_model_len}"
                )
                generations[index] = Generation("", [], "error", None, reason)
            else:
                samples[index] = Sample(prompt, request.seed, request.temperature)

        sampled = self._decoder.sample(list(samples.values()), params)
        for index, each in zip(samples, sampled, strict=True):
            generations[index] = self._generation(requests[index], each)
        return [generations[index] for index in range(len(requests))]

    def has_room(self) -> bool:
        """Return whether slots would be empty without another part's requests."""
        return self._decoder.has_room()

    def answered(self) -> Answered:
        """Return how many samples of the open calls are drawn."""
        return self._decoder.answered()

    def close(self) -> None:
        """End waiting calls, and release the model's memory."""
        self._decoder.close()
        self._model = None
        # Wrapped models refer to themselves, and the next model may need their memory.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _generation(self, request: GenerationRequest, sampled: Sampled) -> Generation:
        if not math.isfinite(sampled.logp):
            reason = "the model's numbers overflowed: try --dtype float32 or bfloat16"
            return Generation("", [], "error", None, reason)
        params = sampled.row.params
        read = self._tokenizer.reading_of(request, sampled.token_ids, params)
        finish_reason = "stop" if sampled.is_stopped else "length"
        return Generation(
            read.text, sampled.token_ids, finish_reason, sampled.logp, reasoning=read.thought
        )


def _take_into_memory(model: Any) -> None:
    """Copy weights out of the mapped file.

    Otherwise the system may drop pages, which would be read from disk at every step.
    """
    for tensor in model.parameters():
        tensor.data = tensor.data.clone()


def load_causal_lm(
    model: ModelFiles, dtype: torch.dtype, *, trust_remote_code: bool = False
) -> Any:
    """Return the model, its adapter included, on CPU, in evaluation mode.

    In float32 the adapter is merged into the weights, which is faster. In 16 bits it stays
    separate, because rounding the sum to 16 bits would lose a small update.

    Raises:
        ModelError: another kind of model; weights that are missing or have another shape (they
            would be random).
    """
    files = model.base if model.kind == "adapter" and model.base else model
    if files.kind != "causal-lm":
        raise ModelError(
            f"{model.requested} is a {files.kind} model; generating needs a causal language model",
            hint="pass a causal language model with --model; to rate, run `prefpipe score`, to "
            "embed, `prefpipe embed`",
        )

    transformers_logging.disable_progress_bar()
    try:
        loaded, report = AutoModelForCausalLM.from_pretrained(
            files.path,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"transformers cannot load {files.path}: {error}",
            hint="if the model brings its own code and you trust it, pass --trust-remote-code",
        ) from error

    absent = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if absent:
        raise ModelError(
            f"the weights in {files.path} lack {len(absent)} tensors of the model, such as "
            f"{absent[0]}",
            hint="download or save the model again: its config.json and weights do not match",
        )
    if not is_supported(loaded.config.get_text_config()):
        raise ModelError(
            f"{model.requested} ({loaded.config.model_type}) has recurrent layers, which "
            "--backend transformers cannot batch",
            hint="pass --backend vllm",
        )
    if model.kind == "adapter":
        loaded = _apply_adapter(loaded, model, merge=dtype == torch.float32)
    return loaded.eval()


def _apply_adapter(base: Any, model: ModelFiles, *, merge: bool) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        # Always: by default a second adapter's warning would be hidden as already shown.
        warnings.simplefilter("always")
        try:
            adapted = PeftModel.from_pretrained(base, model.path, local_files_only=True)
        except (RuntimeError, ValueError) as error:
            raise _unfitting(model, error) from error

    # peft only warns about weights in the file that have no place in the model.
    for warning in caught:
        if "adapter keys" in str(warning.message):
            raise _unfitting(model, warning.message)
    return adapted.merge_and_unload() if merge else adapted


def _unfitting(model: ModelFiles, reason: object) -> ModelError:
    return ModelError(
        f"the adapter in {model.path} does not fit its base model: {reason}",
        hint=f"merge it into the base it was trained on: {merge_command(model.path)}",
    )
