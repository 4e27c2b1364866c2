"""Workers on an existing Ray cluster: ``--on ray[:ADDRESS]``.

Each is the same kind of process as on this node, held by an actor; Ray only finds it a place. The
driver hands out parts and handles losses as for workers on this node, and Ray retries nothing. The
nodes write the parts themselves, so the output folder must be shared; only part numbers and counts
travel.

The run does not wait for all workers: those that have a place make parts, and the others join.
"""

import importlib.util
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from prefpipe.artifacts.atomic import temporary_path
from prefpipe.configs.stage import StageConfig
from prefpipe.errors import MissingExtraError, PrefpipeError, UsageError, error_with_code
from prefpipe.execution.channel import Failure, Message, Order, SocketChannel
from prefpipe.execution.driver import Inbox
from prefpipe.execution.processes import module_command
from prefpipe.execution.ray_nodes import Expected, probe_for, versions_here
from prefpipe.execution.runtime import Job

DEFAULT_PORT = 6379
"""Ray's own."""
PROBE_S = 5.0
"""How long an address may take to accept a connection."""
CONNECT_S = 20.0
"""How long Ray may take to connect. If something else listens, Ray would wait two minutes."""
END_S = 15.0
FORWARDED = (
    "HF_",
    "HUGGING_FACE_",
    "TRANSFORMERS_",
    "TOKENIZERS_",
    "VLLM_",
    "OPENAI_",
    # inputs may lie in a bucket
    "AWS_",
    "GOOGLE_",
    "PREFPIPE_",
    "TORCH_",
    "PYTORCH_",
    "OMP_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_",
)
"""Prefixes of variables that a worker takes from the driver's environment, in either case."""
SHOWS_MESSAGES = "RAY_LOG_TO_DRIVER"
"""Ray's own variable: if it is 1, the output of Ray and its workers appears on stderr."""
HOW_TO_CONNECT = (
    "run the command on a node of the cluster, with --on ray or the HOST:PORT that `ray status` "
    "shows there, or name the head's client port, ray://HOST:10001. For a cluster with "
    "tokens, set RAY_AUTH_MODE=token. To see what Ray prints, set RAY_LOG_TO_DRIVER=1"
)
RAY_PREFIX = re.compile(r"^\[[^]]*\] (\(\w+\) )?\S+:\d+: ")
"""Time, process and line of Ray's source, before a message."""


class Address(NamedTuple):
    """The address of a cluster's head. ``text`` is passed to Ray."""

    text: str
    host: str
    port: int


def address_of(on: str, environment: Mapping[str, str]) -> Address | None:
    """Return the address in ``--on``, else that of RAY_ADDRESS; None for this machine's cluster.

    Raises:
        UsageError: the text is not an address.
    """
    given, source = on.partition(":")[2], f"--on {on}"
    if not given and "RAY_ADDRESS" in environment:
        given, source = environment["RAY_ADDRESS"], f"RAY_ADDRESS={environment['RAY_ADDRESS']}"
    if given in ("", "auto"):
        return None

    scheme, has_scheme, rest = given.rpartition("://")
    host, has_port, port = rest.rpartition(":")
    if not has_port:
        host, port = rest, str(DEFAULT_PORT)
    if (has_scheme and scheme != "ray") or not host or not port.isdecimal():
        raise UsageError(
            f"{source}: {given!r} is not an address of a Ray cluster",
            hint="give HOST:PORT, as `ray start --head` prints it, or ray://HOST:10001",
        )

    text = f"{scheme}{has_scheme}{host}:{port}"
    return Address(text, host.strip("[]"), int(port))


def check_ray(address: Address | None) -> None:
    """Refuse an unusable address at once; Ray itself waits two minutes if nothing answers.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: nothing answers at the address.
    """
    installed = importlib.util.find_spec("ray")
    # A plain folder named `ray` is found, too.
    if installed is None or installed.origin is None:
        raise MissingExtraError("--on ray", "ray", "ray")
    if address is None:
        return
    try:
        socket.create_connection((address.host, address.port), PROBE_S).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"no Ray cluster answers at {address.text}: {why}",
            hint="find the address with `ray status` on the cluster's head, or start a cluster "
            "there with `ray start --head`",
        ) from error


