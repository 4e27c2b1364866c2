"""vLLM with its engine in a process of its own, as users have it, asked by many threads.

And what becomes of that process and of the callers when somebody is killed, closed or interrupted.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from prefpipe.backends.protocol import GenerationRequest, SamplingParams
from prefpipe.cli.main import run
from prefpipe.errors import EngineDeadError

# vLLM is loaded up to three times in a test.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

N_THREADS = 8
ENDLESS = SamplingParams(400)
"""More than a thread can be given before the test has done what it does."""


@pytest.fixture(scope="module", autouse=True)
def in_its_own_process():
    """Before vLLM is imported; the other tests have it in this process."""
    assert "vllm" not in sys.modules, "run this file by itself, as make test-vllm does"
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"


@pytest.fixture
def engine(in_its_own_process, vllm_settings, tiny_folder):
    from prefpipe.backends.generators.vllm_engine import VllmGenerator
    from prefpipe.models.location import locate_model

    generator = VllmGenerator(
        locate_model(str(tiny_folder)),
        dtype="float32",
        max_model_len=512,
        trust_remote_code=False,
        tensor_parallel_size=1,
        gpu_memory_utilization=0.5,
        enable_prefix_caching=True,
        enforce_eager=True,
    )
    pids = descendants(os.getpid())
    assert len(pids) >= 2, "vLLM's engine and the shell that would end it"
    yield generator
    generator.close()
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def requests_of(generator, prompts, n=4):
    requests = []
    for number in prompts:
        messages = [{"role": "user", "content": f"Tell me of number {number}."}]
        ids = generator.encode(messages)
        requests += [
            GenerationRequest(f"p{number}", sample, messages, ids, 1000 * number + sample, 1.0)
            for sample in range(n)
        ]
    return requests


class Caller(threading.Thread):
    def __init__(self, generator, requests, params=ENDLESS):
        super().__init__(daemon=True)
        self.generator, self.requests, self.params = generator, requests, params
        self.generations, self.error = None, None
        self.start()

    def run(self):
        try:
            self.generations = self.generator.generate(self.requests, self.params)
        except EngineDeadError as error:
            self.error = error

    def ended(self):
        self.join(60)
        assert not self.is_alive()
        return self


def waiting_callers(engine):
    callers = [
        Caller(engine, requests_of(engine, range(4 * number, 4 * number + 4), n=64))
        for number in range(N_THREADS)
    ]
    wait_until(lambda: not engine.has_room())
    time.sleep(0.5)
    return callers


def descendants(pid):
    """The children of a process and theirs; Python's resource tracker lives as long as we do."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in path.read_text().split()]
        except OSError:
            continue
        for child in children:
            if "resource_tracker" in name_of(child):
                continue
            found += [child, *descendants(child)]
    return found


def is_alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def name_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def wait_until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_threads_get_the_rows_of_one_call_until_the_engine_is_closed(engine):
    requests = requests_of(engine, range(2 * N_THREADS))
    refused = requests[0]._replace(prompt_token_ids=[10**6])
    params = SamplingParams(24)
    expected = engine.generate(requests, params)

    callers = [
        Caller(engine, [*requests[8 * number : 8 * number + 8], refused], params)
        for number in range(N_THREADS)
    ]

    together = []
    for caller in callers:
        *generations, last = caller.ended().generations
        together += generations
        assert last.finish_reason == "error"
        assert "vocabulary" in last.error
    assert [row.token_ids for row in together] == [row.token_ids for row in expected]
    assert [row.text for row in together] == [row.text for row in expected]
    assert all(
        row.logp == pytest.approx(other.logp, abs=1e-3)
        for row, other in zip(together, expected, strict=True)
    )

    callers = waiting_callers(engine)
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 30
    for caller in callers:
        assert caller.ended().error.message == "the vLLM engine was closed"


