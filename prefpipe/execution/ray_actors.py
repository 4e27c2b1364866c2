"""What runs on the nodes of a Ray cluster: actors that hold a worker process each.

The worker is the same process as on the driver's own node: its engine has its own main thread,
signals and session, and no Ray state. The actor passes messages between driver and worker. Actor
and worker end together.
"""

import os
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import ray

from prefpipe.execution.channel import Message, Order
from prefpipe.execution.processes import THREADS_VARIABLES, LocalWorker
from prefpipe.execution.ray_nodes import NodeFacts, Probe, facts_of_this_node

MOST_MESSAGES = 256
DESERTED_S = 90.0
"""An actor ends itself after so long without a listener: its driver cannot be reached."""


class Heard(NamedTuple):
    """A worker's messages since the last call, and how it ended; None while it lives."""

    messages: list[Message]
    how_it_ended: str | None


class WorkerActor:
    """Holds one worker. Its methods are called from several threads."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[tuple[Any, Message | None]] = queue.SimpleQueue()
        self._worker: LocalWorker | None = None
        self._heard_at_s = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def look_around(self, probe: Probe) -> tuple[str, int, NodeFacts]:
        """Return the node's id, the actor's process id, and the node's facts."""
        node_id: str = ray.get_runtime_context().get_node_id()
        return node_id, os.getpid(), facts_of_this_node(probe)

    def start(self, order: Order, variables: Mapping[str, str], n_threads: int) -> None:
        """Start the worker.

        Args:
            order: its first message.
            variables: from the driver's environment; everything else is the node's.
            n_threads: its share of the node's processors.
        """
        # Ray limits threads to the processors that an actor reserves: one.
        threads = dict.fromkeys(THREADS_VARIABLES, str(n_threads))
        self._worker = LocalWorker(order, {**os.environ, **threads, **variables}, self._inbox)

    def send(self, messages: list[Message]) -> None:
        """Pass messages to the worker."""
        assert self._worker is not None
        for message in messages:
            self._worker.send(message)

    def listen(self, limit_s: float) -> Heard:
        """Wait for some time for the worker's messages and return them."""
        messages: list[Message] = []
        self._heard_at_s = time.monotonic()
        try:
            _, message = self._inbox.get(timeout=limit_s)
        except queue.Empty:
            return Heard([], None)
        while message is not None:
            messages.append(message)
            if self._inbox.empty() or len(messages) >= MOST_MESSAGES:
                return Heard(messages, None)
            _, message = self._inbox.get()
        return Heard(messages, self.end())

    def end(self) -> str:
        """End the worker and its children; return in words how it ended."""
        assert self._worker is not None
        return self._worker.end()

    def _watch(self) -> None:
        """End the process, and the worker with it, once nobody listens any more."""
        while time.monotonic() - self._heard_at_s < DESERTED_S:
            time.sleep(1)
        os._exit(1)
