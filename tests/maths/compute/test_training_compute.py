"""FLOP of training: worked arithmetic, what PyTorch counts in a real step, and the sums a selection
leaves."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.tiny_models import tiny_config
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForCausalLM

from prefpipe.maths.compute.accelerators import ACCELERATORS
from prefpipe.maths.compute.training_compute import (
    ModelShape,
    Plan,
    Recipe,
    TokenSums,
    forward_work,
    gpu_hours,
    parse_size,
    planned_tokens,
    share_of_tokens_kept,
    tallied_tokens,
    training_work,
)
from prefpipe.training.forward import sequence_logps

LAYERS, HIDDEN, INNER, HEADS, KEY_VALUE_HEADS, HEAD, VOCABULARY = 3, 256, 512, 4, 2, 64, 4096
WIDE = tiny_config(
    hidden_size=HIDDEN,
    intermediate_size=INNER,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=KEY_VALUE_HEADS,
    vocab_size=VOCABULARY,
    attn_implementation="eager",
)
INTO_ATTENTION, OUT_OF_LAYER = HIDDEN * HIDDEN + 2 * HIDDEN * KEY_VALUE_HEADS * HEAD, HIDDEN * INNER
WIDE_SHAPE = ModelShape(
    n_layer_parameters=LAYERS
    * (INTO_ATTENTION + HIDDEN * HIDDEN + 2 * HIDDEN * INNER + OUT_OF_LAYER),
    n_output_parameters=HIDDEN * VOCABULARY,
    attention_width=LAYERS * HEADS * 2 * HEAD,
)


def test_forward_work_is_the_formula_by_hand() -> None:
    """One sequence of 3 + 5 tokens: 2 x 100 x 8, 2 x 10 x 5, and 4 x 64."""
    work = forward_work(ModelShape(100, 10, 4), TokenSums(1, 1, 3, 5, 64))
    assert work == (1600, 100, 256)
    assert work.total == 1956


@pytest.mark.parametrize(
    ("recipe", "layers", "output", "attention"),
    [
        (Recipe(), 3, 3, 3),
        (Recipe(epochs=2), 6, 6, 6),
        (Recipe(lora=True), 2, 2, 3),
        (Recipe(gradient_checkpointing=True), 4, 3, 4),
        (Recipe(lora=True, gradient_checkpointing=True), 3, 2, 4),
        (Recipe(reference=True), 4, 4, 4),
        (
            Recipe(epochs=3, reference=True),
            10,
            10,
            10,
        ),  # the reference is measured once, not every epoch
        (Recipe(epochs=0.5), 1.5, 1.5, 1.5),
    ],
)
def test_how_many_forward_passes_training_is_worth(
    recipe: Recipe, layers: float, output: float, attention: float
) -> None:
    assert training_work(ModelShape(100, 10, 4), TokenSums(1, 1, 3, 5, 64), recipe) == (
        1600 * layers,
        100 * output,
        256 * attention,
    )


def test_gpu_hours_of_an_8b_model_are_those_by_hand() -> None:
    """The rule of thumb 6 N D (Kaplan et al. 2020): 8e9 parameters, a million tokens, 4.8e16 FLOP;
    0.0337 h of an H100 at 40 %."""
    work = training_work(ModelShape(8e9), TokenSums(1, 1, 0, 1e6, 0), Recipe())
    assert work.total == 4.8e16
    assert gpu_hours(work.total, tflops=989.5, mfu=0.4) == pytest.approx(
        4.8e16 / (989.5e12 * 0.4) / 3600
    )
    assert gpu_hours(3.6e15, tflops=1.0, mfu=1.0) == 1.0


def measured(*, lora: bool = False, checkpointing: bool = False) -> tuple[int, TokenSums]:
    """What PyTorch counts in a step of prefpipe's own forward pass, and the tokens it was made
    of."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(WIDE)
    if lora:
        model = get_peft_model(model, LoraConfig(r=1, target_modules=["q_proj", "v_proj"]))
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    n, n_prompt, n_response = 3, 40, 24
    ids = torch.randint(4, VOCABULARY, (n, n_prompt + n_response))
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, n_prompt:] = True
    with FlopCounterMode(display=False) as counter:
        sequence_logps(model, ids, torch.ones_like(ids), mask).logps.sum().backward()
    return counter.get_total_flops(), TokenSums(
        1, n, n * n_prompt, n * n_response, n * (n_prompt + n_response) ** 2
    )


@pytest.mark.slow
def test_pytorch_counts_the_same_in_a_step_of_the_trainers_forward_pass() -> None:
    """PyTorch counts a causal mask's whole square, so the attention is doubled here; the rest is
    what prefpipe says."""
    counted, sums = measured()
    work = training_work(WIDE_SHAPE, sums, Recipe())
    assert counted == pytest.approx(work.layers + work.output + 2 * work.attention, rel=0.002)


def test_pytorch_counts_the_same_with_lora() -> None:
    """Less one thing: what goes into the first layer needs no gradient. Of 3 layers that is 2 %, of
    30 it is nothing."""
    counted, sums = measured(lora=True)
    work = training_work(WIDE_SHAPE, sums, Recipe(lora=True))
    first_layer = 2 * INTO_ATTENTION * sums.tokens
    assert counted == pytest.approx(
        work.layers + work.output + 2 * work.attention - first_layer, rel=0.01
    )
    assert first_layer < 0.04 * work.total


