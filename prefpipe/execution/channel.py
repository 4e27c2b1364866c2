"""Messages between a driver and a worker: small JSON objects, never rows.

==========  =========================================================  =========================
from        message                                                    fields
==========  =========================================================  =========================
driver      ``order``: the first one, which stage to run               see `Order`
driver      ``part``: make this one                                    ``index``
driver      ``over``: no part is left, end
driver      ``stop``: finish open parts, and end
worker      ``ready``: the stage is open, parts can come
worker      ``pull``: one more part, please
worker      ``made``: a part is on disk                                ``index, tally, elapsed_s``
worker      ``failed``: a part could not be made                       ``index`` and `Failure`
worker      ``returned``: a part is given back, which is not at fault  ``index``
worker      ``log``: a line for the log                                ``line``
worker      ``error``: the command failed                              `Failure`
worker      ``end``: all is closed, the worker ends
==========  =========================================================  =========================
"""

import json
import socket
import threading
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from prefpipe.artifacts.storage.location import Url
from prefpipe.configs.stage import StageConfig
from prefpipe.errors import EngineDeadError, EngineNotOpenedError, PrefpipeError

Message = Mapping[str, Any]
"""``{"type": ..., ...}``, JSON values only."""


class Channel(Protocol):
    """One end of the line between a driver and a worker."""

    def send(self, message: Message) -> None:
        """Send a message. It is silently dropped if the other end is gone."""
        ...

    def receive(self) -> Message | None:
        """Wait for the next message and return it; None once the other end is gone."""
        ...


class SocketChannel:
    """A line of JSON a message, over a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._sending = threading.Lock()

    def send(self, message: Message) -> None:
        """Send a message, from any thread."""
        data = json.dumps(message).encode() + b"\n"
        with self._sending:
            try:
                self._connection.sendall(data)
            except OSError:
                # The other end is gone; the receiving thread notices that.
                return

    def receive(self) -> Message | None:
        """Return the next message; None once the other end is gone."""
        try:
            line = self._lines.readline()
        except (OSError, ValueError):
            return None
        # A line without a newline was cut off when its writer died.
        if not line.endswith(b"\n"):
            return None
        message: Message = json.loads(line)
        return message

    def close(self) -> None:
        """Close this end, so that the other end notices."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
        finally:
            self._connection.close()


class Order(NamedTuple):
    """The stage that a worker runs.

    ``values`` is the configuration as JSON values. Its paths are relative to ``folder``, the
    working directory. ``number`` counts workers from 1. The shard is the driver's: its workers make
    only parts of that shard.
    """

    stage: str
    values: Mapping[str, Any]
    folder: str
    number: int
    shard_index: int
    num_shards: int

    def message(self) -> Message:
        """Return the order as a message."""
        return {"type": "order", **self._asdict()}

    @classmethod
    def of(cls, message: Message) -> "Order":
        """Return the order that a message holds."""
        return cls(**{name: message[name] for name in cls._fields})


class Failure(NamedTuple):
    """An error on its way to the driver.

    ``is_engine_dead``: this worker is useless now, but another worker may succeed.
    """

    message: str
    hint: str | None
    exit_code: int
    is_engine_dead: bool

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Return the failure that describes an error."""
        if isinstance(error, EngineNotOpenedError):
            return cls.of(error.why)._replace(is_engine_dead=True)
        if isinstance(error, PrefpipeError):
            is_engine_dead = isinstance(error, EngineDeadError)
            return cls(error.message, error.hint, error.exit_code, is_engine_dead)
        return cls(f"{type(error).__name__}: {error}", None, 1, is_engine_dead=False)

    @classmethod
    def in_message(cls, message: Message) -> "Failure":
        """Return the failure that a message holds."""
        return cls(*(message[f"failure_{name}"] for name in cls._fields))

    def as_fields(self) -> dict[str, Any]:
        """Return the fields of a message that carry it."""
        return {f"failure_{name}": value for name, value in self._asdict().items()}


def json_values(config: StageConfig) -> dict[str, Any]:
    """Return a configuration's fields as JSON values; ``from_values`` reads them back."""
    return {item.name: _json_value(getattr(config, item.name)) for item in fields(config)}


def _json_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json_value(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path | Url) else value
