"""A proxy between a client and an S3 server that fails in the ways in which networks and stores do."""

import contextlib
import os
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

WAIT_S = 60.0
SLOW_DOWN = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)


class Request(NamedTuple):
    """A whole request, as it arrived."""

    method: str
    target: str
    head: bytes
    body: bytes


Fault = Callable[[Request], str | None]
"""Names what goes wrong with a request, None for nothing."""


class Proxy(socketserver.ThreadingTCPServer):
    """Passes requests on; ``fault(request)`` names what goes wrong with one, None for nothing.

    Faults: ``slow-down`` (503), ``cut-request`` (the connection ends before the server sees all of
    it), ``half-request`` (as ``cut-request``, and the server sees half of the body), ``forbidden``
    (403 with ``refusal``), ``taken`` (412 with ``refusal``), ``other-answer`` (200 with ``refusal``),
    ``lost-answer`` (the server did it, and the client never hears), ``cut-answer`` (half of the
    body), ``short-answer`` (half of the body, and headers that say that this is all), ``silence``
    (neither server nor client hears anything, until the client hangs up).

    Three end the client's process with SIGKILL: ``kill-before`` (the server sees nothing),
    ``kill-half`` (half of the body), ``kill-after`` (it did it all).
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = urlsplit(target)
        self.killed: list[int] = []
        self.heal()

    def heal(self) -> None:
        """Pass everything on from now on, and forget what was."""
        self.fault: Fault = lambda _request: None
        self.requests: list[Request] = []
        self.n_faults = 0
        self.refusal = b""
        self.answer: Callable[[Request], bytes | None] = lambda _request: None
        """A whole answer in place of the server's; None for the server's."""
        self.is_done: Callable[[Request], None] = lambda _request: None
        """Called when the server has done it, before the client hears."""

    def refuse(
        self,
        code: str,
        message: str,
        is_meant: Callable[[Request], bool] = lambda _request: True,
    ) -> None:
        """Forbid requests (403), with S3's code and message."""
        self.refusal = _error_body(code, message)
        self.fault = lambda request: "forbidden" if is_meant(request) else None

    def answer_if(self, is_meant: Callable[[Request], bool], status: str, code: str) -> None:
        """Answer some requests with an error of S3's in the server's place."""
        body = _error_body(code, code)
        self.answer = lambda request: (
            _whole_answer(request, status.encode(), body) if is_meant(request) else None
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_arguments) -> None:
        """A client that hangs up is what some tests are about."""


class Handler(socketserver.StreamRequestHandler):
    timeout = WAIT_S

    def handle(self) -> None:
        request = self._read_request()
        if request is None:
            return
        self.server.requests.append(request)
        fault = self.server.fault(request)
        self.server.n_faults += fault is not None
        if fault == "slow-down":
            self._answer(request, b"503 Slow Down", SLOW_DOWN)
            return
        if fault == "forbidden":
            self._answer(request, b"403 Forbidden", self.server.refusal)
            return
        if fault == "taken":
            self._answer(request, b"412 Precondition Failed", self.server.refusal)
            return
        if fault == "other-answer":
            self._answer(request, b"200 OK", self.server.refusal)
            return
        if fault == "silence":
            self.rfile.read(1)
            return
        if fault == "cut-request":
            return
        if fault == "kill-before":
            self._kill_client()
            return
        if fault in ("half-request", "kill-half"):
            self._send_half(request)
            if fault == "kill-half":
                self._kill_client()
            return
        answer = self.server.answer(request) or self.ask_server(request)
        self.server.is_done(request)
        if fault == "kill-after":
            self._kill_client()
            return
        if fault == "lost-answer":
            return
        head, _, body = answer.partition(b"\r\n\r\n")
        if fault == "cut-answer":
            self.wfile.write(head + b"\r\n\r\n" + body[: len(body) // 2])
            return
        # what comes in chunks says by itself where it ends
        is_chunked = b"transfer-encoding: chunked" in head.lower()
        if fault == "short-answer" and body and not is_chunked:
            body = body[: len(body) // 2]
            lines = [
                line
                for line in head.split(b"\r\n")
                if not line.lower().startswith((b"content-length", b"x-amz-checksum"))
            ]
            head = b"\r\n".join([*lines, b"Content-Length: %d" % len(body)])
        self.wfile.write(head + b"\r\n\r\n" + body)

    def _read_request(self) -> Request | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return None
            head += line
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (
                line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:]
            )
        }
        if headers.get("expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = self._read_chunks()
        else:
            body = self.rfile.read(int(headers.get("content-length", 0)))
        return Request(method, target, head, body)

    def _read_chunks(self) -> bytes:
        raw = b""
        while True:
            line = self.rfile.readline()
            size = int(line.split(b";")[0], 16)
            raw += line + self.rfile.read(size + 2)
            if size == 0:
                return raw

    def _send_half(self, request: Request) -> None:
        place = (self.server.target.hostname, self.server.target.port)
        with socket.create_connection(place, timeout=WAIT_S) as server:
            server.sendall(request.head + request.body[: len(request.body) // 2])

    def _kill_client(self) -> None:
        """End the process at the other end of the connection, and see it dead."""
        pid = _process_at(self.client_address[1], self.server.server_address[1])
        os.kill(pid, signal.SIGKILL)
        # or it would take the end of the connection for one more failure of the network
        while _is_alive(pid):
            time.sleep(0.001)
        self.server.killed.append(pid)

    def ask_server(self, request: Request) -> bytes:
        """Pass a request on, and return the whole answer."""
        # One request a connection: the answer ends where the connection does.
        lines = request.head.rstrip(b"\r\n").split(b"\r\n")
        kept = [line for line in lines if not line.lower().startswith((b"connection:", b"expect:"))]
        head = b"\r\n".join([*kept, b"Connection: close"]) + b"\r\n\r\n"
        place = (self.server.target.hostname, self.server.target.port)
        with socket.create_connection(place, timeout=WAIT_S) as server:
            server.sendall(head + request.body)
            pieces = []
            while piece := server.recv(2**16):
                pieces.append(piece)
        return b"".join(pieces)

    def _answer(self, request: Request, status: bytes, body: bytes) -> None:
        self.wfile.write(_whole_answer(request, status, body))


def _error_body(code: str, message: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


def _whole_answer(request: Request, status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 " + status + b"\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    return head + (b"" if request.method == "HEAD" else body)


def _process_at(port: int, to: int) -> int:
    """Return the process of this machine whose connection goes from one port to another."""
    # the number of the first alone may also be that of an ended connection to somewhere else
    ends = [f"0100007F:{number:04X}" for number in (port, to)]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    [inode] = [words[9] for words in lines if words[1:3] == ends]
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if entry.readlink() == Path(f"socket:[{inode}]"):
                return int(entry.parts[2])
    raise AssertionError(f"no process has the port {port}")


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@contextlib.contextmanager
def running_proxy(target: str) -> Iterator[Proxy]:
    """Yield a proxy in front of a server."""
    proxy = Proxy(target)
    threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
