"""Whether a merged model is what base and adapter were: log-probabilities of real texts, or rewards of them.

Both sides compute in float32, so that what is compared is the weights: what is left in float32 is the order of sums, in half
precision the rounding of the weights as well.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-1}
"""Mean absolute difference, in nats a token or in units of reward, that rounding explains **(ours)**."""
MAX_TOKENS = 256
CONVERSATIONS = (
    (
        "What is photosynthesis?",
        "Plants, algae and some bacteria turn light into chemical energy: chlorophyll takes it in, and water is split.",
    ),
    (
        "Write a function that returns the n-th Fibonacci number.",
        "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
    ),
    (
        "A train covers 180 km in 2.5 hours. How fast is it?",
        "Speed is distance over time: 180 km / 2.5 h = 72 km/h.",
    ),
    (
        "Wie spät ist es, wenn der große Zeiger auf der Sechs steht?",
        "Dann ist es halb, zum Beispiel halb drei, also 2:30 Uhr.",
    ),
)


class Agreement(NamedTuple):
    """Mean and largest absolute difference of merged model and adapter, and how far the adapter moves its base on average.

    In nats a token for a language model, in units of reward for a classifier.
    """

    n_texts: int
    n_values: int
    mean_difference: float
    max_difference: float
    mean_effect: float


def encode_texts(tokenizer: Any) -> list[list[int]]:
    """Return the ids of a few conversations, in the model's own template where there is one."""
    found = []
    for question, answer in CONVERSATIONS:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if getattr(tokenizer, "chat_template", None):
            ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
        else:
            ids = tokenizer(f"{question}\n{answer}")["input_ids"]
        found.append(list(ids)[:MAX_TOKENS])
    return found


@torch.no_grad()
def measure(model: Any, texts: Sequence[Sequence[int]]) -> Tensor:
    """Return the log-probability of each text's tokens but the first, or each text's reward; float64, one after the other."""
    values = []
    device = next(model.parameters()).device
    for ids in texts:
        row = torch.tensor([list(ids)], device=device)
        logits = model(input_ids=row, attention_mask=torch.ones_like(row)).logits.double().cpu()
        if logits.ndim == 2:
            values.append(logits[0])
        else:
            values.append(logits[0, :-1].log_softmax(-1).gather(-1, row.cpu()[0, 1:, None])[:, 0])
    return torch.cat(values)


def compare(base: Tensor, adapted: Tensor, merged: Tensor, n_texts: int) -> Agreement:
    """Compare what `measure` said of three models; a number that is not finite on one side alone is an endless difference."""
    difference = (merged - adapted).abs()
    difference = torch.where(
        torch.isfinite(difference) | (merged.isnan() & adapted.isnan()), difference, torch.inf
    ).nan_to_num(0.0, torch.inf)
    return Agreement(
        n_texts,
        len(merged),
        float(difference.mean()),
        float(difference.max()),
        float((adapted - base).abs().mean()),
    )


def contents(model: Any) -> dict[str, tuple[tuple[int, ...], float, float]]:
    """Return shape, sum and sum of squares of every weight: the same before a model is saved and after it is loaded."""
    return {
        name: (
            tuple(value.shape),
            float(value.double().sum()),
            float(value.double().square().sum()),
        )
        for name, value in model.state_dict().items()
    }


def lost(saved: Mapping[str, Any], loaded: Mapping[str, Any]) -> list[str]:
    """Return the names of weights that did not come back from disk as they were."""
    return sorted(
        name for name in saved.keys() | loaded.keys() if saved.get(name) != loaded.get(name)
    )
