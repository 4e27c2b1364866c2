"""The decoding loop: prompts go in, sampled token ids and log-probabilities come out.

A row is one sample of one prompt. Each distinct prompt is prefilled once, and its key/value cache
is copied to its samples. Rows that end leave the batch and waiting rows take their places, an
eighth of the batch at a time, because each change copies the cache. Prompts are taken shortest
first, so that neighbours need little padding.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from prefpipe.backends.generators.kv_cache import count_positions, join_caches, new_cache
from prefpipe.backends.generators.sampling import sample_tokens
from prefpipe.backends.protocol import SamplingParams

MAX_PREFILL_TOKENS = 8192
"""Padded prompt tokens of one prefill, to bound its memory; a longer prompt goes alone."""

STRIDE_SHARE = 0.125
"""Share of the batch that must have ended before the cache is copied without it."""


class Row(NamedTuple):
    """One sample to draw: the place of its request, its prompt, its seed and its temperature."""

    request: int
    prompt: tuple[int, ...]
    seed: int
    temperature: float


class Sampled(NamedTuple):
    """A finished row.

    ``logp`` sums the log-probabilities of ``token_ids`` at temperature 1; it is not finite when the
    model's numbers overflowed on the way.
    """

    request: int
    token_ids: list[int]
    logp: float
    is_stopped: bool


class Batch(NamedTuple):
    """The S rows in flight, with room for T = max_tokens tokens each."""

    request: Tensor  # (S,) place among the requests
    n_prompt: Tensor  # (S,)
    n_tokens: Tensor  # (S,) sampled so far; the last one is not in the cache yet
    tokens: Tensor  # (S, T)
    uniforms: Tensor  # (S, T) float64
    temperature: Tensor  # (S,)
    logp: Tensor  # (S,) float64
    is_alive: Tensor  # (S,)
    is_stopped: Tensor  # (S,)


class Prefilled(NamedTuple):
    """Prompts whose cache is ready, with their last logits (prompts, V)."""

    cache: Cache
    logits: Tensor


class Decoder:
    """The loop over one list of rows. Not reusable: make one for each call."""

    def __init__(
        self, model: Any, eos_ids: Iterable[int], params: SamplingParams, batch_size: int
    ) -> None:
        self._model = model
        self._params = params
        self._batch_size = batch_size
        self._eos = torch.tensor(sorted(eos_ids), dtype=torch.int64, device=model.device)
        self._prompts: deque[tuple[tuple[int, ...], list[Row]]] = deque()
        self._ready: deque[tuple[Prefilled, int, list[Row]]] = deque()
        self._finished: list[Sampled] = []

    @torch.inference_mode()
    def run(self, rows: Sequence[Row]) -> list[Sampled]:
        """Return every row once, in the order in which they ended."""
        samples: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            samples.setdefault(row.prompt, []).append(row)
        # shortest first
        self._prompts.extend(sorted(samples.items(), key=lambda item: len(item[0])))

        batch, cache = self._admit(None, None)
        while batch is not None and cache is not None:
            # New rows have their first token from the prefill, and may all have ended with it.
            if bool(batch.is_alive.any()):
                self._append(batch, self._step(batch, cache))

            n_rows, n_ended = len(batch.request), int((~batch.is_alive).sum())
            if n_ended >= max(1, STRIDE_SHARE * n_rows):
                batch, cache = self._admit(batch, cache)
        return self._finished

    def _step(self, batch: Batch, cache: Cache) -> Tensor:
        """Feed each row's last token; return the logits of the next one, (S, V) float32."""
        n_cached = batch.n_prompt + batch.n_tokens - 1
        width = count_positions(cache) + 1
        mask = torch.arange(width, device=self._eos.device) >= width - 1 - n_cached[:, None]
        last_tokens = batch.tokens.gather(1, batch.n_tokens[:, None] - 1)
        return self._forward(last_tokens, mask, n_cached[:, None], cache)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def _append(self, batch: Batch, logits: Tensor) -> None:
        """Sample one token for each living row and write it down, in place."""
        normaliser = logits.logsumexp(dim=-1)
        is_sound = normaliser.isfinite()
        if not bool(is_sound.all()):
            # these rows end here, with a logp that is not finite
            logits = logits.masked_fill(~is_sound[:, None], 0.0)

        place = batch.n_tokens.clamp(max=self._params.max_tokens - 1)[:, None]
        uniforms = batch.uniforms.gather(1, place).squeeze(1)
        chosen = sample_tokens(
            logits, uniforms, batch.temperature, top_k=self._params.top_k, top_p=self._params.top_p
        )
        logp = logits.gather(1, chosen[:, None]).squeeze(1) - normaliser

        # Ended rows are still in the batch: they keep what they have.
        was_alive = batch.is_alive.clone()
        kept = torch.where(was_alive[:, None], chosen[:, None], batch.tokens.gather(1, place))
        batch.tokens.scatter_(1, place, kept)
        batch.logp.add_(torch.where(was_alive, logp, 0.0))
        batch.n_tokens.add_(was_alive)

        batch.is_stopped.logical_or_(was_alive & torch.isin(chosen, self._eos))
        has_room = batch.n_tokens < self._params.max_tokens
        batch.is_alive.logical_and_(~batch.is_stopped & is_sound & has_room)

    def _admit(self, batch: Batch | None, cache: Cache | None) -> tuple[Batch | None, Cache | None]:
        """Write down the ended rows and fill their places.

        Returns:
            The new batch and its cache, None for both when nothing is left.
        """
        caches: list[tuple[Cache, Tensor]] = []
        batches: list[Batch] = []
        n_living = 0
        if batch is not None and cache is not None:
            self._collect(batch)
            living = batch.is_alive.nonzero().squeeze(1)
            n_living = len(living)
            batches.append(Batch(*(column[living] for column in batch)))
            caches.append((cache, living))

        for prefilled, places, rows in self._start(self._batch_size - n_living):
            chosen = torch.tensor(places, device=self._eos.device)
            started = self._new_batch(rows)
            self._append(started, prefilled.logits[chosen])
            batches.append(started)
            caches.append((prefilled.cache, chosen))

        if not any(len(part.request) for part in batches):
            return None, None
        joined = Batch(*(torch.cat(columns) for columns in zip(*batches, strict=True)))
        width = int((joined.n_prompt + joined.n_tokens - 1).max())
        return joined, join_caches(caches, width)

    def _collect(self, batch: Batch) -> None:
        for row in (~batch.is_alive).nonzero().squeeze(1).tolist():
            ids = batch.tokens[row, : int(batch.n_tokens[row])].tolist()
            sampled = Sampled(
                int(batch.request[row]), ids, float(batch.logp[row]), bool(batch.is_stopped[row])
            )
            self._finished.append(sampled)

    def _start(self, n_free: int) -> list[tuple[Prefilled, list[int], list[Row]]]:
        """Take up to ``n_free`` waiting rows.

        Returns:
            The prefills they come from, each with the rows and their prompts' places in it.
        """
        started: list[tuple[Prefilled, list[int], list[Row]]] = []
        while n_free > 0 and (self._ready or self._prompts):
            if not self._ready:
                self._prefill(n_free)
            prefilled, place, waiting = self._ready[0]
            rows = waiting[:n_free]
            del waiting[:n_free]
            if not waiting:
                self._ready.popleft()

            if not started or started[-1][0] is not prefilled:
                started.append((prefilled, [], []))
            _, places, started_rows = started[-1]
            places += [place] * len(rows)
            started_rows += rows
            n_free -= len(rows)
        return started

    def _prefill(self, n_rows: int) -> None:
        """Prefill the next prompts: as many as have ``n_rows`` rows together and fit into one."""
        taken: list[tuple[tuple[int, ...], list[Row]]] = []
        n_taken = 0
        while self._prompts and n_taken < n_rows:
            longest = len(self._prompts[0][0])  # they come shortest first
            if taken and longest * (len(taken) + 1) > MAX_PREFILL_TOKENS:
                break
            taken.append(self._prompts.popleft())
            n_taken += len(taken[-1][1])

        # Padded at the left: the last position of every prompt gives the logits.
        device = self._eos.device
        width = len(taken[-1][0])
        padded = [[0] * (width - len(prompt)) + list(prompt) for prompt, _ in taken]
        ids = torch.tensor(padded, device=device)
        n_padding = torch.tensor([width - len(prompt) for prompt, _ in taken], device=device)
        places = torch.arange(width, device=device) - n_padding[:, None]
        cache = new_cache()
        logits = self._forward(ids, places >= 0, places.clamp(min=0), cache)
        prefilled = Prefilled(cache, logits)
        self._ready.extend((prefilled, place, rows) for place, (_, rows) in enumerate(taken))

    def _new_batch(self, rows: Sequence[Row]) -> Batch:
        device, n_rows, n_tokens = self._eos.device, len(rows), self._params.max_tokens
        uniforms = [draw_uniforms(row.seed, n_tokens) for row in rows]
        return Batch(
            request=torch.tensor([row.request for row in rows], device=device),
            n_prompt=torch.tensor([len(row.prompt) for row in rows], device=device),
            n_tokens=torch.zeros(n_rows, dtype=torch.int64, device=device),
            tokens=torch.zeros(n_rows, n_tokens, dtype=torch.int64, device=device),
            uniforms=torch.stack(uniforms).to(device),
            temperature=torch.tensor([float(row.temperature) for row in rows], device=device),
            logp=torch.zeros(n_rows, dtype=torch.float64, device=device),
            is_alive=torch.ones(n_rows, dtype=torch.bool, device=device),
            is_stopped=torch.zeros(n_rows, dtype=torch.bool, device=device),
        )


def draw_uniforms(seed: int, n_tokens: int) -> Tensor:
    """Return the row's uniform numbers, (n_tokens,) float64.

    A longer draw begins with the shorter one. They come from the CPU's generator on every device.
    """
    return torch.rand(n_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
