"""Two processes over gloo, forked from one that has imported everything, with the variables that `accelerate launch` would set."""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from safetensors.torch import load_file, save_file
from torch.distributed import TCPStore

from prefpipe.models.files import inspect_model
from support.stage_server import Command, Outcome, StageServer
from support.tiny_models import make_tiny_causal_lm
from support.written_groups import row_of, write_groups

LIMIT_S = 240.0
N_PROMPTS = 11
"""Of which 4 make a step: the last one of each epoch has 3."""
COMMON = ("--learning-rate", 1e-2, "--global-batch-size", 4)


class Inputs(NamedTuple):
    """A model, one with tied embeddings, one whose weights are bfloat16 numbers, as published ones are, and groups of 2 to 5 responses."""

    model: Path
    tied: Path
    rounded: Path
    groups: Path


class Trained(NamedTuple):
    """A run's folder and what its processes said."""

    folder: Path
    outcomes: list[Outcome]

    @property
    def metrics(self) -> list[dict[str, float]]:
        """Rows of ``metrics.parquet``."""
        rows: list[dict[str, float]] = pq.read_table(self.folder / "metrics.parquet").to_pylist()
        return rows

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The saved model or adapter."""
        return weights_in(self.folder)

    @property
    def kept(self) -> dict[str, dict[str, torch.Tensor]]:
        """The models of steps on the way, by their folder's name."""
        return {path.name: weights_in(path) for path in sorted(self.folder.glob("step-*"))}

    @property
    def said(self) -> str:
        """What all processes wrote to stderr."""
        return "\n".join(
            f"--- process {rank}, exit code {each.code}\n{each.stderr}"
            for rank, each in enumerate(self.outcomes)
        )


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a model or adapter."""
    names = ("adapter_model.safetensors", "model.safetensors")
    return load_file(next(folder / name for name in names if (folder / name).exists()))


def variables_of(config: Path) -> dict[str, str]:
    """Return the variables that `accelerate launch` sets in its processes for a configuration file, by its own parser."""
    words = [
        "--config_file",
        str(config),
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "-m",
        "prefpipe",
    ]
    arguments, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        _, found = prepare_deepspeed_cmd_env(arguments)
    else:
        found = prepare_multi_gpu_env(arguments)
    return {name: value for name, value in found.items() if os.environ.get(name) != value}


class Launcher:
    """Runs `prefpipe train`, in one process or in two."""

    def __init__(self, server: StageServer, inputs: Inputs, root: Path) -> None:
        self.server, self.inputs, self.root = server, inputs, root
        self.limit_s = LIMIT_S

    def folder(self) -> Path:
        """Return a new folder's path."""
        return Path(tempfile.mkdtemp(dir=self.root)) / "policy"

    def one(
        self,
        *flags: object,
        model: Path | None = None,
        variables: Mapping[str, str] | None = None,
        code: int = 0,
    ) -> Trained:
        """Train in one process, which must end with ``code``."""
        folder = self.folder()
        outcome = self.server.run(
            *self.train_words(folder, flags, model), env=dict(variables or {}), limit_s=self.limit_s
        )
        assert outcome.code == code, outcome.stderr
        return Trained(folder, [outcome])

    def two(
        self,
        variables: Mapping[str, str],
        *flags: object,
        model: Path | None = None,
        folder: Path | None = None,
        codes: tuple[int, int] = (0, 0),
    ) -> Trained:
        """Train in two processes, which must end with ``codes``."""
        folder = folder or self.folder()
        store = TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False
        )  # as the launcher has one, on any free port
        words = [str(word) for word in self.train_words(folder, flags, model)]
        world = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "TORCH_CPP_LOG_LEVEL": "ERROR",
        }
        commands = [
            Command(
                words,
                {**variables, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                limit_s=self.limit_s,
            )
            for rank in range(2)
        ]
        trained = Trained(folder, self.server.run_at_once(commands))
        assert tuple(outcome.code for outcome in trained.outcomes) == codes, trained.said
        return trained

    def train_words(
        self, folder: Path, flags: tuple[object, ...], model: Path | None = None
    ) -> list[object]:
        """Return the command's words."""
        quiet: list[object] = [] if "--report-to" in flags else ["--report-to", "none"]
        quiet += [] if "--max-steps" in flags else ["--num-train-epochs", 2]
        return [
            "train",
            self.inputs.groups,
            "-o",
            folder,
            "--model",
            model or self.inputs.model,
            *COMMON,
            *quiet,
            *flags,
        ]


@contextmanager
def open_launcher(variables: Mapping[str, str] | None = None) -> Iterator[Launcher]:
    """Start the process that forks, with some variables more, and write the inputs."""
    memory = Path("/dev/shm")
    root = Path(
        tempfile.mkdtemp(
            prefix="prefpipe-tests-", dir=memory if os.access(memory, os.W_OK) else None
        )
    )
    (root / "streams").mkdir()
    server = StageServer(
        root / "streams", ("prefpipe.stages.train.run", "support.on_gloo"), variables or {}
    )
    model, tied = (
        make_tiny_causal_lm(root / "model"),
        make_tiny_causal_lm(root / "tied", 1, tie_word_embeddings=True),
    )
    rounded = make_tiny_causal_lm(root / "rounded")
    weights = {
        name: weight.bfloat16().float()
        for name, weight in load_file(rounded / "model.safetensors").items()
    }
    save_file(weights, rounded / "model.safetensors", {"format": "pt"})
    yield Launcher(server, Inputs(model, tied, rounded, _make_groups(root / "groups", model)), root)
    server.stop()
    shutil.rmtree(root, ignore_errors=True)


def _make_groups(folder: Path, model: Path) -> Path:
    randomness = random.Random(0)
    prompts = [
        [
            row_of(
                f"p{p}",
                i,
                "".join(randomness.choices("abcdefgh ", k=randomness.randrange(3, 20))),
                cost=1.0 + p % 3,
            )
            for i in range(2 + p % 4)
        ]
        for p in range(N_PROMPTS)
    ]
    parts = [[row for rows in prompts[start::3] for row in rows] for start in range(3)]
    return write_groups(folder, parts, [inspect_model(model, "tiny").identity()])
