"""Whether a merged model agrees with base plus adapter, on a few real texts.

It compares log-probabilities, or rewards for a classifier. Both models compute in float32, so that
only the weights are compared. In float32 only the order of sums differs; in half precision the
rounding of the weights adds to it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-1}
"""Mean absolute difference that rounding can explain **(ours)**.

In nats a token, or in units of reward.
"""
MAX_TOKENS = 256
PHOTOSYNTHESIS = (
    "Plants, algae and some bacteria turn light into chemical energy: chlorophyll takes it in, "
    "and water is split."
)
FIBONACCI = """\
def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a"""
CONVERSATIONS = (
    ("What is photosynthesis?", PHOTOSYNTHESIS),
    ("Write a function that returns the n-th Fibonacci number.", FIBONACCI),
    (
        "A train covers 180 km in 2.5 hours. How fast is it?",
        "Speed is distance over time: 180 km / 2.5 h = 72 km/h.",
    ),
    (
        "Wie spät ist es, wenn der große Zeiger auf der Sechs steht?",
        "Dann ist es halb, zum Beispiel halb drei, also 2:30 Uhr.",
    ),
)


class Expected(NamedTuple):
    """What a merged model is compared with: `measure` of its base, alone and with the adapter."""

    texts: list[list[int]]
    base: Tensor
    adapted: Tensor


class Agreement(NamedTuple):
    """Mean and largest absolute difference of merged model and adapter.

    ``mean_effect`` is how far the adapter moves its base on average. All in nats a token for a
    language model, in units of reward for a classifier.
    """

    n_texts: int
    n_values: int
    mean_difference: float
    max_difference: float
    mean_effect: float


def measure_adapted(model: Any, tokenizer: Any) -> Expected:
    """Measure a peft model, with its adapter and without."""
    texts = encode_texts(tokenizer)
    adapted = measure(model, texts)
    with model.disable_adapter():
        return Expected(texts, measure(model, texts), adapted)


def encode_texts(tokenizer: Any) -> list[list[int]]:
    """Return the ids of a few conversations, in the model's own template if it has one."""
    texts = []
    for question, answer in CONVERSATIONS:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if getattr(tokenizer, "chat_template", None):
            encoded = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)
        else:
            encoded = tokenizer(f"{question}\n{answer}")
        texts.append(list(encoded["input_ids"])[:MAX_TOKENS])
    return texts


@torch.no_grad()
def measure(model: Any, texts: Sequence[Sequence[int]]) -> Tensor:
    """Return the log-probability of each text's tokens but the first, or each text's reward.

    Returns:
        (tokens of all texts,) or (texts,), float64.
    """
    values = []
    device = next(model.parameters()).device
    for ids in texts:
        row = torch.tensor([list(ids)], device=device)
        logits = model(input_ids=row, attention_mask=torch.ones_like(row)).logits.double().cpu()
        # (1, 1) of a classifier, (1, T, V) of a language model.
        if logits.ndim == 2:
            values.append(logits[0])
        else:
            next_ids = row.cpu()[0, 1:, None]
            values.append(logits[0, :-1].log_softmax(-1).gather(-1, next_ids)[:, 0])
    return torch.cat(values)


def compare(base: Tensor, adapted: Tensor, merged: Tensor, n_texts: int) -> Agreement:
    """Compare the results of `measure` for three models.

    A number that is not finite on only one side is an infinite difference.
    """
    difference = (merged - adapted).abs()
    both_nan = merged.isnan() & adapted.isnan()
    difference = torch.where(torch.isfinite(difference) | both_nan, difference, torch.inf)
    # The remaining NaN are on both sides and no difference.
    difference = difference.nan_to_num(0.0, torch.inf)
    return Agreement(
        n_texts,
        n_values=len(merged),
        mean_difference=float(difference.mean()),
        max_difference=float(difference.max()),
        mean_effect=float((adapted - base).abs().mean()),
    )


def weight_sums(model: Any) -> dict[str, tuple[tuple[int, ...], float, float]]:
    """Return shape, sum and sum of squares of every weight.

    They are equal before a model is saved and after it is loaded, and need no second model in
    memory.
    """
    sums = {}
    for name, value in model.state_dict().items():
        exact = value.double()
        sums[name] = (tuple(value.shape), float(exact.sum()), float(exact.square().sum()))
    return sums
