"""An estimate of the bytes that a training step keeps in a device's memory.

It counts what must be in memory at once, not what an allocator reserves:

    weights 4 N (float32), for LoRA under bfloat16 2 N; bfloat16 without LoRA adds 2 N, autocast's
    copies gradients 4 M M parameters are trained: all N, or the adapters' r (in + out) a layer
    optimizer 8 M AdamW's two moments in float32 activations b T (8 h + 4 i) a layer for T tokens at
    once, b = 4 bytes, 2 under bfloat16; with
                 gradient checkpointing b T h a layer, and one layer in full
    output       8 min(T V, 2^27): logits in float32 and their gradient; beyond 2^27 they are made
                 chunk by chunk and never whole

Activations are those of a gated decoder layer (h hidden, i inner width): the inputs of its matrix
products and element-wise steps; attention keeps no T x T scores. Fragmentation, buffers of kernels
and copies for several devices come on top: use it as an order of magnitude and leave a third free.
"""

from typing import NamedTuple

KEPT_LOGITS = 2**27
"""Logits that training keeps rather than computes again: 512 MiB in float32."""


class MemoryShape(NamedTuple):
    """The sizes that determine memory: parameters N, layers, and widths of a layer.

    ``rank_width``: the sum over adapted layers of in + out.
    """

    n_parameters: int
    rank_width: int
    n_layers: int
    hidden: int
    inner: int
    n_vocabulary: int


class StepRecipe(NamedTuple):
    """A step's settings: ``n_tokens`` at once on a device, ``lora_r`` 0 for all weights."""

    n_tokens: int
    lora_r: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False


class Footprint(NamedTuple):
    """Bytes by what they hold."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    output: float

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self)


def step_footprint(shape: MemoryShape, recipe: StepRecipe) -> Footprint:
    """Return the bytes of a step by the formulas above."""
    # Under LoRA the frozen weights are kept in bfloat16 only, the adapters in float32.
    if recipe.lora_r:
        trained = recipe.lora_r * shape.rank_width
        weights = (2.0 if recipe.bf16 else 4.0) * shape.n_parameters + 4.0 * trained
    else:
        trained = shape.n_parameters
        weights = (6.0 if recipe.bf16 else 4.0) * shape.n_parameters

    number = 2.0 if recipe.bf16 else 4.0
    whole_layer = number * recipe.n_tokens * (8 * shape.hidden + 4 * shape.inner)
    if recipe.gradient_checkpointing:
        activations = shape.n_layers * number * recipe.n_tokens * shape.hidden + whole_layer
    else:
        activations = shape.n_layers * whole_layer

    return Footprint(
        weights=weights,
        gradients=4.0 * trained,
        optimizer=8.0 * trained,
        activations=activations,
        output=8.0 * min(recipe.n_tokens * shape.n_vocabulary, KEPT_LOGITS),
    )