class RayWorkers:
    """Actors on a cluster.

    Args:
        address: of the cluster's head; None for this machine's cluster.
        n_workers: how many to start.
        n_gpus: GPUs that each reserves; None for one if the cluster has GPUs.

    Raises:
        UsageError: there is no Ray or no cluster.
    """

    def __init__(self, address: Address | None, n_workers: int, n_gpus: int | None) -> None:
        check_ray(address)
        self.n_workers = n_workers
        self._address, self._n_gpus = address, n_gpus
        self._client: _Client | None = None

    def open(self, job: Job) -> None:
        """Connect to the cluster and check its nodes.

        Raises:
            PrefpipeError: there is no cluster, or some nodes cannot make parts.
        """
        token = uuid.uuid4().hex
        token_path = temporary_path(job.output.folder / "shared-folder")
        token_path.write_text(token, encoding="utf-8")
        try:
            probe = probe_for(Path.cwd(), token_path, _paths_read(job.config))
            expected = Expected(versions_here(), token)

            message = {
                "type": "connect",
                "address": "auto" if self._address is None else self._address.text,
                "where": "of this machine" if self._address is None else f"at {self._address.text}",
                "n_gpus": self._n_gpus,
                "shows_messages": os.environ.get(SHOWS_MESSAGES) == "1",
                "n_workers": self.n_workers,
                "variables": _forwarded(os.environ),
                "probe": probe._asdict(),
                "expected": expected._asdict(),
            }
            self._client = _Client(message, job, token_path)
        except BaseException:
            token_path.unlink(missing_ok=True)
            raise

    def start(self, order: Order, inbox: Inbox) -> "RayLink":
        """Request an actor, which starts when the cluster has room for it."""
        assert self._client is not None
        return self._client.start(order, inbox)

    def close(self) -> None:
        """Leave the cluster, which ends the remaining actors."""
        if self._client is not None:
            self._client.close()
        self._client = None


class RayLink:
    """A worker on a cluster, as its driver sees it. ``name`` holds its node once it has one."""

    def __init__(self, number: int, name: str, client: "_Client", inbox: Inbox) -> None:
        self.name, self._number, self._client, self._inbox = name, number, client, inbox
        self._is_gone = threading.Event()
        self._how = "was lost with the connection to Ray"

    def send(self, message: Message) -> None:
        """Send a message."""
        self._client.send({"type": "send", "worker": self._number, "message": message})

    def end(self) -> str:
        """End the worker; return in words how it ended."""
        if not self._is_gone.is_set():
            self._client.send({"type": "end", "worker": self._number})
            self._is_gone.wait(END_S)
        return self._how

    def hear(self, message: Message) -> None:
        """Take the client's message about this worker."""
        kind = message["type"]
        if kind == "placed":
            self.name = f"{self.name.partition(' (')[0]} ({message['node']})"
        elif kind == "heard":
            self._inbox.put((self, message["message"]))
        elif kind == "gone":
            self.see_end(message["how"])

    def see_end(self, how: str) -> None:
        """Note that the worker is gone."""
        if not self._is_gone.is_set():
            self._how = how
            self._is_gone.set()
            self._inbox.put((self, None))


