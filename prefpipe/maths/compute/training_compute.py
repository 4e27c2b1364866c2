"""The floating-point operations (FLOP) of a training run, and its time on a GPU.

A multiplication and an addition are two FLOP. Only matrix products are counted, as by Kaplan et al.
2020 (arXiv 2001.08361, section 2.1 and table 1): norms, activations, softmax and the optimizer's
step are small beside them. For a sequence of T = P + Y tokens, prompt and response, the forward
pass of a causal model takes

    layers       2 N T    N parameters that every token is multiplied with
    output       2 V Y    V parameters of the output projection, which sees the positions that
                          predict a response token
    attention    sum over layers of  h (d_qk + d_v) T^2

The last is the two products of h heads, queries with keys and weights with values, 2 h d_qk T^2 and
2 h d_v T^2, halved because a causal mask needs half of each: a token's share is Kaplan's
2 n_layer n_ctx d_attn. PaLM (arXiv 2204.02311, appendix B) counts them whole. The backward pass
takes twice the forward one: a product for the gradient of what went in and one for the weights'.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

FLOP_A_PARAMETER = 2.0
SECONDS_AN_HOUR = 3600.0
TALLIED = (
    "n_prompts",
    "n_groups",
    "n_usable",
    "n_kept",
    "group_prompt_tokens",
    "usable_prompt_tokens",
    "usable_response_tokens",
    "usable_squared_tokens",
    "usable_estimated",
    "kept_prompt_tokens",
    "kept_response_tokens",
    "kept_squared_tokens",
    "kept_estimated",
)
"""The sums in ``select``'s parts that are needed here."""
SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMBT])", re.IGNORECASE)
UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


class ModelShape(NamedTuple):
    """The sizes that determine a model's FLOP.

    ``n_layer_parameters``: parameters that every token is multiplied with, of experts those that
    one token meets. ``n_output_parameters``: those of the output projection, 0 if they are among
    the others. ``attention_width``: the sum over attention layers of heads x (width of a query +
    width of a value), 0 if unknown.
    """

    n_layer_parameters: float
    n_output_parameters: float = 0.0
    attention_width: float = 0.0


class TokenSums(NamedTuple):
    """The sequences of one pass over the data, summed: a response each, its prompt in front.

    ``prompt_tokens`` counts a prompt each time it is computed; ``squared_tokens`` is the sum of
    (prompt + response)^2.
    """

    n_prompts: float
    n_responses: float
    prompt_tokens: float
    response_tokens: float
    squared_tokens: float

    @property
    def tokens(self) -> float:
        """Prompt and response tokens that one pass computes."""
        return self.prompt_tokens + self.response_tokens


class Recipe(NamedTuple):
    """How training runs: passes over the data, and extra work beside one forward and backward.

    ``reference``: a frozen policy, whose log-probabilities are computed once.
    """

    epochs: float = 1.0
    gradient_checkpointing: bool = False
    lora: bool = False
    reference: bool = False


class TrainingWork(NamedTuple):
    """FLOP by where they are spent."""

    layers: float
    output: float
    attention: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.layers + self.output + self.attention


class PoolAndKept(NamedTuple):
    """The same prompts with every usable candidate, and with only the kept group."""

    pool: TokenSums
    kept: TokenSums


class Plan(NamedTuple):
    """A planned selection.

    Every prompt has ``n`` candidates of mean length, all of them usable.
    """

    n_prompts: int
    n: int
    k: int
    positives: int
    mean_prompt_tokens: float
    mean_response_tokens: float


def forward_work(shape: ModelShape, sums: TokenSums) -> TrainingWork:
    """Return the FLOP of one forward pass over the sequences.

    2 N T, 2 V Y and the attention width times T^2: see the module's text.
    """
    return TrainingWork(
        layers=FLOP_A_PARAMETER * shape.n_layer_parameters * sums.tokens,
        output=FLOP_A_PARAMETER * shape.n_output_parameters * sums.response_tokens,
        attention=shape.attention_width * sums.squared_tokens,
    )