@pytest.mark.slow
def test_pytorch_counts_the_same_with_gradient_checkpointing() -> None:
    """Less one thing: the last product of each layer is not needed again, and PyTorch leaves it
    out."""
    counted, sums = measured(checkpointing=True)
    work = training_work(WIDE_SHAPE, sums, Recipe(gradient_checkpointing=True))
    last_products = 2 * LAYERS * OUT_OF_LAYER * sums.tokens
    assert counted == pytest.approx(
        work.layers + work.output + 2 * work.attention - last_products, rel=0.002
    )


def test_the_output_projection_sees_response_tokens_only() -> None:
    """Were it to see the prompts too, the count would be off by far more than the tolerance
    above."""
    _, sums = measured()
    work = training_work(WIDE_SHAPE, sums, Recipe())
    assert work.output == 6 * HIDDEN * VOCABULARY * sums.response_tokens
    assert 6 * HIDDEN * VOCABULARY * sums.prompt_tokens > 0.2 * work.total


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8B", 8e9),
        ("135M", 135e6),
        ("1.5b", 1.5e9),
        ("500 K", 5e5),
        ("1T", 1e12),
        ("8", None),
        ("B", None),
        ("llama-8B", None),
        ("8Bx", None),
        ("-8B", None),
        ("", None),
    ],
)
def test_parse_size_takes_a_number_with_a_unit(text: str, size: float | None) -> None:
    assert parse_size(text) == size


PLAN = Plan(
    n_prompts=10, n=8, k=3, positives=1, mean_prompt_tokens=100.0, mean_response_tokens=50.0
)


def test_planned_tokens_are_those_by_hand() -> None:
    pool, kept = planned_tokens(PLAN)
    assert pool == TokenSums(10, 80, 8000, 4000, 80 * 150**2)
    assert kept == TokenSums(10, 40, 4000, 2000, 40 * 150**2)


def test_a_plan_keeps_no_more_than_there_is() -> None:
    pool, kept = planned_tokens(PLAN._replace(k=30))
    assert pool == kept


def test_a_shared_prompt_is_computed_once_a_group() -> None:
    """Of 8 x 150^2 the prompt's own 100^2 is left once: the causal triangle of the prompt, and each
    response's strip below it."""
    pool, kept = planned_tokens(PLAN, shared_prompt=True)
    assert pool == TokenSums(10, 80, 1000, 4000, 10 * (8 * 150**2 - 7 * 100**2))
    assert kept == TokenSums(10, 40, 1000, 2000, 10 * (4 * 150**2 - 3 * 100**2))


def tally(**changes: float) -> dict[str, float]:
    """Two groups: prompts of 10 and 20 tokens, four and two usable candidates of 5 tokens, two kept
    of each."""
    return {
        "n_prompts": 3, "n_groups": 2, "n_candidates": 12, "n_usable": 6, "n_kept": 4,
        "usable_prompt_tokens": 80, "usable_response_tokens": 30,
        "usable_squared_tokens": 4 * 15**2 + 2 * 25**2,
        "kept_prompt_tokens": 60, "kept_response_tokens": 20,
        "kept_squared_tokens": 2 * 15**2 + 2 * 25**2,
        "group_prompt_tokens": 30, "usable_estimated": 0, "kept_estimated": 0, **changes,
    }  # fmt: skip


def test_a_tally_is_taken_as_it_is() -> None:
    found = tallied_tokens(tally())
    assert found.pool == TokenSums(2, 6, 80, 30, 2150)
    assert found.kept == TokenSums(2, 4, 60, 20, 1700)
    # prompts of 10 and 20 tokens once a group: 30 + 20 of 30 + 30
    assert share_of_tokens_kept(tally()) == pytest.approx(50 / 60)


def test_prompts_of_a_tally_that_are_shared_count_once_a_group() -> None:
    found = tallied_tokens(tally(), shared_prompt=True)
    assert (found.pool.prompt_tokens, found.kept.prompt_tokens) == (30, 30)
    # the squares of prompts are taken from their means: 6 x (80/6)^2 less 2 x 15^2, and 4 x 15^2
    # less 2 x 15^2
    assert found.pool.squared_tokens == pytest.approx(2150 - 80**2 / 6 + 30**2 / 2)
    assert found.kept.squared_tokens == pytest.approx(1700 - 60**2 / 4 + 30**2 / 2)


@pytest.mark.parametrize(
    "nothing",
    [
        {},
        {"n_prompts": 3, "n_groups": 0, "n_usable": 0},
        tally(group_prompt_tokens=0, usable_response_tokens=0),
    ],
)
def test_the_share_of_tokens_kept_of_nothing_is_none(nothing: dict[str, float]) -> None:
    assert share_of_tokens_kept(nothing) is None


def test_peaks_of_accelerators_are_without_sparsity() -> None:
    """Makers print twice as much, with sparsity; these are the figures without."""
    assert {name: gpu.tflops for name, gpu in ACCELERATORS.items()} == {
        "h100": 1979 / 2, "h200": 1979 / 2, "a100": 312, "l40s": 362, "l4": 242 / 2, "a10g": 70,
        "b200": 36000 / 8 / 2, "mi300x": 1307.4, "rtx4090": 165.2, "v100": 125,
    }  # fmt: skip
    assert all(gpu.source and gpu.name for gpu in ACCELERATORS.values())
