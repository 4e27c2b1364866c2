"""DeepSpeed over gloo: ZeRO-2 and ZeRO-3 train to the same weights as one process (``make test-deepspeed``)."""

import importlib.util
from collections.abc import Iterator

import pytest
import torch
from support.launched import Launcher, Trained, open_launcher, variables_of

from prefpipe.cli.launch_config import FOLDER

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed: make test-deepspeed"
    ),
    pytest.mark.timeout(900),
]
REFERENCE = ("--objective", "dpo", "--beta", 1)
CUT = (
    "--objective",
    "simpo",
    "--max-batch-tokens",
    64,
    "--max-grad-norm",
    0.5,
    "--per-device-train-batch-size",
    2,
)
KINDS = {"reference": REFERENCE, "passes": CUT, "adapter": (*REFERENCE, "--lora-r", 4)}


@pytest.fixture(scope="module")
def patient() -> Iterator[Launcher]:
    """The first run compiles an extension of DeepSpeed's, which takes a minute."""
    with open_launcher({"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu"}) as opened:
        opened.limit_s = 300.0
        yield opened


@pytest.mark.parametrize("name", ["zero2", "zero3"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_two_processes_train_to_the_weights_of_one(
    patient: Launcher, launcher: Launcher, kind: str, name: str
) -> None:
    one, two = (
        launcher.one(*KINDS[kind]),
        patient.two(variables_of(FOLDER / f"{name}.yaml"), *KINDS[kind]),
    )
    for found, wanted in zip(two.metrics, one.metrics, strict=True):
        for figure in ("loss", "grad_norm", "n_prompts", "logps/chosen"):
            assert found[figure] == pytest.approx(wanted[figure], abs=1e-4), figure
    assert two.weights.keys() == one.weights.keys()
    for key, weight in one.weights.items():
        torch.testing.assert_close(two.weights[key], weight, atol=2e-5, rtol=1e-4)


def test_stopped_and_run_again(patient: Launcher, launcher: Launcher) -> None:
    zero = variables_of(FOLDER / "zero3.yaml")
    stopped = patient.two(zero | {"SIGTERM_AT": "1:2"}, *REFERENCE, codes=(75, 75))
    again: Trained = patient.two(zero, *REFERENCE, folder=stopped.folder)
    one = launcher.one(*REFERENCE)
    for key, weight in one.weights.items():
        torch.testing.assert_close(again.weights[key], weight, atol=2e-5, rtol=1e-4)
