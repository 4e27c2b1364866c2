"""A chat-completions server on loopback that plays a judge, and misbehaves on demand: real HTTP, real sockets."""

import json
import re
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FENCED = re.compile(r"<<<RESPONSE ?([AB]?) (\w+)\n(.*?)\n\2 RESPONSE ?\1>>>", re.DOTALL)
VERDICT_FORM = re.compile(r"^(VERDICT|RATING) (\w+): \S", re.MULTILINE)


def shown(prompt):
    """The responses that a judge prompt shows, by letter ("" where there is one)."""
    return {letter: text for letter, _, text in FENCED.findall(prompt)}


def verdict(prompt, letter):
    """A verdict in the form that the prompt asks for."""
    forms = VERDICT_FORM.findall(prompt[prompt.rfind(">>>") :])
    return f"Reasons.\n{forms[0][0]} {forms[0][1]}: {letter}" if forms else letter


def longer_wins(prompt):
    """A judge without position bias: the longer response wins, equal lengths tie."""
    lengths = {letter: len(text) for letter, text in shown(prompt).items()}
    return verdict(
        prompt,
        "C" if lengths["A"] == lengths["B"] else max(lengths, key=lambda letter: lengths[letter]),
    )


def first_wins(prompt):
    """A judge that has nothing but position bias."""
    return verdict(prompt, "A")


def logprobs_of(distribution, text=None):
    """One token with these probabilities as OpenAI gives them; the most probable one is the answer, unless it is given."""
    import math

    top = [
        {"token": token, "logprob": math.log(p), "bytes": None} for token, p in distribution.items()
    ]
    best = max(top, key=lambda item: item["logprob"])
    token = best if text is None else next(item for item in top if item["token"] == text)
    return {"content": [token | {"top_logprobs": top}]}


class JudgeServer(ThreadingHTTPServer):
    """``faults`` maps a piece of a request's text to what happens to its tries, in turn; afterwards it is answered.

    ``answer(prompt)`` gives a text, or (text, logprobs), or a whole choice.
    """

    daemon_threads = True

    def __init__(self, *, answer=longer_wins, faults=None, key=None, delay_s=0.0, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.answer, self.key, self.delay_s = answer, key, delay_s
        self.faults = {piece: list(faults) for piece, faults in (faults or {}).items()}
        self.lock = threading.Lock()
        self.bodies, self.arrivals = [], []
        self.n_now, self.n_most = 0, 0
        self.answered = Counter()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def prompts(self):
        return [body["messages"][-1]["content"] for body in self.bodies]

    def next_fault(self, prompt):
        for piece, faults in self.faults.items():
            if piece in prompt and faults:
                return faults[0] if faults[0][0] == "always" else faults.pop(0)
        return None

    def handle_error(self, *_arguments):
        """Clients that hang up are what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    """Faults: ("status", code, message, headers), ("always", code, message), ("hang", s), ("garbage",), ("half",), ("close",),
    ("drip", s a byte), ("late", s), ("no-choices",), ("refusal",), ("filter",)."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        server = self.server
        self.is_asked = True
        with server.lock:
            server.bodies.append(body)
            server.arrivals.append(time.monotonic())
            server.n_now += 1
            server.n_most = max(server.n_most, server.n_now)
            fault = server.next_fault(prompt)
        try:
            time.sleep(server.delay_s)
            if server.key and self.headers["Authorization"] != f"Bearer {server.key}":
                self.reply(
                    401,
                    {
                        "error": {
                            "message": f"Incorrect API key provided: {self.headers['Authorization'][7:]}"
                        }
                    },
                )
            elif fault is None or not self.misbehave(fault):
                self.reply(200, self.completion(body, prompt))
                server.answered[prompt] += 1
        finally:
            self.leave()

    def leave(self):
        """The slot is free: before the last byte, after which the next question may be here at once."""
        with self.server.lock:
            self.server.n_now -= self.is_asked
            self.is_asked = False

    def misbehave(self, fault):
        kind, *rest = fault
        if kind in ("status", "always"):
            code, message, headers = (*rest, {})[:3]
            self.reply(
                code,
                message if isinstance(message, dict) else {"error": {"message": message}},
                headers,
            )
        elif kind == "hang":
            time.sleep(rest[0])
            self.close_connection = True
        elif kind == "garbage":
            self.reply_bytes(b'{"choices": [{"mess')
        elif kind == "half":
            self.reply_bytes(b'{"choices": [', length=1000)
            self.connection.shutdown(socket.SHUT_WR)
            self.close_connection = True
        elif kind == "close":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif kind == "drip":
            self.drip(rest[0])
        elif kind == "late":
            self.late(rest[0])
        elif kind == "no-choices":
            self.reply(200, {"object": "chat.completion", "choices": []})
        elif kind == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "I cannot judge this."}
            self.reply(
                200, {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
            )
        elif kind == "filter":
            self.reply(
                200,
                {
                    "choices": [
                        {
                            "finish_reason": "content_filter",
                            "message": {"role": "assistant", "content": ""},
                        }
                    ]
                },
            )
        return True

    def late(self, seconds):
        """The answer in two halves, each in good time for a socket, together too late."""
        data = json.dumps(self.completion({"model": "m"}, "")).encode() + b" " * 500
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.flush()
        time.sleep(seconds * 2 / 3)
        self.wfile.write(data[:10])
        self.wfile.flush()
        time.sleep(seconds * 2 / 3)
        self.wfile.write(data[10:])

    def drip(self, seconds):
        data = json.dumps(self.completion({"model": "m"}, "")).encode() + b" " * 500
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(seconds)

    def completion(self, body, prompt):
        given = self.server.answer(prompt) if prompt else "A"
        text, logprobs = given if isinstance(given, tuple) else (given, None)
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text},
        }
        if logprobs is not None and body.get("logprobs"):
            choice["logprobs"] = logprobs
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            "usage": usage,
        }

    def reply(self, status, content, headers=None):
        self.reply_bytes(json.dumps(content).encode(), status=status, headers=headers)

    def reply_bytes(self, content, *, status=200, headers=None, length=None):
        self.leave()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()


@contextmanager
def running_judge(**settings):
    """Yield a JudgeServer that serves from a thread until the block ends."""
    server = JudgeServer(**settings)
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
