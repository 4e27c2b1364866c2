"""The decoding loop: prompts go in, sampled token ids and log-probabilities come out.

A row is one sample of one prompt. Each distinct prompt of a call is prefilled once, and its
key/value cache is copied to its samples. A finished row frees its slot, and a waiting row takes it
before the next step. Calls are served in order; within a call the shortest prompts come first, so
that prompts prefilled together need little padding.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from prefpipe.backends.generators.kv_cache import SlotCache, count_positions, prefill_cache
from prefpipe.backends.generators.sampling import penalise, sample_tokens
from prefpipe.backends.protocol import SamplingParams
from prefpipe.text.stop_texts import StopTexts

MAX_PREFILL_TOKENS = 8192
"""Padded prompt tokens of one prefill, to bound its memory; a longer prompt goes alone."""

AHEAD_SHARE = 0.25
"""Share of the batch that is prefilled at a time, even if fewer slots are free.

A prefill of one short prompt costs nearly as much as one of many.
"""


class Row(NamedTuple):
    """One sample to draw: its call, its place there, and its request."""

    call: int
    place: int
    prompt: tuple[int, ...]
    seed: int
    temperature: float
    params: SamplingParams

    @property
    def settings(self) -> tuple[Any, ...]:
        """The settings that all rows of a batch share: all except ``max_tokens``, the first."""
        return self.params[1:]


class Sampled(NamedTuple):
    """A finished row.

    ``logp`` sums the log-probabilities of ``token_ids`` at temperature 1, before any penalty; it is
    not finite if the model's numbers overflowed. ``is_stopped``: by an end of sequence or a stop
    text.
    """

    row: Row
    token_ids: list[int]
    logp: float
    is_stopped: bool


class Batch(NamedTuple):
    """S rows, with room for T tokens each."""

    n_prompt: Tensor  # (S,)
    n_tokens: Tensor  # (S,) sampled so far; the last one is not in the cache yet
    max_tokens: Tensor  # (S,)
    tokens: Tensor  # (S, T)
    uniforms: Tensor  # (S, T) float64
    temperature: Tensor  # (S,)
    in_prompt: Tensor  # (S, V) bool, the tokens of the prompt; (S, 0) if no penalty needs it
    logp: Tensor  # (S,) float64
    is_stopped: Tensor  # (S,)
    has_ended: Tensor  # (S,)


class Waiting(NamedTuple):
    """A prompt and its samples that wait for a slot."""

    prompt: tuple[int, ...]
    rows: list[Row]


class Prefilled(NamedTuple):
    """Prompts whose cache is ready, with their last logits (prompts, V)."""

    cache: Cache
    logits: Tensor


class Ready(NamedTuple):
    """A prompt that is prefilled, and its samples that wait for a slot."""

    prefilled: Prefilled
    place: int
    rows: list[Row]


class Decoder:
    """The running batch and its queue. For one thread only: see `shared_decoder`.

    ``decode`` returns the text of a response's ids; rows that end at a stop text need it.
    """

    def __init__(
        self,
        model: Any,
        eos_ids: Iterable[int],
        batch_size: int,
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        self._model, self._decode = model, decode
        self._batch_size = batch_size
        self._eos = torch.tensor(sorted(eos_ids), dtype=torch.int64, device=model.device)

        self._waiting: deque[Waiting] = deque()
        self._ready: deque[Ready] = deque()
        self._rows: list[Row | None] = []
        """The row in each slot; None if it has ended."""
        self._batch: Batch | None = None
        """The samples of the rows, by slot, with spare slots."""
        self._cache = SlotCache(batch_size)

    @property
    def n_waiting(self) -> int:
        """Rows without a slot."""
        n_ready = sum(len(ready.rows) for ready in self._ready)
        return n_ready + sum(len(waiting.rows) for waiting in self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether every row has ended."""
        return not (self._rows or self._ready or self._waiting)

    def add(self, rows: Iterable[Row]) -> None:
        """Append the rows of one call to the queue."""
        samples: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            samples.setdefault(row.prompt, []).append(row)
        shortest_first = sorted(samples.items(), key=lambda item: len(item[0]))
        self._waiting.extend(Waiting(prompt, rows) for prompt, rows in shortest_first)

    def drop(self, call: int) -> None:
        """Drop the rows of a call whose caller no longer waits."""
        self._waiting = deque(each for each in self._waiting if each.rows[0].call != call)
        self._ready = deque(each for each in self._ready if each.rows[0].call != call)
        for slot, row in enumerate(self._rows):
            if row is not None and row.call == call:
                self._rows[slot] = None

    @torch.inference_mode()
    def step(self) -> list[Sampled]:
        """Fill the free slots, sample one token for each row, and return the rows that ended."""
        finished = self._fill()
        rows = self._close_gaps()
        if not rows or self._batch is None:
            # No row is left: free their memory until the next one comes.
            self._batch, self._cache = None, SlotCache(self._batch_size)
            return finished

        batch = _part_of(self._batch, slice(0, len(rows)))
        self._append(batch, self._next_logits(batch), rows)
        ended = batch.has_ended.nonzero().squeeze(1)
        for slot in ended.tolist():
            self._rows[slot] = None
        return finished + _finished(batch, ended, rows)

    def _next_logits(self, batch: Batch) -> Tensor:
        """Feed each row's last token; return the logits of the next one, (S, V) float32."""
        cache = self._cache.for_a_step()
        n_cached = batch.n_prompt + batch.n_tokens - 1
        width = count_positions(cache) + 1
        # Rows are aligned at the right: columns left of a row's own positions are not its own.
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

    def _append(self, batch: Batch, logits: Tensor, rows: Sequence[Row]) -> None:
        """Sample one token for each row and store it, in place."""
        params = rows[0].params
        normaliser = logits.logsumexp(dim=-1)
        is_sound = normaliser.isfinite()
        if not bool(is_sound.all()):
            # These rows end here, with a logp that is not finite.
            logits = logits.masked_fill(~is_sound[:, None], 0.0)

        place = batch.n_tokens[:, None]
        uniforms = batch.uniforms.gather(1, place).squeeze(1)
        chosen = sample_tokens(
            self._shaped(logits, batch, params),
            uniforms,
            batch.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
        )

        # Of the model's own logits, before any change for the draw.
        batch.logp.add_(logits.gather(1, chosen[:, None]).squeeze(1) - normaliser)
        batch.tokens.scatter_(1, place, chosen[:, None])
        batch.n_tokens.add_(1)
        if not params.ignore_eos:
            batch.is_stopped.copy_(torch.isin(chosen, self._eos))
        if params.stop:
            self._stop_at_texts(batch, params)
        is_full = batch.n_tokens >= batch.max_tokens
        batch.has_ended.copy_(batch.is_stopped | is_full | ~is_sound)

    def _shaped(self, logits: Tensor, batch: Batch, params: SamplingParams) -> Tensor:
        """Return logits after penalties, with an end of sequence banned if it is too early."""
        penalties = params.repetition_penalty, params.frequency_penalty, params.presence_penalty
        if penalties != (1, 0, 0):
            places = torch.arange(batch.tokens.shape[1], device=self._eos.device)
            is_sampled = (places < batch.n_tokens[:, None]).int()
            n_in_response = torch.zeros_like(logits, dtype=torch.int32)
            n_in_response.scatter_add_(1, batch.tokens, is_sampled)
            logits = penalise(logits, n_in_response, batch.in_prompt, params)

        if params.min_tokens:
            is_early = batch.n_tokens < params.min_tokens
            is_end = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
            is_end[self._eos] = True
            logits = logits.masked_fill(is_early[:, None] & is_end, -torch.inf)
        return logits

    def _stop_at_texts(self, batch: Batch, params: SamplingParams) -> None:
        """Note which rows end with their last token because it completes a stop text."""
        assert self._decode is not None
        texts = StopTexts(params.stop, params.min_tokens, self._decode)

        # The last tokens of each row; a short row has nothing before them.
        n_last = texts.n_last_tokens
        offsets = torch.arange(-n_last, 0, device=self._eos.device)
        places = (batch.n_tokens[:, None] + offsets).clamp(min=0)
        last_tokens = batch.tokens.gather(1, places).tolist()

        for slot, n_tokens in enumerate(batch.n_tokens.tolist()):
            if not texts.may_end(last_tokens[slot][-n_tokens:]):
                continue
            if texts.text_before(batch.tokens[slot, :n_tokens].tolist()) is not None:
                batch.is_stopped[slot] = True

    def _fill(self) -> list[Sampled]:
        """Let waiting rows take the free slots; return those that ended with their first token."""
        finished: list[Sampled] = []
        free = [slot for slot, row in enumerate(self._rows) if row is None]
        free += range(len(self._rows), self._batch_size)
        while free and self._may_start():
            prefilled, places, rows = self._start(len(free))
            chosen = torch.tensor(places, device=self._eos.device)
            logits = prefilled.logits[chosen]
            started = self._new_batch(rows, n_vocabulary=logits.shape[1])
            self._append(started, logits, rows)
            ended = started.has_ended.nonzero().squeeze(1)
            finished += _finished(started, ended, rows)

            living = (~started.has_ended).nonzero().squeeze(1)
            if len(living):
                slots, free = free[: len(living)], free[len(living) :]
                living_rows = [rows[place] for place in living.tolist()]
                self._put(_part_of(started, living), slots, living_rows)
                lengths = [len(row.prompt) for row in living_rows]
                self._cache.put(prefilled.cache, chosen[living], slots, lengths)

        return finished

    def _may_start(self) -> bool:
        """Return whether a row waits that can join those in flight.

        All rows of a batch have the same settings; rows with other settings wait until it is empty.
        """
        line = self._ready or self._waiting
        if not line:
            return False
        in_flight = {row.settings for row in self._rows if row is not None}
        return in_flight <= {line[0].rows[0].settings}

    def _start(self, n_free: int) -> tuple[Prefilled, list[int], list[Row]]:
        """Take up to ``n_free`` waiting rows of one prefill and the same settings.

        Returns:
            The prefill, the place in it of each row's prompt, and the rows.
        """
        if not self._ready:
            self._prefill(max(n_free, int(AHEAD_SHARE * self._batch_size)))

        prefilled, settings = self._ready[0].prefilled, self._ready[0].rows[0].settings
        places: list[int] = []
        taken: list[Row] = []
        while self._ready and len(taken) < n_free:
            ready = self._ready[0]
            if ready.prefilled is not prefilled or ready.rows[0].settings != settings:
                break
            rows = ready.rows[: n_free - len(taken)]
            places += [ready.place] * len(rows)
            taken += rows
            del ready.rows[: len(rows)]
            if not ready.rows:
                self._ready.popleft()

        return prefilled, places, taken

    def _prefill(self, n_rows: int) -> None:
        """Prefill the next prompts: as many as have ``n_rows`` rows together and fit at once."""
        taken: list[Waiting] = []
        n_taken, width = 0, 0
        while self._waiting and n_taken < n_rows:
            wider = max(width, len(self._waiting[0].prompt))
            if taken and wider * (len(taken) + 1) > MAX_PREFILL_TOKENS:
                break
            taken.append(self._waiting.popleft())
            n_taken += len(taken[-1].rows)
            width = wider

        # Padded at the left: the last position of every prompt gives the logits.
        device = self._eos.device
        padded = [[0] * (width - len(prompt)) + list(prompt) for prompt, _ in taken]
        ids = torch.tensor(padded, device=device)
        n_padding = torch.tensor([width - len(prompt) for prompt, _ in taken], device=device)
        places = torch.arange(width, device=device) - n_padding[:, None]
        cache = prefill_cache()
        logits = self._forward(ids, places >= 0, places.clamp(min=0), cache)
        prefilled = Prefilled(cache, logits)
        for place, waiting in enumerate(taken):
            self._ready.append(Ready(prefilled, place, waiting.rows))

    def _new_batch(self, rows: Sequence[Row], *, n_vocabulary: int) -> Batch:
        """Return rows without tokens, with room for the longest one's maximum."""
        device, n_rows = self._eos.device, len(rows)
        width = max(row.params.max_tokens for row in rows)
        uniforms = [draw_uniforms(row.seed, width) for row in rows]
        return Batch(
            n_prompt=torch.tensor([len(row.prompt) for row in rows], device=device),
            n_tokens=torch.zeros(n_rows, dtype=torch.int64, device=device),
            max_tokens=torch.tensor([row.params.max_tokens for row in rows], device=device),
            tokens=torch.zeros(n_rows, width, dtype=torch.int64, device=device),
            uniforms=torch.stack(uniforms).to(device),
            temperature=torch.tensor([float(row.temperature) for row in rows], device=device),
            in_prompt=self._in_prompt(rows, n_vocabulary),
            logp=torch.zeros(n_rows, dtype=torch.float64, device=device),
            is_stopped=torch.zeros(n_rows, dtype=torch.bool, device=device),
            has_ended=torch.zeros(n_rows, dtype=torch.bool, device=device),
        )

    def _in_prompt(self, rows: Sequence[Row], n_vocabulary: int) -> Tensor:
        """Return which tokens each prompt has, (S, V); (S, 0) if no penalty needs them."""
        device = self._eos.device
        if rows[0].params.repetition_penalty == 1:
            return torch.zeros(len(rows), 0, dtype=torch.bool, device=device)

        in_prompt = torch.zeros(len(rows), n_vocabulary, dtype=torch.bool, device=device)
        ids: dict[tuple[int, ...], Tensor] = {}
        for place, row in enumerate(rows):
            if row.prompt not in ids:
                ids[row.prompt] = torch.tensor(row.prompt, device=device)
            in_prompt[place, ids[row.prompt]] = True
        return in_prompt

    def _put(self, started: Batch, slots: Sequence[int], rows: Sequence[Row]) -> None:
        """Write rows that have their first token into slots."""
        # Earlier rows with other settings may have been there, but nothing of them remains.
        if all(row is None for row in self._rows):
            self._batch = None

        self._rows += [None] * (max(slots) + 1 - len(self._rows))
        for slot, row in zip(slots, rows, strict=True):
            self._rows[slot] = row

        if self._batch is None or self._batch.tokens.shape[1] < started.tokens.shape[1]:
            wider = _empty_batch(started, self._batch_size)
            if self._batch is not None:
                _write(self._batch, wider, slice(0, self._batch_size))
            self._batch = wider

        _write(started, self._batch, torch.tensor(slots, device=self._eos.device))

    def _close_gaps(self) -> list[Row]:
        """Move the last rows into free slots, so that a step computes no empty slot.

        Returns:
            The rows, by slot.
        """
        living = [row for row in self._rows if row is not None]
        if len(living) == len(self._rows):
            return living

        n_living = len(living)
        targets = [slot for slot, row in enumerate(self._rows) if row is None and slot < n_living]
        sources = [
            slot for slot, row in enumerate(self._rows) if row is not None and slot >= n_living
        ]
        for source, target in zip(sources, targets, strict=True):
            self._rows[target] = self._rows[source]
        del self._rows[n_living:]

        self._cache.move(sources, targets, n_living)
        if self._batch is not None and sources:
            moved = _part_of(self._batch, torch.tensor(sources, device=self._eos.device))
            _write(moved, self._batch, torch.tensor(targets, device=self._eos.device))
        return [row for row in self._rows if row is not None]


