"""From a batch to the log-probabilities of its responses: only this module runs the policy.

The output projection sees only the positions that predict a response token. With a vocabulary of
49,000 the logits are the largest tensor of a small model's step, and those of prompts and padding
would be thrown away.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from prefpipe.maths.objectives.logps import (
    ResponseLogps,
    mean_logps,
    sum_response_logps,
    token_entropies,
    token_logps,
)
from prefpipe.training.batches import Batch, pad_sequences, sequences_of
from prefpipe.training.groups import Group, Key, require_known_tokens
from prefpipe.training.projection import changes_logits, scoring_head
from prefpipe.training.ranks import from_first, processes
from prefpipe.training.shared_prompt import (
    ATTENTION,
    changes_attention,
    n_packed_tokens,
    pack_groups,
    pieces_of,
    trial_groups,
)

Figures = TypeVar("Figures", bound=tuple[Tensor | None, ...])
"""A named tuple of a model's figures of responses, (S,) each; None if not requested."""

PADDED = ("input_ids", "attention_mask", "response_mask")
"""The tensors of a padded batch that `sequence_logps` reads."""

NOT_PACKABLE = (
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    IndexError,
    NotImplementedError,
)
"""Errors of a model's own code if it does not accept packed rows."""


def sequence_logps(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_mask: Tensor,
    ended: Tensor | None = None,
    *,
    entropy: bool = False,
) -> ResponseLogps:
    """Return each response's summed log-probability, token count, and probability of its end.

    Args:
        model: a causal language model, wrapped for parallel training or not.
        input_ids: (S, T), padded on the right.
        attention_mask: (S, T), 0 at padding.
        response_mask: (S, T) bool; position 0 is never a response token, because nothing predicts
            it.
        ended: (S,) bool, whether the response's last token is an end-of-sequence token; without it
            ``end_probs`` is None.
        entropy: measure the entropies too.

    Returns:
        ``logps`` (S,) float32, ``n_tokens``, ``end_probs`` and ``entropies`` (S,).
    """
    tokens = _sequence_token_logps(model, input_ids, attention_mask, response_mask, entropy=entropy)
    return _summed(tokens, response_mask, ended)


def _sequence_token_logps(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_mask: Tensor,
    *,
    entropy: bool,
) -> Tensor:
    # The token before each response token predicts it.
    predicting = torch.zeros_like(response_mask)
    predicting[:, :-1] = response_mask[:, 1:]
    with _project_only(model, predicting):
        output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    logits = output.logits  # (N, V)

    labels = input_ids[response_mask]
    logps = token_logps(logits, labels)
    if not entropy:
        return logps[:, None]
    return torch.stack([logps, token_entropies(logits, labels, logps)], -1)


def packed_logps(
    model: nn.Module, packed: Mapping[str, Any], *, entropy: bool = False
) -> ResponseLogps:
    """Return the same as `sequence_logps` for a packed row: each prompt is computed once.

    Args:
        model: a causal language model that `share_prompts` has prepared, wrapped for parallel
            training or not.
        packed: the result of `prefpipe.training.shared_prompt.pack_groups`, and ``ended`` (S,) if
            known.
        entropy: measure the entropies too.

    Returns:
        As `sequence_logps`.
    """
    tokens = _packed_token_logps(model, packed, entropy=entropy)
    return _summed(tokens, packed["response_mask"], packed.get("ended"))


def _packed_token_logps(model: nn.Module, packed: Mapping[str, Any], *, entropy: bool) -> Tensor:
    with scoring_head(unwrap(model), packed["predictors"], packed["labels"], entropy=entropy):
        output = model(
            input_ids=packed["input_ids"],
            position_ids=packed["position_ids"],
            use_cache=False,
            packed_layout=packed["layout"],
        )
    tokens: Tensor = output.logits
    return tokens