def test_a_killed_engine_is_an_error_of_every_call_and_leaves_no_process(engine):
    """vLLM itself waits for the next step of a killed engine forever."""
    callers = waiting_callers(engine)
    (pid,) = engine._processes.pids
    os.kill(pid, signal.SIGKILL)
    for caller in callers:
        message = caller.ended().error.message
        assert "the vLLM engine died" in message
        assert f"pid {pid}" in message
        assert "killed by signal 9" in message
    with pytest.raises(EngineDeadError, match="the vLLM engine died"):
        engine.generate(requests_of(engine, range(1)), SamplingParams(4))


def arguments(prompts_path, folder, output, part_size, max_tokens=24):
    return [
        "generate",
        str(prompts_path),
        "--model",
        str(folder),
        "--backend",
        "vllm",
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        "512",
        "--n",
        "4",
        "--max-tokens",
        str(max_tokens),
        "--part-size",
        str(part_size),
        "-o",
        str(output),
    ]


def write_prompts(path, n_prompts):
    lines = [f'{{"prompt": "Say something about number {number}."}}' for number in range(n_prompts)]
    path.write_text("\n".join(lines) + "\n")
    return path


def rows_of(folder):
    tables = [pq.read_table(path) for path in sorted(Path(folder).glob("*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def test_rows_are_equal_whatever_the_size_of_a_part(vllm_settings, tiny_folder, tmp_path):
    """The tiny model's distributions are far from ties: batching does not show in its ids."""
    prompts_path = write_prompts(tmp_path / "prompts.jsonl", n_prompts=32)
    rows = {}
    for part_size in (1, 4, 128):
        folder = tmp_path / str(part_size)
        assert run(arguments(prompts_path, tiny_folder, folder, part_size)) == 0
        assert len(list(folder.glob("*.parquet"))) == -(-32 // part_size)
        rows[part_size] = rows_of(folder)

    def of_the_model(row):
        return {name: value for name, value in row.items() if name != "logp"}

    for part_size in (1, 4):
        assert len(rows[part_size]) == len(rows[128]) == 32 * 4
        for row, expected in zip(rows[part_size], rows[128], strict=True):
            assert of_the_model(row) == of_the_model(expected)
            assert row["logp"] == pytest.approx(expected["logp"], abs=1e-3)
    # every engine's process has ended
    wait_until(lambda: not any(is_alive(pid) for pid in descendants(os.getpid())), 15)


@pytest.mark.parametrize(
    ("whom", "sent", "code", "said"),
    [
        ("command", signal.SIGINT, 130, ""),
        ("command", signal.SIGKILL, -signal.SIGKILL, ""),
        ("engine", signal.SIGKILL, 1, "error: the vLLM engine died: its process EngineCore"),
        # as a batch system does
        ("all", signal.SIGTERM, 75, "stopped on request"),
    ],
)
def test_whoever_is_killed_leaves_whole_parts_and_no_process(
    vllm_settings, tiny_folder, tmp_path, whom, sent, code, said
):
    # More parts than a quick machine makes between two looks at the folder.
    prompts_path = write_prompts(tmp_path / "prompts.jsonl", n_prompts=4000)
    output = tmp_path / "candidates"
    command = arguments(prompts_path, tiny_folder, output, part_size=1, max_tokens=400)
    process = subprocess.Popen(
        [sys.executable, "-m", "prefpipe", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: list(output.glob("*.parquet")) or process.poll() is not None, 120)
    assert process.poll() is None, process.communicate()[1]
    pids = descendants(process.pid)
    (engine_pid,) = [pid for pid in pids if "EngineCore" in name_of(pid)]

    if whom == "all":
        os.killpg(process.pid, sent)
    else:
        os.kill({"command": process.pid, "engine": engine_pid}[whom], sent)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == code, stderr
    assert said in stderr
    wait_until(lambda: not any(is_alive(pid) for pid in pids), 15)
    assert all(row["status"] in {"ok", "truncated", "empty"} for row in rows_of(output))
    assert len(rows_of(output)) % 4 == 0
