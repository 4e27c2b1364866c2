"""A chat-completions server on loopback for tests: real HTTP, answers from the fake generator, faults on demand."""

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prefpipe.backends.fake import FakeGenerator
from prefpipe.backends.protocol import GenerationRequest, SamplingParams

REFUSAL = {"error": {"message": "The input is refused: bad row", "type": "invalid_request_error"}}


class ChatServer(ThreadingHTTPServer):
    """``faults`` maps a prompt's text to what happens to its requests (see ``Handler``); the rest is answered.

    ``refused_fields`` are refused with status 400, by name or, without ``names_them``, with a word that fits anything.
    ``delay_s(text)`` is how long an answer takes.
    """

    daemon_threads = True

    def __init__(
        self,
        *,
        faults=None,
        known_fields=("return_token_ids", "logprobs"),
        ignored_fields=(),
        key=None,
        refused_fields=(),
        names_them=True,
        delay_s=lambda _text: 0.0,
    ):
        super().__init__(("127.0.0.1", 0), Handler)
        self.refused_fields, self.names_them, self.delay_s = refused_fields, names_them, delay_s
        self.retry_after = "0.01"
        self.refusal_status = 400
        self.faults = faults or {}
        self.known_fields, self.ignored_fields, self.key = known_fields, ignored_fields, key
        self.generator = FakeGenerator(max_model_len=2048)
        self.tries = Counter()
        self.bodies = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    """Faults: an int is a status given once, ("always", status, body), ("garbage",), ("hang", seconds)."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        text = body["messages"][-1]["content"]
        self.server.tries[text] += 1
        if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            given = self.headers["Authorization"].removeprefix("Bearer ")
            self.reply(401, {"error": {"message": f"Incorrect API key provided: {given}"}})
            return
        for name in ("return_token_ids", "logprobs"):
            if name in body and name not in self.server.known_fields:
                self.reply(
                    400, {"error": {"message": f"Unrecognized request argument supplied: {name}"}}
                )
                return
        refused = [name for name in self.server.refused_fields if name in body]
        if refused:
            words = (
                f"Unrecognized request argument supplied: {refused[0]}"
                if self.server.names_them
                else "Invalid request"
            )
            self.reply(self.server.refusal_status, {"error": {"message": words}})
            return
        time.sleep(self.server.delay_s(text))
        fault = self.server.faults.get(text)
        if isinstance(fault, int) and self.server.tries[text] == 1:
            self.reply(fault, {"error": {"message": "try again"}})
        elif isinstance(fault, tuple) and fault[0] == "always":
            self.reply(fault[1], fault[2])
        elif fault == ("garbage",):
            self.reply_bytes(200, b'{"choices": [')
        elif isinstance(fault, tuple) and fault[0] == "hang" and self.server.tries[text] == 1:
            time.sleep(fault[1])
            self.close_connection = True
        else:
            self.reply(*self.answer(body))

    def answer(self, body):
        ids = self.server.generator.encode(body["messages"])
        request = GenerationRequest(
            "p", 0, body["messages"], ids, body["seed"], body["temperature"]
        )
        known = ("min_tokens", "ignore_eos", "repetition_penalty", "presence_penalty")
        params = SamplingParams(
            body["max_tokens"],
            stop=tuple(body.get("stop", ())),
            **{name: body[name] for name in known if name in body},
        )
        made = self.server.generator.generate([request], params)[0]
        if "response_format" in body and "response_format" not in self.server.ignored_fields:
            made = made._replace(text=json.dumps({"answer": made.text}))
        if made.finish_reason == "error":
            return 400, {
                "error": {
                    "message": f"This model's maximum context length is exceeded: {made.error}"
                }
            }
        choice = {
            "index": 0,
            "finish_reason": made.finish_reason,
            "message": {"role": "assistant", "content": made.text},
        }
        if "logprobs" in body and "logprobs" not in self.server.ignored_fields:
            share = made.logp / len(made.token_ids)
            choice["logprobs"] = {
                "content": [{"token": "", "logprob": share, "top_logprobs": []}]
                * len(made.token_ids)
            }
        if "return_token_ids" in body and "return_token_ids" not in self.server.ignored_fields:
            choice["token_ids"] = made.token_ids
        return 200, {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
        }

    def reply(self, status, content):
        self.reply_bytes(status, json.dumps(content).encode())

    def reply_bytes(self, status, content):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status in {429, 500}:
            self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def running_chat_server(**settings):
    """Yield a ChatServer that serves from a thread until the block ends."""
    server = ChatServer(**settings)
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
