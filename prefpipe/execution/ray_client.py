"""The process in which a driver talks to Ray: ``python -m prefpipe.execution.ray_client``.

It is a separate process because Ray takes over the one it runs in: it prints raylets' reports on
stdout, replaces the SIGTERM handler, and ends the process a minute after the cluster's head is
gone. Nobody reads this process's stdout, and the driver notices when it ends.

=======  ===========  ============================================================================
from     message      fields
=======  ===========  ============================================================================
driver   connect      ``address``, and ``where`` in words; ``n_workers``; ``n_gpus`` that each
                      reserves, None for one where the cluster has any; ``variables`` for their
                      environment; ``probe`` and ``expected``; ``shows_messages`` of Ray
driver   start        ``worker``, a number of its own; ``order``
driver   send         ``worker``; ``message``
driver   end          ``worker``
client   reached      there is a cluster; its nodes are looked at
client   connected    ``line`` for the log
client   refused      a `Failure`: nothing was started
client   placed       ``worker``; ``node``
client   heard        ``worker``; ``message``
client   gone         ``worker``; ``how`` it ended
client   log          ``line``
=======  ===========  ============================================================================
"""

import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    RayError,
    RaySystemError,
    RayTaskError,
    RuntimeEnvSetupError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from prefpipe.errors import UsageError
from prefpipe.execution.channel import Failure, Message, Order, SocketChannel
from prefpipe.execution.ray_actors import WorkerActor
from prefpipe.execution.ray_nodes import (
    Expected,
    NodeFacts,
    Probe,
    facts_of_this_node,
    problems_of,
    with_packages_of,
)

LISTEN_S = 20.0
"""How long one call listens to an actor."""
LOOK_S = 20.0
"""How long nodes may take to report their facts."""
PATIENCE_S = 10.0
"""After so long, the log says which workers have no place yet."""
ENDING_S = 10.0
OWNER_IS_LOST = "its owner has died"


