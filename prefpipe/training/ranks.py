"""The processes of one run: their number, and decisions that they must share.

A launcher (``accelerate launch``, ``torchrun``) starts one process a device, all with the same
command. Their own observations may differ (a signal to only one of them, a folder seen a moment
later), and a process that branches differently leaves the others waiting forever. So such decisions
are made here.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce
from transformers.integrations import deepspeed

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""Longest wait for another process: shares of the reference take different times, and NCCL's ten
minutes could end the run.
"""


def processes(*, cpu: bool = not torch.cuda.is_available()) -> PartialState:
    """Return the processes of this run, connected on the first call.

    They talk over NCCL on GPUs, over gloo without.
    """
    return PartialState(cpu=cpu, timeout=TIMEOUT)


def cuts_weights() -> bool:
    """Return whether the launcher shards weights over the devices: FSDP, ZeRO-3.

    Such a model stays in the machine's memory until the wrapper hands each device its piece: it
    need not fit on one device.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        return True
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true" and stage == "3"


@contextmanager
def loading_whole(*, fsdp_sends: bool = False) -> Iterator[None]:
    """Load a model with all its weights, to use it before it is sharded.

    With ``fsdp_cpu_ram_efficient_loading`` only the first process of a machine reads a model's
    file, and the others have uninitialised memory; with ZeRO-3 each would get a piece of every
    weight.

    Args:
        fsdp_sends: FSDP sends the weights to the others, which do not use them before.
    """
    name = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    before = None if fsdp_sends else os.environ.pop(name, None)
    zero = deepspeed._hf_deepspeed_config_weak_ref  # noqa: SLF001 - no function reads it
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = zero  # noqa: SLF001
        if before is not None:
            os.environ[name] = before


def from_first(value: T) -> T:
    """Return the first process's value, on all processes."""
    if processes().num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values, from_process=0)
    return values[0]


def any_process(flag: bool) -> bool:
    """Return whether a flag is set on at least one process, on all processes."""
    state = processes()
    if state.num_processes == 1:
        return flag
    n_set = reduce(torch.tensor(float(flag), device=state.device), reduction="sum")
    return bool(n_set > 0)


def leave() -> None:
    """Wait for the others at the end of a run, and close the connections."""
    if processes().num_processes > 1:
        processes().wait_for_everyone()
        torch.distributed.destroy_process_group()