def _summed(tokens: Tensor, response_mask: Tensor, ended: Tensor | None) -> ResponseLogps:
    """Return responses of (N, 1) log-probabilities, or (N, 2) with entropies."""
    summed = sum_response_logps(tokens[:, 0], response_mask, ended)
    if tokens.shape[1] == 1:
        return summed
    # Logged, never trained on.
    entropies = sum_response_logps(tokens[:, 1].detach(), response_mask)
    return summed._replace(entropies=mean_logps(entropies))


def batch_logps(
    model: nn.Module, batch: Mapping[str, Any], *, entropy: bool = False
) -> ResponseLogps:
    """Return a model's figures of a batch's responses, (S,) each, packed or padded."""
    if "layout" in batch:
        return packed_logps(model, batch, entropy=entropy)
    padded = {name: batch[name] for name in PADDED}
    return sequence_logps(model, **padded, ended=batch.get("ended"), entropy=entropy)


def by_group(rows: Sequence[Figures], slots: Tensor) -> Figures:
    """Return the figures of consecutive responses as (P, R), 0 where ``slots`` (P, R) is -1.

    Args:
        rows: named tuples of figures (S,), as `batch_logps` returns them; one that is None stays
            None.
        slots: (P, R) int, the place of each response.
    """
    places, exists = slots.clamp(min=0), slots >= 0

    grouped: list[Tensor | None] = []
    for columns in zip(*rows, strict=True):
        known = [column for column in columns if column is not None]
        if not known:
            grouped.append(None)
            continue
        values = torch.cat(known)[places]
        grouped.append(torch.where(exists, values, torch.zeros_like(values)))

    kind: Any = type(rows[0])
    return kind(*grouped)  # type: ignore[no-any-return]


def share_prompts(model: nn.Module) -> str | None:
    """Prepare a model to compute packed groups, or return why it cannot.

    Args:
        model: a causal language model or an adapter of one, in the precision it is trained in.

    Returns:
        None, or the reason why prompts are computed once a response instead.
    """
    problem = changes_logits(without_adapters(model).config)
    if problem is not None:
        return problem
    return prepare_packing(model, lambda batch: batch_logps(model, batch).logps)


@torch.no_grad()
def prepare_packing(
    model: nn.Module, read: Callable[[Batch], Tensor], *, pad_token_id: int | None = None
) -> str | None:
    """Give a model the attention of packed rows if the results agree, or return what differs.

    The model's results for a packed row are compared with those for the same responses one by one,
    on two small random groups. This detects a model whose layers mix tokens by other means than
    attention, or whose attention is not the requested one; such a model is left unchanged.

    Args:
        model: in the precision it is trained in.
        read: returns the model's figures of a batch's responses, (S,), packed or padded.
        pad_token_id: the padding of padded batches, for a model that finds the ends of rows by it.
    """
    inside = without_adapters(model)
    problem = changes_attention(inside.config)
    if problem is not None:
        return problem

    n_vocabulary = int(inside.get_input_embeddings().weight.shape[0])
    weight = next(model.parameters())
    groups = trial_groups(n_vocabulary, without=pad_token_id)

    was_training = model.training
    attention_before = inside.config._attn_implementation  # noqa: SLF001 - its only name
    # Without dropout, which would draw different numbers for packed and plain rows.
    model.eval()
    try:
        plain_batch = pad_sequences(sequences_of(groups), pad_token_id or 0)
        plain = read(to_device(plain_batch, weight.device))
        inside.set_attn_implementation(ATTENTION)
        packed = read(to_device(pack_groups(groups), weight.device))
        problem = _difference(packed, plain, weight.dtype)
    except NOT_PACKABLE as error:
        first_line = str(error).partition("\n")[0][:120]
        problem = f"its code does not take packed rows ({type(error).__name__}: {first_line})"
    finally:
        model.train(was_training)

    if problem is not None:
        inside.set_attn_implementation(attention_before)
    return problem


