"""The device of a model, and turns on it.

``auto`` is the GPU if torch sees one, else the CPU.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from prefpipe.errors import UsageError


def find_device(name: str) -> torch.device:
    """Return the device called ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: torch does not see it.
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
            f"device {name!r} is not available: torch sees {torch.cuda.device_count()} GPUs",
            hint="pass --device cpu, or install a torch that supports your GPU",
        )
    return device


class DeviceTurns:
    """Admits calls from several threads to a device, one at a time, in order of arrival.

    So the oldest part finishes first, and a device holds the activations of only one batch. A
    thread reads, tokenises and pads before its turn, and writes after it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for all earlier calls, and keep the device until the block ends."""
        mine = threading.Event()
        with self._lock:
            self._waiting.append(mine)
            self._waiting[0].set()
        try:
            mine.wait()
            yield
        finally:
            with self._lock:
                self._waiting.remove(mine)
                if self._waiting:
                    self._waiting[0].set()


def turns_on(device: torch.device) -> DeviceTurns:
    """Return the turns of a device, shared by all models on it."""
    return _turns_of(device.type, device.index or 0)


@cache
def _turns_of(_kind: str, _index: int) -> DeviceTurns:
    return DeviceTurns()
