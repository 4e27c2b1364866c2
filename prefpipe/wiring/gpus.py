"""The GPU that ``prefpipe check`` and ``savings`` compute for, by its name or by its peak."""

from typing import TYPE_CHECKING

from prefpipe.configs.check import CheckConfig
from prefpipe.configs.savings import SavingsConfig
from prefpipe.maths.compute.accelerators import ACCELERATORS

if TYPE_CHECKING:
    from prefpipe.stages.savings import Machine


def gpu_to_check(config: CheckConfig) -> "Machine | None":
    """Return the GPU that step times are given for, None if none is named."""
    from prefpipe.stages.savings import Machine

    if config.tflops is not None:
        return Machine("GPU", config.tflops, None, config.mfu)
    if config.gpu is None:
        return None
    gpu = ACCELERATORS[config.gpu.lower()]
    return Machine(gpu.name, gpu.tflops, gpu.dtype, config.mfu)


def gpu_to_pay_for(config: SavingsConfig) -> "Machine":
    """Return the GPU whose hours are counted, with its price."""
    from prefpipe.stages.savings import Machine

    if config.tflops is not None:
        return Machine("another GPU", config.tflops, None, config.mfu, config.price_per_hour)
    assert config.gpu is not None
    gpu = ACCELERATORS[config.gpu.lower()]
    return Machine(gpu.name, gpu.tflops, gpu.dtype, config.mfu, config.price_per_hour)