def share_as_first(model: nn.Module, share: Callable[[nn.Module], str | None]) -> str | None:
    """Share prompts on all processes if the first one finds that it works.

    ``share`` is `share_prompts`, or one like it.

    The others may have no weights yet (FSDP sends them later), and packed and plain passes must not
    be mixed.
    """
    problem = None
    if processes().is_main_process:
        problem = share(model)
    problem = from_first(problem)
    if problem is None:
        without_adapters(model).set_attn_implementation(ATTENTION)
    return problem


def _difference(packed: Tensor, plain: Tensor, dtype: torch.dtype) -> str | None:
    """Return by how much the output on packed rows differs; None if only by rounding."""
    # Relative to the mean size if a value is smaller: a score may be near 0.
    sizes = plain.abs().maximum(plain.nan_to_num(0.0).abs().mean())
    error = float(((packed - plain).abs() / sizes).nan_to_num(0.0).max())

    # NaN on both sides is a broken model, which this check does not report.
    has_same_nans = bool((packed.isnan() == plain.isnan()).all())
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    if error < tolerance and has_same_nans:
        return None
    return f"its results for packed rows differ by {error:.1e} from those for plain rows"


def shares_prompts(model: nn.Module) -> bool:
    """Return whether `share_prompts` has prepared the model."""
    config = without_adapters(model).config
    return bool(config._attn_implementation == ATTENTION)  # noqa: SLF001 - its only name


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a batch with its tensors on a device."""
    moved = dict(batch)
    for name, value in batch.items():
        if isinstance(value, Tensor):
            moved[name] = value.to(device)
    return moved


class Measured(NamedTuple):
    """A response measured under a frozen policy.

    ``logp`` is summed over its tokens, ``token_logps`` that of each.
    """

    key: Key
    logp: float
    n_tokens: int
    token_logps: Tensor


KeyedBatch = tuple[list[Key], Batch]
"""A batch, and the keys of its responses."""


def measure_responses(
    model: nn.Module,
    groups: Sequence[Group],
    *,
    pad_token_id: int,
    bf16: bool = False,
    max_batch_tokens: int = 8192,
) -> Iterator[Measured]:
    """Yield the log-probabilities of responses under a frozen policy, the longest groups first.

    Groups are sorted by length and batched up to ``max_batch_tokens``, packed if the model accepts
    that and padded otherwise, so the result does not depend on the training batch. Dropout is off;
    the model's mode is restored.

    Args:
        model: the reference policy, usually the policy before its first step.
        groups: the groups that ``prepare_groups`` kept.
        pad_token_id: any token; padding is masked.
        bf16: compute under bfloat16 autocast, as training will.
        max_batch_tokens: tokens of one forward pass; one response always fits.

    Raises:
        InputError: a token id that the model does not have.
    """
    batches = response_batches(
        model, groups, pad_token_id=pad_token_id, max_batch_tokens=max_batch_tokens
    )
    yield from measure_batches(model, batches, bf16=bf16)


def response_batches(
    model: nn.Module, groups: Sequence[Group], *, pad_token_id: int, max_batch_tokens: int
) -> Iterator[KeyedBatch]:
    """Return the batches of `measure_responses`, before the model is applied.

    Args:
        model: decides the kind of batches.
        groups: as in `measure_responses`.
        pad_token_id: as in `measure_responses`.
        max_batch_tokens: as in `measure_responses`.

    Raises:
        InputError: a token id that the model does not have.
    """
    require_known_tokens(groups, without_adapters(model).get_input_embeddings().weight.shape[0])
    batches = _packed_batches if shares_prompts(model) else _padded_batches
    return batches(groups, pad_token_id, max_batch_tokens)


def measure_batches(
    model: nn.Module, batches: Iterable[KeyedBatch], *, bf16: bool = False
) -> Iterator[Measured]:
    """Yield the log-probabilities of the responses of batches, see `measure_responses`.

    Use one thread at a time: the model is changed while it measures.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        for keys, batch in batches:
            on_device = to_device(batch, device)
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                tokens = _token_logps(model, on_device)
                summed = sum_response_logps(tokens, on_device["response_mask"])

            logps, n_tokens = summed.logps.tolist(), summed.n_tokens.tolist()
            by_response = torch.split(tokens.float().cpu(), n_tokens)
            yield from map(Measured, keys, logps, n_tokens, by_response)
    finally:
        model.train(was_training)


