"""The launchers themselves, as a user calls them.

Shipped configurations, a signal to the launcher.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from support.launched import LIMIT_S, Launcher, Trained, variables_of
from support.stage_server import Outcome

from prefpipe.cli.launch_config import FOLDER
from prefpipe.training.checkpoints import find_last_checkpoint

NAMES = ["ddp", "fsdp2", "zero2", "zero3"]
WORDS = {
    "ddp": {},
    "fsdp2": {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    },
    "zero2": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "zero3": {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
        "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_reads_each_shipped_configuration_and_knows_every_key(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    written = yaml.safe_load(path.read_text())
    assert config.to_dict() | written == config.to_dict()
    known = {action.dest for action in launch_command_parser()._actions}
    assert {key for each in written.values() if isinstance(each, dict) for key in each} <= known
    found = variables_of(path)
    assert found["ACCELERATE_MIXED_PRECISION"] == "no"  # prefpipe's --bf16 decides
    assert {key: found[key].lower() for key in WORDS[name]} == {
        key: value.lower() for key, value in WORDS[name].items()
    }
    assert sum(f"ACCELERATE_USE_{word}" in found for word in ("FSDP", "DEEPSPEED")) == len(
        WORDS[name]
    ) // max(1, len(WORDS[name]))


def test_launch_config_prints_the_path_that_a_command_line_takes(launcher: Launcher) -> None:
    for name in NAMES:
        assert launcher.server.run("launch-config", name).stdout == f"{FOLDER / name}.yaml\n"
    assert [
        line.split()[0] for line in launcher.server.run("launch-config").stdout.splitlines()
    ] == NAMES
    wrong = launcher.server.run("launch-config", "fsdp")
    assert (wrong.code, wrong.stdout) == (2, "")
    assert (
        "error: there is no configuration 'fsdp'\n\nhint: use ddp, fsdp2, zero2, zero3, or your own file"
        in wrong.stderr
    )


def start(
    launcher: Launcher, folder: Path, words: list[str], *flags: object
) -> subprocess.Popen[str]:
    """Start a launcher with two processes of `prefpipe train`."""
    more = [str(word) for word in ("-m", "prefpipe", *launcher.train_words(folder, flags))]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    return subprocess.Popen(
        [sys.executable, "-m", *words, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str]) -> Outcome:
    """Wait for a launcher and return what it and its processes wrote."""
    try:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        pytest.fail(f"no end after {LIMIT_S:.0f} s\n{stderr}")
    return Outcome(process.returncode, stdout, stderr, 0.0)


@pytest.mark.slow
def test_accelerate_launch_with_a_shipped_configuration(launcher: Launcher) -> None:
    folder = launcher.folder()
    words = [
        "accelerate.commands.launch",
        "--config_file",
        str(FOLDER / "ddp.yaml"),
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
    ]
    outcome = finish(start(launcher, folder, words, "--objective", "simpo"))
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout == f"{folder}\n"
    assert "4 prompts per step = 2 devices x 1 x 2 accumulated" in outcome.stderr
    assert_trained(Trained(folder, [outcome]))


def assert_trained(run: Trained) -> None:
    assert [row["n_prompts"] for row in run.metrics] == [4, 4, 3, 4, 4, 3]
    assert (run.folder / "config.json").exists()


@pytest.mark.slow
def test_a_signal_to_torchrun_leaves_a_checkpoint_and_no_process(launcher: Launcher) -> None:
    """The launcher passes it on; batch systems signal the processes too, which must not stop at once for that."""
    folder = launcher.folder()
    words = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start(launcher, folder, words, "--objective", "simpo", "--max-steps", 15_000)
    deadline = time.monotonic() + LIMIT_S
    while (
        not (folder / "metrics.parquet").exists()
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    workers = children_of(process.pid)
    for pid in (*workers, process.pid):
        os.kill(pid, signal.SIGTERM)
    outcome = finish(process)
    assert len(workers) == 2, outcome.stderr
    assert outcome.code != 0
    assert outcome.stderr.count("stopped: train stopped on request at step") == 1, outcome.stderr
    assert find_last_checkpoint(folder) is not None, outcome.stderr
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
