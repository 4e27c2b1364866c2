"""Groups packed so that each prompt is computed once: layout, and attention that is exact.

A micro-batch is one row of tokens, group after group; a group is its prompt followed by its
responses::

    [prompt A][A's response 0][A's response 1]...[prompt B][B's response 0]...

Positions start again after the prompt in every response. A prompt's tokens attend to the prompt; a
response's tokens attend to their prompt and to the tokens before them in the same response, and to
nothing else. All other layers work token by token, so the prompt's are computed once, with
gradients from every response. Only the responses inside an attention call are padded.

The attention is a function registered with transformers, so it works for every model that looks up
its attention there, through adapters, gradient checkpointing and wrappers for several devices.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from prefpipe.training.groups import Group, Response

ATTENTION = "prefpipe_shared_prompt"


class Span(NamedTuple):
    """Tokens ``start`` to ``start + length`` of the packed row."""

    start: int
    length: int


class PackedGroup(NamedTuple):
    """The places of a group's prompt and responses; responses follow the prompt without gaps."""

    prompt: Span
    responses: tuple[Span, ...]


class Places(NamedTuple):
    """Where attention finds a group's responses, on one device.

    ``padded``: (responses * longest,) each response's tokens, counted from the first one's first,
    padded with its last; ``real``: which of those are not padding. Both are None if all responses
    are equally long and a view is enough. ``sees``: (longest, prompt + longest) bool.
    """

    padded: Tensor | None
    real: Tensor | None
    sees: Tensor


class Layout:
    """The groups of a packed row.

    Opaque on purpose, so that code that moves batches to devices does not take it apart.
    """

    __slots__ = ("_places", "groups")

    def __init__(self, groups: Sequence[PackedGroup]) -> None:
        self.groups = tuple(groups)
        self._places: dict[torch.device, list[Places]] = {}

    @property
    def sizes(self) -> list[int]:
        """Tokens of each prompt and of all its responses, in turn."""
        sizes = []
        for group in self.groups:
            sizes.append(group.prompt.length)
            sizes.append(sum(span.length for span in group.responses))
        # A group without responses has one piece, its prompt.
        return [size for size in sizes if size > 0]

    def places(self, device: torch.device) -> list[Places]:
        """Return the places of each group, computed once.

        Every layer needs them, and copying them to a GPU would stall it.
        """
        if device not in self._places:
            self._places[device] = [
                _places_of(group, device) for group in self.groups if group.responses
            ]
        return self._places[device]


def pack_groups(groups: Sequence[Group]) -> dict[str, Any]:
    """Lay groups out in one row of N tokens, with M response tokens to score in S responses.

    Returns:
        ``input_ids`` and ``position_ids`` (1, N); ``predictors`` (M,): the token whose output
        predicts each response token, the prompt's last for the first of a response; ``labels``
        (M,): its id; ``response_mask`` (S, longest) bool: the responses' tokens in rows;
        ``layout``: a `Layout`.
    """
    ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    labels: list[int] = []
    lengths: list[int] = []
    layout = []
    for group in groups:
        prompt = Span(len(ids), len(group.prompt_token_ids))
        ids += group.prompt_token_ids
        positions += range(prompt.length)

        spans = []
        for response in group.responses:
            span = Span(len(ids), len(response.token_ids))
            ids += response.token_ids
            positions += range(prompt.length, prompt.length + span.length)
            # The prompt's last token predicts the first response token, each of those the next.
            predictors.append(prompt.start + prompt.length - 1)
            predictors += range(span.start, span.start + span.length - 1)
            labels += response.token_ids
            lengths.append(span.length)
            spans.append(span)
        layout.append(PackedGroup(prompt, tuple(spans)))

    places = torch.arange(max(lengths))
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "predictors": torch.tensor(predictors),
        "labels": torch.tensor(labels),
        "response_mask": places[None] < torch.tensor(lengths)[:, None],
        "layout": Layout(layout),
    }


def n_packed_tokens(group: Group) -> int:
    """Return the tokens of a packed group: the prompt once, and every response."""
    return len(group.prompt_token_ids) + sum(
        len(response.token_ids) for response in group.responses
    )


def pieces_of(groups: Sequence[Group], max_tokens: int) -> list[Group]:
    """Return groups of at most ``max_tokens`` packed tokens, cut between responses.

    A single response always fits.
    """
    pieces = []
    for group in groups:
        kept: list[Response] = []
        n_tokens = len(group.prompt_token_ids)
        for response in group.responses:
            if kept and n_tokens + len(response.token_ids) > max_tokens:
                pieces.append(group._replace(responses=kept))
                kept, n_tokens = [], len(group.prompt_token_ids)
            kept.append(response)
            n_tokens += len(response.token_ids)
        pieces.append(group._replace(responses=kept))
    return pieces