def _token_logps(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Return the log-probability of every response token, (N,), packed or padded."""
    if "layout" in batch:
        return _packed_token_logps(model, batch, entropy=False)[:, 0]
    padded = {name: batch[name] for name in PADDED}
    return _sequence_token_logps(model, **padded, entropy=False)[:, 0]


def reference_logps(
    model: nn.Module,
    groups: Sequence[Group],
    *,
    pad_token_id: int,
    bf16: bool = False,
    max_batch_tokens: int = 8192,
) -> dict[Key, tuple[float, int]]:
    """Return sums and token counts by key, as `with_reference` takes them."""
    measured = measure_responses(
        model, groups, pad_token_id=pad_token_id, bf16=bf16, max_batch_tokens=max_batch_tokens
    )
    return {each.key: (each.logp, each.n_tokens) for each in measured}


def _packed_batches(groups: Sequence[Group], _pad: int, max_tokens: int) -> Iterator[KeyedBatch]:
    """Yield groups, the longest first.

    A group that is too long for a batch is split into several, each with the prompt.
    """
    pending: list[Group] = []
    n_pending = 0
    for piece in sorted(pieces_of(groups, max_tokens), key=n_packed_tokens, reverse=True):
        if pending and n_pending + n_packed_tokens(piece) > max_tokens:
            yield _keys(pending), pack_groups(pending)
            pending, n_pending = [], 0
        pending.append(piece)
        n_pending += n_packed_tokens(piece)
    if pending:
        yield _keys(pending), pack_groups(pending)


def _padded_batches(
    groups: Sequence[Group], pad_token_id: int, max_tokens: int
) -> Iterator[KeyedBatch]:
    """Yield responses, the longest first, each with its prompt.

    A batch holds as many as its longest response allows.
    """
    pending: list[tuple[int, Key, tuple[Sequence[int], Sequence[int]]]] = []
    for group in groups:
        for response in group.responses:
            key = group.prompt_id, response.sample_idx
            length = len(group.prompt_token_ids) + len(response.token_ids)
            pending.append((length, key, (group.prompt_token_ids, response.token_ids)))
    pending.sort(key=lambda item: item[0], reverse=True)

    while pending:
        longest, _, _ = pending[0]
        size = max(1, max_tokens // longest)
        chunk, pending = pending[:size], pending[size:]
        keys = [key for _, key, _ in chunk]
        sequences = [sequence for _, _, sequence in chunk]
        yield keys, pad_sequences(sequences, pad_token_id)


def _keys(groups: Sequence[Group]) -> list[Key]:
    keys: list[Key] = []
    for group in groups:
        keys += [(group.prompt_id, response.sample_idx) for response in group.responses]
    return keys


@contextmanager
def _project_only(model: nn.Module, positions: Tensor) -> Iterator[None]:
    """Let the output projection see the hidden states at ``positions`` (S, T) only.

    Logits come out as (N, V).

    A hook, so that the model is still called as a whole: wrappers (DDP, FSDP, autocast, adapters)
    and what a model does to its logits afterwards (soft caps, scales) stay in force.
    """
    head = unwrap(model).get_output_embeddings()
    handle = head.register_forward_pre_hook(
        lambda _head, inputs: (inputs[0][positions], *inputs[1:])
    )
    try:
        yield
    finally:
        handle.remove()


def unwrap(model: Any) -> Any:
    """Return the model inside the wrappers of parallel training, with its adapters."""
    while hasattr(model, "module"):
        model = model.module
    return model


def without_adapters(model: nn.Module) -> Any:
    """Return the language model, or the classifier, inside wrappers and adapters."""
    inside = unwrap(model)
    return inside.get_base_model() if hasattr(inside, "get_base_model") else inside
