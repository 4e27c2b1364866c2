"""Embeds texts with a sentence-transformers model, and reports which ones it truncated."""

import threading
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from transformers.utils import logging as transformers_logging

from prefpipe.backends.device import find_device, turns_on
from prefpipe.backends.open_calls import Answered, OpenCalls
from prefpipe.backends.protocol import Embeddings
from prefpipe.errors import ModelError, PrefpipeWarning, UsageError
from prefpipe.models.files import ModelFiles
from prefpipe.surrogates import replace_lone_surrogates

_NO_LIMIT = 10**9


class SentenceEmbedder:
    """A sentence-transformers model in float32.

    ``max_length`` is how many tokens of a text the model reads, special tokens included; default:
    the model's own limit (256 for all-MiniLM-L6-v2).

    Lone surrogates, which tokenizers reject, are read as U+FFFD. The model's default prompt and
    chat template, if any, are applied as the model does, and count.

    Of several concurrent calls one is on the device and one tokenises; the others wait.
    """

    def __init__(
        self,
        model: ModelFiles,
        *,
        device: str = "auto",
        batch_size: int = 64,
        max_length: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if not (model.path / "modules.json").is_file():
            warnings.warn(
                f"{model.requested} has no modules.json, so it is not a "
                "sentence-transformers model: its token vectors are averaged",
                PrefpipeWarning,
                stacklevel=2,
            )
        self._device = find_device(device)
        self._model = _load(model, self._device, trust_remote_code)
        self._batch_size = batch_size
        # Its tokenizer is switched between counting and truncating.
        self._tokenizing = threading.Lock()
        self._turns = turns_on(self._device)
        self._calls = OpenCalls()
        if not callable(self._model.tokenizer):
            raise ModelError(
                f"{model.requested}: its tokenizer, a "
                f"{type(self._model.tokenizer).__name__}, cannot count tokens",
                hint="use a transformer model, such as bundled:minilm",
            )
        self._prompt: str | None = self._model.prompts.get(self._model.default_prompt_name)
        self.max_length = self._limit(model.requested, max_length)
        """How many tokens of a text the model reads."""
        self.dim = int(self._encode(["a"]).shape[1])

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return one unit vector for each text, in order.

        The vector of a text does not depend on its place: equal texts are computed once. Between
        different batches a vector changes only by rounding (about 1e-7).

        A vector of NaN means that the model overflowed on that text, or that the text has no tokens
        (``""`` if the model adds no special tokens).
        """
        cleaned = [replace_lone_surrogates(text) for text in texts]
        places = {text: place for place, text in enumerate(dict.fromkeys(cleaned))}
        unique = list(places)
        order = np.array([places[text] for text in cleaned], dtype=np.int64)

        with self._tokenizing:
            n_tokens = self._count_tokens(unique)
        vectors = np.full((len(unique), self.dim), np.nan, dtype=np.float32)
        readable = [text for text, count in zip(unique, n_tokens, strict=True) if count]
        vectors[n_tokens > 0] = self._encode(readable)
        return Embeddings(vectors[order], n_tokens[order], n_tokens[order] > self.max_length)

    def answered(self) -> Answered:
        """Return how many texts of the open calls are embedded; equal texts are one."""
        return self._calls.answered()

    def close(self) -> None:
        """Release the model's memory."""
        del self._model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _encode(self, texts: list[str]) -> np.ndarray:
        """Return the vectors (N, D) of texts, as the model's own ``encode`` makes them.

        ``encode`` tokenises each batch between two forward passes; here all are tokenised before
        the first one.
        """
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        # Texts of similar length share a batch, so that there is little padding.
        order = np.argsort([-len(text) for text in texts])
        batches = []
        with self._tokenizing:
            for begin in range(0, len(texts), self._batch_size):
                batch = [texts[place] for place in order[begin : begin + self._batch_size]]
                batches.append(self._model.preprocess(batch, prompt=self._prompt))

        vectors_by_batch = []
        with self._calls.call(len(texts)) as count, self._turns.turn():
            for features in batches:
                vectors_by_batch.append(self._forward(features))
                count(len(vectors_by_batch[-1]))
            by_length = torch.cat(vectors_by_batch)
        vectors = np.empty(by_length.shape, dtype=np.float32)
        vectors[order] = by_length.cpu().numpy()
        return vectors

    @torch.inference_mode()
    def _forward(self, features: dict[str, Any]) -> torch.Tensor:
        """Return the unit vectors of a tokenised batch, on the device."""
        output = self._model(batch_to_device(features, self._device))
        vectors = output["sentence_embedding"][:, : self._model.truncate_dim]
        return torch.nn.functional.normalize(vectors, p=2, dim=1)

    def _count_tokens(self, texts: list[str]) -> np.ndarray:
        """Count the tokens that the model itself makes from each text.

        It may add a prompt, or a turn of a chat template.
        """
        n_tokens = np.zeros(len(texts), dtype=np.int64)
        # A count that stopped at the limit would not show the truncation.
        self._model.max_seq_length = _NO_LIMIT
        try:
            for place, text in enumerate(texts):
                features = self._model.preprocess([text], prompt=self._prompt)
                n_tokens[place] = features["input_ids"].shape[-1]
        finally:
            self._model.max_seq_length = self.max_length
        return n_tokens

    def _limit(self, requested: str, max_length: int | None) -> int:
        own_limit = self._model.max_seq_length or self._model.tokenizer.model_max_length
        if max_length is None:
            return int(own_limit)

        positions = getattr(self._model.config, "max_position_embeddings", None) or own_limit
        if not 1 <= max_length <= positions:
            raise UsageError(
                f"--max-length {max_length} is outside 1 to {positions}, the range of {requested}",
                hint=f"leave --max-length out to use the model's own limit, {own_limit}",
            )
        self._model.max_seq_length = max_length
        return max_length


def _load(model: ModelFiles, device: torch.device, trust_remote_code: bool) -> Any:
    transformers_logging.disable_progress_bar()
    try:
        return SentenceTransformer(
            str(model.path),
            device=str(device),
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            model_kwargs={"dtype": torch.float32, "use_safetensors": True},
        ).eval()
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"{model.requested} cannot be loaded as an embedder from {model.path}: {error}",
            hint="give a sentence-transformers model with safetensors weights, "
            "such as bundled:minilm",
        ) from error
