"""Two independent S3 servers on loopback, and what fsspec has to know to reach them."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefpipe.artifacts.storage import files

WRITES_IN_TURN = """
import threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication
from moto.server import main

answer, turn = DomainDispatcherApplication.__call__, threading.Lock()

def in_turn(self, request, start_response):
    if request["REQUEST_METHOD"] in ("GET", "HEAD"):
        return answer(self, request, start_response)
    with turn:
        return answer(self, request, start_response)

DomainDispatcherApplication.__call__ = in_turn
main()
"""
"""moto, in which no write comes between another's look (``If-None-Match``) and its write."""

KEY, SECRET = "accesskey01", "canary-secret-0123"
BUCKET = "runs"
WAIT_S = 60.0


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextlib.contextmanager
def running_moto() -> Iterator[str]:
    """Yield the address of a moto server, in a process of its own, with an empty `BUCKET`."""
    port = free_port()
    words = [sys.executable, "-c", WRITES_IN_TURN, "-H", "127.0.0.1", "-p", str(port)]
    with running_server(words, port) as url:
        request = urllib.request.Request(f"{url}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request).close()
        yield url


@contextlib.contextmanager
def running_rclone(folder: Path) -> Iterator[str]:
    """Yield the address of ``rclone serve s3`` over a folder, with an empty `BUCKET`.

    It ignores ``If-None-Match``, as older stores do.
    """
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    port = free_port()
    rclone = Path(sys.executable).with_name("rclone")
    words = [rclone, "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    words += ["--auth-key", f"{KEY},{SECRET}", "--config", "/dev/null", folder]
    with running_server(words, port) as url:
        yield url


@contextlib.contextmanager
def running_server(words: list, port: int) -> Iterator[str]:
    process = subprocess.Popen(
        list(map(str, words)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + WAIT_S
        while not _answers(url):
            assert process.poll() is None, words
            assert time.monotonic() < until, words
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def environment_for(url: str) -> dict[str, str]:
    """Return what a process is given to find a server: the usual variables."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }


def reach(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find a server, as a user does: by the environment."""
    for name, value in environment_for(url).items():
        monkeypatch.setenv(name, value)
    forget_clients()


def forget_clients() -> None:
    """Let the next request find its server by the environment of then."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    files._opened.cache_clear()
