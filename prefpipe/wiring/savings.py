"""The inputs of ``prefpipe savings``: groups or a plan, and a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefpipe.configs.savings import SavingsConfig
from prefpipe.wiring.gpus import gpu_to_pay_for

if TYPE_CHECKING:
    from prefpipe.stages.savings import Basis, TrainedModel


def savings_of(config: SavingsConfig) -> dict[str, Any]:
    """Return the cost of training on the kept groups, compared with every candidate."""
    from prefpipe.maths.compute.training_compute import Recipe
    from prefpipe.stages.savings import savings

    basis = _basis(config)  # before the model, whose libraries take seconds to load
    recipe = Recipe(config.epochs, config.gradient_checkpointing, config.lora, config.reference)
    return savings(basis, _trained_model(config.model), recipe, gpu_to_pay_for(config))


def _basis(config: SavingsConfig) -> "Basis":
    from prefpipe.artifacts.store import open_input
    from prefpipe.maths.compute.training_compute import Plan
    from prefpipe.stages.savings import basis_of_groups, basis_of_plan

    if config.groups is not None:
        groups = open_input(config.groups, schema="groups", name="GROUPS")
        return basis_of_groups(groups, shared_prompt=config.shared_prompt)

    # `SavingsConfig.problems` has seen to it that a plan is whole
    assert config.prompts is not None
    assert config.n is not None
    assert config.mean_prompt_tokens is not None
    assert config.mean_response_tokens is not None
    plan = Plan(
        config.prompts,
        config.n,
        config.k_or_default,
        config.positives_or_default,
        config.mean_prompt_tokens,
        config.mean_response_tokens,
    )
    return basis_of_plan(plan, shared_prompt=config.shared_prompt)


def _trained_model(reference: str) -> "TrainedModel":
    """Return the model of a size, ``8B``, or of a folder or name."""
    from prefpipe.maths.compute.training_compute import ModelShape, parse_size
    from prefpipe.stages.savings import TrainedModel

    # a folder may be called 8B
    size = None if Path(reference).is_dir() else parse_size(reference)
    if size is not None:
        return TrainedModel(reference, ModelShape(size), round(size), round(size))

    from prefpipe.models.shape import named_shape

    named = named_shape(reference)
    return TrainedModel(
        reference, named.shape, named.n_parameters, named.n_active_parameters, named.notes
    )
