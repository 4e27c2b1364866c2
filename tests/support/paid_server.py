"""A chat-completions server on loopback that keeps account: when each question came, and when its answer was written."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.judge_server import longer_wins


@dataclass
class Question:
    """One request: its body, when it came, and when its answer left (on the monotonic clock), None while it is on its way."""

    body: dict[str, Any]
    arrived: float
    written: float | None = None

    @property
    def key(self) -> tuple[str, Any]:
        """What makes two requests the same question."""
        return self.body["messages"][-1]["content"], self.body.get("seed")


def answer_any(prompt: str) -> str:
    """A verdict where one is asked for, a rating where a number is, else a text."""
    if "RESPONSE A" in prompt:
        return str(longer_wins(prompt))
    return "7" if "<<<RESPONSE" in prompt else f"An answer to: {prompt}"


class PaidServer(ThreadingHTTPServer):
    """Answers after ``delay_s()`` seconds."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, delay_s: Callable[[], float]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.delay_s = delay_s
        self.questions: list[Question] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def n_on_the_way(self) -> int:
        return sum(question.written is None for question in self.questions)

    def handle_error(self, *_arguments: Any) -> None:
        """Clients that are killed are what the tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PaidServer

    def log_message(self, *_arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = Question(body, time.monotonic())
        self.server.questions.append(question)
        time.sleep(self.server.delay_s())
        message = {"role": "assistant", "content": answer_any(body["messages"][-1]["content"])}
        usage = {"prompt_tokens": 9, "completion_tokens": 4}
        content = json.dumps(
            {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
        ).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self.wfile.write(head.encode() + content)
        self.wfile.flush()
        question.written = time.monotonic()


@contextmanager
def running_paid_server(longest_s: float, *, shortest_s: float = 0.02) -> Iterator[PaidServer]:
    """Yield a server whose answers take between ``shortest_s`` and ``longest_s``."""
    dice = random.Random(7)
    server = PaidServer(lambda: dice.uniform(shortest_s, longest_s))
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