def trial_groups(n_vocabulary: int, *, without: int | None = None) -> list[Group]:
    """Return two small ragged groups, to compare packed with plain computation.

    Their tokens are arbitrary; ``without`` is not among them.
    """

    def tokens(start: int, n: int) -> list[int]:
        arbitrary = [(start * 7919 + place * 104729) % n_vocabulary for place in range(n)]
        return [(token + 1) % n_vocabulary if token == without else token for token in arbitrary]

    groups = []
    for p, (n_prompt, lengths) in enumerate(((5, (3, 4, 1)), (2, (6, 2)))):
        responses = [
            Response(r, tokens(10 * p + r + 3, n), 0.0, "positive") for r, n in enumerate(lengths)
        ]
        groups.append(Group(str(p), tokens(p + 1, n_prompt), responses))
    return groups


def changes_attention(config: Any) -> str | None:
    """Return what a model's attention does beyond a softmax over all earlier tokens."""
    text = getattr(config, "text_config", config)
    if getattr(text, "attn_logit_softcapping", None):
        return f"its attention caps scores (attn_logit_softcapping = {text.attn_logit_softcapping})"

    layers = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None)
    is_sliding = bool(window)
    if layers:
        is_sliding = any("sliding" in kind or "chunked" in kind for kind in layers)
    # Qwen's configurations set a window and disable it in another field.
    if is_sliding and getattr(text, "use_sliding_window", True):
        return f"its attention only covers a window of {window} tokens"
    return None


def shared_prompt_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Any,
    *,
    packed_layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_other: Any,
) -> tuple[Tensor, None]:
    """Return the attention of a packed row, (1, N, heads, head size), and no weights.

    Args:
        module: the attention layer; only its mode (training or not) is read.
        query: (1, heads, N, head size).
        key: (1, key heads, N, head size), positions applied; heads are shared where there are
            fewer.
        value: as ``key``.
        packed_layout: the places of the groups.
        scaling: factor of the scores; default one over the root of the head size.
        dropout: dropout of the attention weights in training.
    """
    attend = partial(_attend, scaling=scaling, dropout=dropout if module.training else 0.0)
    # One split, whose backward pass is one concatenation; slices would each fill a row with zeros
    # and add it.
    states = [iter(torch.split(each, packed_layout.sizes, dim=2)) for each in (query, key, value)]
    all_places = iter(packed_layout.places(query.device))

    outputs = []
    for group in packed_layout.groups:
        # Copies, because for a view the backward pass would keep the whole row.
        prompt_query, prompt_key, prompt_value = (next(each).contiguous() for each in states)
        outputs.append(attend(prompt_query, prompt_key, prompt_value, None)[0])
        if not group.responses:
            continue

        places, n = next(all_places), len(group.responses)
        queries, keys, values = (_by_response(next(each), n, places) for each in states)
        keys = torch.cat([prompt_key.expand(n, -1, -1, -1), keys], dim=2)
        values = torch.cat([prompt_value.expand(n, -1, -1, -1), values], dim=2)
        output = attend(queries, keys, values, places.sees).flatten(0, 1)
        if places.real is not None:
            # Padding comes after each response, where no token attends; it is dropped here.
            output = output.index_select(0, places.real)
        outputs.append(output)
    return torch.cat(outputs)[None], None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sees: Tensor | None,
    *,
    scaling: float | None,
    dropout: float,
) -> Tensor:
    """Return (B, T, heads, head size) of (B, heads, T, head size).

    Without ``sees`` each token sees those before it.
    """
    n_shared = query.shape[1] // key.shape[1]
    # On a GPU the kernels that take a mask take no shared heads, and torch would fall back to one
    # that holds every weight.
    copies_heads = n_shared > 1 and query.device.type != "cpu"
    if copies_heads:
        key = key.repeat_interleave(n_shared, dim=1)
        value = value.repeat_interleave(n_shared, dim=1)

    output = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=sees,
        is_causal=sees is None,
        scale=scaling,
        dropout_p=dropout,
        enable_gqa=n_shared > 1 and not copies_heads,
    )
    return output.transpose(1, 2)


def _by_response(states: Tensor, n: int, places: Places) -> Tensor:
    """Return n responses' tokens (1, heads, tokens, size) as (n, heads, longest, size)."""
    tokens = states[0]
    if places.padded is not None:
        tokens = tokens.index_select(1, places.padded)
    n_heads, n_places, head_size = tokens.shape
    return tokens.reshape(n_heads, n, n_places // n, head_size).transpose(0, 1)


def _places_of(group: PackedGroup, device: torch.device) -> Places:
    starts = torch.tensor([span.start - group.responses[0].start for span in group.responses])
    lengths = torch.tensor([span.length for span in group.responses])
    longest = int(lengths.max())

    # Every token sees the whole prompt and the earlier tokens of its response.
    n_prompt = group.prompt.length
    everything = torch.ones(longest, n_prompt + longest, dtype=torch.bool, device=device)
    sees = everything.tril(n_prompt)
    if bool((lengths == longest).all()):
        return Places(None, None, sees)

    steps = torch.arange(longest)
    padded = starts[:, None] + torch.minimum(steps[None], lengths[:, None] - 1)
    real = torch.nonzero((steps[None] < lengths[:, None]).flatten()).flatten()
    return Places(padded.flatten().to(device), real.to(device), sees)


AttentionInterface.register(ATTENTION, shared_prompt_attention)