def _part_of(batch: Batch, rows: slice | Tensor) -> Batch:
    """Return some rows of a batch: views of them for a slice."""
    return Batch(*(column[rows] for column in batch))


def _empty_batch(like: Batch, n_slots: int) -> Batch:
    """Return a batch of ``n_slots``, each with as much room for tokens as ``like`` has."""
    return Batch(*(column.new_zeros(n_slots, *column.shape[1:]) for column in like))


def _write(rows: Batch, batch: Batch, slots: slice | Tensor) -> None:
    """Write rows into slots of a batch that has as much room for tokens, or more."""
    for column, new in zip(batch, rows, strict=True):
        if new.dim() == 1:
            column[slots] = new
        else:
            column[slots, : new.shape[1]] = new


def _finished(batch: Batch, ended: Tensor, rows: Sequence[Row]) -> list[Sampled]:
    """Return the samples of the rows at the places ``ended``."""
    if not len(ended):
        return []
    columns = (batch.n_tokens, batch.tokens, batch.logp, batch.is_stopped)
    n_tokens, tokens, logp, is_stopped = (column[ended].tolist() for column in columns)
    return [
        Sampled(rows[place], ids[:n], total, stopped)
        for place, ids, n, total, stopped in zip(
            ended.tolist(), tokens, n_tokens, logp, is_stopped, strict=True
        )
    ]


def draw_uniforms(seed: int, n_tokens: int) -> Tensor:
    """Return the row's uniform numbers, (n_tokens,) float64.

    A longer draw begins with the shorter one. On every device they come from the CPU's generator.
    """
    return torch.rand(n_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
