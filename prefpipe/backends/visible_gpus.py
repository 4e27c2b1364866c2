"""Which GPUs a command may use, and which worker gets which.

CUDA is not used: a process that has opened it holds memory on a GPU and must not be forked. The
driver's library knows the number of GPUs, and ``CUDA_VISIBLE_DEVICES`` which of them are ours.
"""

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from prefpipe.errors import UsageError

VARIABLE = "CUDA_VISIBLE_DEVICES"
UUID_PREFIXES = ("GPU-", "MIG-")
DRIVER_LIBRARY = "libnvidia-ml.so.1"
DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")
"""Holds a folder for each GPU; containers without the library may have only this."""


class VisibleGpus(NamedTuple):
    """GPUs as named in ``CUDA_VISIBLE_DEVICES``, and their source for messages.

    ``source``: ``CUDA_VISIBLE_DEVICES=0,1``, or that the driver lists them.
    """

    names: list[str]
    source: str


def n_installed_gpus() -> int:
    """Return how many NVIDIA GPUs the driver has; 0 without a driver."""
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return len(list(DRIVER_FOLDER.glob("*")))

    # Every function returns 0 on success.
    if driver.nvmlInit_v2() != 0:
        return 0
    try:
        count = ctypes.c_uint(0)
        has_failed = driver.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0
        return 0 if has_failed else count.value
    finally:
        driver.nvmlShutdown()


def visible_gpus(environment: Mapping[str, str], n_installed: int) -> VisibleGpus:
    """Return the GPUs that CUDA would find.

    CUDA ends the list at the first entry that names no GPU: all before it count, and ``-1`` or an
    empty text hides every GPU.

    Args:
        environment: this process's environment.
        n_installed: GPUs of the machine. With 0 the variable is trusted: its author may see more
            than this process.

    Raises:
        UsageError: a repeated entry, which CUDA reads as an empty list.
    """
    text = environment.get(VARIABLE)
    if text is None:
        names = [str(number) for number in range(n_installed)]
        return VisibleGpus(names, f"{VARIABLE} is not set, and the driver lists {n_installed}")

    source = f"{VARIABLE}={text}"
    names = []
    for entry in text.split(","):
        name = entry.strip()
        if not _names_gpu(name, n_installed):
            # An empty text, -1 or a batch system's word for none is valid if it is the only entry.
            if names:
                source += f", where {name!r} names no GPU and ends the list"
            break
        if name in names:
            raise UsageError(
                f"{VARIABLE}={text} names {name} twice, so CUDA sees no GPU",
                hint="name each GPU in {VARIABLE} once",
            )
        names.append(name)
    return VisibleGpus(names, source)


def deal_gpus(
    environment: Mapping[str, str],
    n_workers: int | None,
    gpus_per_worker: int | None,
    *,
    uses_gpus: bool = True,
    n_installed: int | None = None,
) -> list[str | None]:
    """Return each worker's ``CUDA_VISIBLE_DEVICES``; None if it stays unchanged.

    Each worker gets consecutive GPUs, in order.

    Args:
        environment: this process's environment.
        n_workers: None for as many as the GPUs allow, ``--workers auto``.
        gpus_per_worker: None for one each, if there are GPUs.
        uses_gpus: whether the workers' engine runs on GPUs; a client of a server does not.
        n_installed: GPUs of the machine; None to query them.

    Raises:
        UsageError: fewer GPUs than requested, or ``auto`` without GPUs.
    """
    if n_workers is not None and n_workers < 1:
        raise UsageError(f"--workers must be 1 or more, or auto, not {n_workers}")
    if gpus_per_worker is not None and gpus_per_worker < 1:
        raise UsageError(f"--gpus-per-worker must be 1 or more, not {gpus_per_worker}")
    if not uses_gpus:
        return _workers_without_gpus(n_workers, gpus_per_worker)

    gpus = visible_gpus(environment, n_installed_gpus() if n_installed is None else n_installed)
    n_visible, n_each = len(gpus.names), gpus_per_worker or 1
    if n_workers is None:
        if n_visible < n_each:
            gpus_each = "GPU" if n_each == 1 else _gpus(n_each)
            raise UsageError(
                f"--workers auto starts one worker for each {gpus_each}, but "
                f"{_are_visible(n_visible)} ({gpus.source})",
                hint="pass a number, --workers N; without GPUs the workers share the processors",
            )
        n_workers = n_visible // n_each
    elif n_visible == 0 and gpus_per_worker is None:
        return [None] * n_workers

    n_needed = n_workers * n_each
    if n_needed > n_visible:
        each = f" with {_gpus(n_each)} each" if n_each > 1 else ""
        raise UsageError(
            f"--workers {n_workers}{each} needs {_gpus(n_needed)}, but {_are_visible(n_visible)} "
            f"({gpus.source})",
            hint=_hint_on_too_few(n_visible, n_each),
        )
    return [",".join(gpus.names[start : start + n_each]) for start in range(0, n_needed, n_each)]


def _names_gpu(name: str, n_installed: int) -> bool:
    """Return whether an entry of the variable can be a GPU of this machine."""
    if name.startswith(UUID_PREFIXES):
        return True
    is_number = name.isascii() and name.isdecimal()
    return is_number and (n_installed == 0 or int(name) < n_installed)


def _workers_without_gpus(n_workers: int | None, gpus_per_worker: int | None) -> list[str | None]:
    if gpus_per_worker is not None:
        raise UsageError(
            "--gpus-per-worker has no effect: these workers run nothing on a GPU",
            hint="leave --gpus-per-worker out",
        )
    if n_workers is None:
        raise UsageError(
            "--workers auto starts one worker for each GPU, but these workers run nothing on a GPU",
            hint="pass a number, --workers N",
        )
    return [None] * n_workers


def _hint_on_too_few(n_visible: int, n_each: int) -> str:
    n_possible = n_visible // n_each
    name_more = f"name more GPUs in {VARIABLE}"
    if n_possible:
        return f"use --workers {n_possible}, or {name_more}"
    return f"use a smaller --gpus-per-worker, or {name_more}"


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _are_visible(count: int) -> str:
    if count == 0:
        return "none is visible"
    return "1 is visible" if count == 1 else f"{count} are visible"
