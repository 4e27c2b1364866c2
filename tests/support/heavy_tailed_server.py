"""A chat-completions server on loopback whose answer times have a heavy tail, in a process of its own.

A question's answer and its time are functions of its text and seed, so every run waits for the same times, whatever the
order. The server keeps account of what it answered, and is light: what a run takes longer than the times allow is the
client's.

    python -m support.heavy_tailed_server [MEAN_S]

prints its port, serves, and ends when its stdin is closed.
"""

import asyncio
import hashlib
import heapq
import json
import math
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
SIGMA = 1.0
"""Of the times' logarithm: one answer in a hundred takes six times the mean."""
N_TOKENS = 48


def answer_time_s(text: str, seed: int | None, mean_s: float) -> float:
    """Return how long the answer to a question takes, log-normal with this mean."""
    digest = hashlib.sha256(f"{text} {seed}".encode()).digest()
    dice = random.Random(digest)
    return mean_s * math.exp(SIGMA * dice.gauss(0.0, 1.0) - SIGMA**2 / 2)


def full_server_s(times_s: Sequence[float], n_slots: int) -> float:
    """Return how long a server with ``n_slots`` takes whose slots are filled the moment they are free."""
    free_at = [0.0] * n_slots
    for time_s in times_s:
        heapq.heapreplace(free_at, free_at[0] + time_s)
    return max(free_at)


def completion_of(body: dict[str, Any]) -> dict[str, Any]:
    """Return an answer of `N_TOKENS` tokens as vLLM's server writes it, or a rating where one is asked for."""
    usage = {"prompt_tokens": 9, "completion_tokens": N_TOKENS}
    head = {"id": "c", "object": "chat.completion", "created": 0, "model": body["model"]}
    if "<<<RESPONSE" in body["messages"][-1]["content"]:
        message = {"role": "assistant", "content": "7"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return head | {"choices": [choice], "usage": usage}

    digest = hashlib.sha256(repr((body["messages"], body.get("seed"))).encode()).hexdigest()
    words = [f" {digest[i]}" for i in range(N_TOKENS)]
    positions = [
        {"token": word, "logprob": -0.5, "bytes": list(word.encode()), "top_logprobs": []}
        for word in words
    ]
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "".join(words)},
        "logprobs": {"content": positions},
        "token_ids": [ord(word[1]) for word in words],
    }
    return head | {"choices": [choice], "usage": usage}


class Connection(asyncio.Protocol):
    """One connection: requests one after another, each answered after its time."""

    def __init__(self, account: "Account") -> None:
        self.account = account
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.account.n_connections += 1

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, rest = self.received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(rest) < length:
            return
        self.received = rest[length:]
        if head.startswith(b"GET"):
            self.reply(self.account.as_json())
            return

        body = json.loads(rest[:length])
        question = self.account.ask(body)
        delay_s = answer_time_s(question["text"], question["seed"], self.account.mean_s)
        # made now, so that it leaves on time
        answer = completion_of(body)
        asyncio.get_running_loop().call_later(delay_s, self.answer, question, answer)

    def answer(self, question: dict[str, Any], answer: dict[str, Any]) -> None:
        self.account.n_now -= 1
        if not self.transport.is_closing():
            self.reply(answer)
            question["written"] = time.monotonic()

    def reply(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.transport.write(head.encode() + data)


class Account:
    """What was asked and answered."""

    def __init__(self, mean_s: float) -> None:
        self.mean_s = mean_s
        self.n_connections, self.n_now, self.n_most = 0, 0, 0
        self.questions: list[dict[str, Any]] = []

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        text, seed = body["messages"][-1]["content"], body.get("seed")
        question = {"text": text, "seed": seed, "arrived": time.monotonic(), "written": None}
        self.questions.append(question)
        self.n_now += 1
        self.n_most = max(self.n_most, self.n_now)
        return question

    def as_json(self) -> dict[str, Any]:
        return {
            "questions": self.questions,
            "n_connections": self.n_connections,
            "n_most": self.n_most,
        }


async def serve(mean_s: float) -> None:
    """Serve until stdin is closed."""
    account = Account(mean_s)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(account), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


class HeavyTailedServer:
    """The caller's side of the process."""

    def __init__(self, mean_s: float) -> None:
        self.mean_s = mean_s
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.heavy_tailed_server", str(mean_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(TESTS)},
        )
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1"

    def account(self) -> dict[str, Any]:
        """Return what was asked so far: questions in the order of arrival, and the most at a time."""
        with urllib.request.urlopen(self.url, timeout=20) as response:
            account: dict[str, Any] = json.load(response)
        return account


@contextmanager
def running_heavy_tailed_server(mean_s: float = 0.15) -> Iterator[HeavyTailedServer]:
    """Yield a server that ends with the block."""
    server = HeavyTailedServer(mean_s)
    try:
        yield server
    finally:
        server.process.communicate(timeout=120)


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]) if len(sys.argv) > 1 else 0.15))