def training_work(shape: ModelShape, sums: TokenSums, recipe: Recipe) -> TrainingWork:
    """Return the FLOP of a training run.

    Forward passes that each part is worth, in one step:

    - full training: 3, the forward pass and twice that for the two gradients;
    - LoRA: 2, as frozen weights need no gradient; attention keeps 3, as both of its factors are
      activations. The adapters' own products are left out;
    - gradient checkpointing: one more for layers and attention, whose activations are computed
      again. The output projection is not.

    A reference policy adds one forward pass in all, not one an epoch: its log-probabilities are
    computed once and kept.
    """
    again = 1.0 if recipe.gradient_checkpointing else 0.0
    weights = 2.0 if recipe.lora else 3.0
    reference = 1.0 if recipe.reference else 0.0

    forward = forward_work(shape, sums)
    return TrainingWork(
        layers=forward.layers * (recipe.epochs * (weights + again) + reference),
        output=forward.output * (recipe.epochs * weights + reference),
        attention=forward.attention * (recipe.epochs * (3.0 + again) + reference),
    )


def gpu_hours(flop: float, *, tflops: float, mfu: float) -> float:
    """Return how long one GPU takes: ``flop / (peak * mfu)``, in hours.

    Args:
        flop: floating-point operations.
        tflops: the GPU's peak in 10^12 FLOP a second.
        mfu: share of the peak that is reached, in (0, 1]; PaLM's model FLOPs utilisation.
    """
    return flop / (tflops * 1e12 * mfu) / SECONDS_AN_HOUR


def parse_size(text: str) -> float | None:
    """Return the parameters that ``8B``, ``1.5b`` or ``135M`` stands for; None for other texts."""
    match = SIZE.fullmatch(text.strip())
    return float(match["number"]) * UNITS[match["unit"].upper()] if match else None


def planned_tokens(plan: Plan, *, shared_prompt: bool = False) -> PoolAndKept:
    """Return the tokens that a selection would read and keep.

    Sequences have their mean length, so T^2 comes out low.

    Args:
        plan: numbers of prompts and candidates, mean lengths.
        shared_prompt: count a prompt once a group instead of once a response.
    """
    n_kept = min(plan.n, plan.positives + plan.k)
    length = plan.mean_prompt_tokens + plan.mean_response_tokens
    both = []
    for n_each in (plan.n, n_kept):
        n = plan.n_prompts * n_each
        sums = TokenSums(
            n_prompts=plan.n_prompts,
            n_responses=n,
            prompt_tokens=n * plan.mean_prompt_tokens,
            response_tokens=n * plan.mean_response_tokens,
            squared_tokens=n * length**2,
        )
        if shared_prompt:
            sums = _with_prompts_once(sums, plan.n_prompts * plan.mean_prompt_tokens)
        both.append(sums)
    return PoolAndKept(*both)


def tallied_tokens(tally: Mapping[str, float], *, shared_prompt: bool = False) -> PoolAndKept:
    """Return the tokens of a selection from ``select``'s tallies.

    Args:
        tally: the sums of ``groups``: ``n_groups``, ``n_usable``, ``usable_prompt_tokens`` and so
            on.
        shared_prompt: count a prompt once a group instead of once a response.
    """
    both = []
    for name in ("usable", "kept"):
        sums = TokenSums(
            n_prompts=tally["n_groups"],
            n_responses=tally[f"n_{name}"],
            prompt_tokens=tally[f"{name}_prompt_tokens"],
            response_tokens=tally[f"{name}_response_tokens"],
            squared_tokens=tally[f"{name}_squared_tokens"],
        )
        if shared_prompt:
            sums = _with_prompts_once(sums, tally["group_prompt_tokens"])
        both.append(sums)
    return PoolAndKept(*both)


def share_of_tokens_kept(tally: Mapping[str, float]) -> float | None:
    """Return the tokens of the kept groups over those of every usable candidate.

    Each prompt is counted once a group. Attention aside, this is the remaining share of a training
    step's work, as `prefpipe train` computes prompts unless ``--no-shared-prompt`` is given. None
    if there are no tokens.
    """
    if not tally.get("n_usable"):
        return None
    pool, kept = tallied_tokens(tally, shared_prompt=True)
    return kept.tokens / pool.tokens if pool.tokens else None


def _with_prompts_once(sums: TokenSums, prompt_tokens: float) -> TokenSums:
    """Return the sums with each prompt computed once.

    Responses still attend to it, but it attends to itself only once. Of T^2 = P^2 + (T^2 - P^2) the
    first part is counted once a prompt. The sum of P^2 is unknown and is computed from the mean
    prompt length: exact if prompts are equally long.
    """
    if not sums.n_responses or not sums.n_prompts:
        return sums
    squared_each = sums.prompt_tokens**2 / sums.n_responses
    squared_once = prompt_tokens**2 / sums.n_prompts
    return sums._replace(
        prompt_tokens=prompt_tokens,
        squared_tokens=sums.squared_tokens - squared_each + squared_once,
    )
