"""The process that speaks to Ray, without a cluster: what it says when Ray fails."""

import queue
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from prefpipe.execution import ray_client
from prefpipe.execution.channel import Order
from prefpipe.execution.ray_client import ActorWorker, Client


class Actor:
    """An actor of which every method can be called, and an answer is never got."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_args: Any, **_options: Any) -> "Actor":
        return self


class LostRay:
    """Ray, when the line to it is cut."""

    def remote(self, _class: type) -> Actor:
        return Actor()

    def get(self, _answer: object, timeout: float | None = None) -> None:
        raise ConnectionError("GRPC connection failed: <_MultiThreadedRendezvous of RPC>")

    def kill(self, _actor: Actor) -> None:
        raise ConnectionError("GRPC connection failed")


def test_a_worker_is_gone_whatever_ray_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """From outside of a cluster Ray raises ConnectionError, which is no RayError."""
    monkeypatch.setattr(ray_client, "ray", LostRay())
    said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    connection: Any = SimpleNamespace(resources={}, refused_nodes=set(), probe=None)
    channel: Any = SimpleNamespace(send=said.put)
    order = Order("generate", {}, ".", number=1, shard_index=0, num_shards=1)
    ActorWorker(7, order, Client(channel, connection))
    message = said.get(timeout=60)
    assert (message["type"], message["worker"]) == ("gone", 7)
    assert message["how"].startswith("was lost: GRPC connection failed")