class _Client:
    """The process that talks to Ray, and a thread that receives its messages."""

    def __init__(self, connect: Message, job: Job, token_path: Path) -> None:
        """Start the process and wait until it is connected.

        Raises:
            PrefpipeError: it cannot connect, or some nodes cannot make parts.
        """
        self._job, self._token_path, self._where = job, token_path, connect["where"]
        self._links: dict[int, RayLink] = {}
        self._starting = threading.Lock()
        self._is_closed = False
        self._failure: Failure | None = None
        ours, its = socket.socketpair()
        # Ray's output is shown on request; its last line explains failures.
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the client
        prints_to: Any = sys.__stderr__ if connect["shows_messages"] else self._printed
        with its:
            self._process = subprocess.Popen(
                module_command("prefpipe.execution.ray_client"),
                stdin=its.fileno(),
                stdout=prints_to,
                stderr=prints_to,
                start_new_session=True,
            )

        self._channel = SocketChannel(ours)
        self._channel.send(connect)
        try:
            self._await_connection()
        except BaseException:
            self.close()
            raise

        threading.Thread(target=self._listen, name="ray", daemon=True).start()

    def send(self, message: Message) -> None:
        """Send a message to the process."""
        self._channel.send(message)

    def start(self, order: Order, inbox: Inbox) -> RayLink:
        """Start a worker."""
        with self._starting:
            number = len(self._links)
            link = RayLink(number, f"worker {order.number} (without a node yet)", self, inbox)
            self._links[number] = link
            failure = self._failure

        if failure is None:
            self.send({"type": "start", "worker": number, "order": order._asdict()})
        else:
            self._lose(link, failure)
        return link

    def close(self) -> None:
        """End the process, and its actors on the cluster with it."""
        self._is_closed = True
        self._channel.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        self._process.kill()
        self._process.wait()
        self._printed.close()
        self._token_path.unlink(missing_ok=True)

    def _await_connection(self) -> None:
        watch = threading.Timer(CONNECT_S, self._process.kill)
        watch.start()
        answer = self._channel.receive()
        watch.cancel()

        # There is a cluster: the check of its nodes has its own time limit.
        if answer is not None and answer["type"] == "reached":
            answer = self._channel.receive()
        if answer is None:
            raise UsageError(
                f"the Ray cluster {self._where} does not answer: {self._last_words()}",
                hint=HOW_TO_CONNECT,
            )

        if answer["type"] == "refused":
            failure = Failure.in_message(answer)
            hint = failure.hint or HOW_TO_CONNECT
            raise error_with_code(failure.exit_code, failure.message, hint=hint)
        self._job.runtime.log(answer["line"])

    def _listen(self) -> None:
        while (message := self._channel.receive()) is not None:
            if message["type"] == "log":
                self._job.runtime.log(message["line"])
            else:
                self._links[message["worker"]].hear(message)

        if self._is_closed:
            return

        failure = Failure(
            f"the connection to the Ray cluster {self._where} has ended: {self._last_words()}",
            "finished parts are kept; run the same command again once the cluster is back",
            PrefpipeError.exit_code,
            is_engine_dead=False,
        )

        # Inside the lock: a link that starts from now on is lost, too.
        with self._starting:
            self._failure = failure
            links = list(self._links.values())
        for link in links:
            self._lose(link, failure)

    def _lose(self, link: RayLink, failure: Failure) -> None:
        link.hear(
            {"type": "heard", "message": {"type": "error", **failure.as_fields()}},
        )
        link.see_end("was lost with the connection to Ray")

    def _last_words(self) -> str:
        """Return the last line that Ray printed."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").split("\n")
        words = [RAY_PREFIX.sub("", line).strip() for line in lines if line.strip()]
        return words[-1].partition(". ")[0] if words else f"no answer within {CONNECT_S:.0f} s"


def _forwarded(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environment.items() if name.upper().startswith(FORWARDED)
    }


def _paths_read(config: StageConfig) -> list[Path]:
    """Return what a command reads: paths, and texts that may be paths."""
    paths: list[Path] = []
    for item in fields(config):
        value: Any = getattr(config, item.name)
        values = value if isinstance(value, tuple) else (value,)
        texts = [each for each in values if isinstance(each, (str, Path)) and str(each)]
        if item.name != "output":
            paths.extend(map(Path, texts))
    return paths
