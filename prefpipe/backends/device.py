"""Where a model runs: ``auto`` is the GPU if torch sees one, else the CPU."""

import torch

from prefpipe.errors import UsageError


def find_device(name: str) -> torch.device:
    """Return the device called ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: torch does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            f"unknown device {name!r}", hint="use auto, cpu, cuda or cuda:N"
        ) from error

    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs",
            hint="use --device cpu, or install a torch built for your GPU",
        )
    return device
