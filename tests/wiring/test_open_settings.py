"""The part size and the back-end of a command that names neither: of the run on disk, or of this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.import_files import ImportConfig
from prefpipe.configs.select import SelectConfig
from prefpipe.wiring.open_settings import settled


def write_run(folder: Path, *, schema: str = "candidates/1", **identity: Any) -> Path:
    folder.mkdir(parents=True)
    RunRecord("generate", schema, 1, identity).write_if_absent(folder)
    return folder


def generate(output: Path, **changes: Any) -> GenerateConfig:
    return GenerateConfig(prompts="p.jsonl", model=("m",), output=output, **changes)


def evaluate(output: Path, **changes: Any) -> EvalConfig:
    settings = {"policy": "m", "baseline": "n", "prompts": "p.jsonl"}
    return EvalConfig(output=output, **(settings | changes))


def answers(config: GenerateConfig | EvalConfig) -> tuple[int | None, str, list[str]]:
    lines: list[str] = []
    after = settled(config, lines.append)
    assert isinstance(after, GenerateConfig | EvalConfig)
    # settled once, it stays so: a worker that is handed it finds nothing open and says nothing
    assert settled(after, pytest.fail) == after
    return after.part_size, after.backend, lines


def test_a_new_run_has_small_parts_and_transformers_where_there_is_no_vllm(tmp_path: Path) -> None:
    part_size, backend, lines = answers(generate(tmp_path / "new"))
    assert (part_size, backend) == (32, "transformers")
    (line,) = lines
    assert line.startswith("backend: transformers, because ")


@pytest.mark.parametrize("backend", ["vllm", "transformers", "openai", "fake"])
def test_a_run_on_disk_keeps_what_it_was_made_with(tmp_path: Path, backend: str) -> None:
    output = write_run(tmp_path / "run", part_size=128, backend=backend)
    said = [f"backend: {backend}, as recorded for {output}"]
    assert answers(generate(output)) == (128, backend, said)
    assert answers(generate(output, extend=True)) == (128, backend, said)
    assert answers(generate(output, overwrite="stale")) == (128, backend, said)

    # what is given is not asked of anybody
    assert answers(generate(output, part_size=7, backend="fake")) == (7, "fake", [])


def test_a_run_that_is_thrown_away_says_nothing(tmp_path: Path) -> None:
    output = write_run(tmp_path / "run", part_size=128, backend="fake")
    assert answers(generate(output, overwrite=True))[:2] == (32, "transformers")


@pytest.mark.parametrize(
    ("schema", "identity"),
    [
        ("scores/1", {"part_size": 128, "backend": "fake"}),
        ("candidates/1", {"part_size": True, "backend": "auto"}),
        ("candidates/1", {"part_size": "128", "backend": 3}),
        ("candidates/1", {}),
    ],
)
def test_a_record_of_something_else_is_no_answer(
    tmp_path: Path, schema: str, identity: dict[str, Any]
) -> None:
    output = write_run(tmp_path / "run", schema=schema, **identity)
    assert answers(generate(output))[:2] == (32, "transformers")


def test_a_damaged_record_is_left_to_the_stage_that_refuses_it(tmp_path: Path) -> None:
    output = write_run(tmp_path / "run", part_size=128, backend="fake")
    (output / "run.json").write_text("{")
    assert answers(generate(output))[:2] == (32, "transformers")


def test_an_evaluation_goes_on_as_its_sides_were_sampled(tmp_path: Path) -> None:
    config = evaluate(tmp_path / "eval")
    assert answers(config)[:2] == (32, "transformers")
    side = write_run(tmp_path / "eval" / "baseline" / "candidates", part_size=9, backend="openai")
    said = [f"backend: openai, as recorded for {side}"]
    assert answers(config) == (9, "openai", said)


def test_an_evaluation_samples_with_the_engine_of_the_side_that_is_given(tmp_path: Path) -> None:
    given = write_run(tmp_path / "given", part_size=9, backend="vllm")
    config = evaluate(tmp_path / "eval", baseline=str(given))
    # the part size is each folder's own affair
    assert answers(config) == (32, "vllm", [f"backend: vllm, as recorded for {given}"])


def test_no_server_is_asked_because_a_side_was_given_that_a_server_wrote(tmp_path: Path) -> None:
    given = write_run(tmp_path / "given", part_size=9, backend="openai")
    assert answers(evaluate(tmp_path / "eval", baseline=str(given)))[1] == "transformers"


def test_an_evaluation_that_samples_nothing_says_nothing_of_engines(tmp_path: Path) -> None:
    policy, baseline = (write_run(tmp_path / name, backend="vllm") for name in "pb")
    config = evaluate(tmp_path / "eval", policy=str(policy), baseline=str(baseline))
    assert answers(config)[2] == []


def test_an_import_keeps_its_part_size(tmp_path: Path) -> None:
    config = ImportConfig(source="s.jsonl", format="trl", output=tmp_path / "run")
    new = settled(config, pytest.fail)
    assert isinstance(new, ImportConfig)
    assert new.part_size == 32

    write_run(tmp_path / "run" / "candidates", part_size=128)
    old = settled(config, pytest.fail)
    assert isinstance(old, ImportConfig)
    assert old.part_size == 128


def test_a_stage_that_leaves_nothing_open_is_as_it_was(tmp_path: Path) -> None:
    config = SelectConfig(
        candidates=tmp_path, scores=tmp_path, output=tmp_path / "g", strategy="bottom-k", k=2
    )
    assert settled(config, pytest.fail) is config


def test_the_fingerprint_is_that_of_the_answer(tmp_path: Path) -> None:
    by_default = settled(generate(tmp_path / "new"), lambda _line: None)
    given = generate(tmp_path / "new", part_size=32, backend="transformers")
    assert by_default.identity() == given.identity()
    assert (given.identity()["part_size"], given.identity()["backend"]) == (32, "transformers")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a driver's library that lists two GPUs: three functions of the real one."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(
        "int nvmlInit_v2(void) { return 0; }\n"
        "int nvmlDeviceGetCount_v2(unsigned int *n) { *n = 2; return 0; }\n"
        "int nvmlShutdown(void) { return 0; }\n"
    )
    command = ["cc", "-shared", "-fPIC", "driver.c", "-o", "libnvidia-ml.so.1"]
    if subprocess.run(command, cwd=folder, check=False).returncode:
        pytest.skip("no C compiler")
    return folder


ON_RAY = {"workers": "2", "on": "ray", "gpus_per_worker": 1}


@pytest.mark.parametrize(
    ("vllm", "has_driver", "devices", "flags", "said"),
    [
        ("0.30.1", True, None, {}, "vllm, because it is installed and a GPU is visible"),
        ("0.30.1", True, "1", {}, "vllm, because it is installed and a GPU is visible"),
        ("0.30.1", True, "GPU-1faa", {}, "vllm, because it is installed and a GPU is visible"),
        ("0.30.1", True, "", {}, "transformers, because no NVIDIA GPU is visible"),
        ("0.30.1", True, "2", {}, "transformers, because no NVIDIA GPU is visible"),
        ("0.30.1", False, None, {}, "transformers, because no NVIDIA GPU is visible"),
        ("0.30.1", False, "0", {}, "transformers, because no NVIDIA GPU is visible"),
        (
            "0.30.1",
            True,
            None,
            {"device": "cuda:1"},
            "transformers, because --device cuda:1 is a setting of transformers",
        ),
        (
            "0.99",
            True,
            None,
            {},
            "transformers, because vllm 0.99 is installed, and prefpipe needs vllm>=0.26,<0.34",
        ),
        (None, True, None, {}, "transformers, because the package vllm is not installed"),
        # the machine that starts the workers of a cluster often has no GPU
        ("0.30.1", False, None, ON_RAY, "vllm, because it is installed and each worker has a GPU"),
        (None, False, None, ON_RAY, "transformers, because the package vllm is not installed"),
        (
            "0.30.1",
            False,
            None,
            {**ON_RAY, "gpus_per_worker": None},
            (
                "transformers, because no NVIDIA GPU is visible here, and --gpus-per-worker is "
                "not set"
            ),
        ),
    ],
)
def test_this_machine_answers_without_torch_vllm_or_cuda(
    tmp_path: Path,
    driver: Path,
    vllm: str | None,
    has_driver: bool,
    devices: str | None,
    flags: dict[str, Any],
    said: str,
) -> None:
    """An installed package is its metadata: nothing else of it may be looked at."""
    if vllm is not None:
        installed = tmp_path / f"vllm-{vllm}.dist-info"
        installed.mkdir()
        (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {vllm}\n")
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    variables.pop("CUDA_VISIBLE_DEVICES", None)
    if has_driver:
        variables["LD_LIBRARY_PATH"] = str(driver)
    if devices is not None:
        variables["CUDA_VISIBLE_DEVICES"] = devices

    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from prefpipe.configs.generate import GenerateConfig\n"
        "from prefpipe.wiring.open_settings import settled\n"
        "lines, flags = [], json.loads(sys.argv[1])\n"
        "config = GenerateConfig(prompts='p', model=('m',), output=Path('o'), **flags)\n"
        "backend = settled(config, lines.append).backend\n"
        "print(json.dumps([backend, lines, 'torch' in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(flags)],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [said.partition(",")[0], [f"backend: {said}"], False]