class Connection:
    """A cluster as one command uses it.

    ``resources`` are what each worker reserves.
    """

    def __init__(self, message: Message) -> None:
        self.resources = {"num_cpus": 1, "num_gpus": message["n_gpus"]}
        self.n_workers: int = message["n_workers"]
        self.variables: Mapping[str, str] = message["variables"]
        self.probe = Probe(**message["probe"])
        self.expected = Expected(**message["expected"])
        self.refused_nodes: set[str] = set()

    def settle_gpus(self) -> None:
        """Reserve one GPU a worker if no number was given and the cluster has GPUs."""
        if self.resources["num_gpus"] is None:
            self.resources["num_gpus"] = 1 if ray.cluster_resources().get("GPU", 0) else 0

    def nodes(self) -> list[dict[str, Any]]:
        """Return the live nodes on which a worker would fit if nothing else ran there."""
        fitting = []
        for node in ray.nodes():
            has = node["Resources"]
            is_large = all(has.get(name, 0) >= self._wanted(name) for name in ("CPU", "GPU"))
            if node["Alive"] and is_large:
                fitting.append(node)
        return fitting

    def wanted(self) -> str:
        """Return in words what a worker reserves."""
        return " and ".join(
            f"{self._wanted(name):g} {name}" for name in ("GPU", "CPU") if self._wanted(name)
        )

    def n_threads(self, node_id: str) -> int:
        """Return a worker's share of its node's processors when all workers run."""
        total = int(ray.cluster_resources().get("CPU", 1))
        of_node = 1
        for node in ray.nodes():
            if node["NodeID"] == node_id:
                of_node = int(node["Resources"].get("CPU", 1))
        return max(1, min(of_node, total // self.n_workers))

    def address_of(self, node_id: str) -> str:
        """Return the address of a node."""
        for node in ray.nodes():
            if node["NodeID"] == node_id:
                return str(node["NodeManagerAddress"])
        return "gone"

    def free(self) -> str:
        """Return in words how much of the cluster is free."""
        total, free = ray.cluster_resources(), ray.available_resources()
        words = [
            f"{free.get(name, 0):g} of {total.get(name, 0):g} {name}s free"
            for name in ("GPU", "CPU")
            if total.get(name, 0) or self._wanted(name)
        ]
        n_nodes = sum(node["Alive"] for node in ray.nodes())
        return f"{' and '.join(words)} on {n_nodes} {'nodes' if n_nodes > 1 else 'node'}"

    def _wanted(self, name: str) -> float:
        return float(self.resources[f"num_{name.lower()}s"] or 0)


class Client:
    """Starts actors for a driver and passes messages on."""

    def __init__(self, channel: SocketChannel, connection: Connection) -> None:
        self._channel, self.connection = channel, connection
        self._workers: dict[int, ActorWorker] = {}

    def serve(self) -> None:
        """Carry out the driver's messages until the driver is gone."""
        threading.Thread(target=self._say_who_waits, daemon=True).start()
        while (message := self._channel.receive()) is not None:
            number = message["worker"]
            if message["type"] == "start":
                self._workers[number] = ActorWorker(number, Order.of(message["order"]), self)
            elif message["type"] == "send":
                self._workers[number].send(message["message"])
            elif message["type"] == "end":
                self._workers[number].end()

    def tell(self, kind: str, **values: Any) -> None:
        """Send a message to the driver."""
        self._channel.send({"type": kind, **values})

    def _say_who_waits(self) -> None:
        """Log once, after some time, that workers wait for room. That is not an error."""
        has_said = False
        while True:
            time.sleep(1)
            now_s = time.monotonic()
            waiting = [worker for worker in list(self._workers.values()) if worker.is_waiting]

            # Logged again if others wait after all had a place.
            if not waiting:
                has_said = False
            elif not has_said and now_s - waiting[0].asked_at_s > PATIENCE_S:
                has_said = True
                line = (
                    f"{len(waiting)} of {self.connection.n_workers} workers wait for room on the "
                    f"Ray cluster, {self.connection.wanted()} each; it has "
                    f"{self.connection.free()}. They start when there is room"
                )
                self.tell("log", line=line)


class ActorWorker:
    """An actor and its worker, seen from here: one thread sends, another listens."""

    def __init__(self, number: int, order: Order, client: Client) -> None:
        self.number, self._order, self._client = number, order, client
        self.is_waiting = True
        self.asked_at_s = time.monotonic()
        self._is_over = False
        self._outgoing: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        options = {
            **client.connection.resources,
            # The driver hands lost parts to another worker.
            "max_restarts": 0,
            "max_task_retries": 0,
            # One to listen, one to send, and one to end it.
            "max_concurrency": 3,
            "scheduling_strategy": "SPREAD",
        }
        refused = client.connection.refused_nodes
        if refused:
            options["label_selector"] = {"ray.io/node-id": f"!in({', '.join(sorted(refused))})"}
        self._actor = ray.remote(WorkerActor).options(**options).remote()
        threading.Thread(target=self._live, name=f"worker {number}", daemon=True).start()

    def send(self, message: Message) -> None:
        """Send a message after those sent before."""
        if self.is_waiting and message["type"] in ("over", "stop"):
            self.end()
        self._outgoing.put(message)

    def end(self) -> None:
        """End the worker, whatever its state."""
        self._is_over = True
        threading.Thread(target=self._end, daemon=True).start()

    def _live(self) -> None:
        """Wait for a place, start the worker, and listen until it ends."""
        try:
            how = self._how_it_ended()
        except Exception as error:  # noqa: BLE001 - from outside, Ray's is a ConnectionError; and
            # whatever it is, the driver waits for the word that this worker is gone
            how = words_for(error)
            if OWNER_IS_LOST in str(error):
                # Everything that this process started ends with it, and nothing new would start.
                sys.stderr.write("the raylet, Ray's own process on this machine, has ended\n")
                sys.stderr.flush()
                os._exit(1)

        if self._is_over:
            how = "was ended by its driver"
        self.is_waiting = False
        self._outgoing.put(None)
        self._client.tell("gone", worker=self.number, how=how)
        with suppress(Exception):  # it ends with this process in any case
            ray.kill(self._actor)

    def _how_it_ended(self) -> str:
        connection, probe = self._client.connection, self._client.connection.probe
        node_id, pid, facts = ray.get(self._actor.look_around.remote(probe))
        self.is_waiting = False
        address = connection.address_of(node_id)
        self._client.tell("placed", worker=self.number, node=f"{facts.host} {address}, pid {pid}")
        problems = problems_of(facts, probe, connection.expected)
        if problems:
            # The next worker in this place must get another node.
            connection.refused_nodes.add(node_id)
            failure = Failure(refusal(facts.host, address, problems), None, 2, is_engine_dead=True)
            message = {"type": "error", **failure.as_fields()}
            self._client.tell("heard", worker=self.number, message=message)
            return "cannot make parts on its node"

        n_threads = connection.n_threads(node_id)
        ray.get(self._actor.start.remote(self._order, connection.variables, n_threads))
        threading.Thread(target=self._speak, daemon=True).start()
        while True:
            heard = ray.get(self._actor.listen.remote(LISTEN_S))
            for message in heard.messages:
                self._client.tell("heard", worker=self.number, message=message)
            if heard.how_it_ended is not None:
                return str(heard.how_it_ended)

    def _speak(self) -> None:
        """Pass on the driver's messages one call at a time, to keep their order."""
        while (message := self._outgoing.get()) is not None:
            with suppress(RayError):  # the thread that listens finds out
                ray.get(self._actor.send.remote([message]))

    def _end(self) -> None:
        if not self.is_waiting:
            with suppress(RayError):
                ray.get(self._actor.end.remote(), timeout=ENDING_S)
        ray.kill(self._actor)


def connect(message: Message, connection: Connection, channel: SocketChannel) -> str:
    """Connect to a cluster and check its nodes; return a line for the log.

    Raises:
        UsageError: some nodes cannot make parts; the message names each and its problems.
    """
    shows_messages = message["shows_messages"]
    ray.init(
        address=message["address"],
        log_to_driver=shows_messages,
        logging_level="INFO" if shows_messages else "ERROR",
    )
    channel.send({"type": "reached"})
    connection.settle_gpus()
    nodes = connection.nodes()
    looks = {}
    for node in nodes:
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        look = ray.remote(facts_of_this_node).options(
            num_cpus=0, max_retries=0, scheduling_strategy=pinned
        )
        looks[node["NodeID"]] = look.remote(connection.probe)

    refusals = []
    deadline = time.monotonic() + LOOK_S
    for node in nodes:
        address = node["NodeManagerAddress"]
        try:
            left_s = max(0.1, deadline - time.monotonic())
            facts: NodeFacts = ray.get(looks[node["NodeID"]], timeout=left_s)
        except GetTimeoutError:
            # The node is slow, or dead without Ray knowing it: an actor that starts there checks
            # again.
            continue
        except (RayTaskError, RaySystemError, RuntimeEnvSetupError) as error:
            why = f"prefpipe cannot run there: {last_line(error)}"
            refusals.append(refusal(node["NodeManagerHostname"], address, [why]))
            continue
        except RayError:
            # The node left the cluster in the meantime.
            continue
        problems = problems_of(facts, connection.probe, connection.expected)
        if problems:
            refusals.append(refusal(facts.host, address, problems))
        else:
            connection.expected = with_packages_of(connection.expected, facts)

    if refusals:
        raise UsageError(
            f"{len(refusals)} of {len(nodes)} nodes of the Ray cluster cannot make parts:\n  "
            + "\n  ".join(refusals),
            hint="use one environment on all nodes and a folder that all nodes share: workers need "
            "the driver's versions, and its folders under the same paths",
        )

    return f"Ray cluster {message['where']}: {connection.free()}"


def refusal(host: str, address: str, problems: Sequence[str]) -> str:
    """Return a line that names a node and its problems."""
    return f"node {host} ({address}): {'; '.join(problems)}"


def words_for(error: Exception) -> str:
    """Return in words how an actor was lost; the words follow its name."""
    text = str(error)
    if "memory" in text and "OOM" in text and "OOM killer due to" not in text:
        return "was ended by Ray because its node ran out of memory"
    if "node" in text and ("died" in text or "terminated" in text) and "worker process" not in text:
        return "was lost with its node"
    if "unavailable" in text:
        return "cannot be reached any more"
    if "worker process has died" in text:
        return "was lost: its process on the node ended"
    return f"was lost: {last_line(error)}"


def last_line(error: Exception) -> str:
    """Return the last non-empty line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def main() -> int:
    """Serve the driver at the other end of stdin."""
    channel = SocketChannel(socket.socket(fileno=os.dup(0)))
    message = channel.receive()
    if message is None:
        return 1
    connection = Connection(message)
    try:
        line = connect(message, connection, channel)
    except UsageError as error:
        channel.send({"type": "refused", **Failure.of(error).as_fields()})
        return 2
    except Exception as error:  # noqa: BLE001 - of many kinds: no cluster, other versions, no token
        why = str(error).strip()
        failure = Failure(
            f"no connection to the Ray cluster {message['where']}: {why}",
            None,
            UsageError.exit_code,
            is_engine_dead=False,
        )
        channel.send({"type": "refused", **failure.as_fields()})
        return 2

    channel.send({"type": "connected", "line": line})
    Client(channel, connection).serve()
    # The actors end with the job.
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
