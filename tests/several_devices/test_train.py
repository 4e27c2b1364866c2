"""Training on two devices is training on one.

The same losses, norms and weights, whatever holds the weights.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from support.launched import Launcher, Trained, variables_of
from support.pipelines import rows_of, write_prompts
from transformers import AutoModelForCausalLM

from prefpipe.cli.launch_config import FOLDER

DDP, FSDP2 = variables_of(FOLDER / "ddp.yaml"), variables_of(FOLDER / "fsdp2.yaml")
SHARDED = FSDP2 | {"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}
each_wrapper = pytest.mark.parametrize("wrapper", [DDP, FSDP2], ids=["DDP", "FSDP2"])

REFERENCE = ("--objective", "dpo", "--beta", 1, "--keep-step", 2)
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
"""No reference; groups that span several passes, other numbers of them on each device; gradients
that are clipped.
"""
PLAIN = ("--objective", "ampo", "--no-shared-prompt", "--gradient-checkpointing")
ADAPTER = (*REFERENCE, "--lora-r", 4)
UNEVEN = (
    "--objective",
    "simpo",
    "--global-batch-size",
    8,
    "--per-device-train-batch-size",
    4,
    "--report-to",
    "tensorboard",
)
"""The last step of each epoch has 3 prompts: all of them on the first device, none on the second."""


def assert_same(two: Trained, one: Trained) -> None:
    """Compare every figure of every step but its speed and the epoch, whose last step has other shares, and the saved weights, those of a step on the way too."""
    for found, wanted in zip(two.metrics, one.metrics, strict=True):
        names = wanted.keys() - {"epoch", "split", "tokens_per_s"}
        assert {name: found[name] for name in names} == pytest.approx(
            {name: wanted[name] for name in names}, abs=1e-4
        )
    models = {"last": one.weights, **one.kept}
    found_models = {"last": two.weights, **two.kept}
    assert found_models.keys() == models.keys()
    for place, weights in models.items():
        assert found_models[place].keys() == weights.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(found_models[place][name], weight, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def reference(launcher: Launcher) -> Trained:
    return launcher.one(*REFERENCE)


@pytest.fixture(scope="module")
def cut(launcher: Launcher) -> Trained:
    return launcher.one(*CUT)


@pytest.fixture(scope="module")
def adapter(launcher: Launcher) -> Trained:
    return launcher.one(*ADAPTER)


@pytest.fixture(scope="module")
def cut_up(launcher: Launcher) -> Trained:
    """A policy that FSDP had in pieces."""
    return launcher.two(FSDP2, *REFERENCE)


def test_an_objective_with_a_reference(launcher: Launcher, reference: Trained) -> None:
    """11 prompts in steps of 4: the last of each epoch has 3, of which one device gets 2 and the other 1.

    One file of metrics, one summary, one result, and what both would say is said once.
    """
    two = launcher.two(DDP, *REFERENCE)
    assert_same(two, reference)
    assert [row["n_prompts"] for row in two.metrics] == [4, 4, 3, 4, 4, 3]
    assert rows_of(two.folder) == [
        row | {"ref_logp": pytest.approx(row["ref_logp"], abs=1e-4)}
        for row in rows_of(reference.folder)
    ]
    assert [outcome.stdout for outcome in two.outcomes] == [f"{two.folder}\n", ""]
    for line in (
        "train: 37 rows in",
        "4 prompts per step = 2 devices x 1 x 2 accumulated",
        "train: 6 of 6 steps done",
    ):
        assert two.said.count(line) == 1, two.said
    parts = [
        line
        for outcome in two.outcomes
        for line in outcome.stderr.splitlines()
        if line.startswith("logprobs: ")
    ]
    assert sorted(line.partition(" done")[0] for line in parts) == [
        "logprobs: 1 of 1 part",
        "logprobs: 2 of 2 parts",
    ]


def test_an_objective_with_a_reference_and_weights_in_pieces(
    cut_up: Trained, reference: Trained
) -> None:
    assert_same(cut_up, reference)


@each_wrapper
def test_positives_alone_that_are_weighted(launcher: Launcher, wrapper: dict[str, str]) -> None:
    """Steps of 8 and 3 prompts, so that one device has none; nothing is compared."""
    flags = ("--objective", "sft", "--weight-by", "cost", *UNEVEN[2:])
    one, two = launcher.one(*flags), launcher.two(wrapper, *flags)
    assert_same(two, one)
    assert [row["rewards/margins"] for row in two.metrics] == [None] * 4
    assert (
        one.metrics[0]["loss"] != launcher.one("--objective", "sft", *UNEVEN[2:]).metrics[0]["loss"]
    )


@pytest.mark.parametrize("objective", ["bt", "mmpo"])
def test_a_reward_model_with_weights(launcher: Launcher, objective: str) -> None:
    """Prompts and pairs count by their margin, over steps of 4, 4 and 3 prompts."""
    flags = ("--target", "reward", "--objective", objective, "--learning-rate", 1e-3)
    weighted = (*flags, "--weight-by", "margin")
    one, two = launcher.one(*weighted), launcher.two(DDP, *weighted)
    assert_same(two, one)
    assert one.metrics[0]["loss"] != launcher.one(*flags).metrics[0]["loss"]


@each_wrapper
def test_a_device_that_has_no_prompt(launcher: Launcher, wrapper: dict[str, str]) -> None:
    """It waits in the passes of the other, and the figures are means over prompts.

    A mean over devices would halve them.
    """
    two = launcher.two(wrapper, *UNEVEN)
    assert [row["n_prompts"] for row in two.metrics] == [8, 3, 8, 3]
    assert_same(two, launcher.one(*UNEVEN))
    assert len(list((two.folder / "tensorboard").iterdir())) == 1


@each_wrapper
def test_groups_that_span_passes_and_gradients_that_are_clipped(
    launcher: Launcher, cut: Trained, wrapper: dict[str, str]
) -> None:
    two = launcher.two(wrapper | {"CHUNKED": "1"}, *CUT)
    assert_same(two, cut)
    assert min(row["grad_norm"] for row in two.metrics) > 0.5


@each_wrapper
def test_prompts_computed_once_a_response_and_activations_twice(
    launcher: Launcher, wrapper: dict[str, str]
) -> None:
    assert_same(launcher.two(wrapper, *PLAIN), launcher.one(*PLAIN))


def test_tied_embeddings_cut_over_the_devices(launcher: Launcher) -> None:
    model = launcher.inputs.tied
    two = launcher.two(FSDP2 | {"CHUNKED": "1"}, "--objective", "simpo", model=model)
    assert_same(two, launcher.one("--objective", "simpo", model=model))
    assert "lm_head.weight" not in two.weights


@each_wrapper
def test_adapters(launcher: Launcher, adapter: Trained, wrapper: dict[str, str]) -> None:
    two = launcher.two(wrapper, *ADAPTER)
    assert_same(two, adapter)
    assert all("lora" in name for name in two.weights)


@each_wrapper
@pytest.mark.parametrize("kind", [(), ("--lora-r", 4)], ids=["whole model", "adapter"])
def test_in_bfloat16_the_policy_begins_at_its_reference(
    launcher: Launcher, wrapper: dict[str, str], kind: tuple[object, ...]
) -> None:
    """The learning rate of the first step is 0.

    Two losses of exactly log 2, and float32 weights that are saved.
    """
    two = launcher.two(
        wrapper,
        *REFERENCE,
        *kind,
        "--bf16",
        "--max-steps",
        2,
        "--warmup-ratio",
        0.5,
        model=launcher.inputs.rounded,
    )
    assert [row["loss"] for row in two.metrics] == pytest.approx([math.log(2)] * 2, abs=1e-5)
    assert {weight.dtype for weight in two.weights.values()} == {torch.float32}


def test_a_policy_that_was_in_pieces_is_a_model_like_any_other(
    launcher: Launcher, cut_up: Trained, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_pretrained(cut_up.folder)
    assert json.loads((cut_up.folder / "config.json").read_text())["architectures"] == [
        "LlamaForCausalLM"
    ]
    prompts = write_prompts(tmp_path / "prompts.jsonl", 2)
    outcome = launcher.server.run(
        "generate",
        prompts,
        "--backend",
        "transformers",
        "--model",
        cut_up.folder,
        "--n",
        1,
        "--max-tokens",
        4,
        "-o",
        tmp_path / "candidates",
    )
    assert outcome.code == 0, outcome.stderr
    assert len(rows_of(tmp_path / "candidates")) == 2


@pytest.mark.parametrize(
    "wrapper", [DDP, FSDP2, SHARDED], ids=["DDP", "FSDP2", "FSDP2, checkpoints in pieces"]
)
def test_a_signal_to_one_process_stops_both_and_the_same_command_goes_on(
    launcher: Launcher, reference: Trained, wrapper: dict[str, str]
) -> None:
    stopped = launcher.two(wrapper | {"SIGTERM_AT": "1:2"}, *REFERENCE, codes=(75, 75))
    assert (
        stopped.said.count("stopped: train stopped on request at step 2 of 6, with a checkpoint")
        == 1
    ), stopped.said
    assert sorted(path.name for path in stopped.folder.glob("checkpoint-*")) == ["checkpoint-2"]
    assert not (stopped.folder / "config.json").exists()
    again = launcher.two(wrapper, *REFERENCE, folder=stopped.folder)
    assert again.said.count("resuming from") == 1
    assert_same(again, reference)


def test_a_checkpoint_of_one_device_goes_on_with_two_and_that_of_another_wrapper_is_refused(
    launcher: Launcher, reference: Trained
) -> None:
    stopped = launcher.one(*REFERENCE, variables={"SIGTERM_AT": "0:2"}, code=75)
    refused = launcher.two(FSDP2, *REFERENCE, folder=stopped.folder, codes=(2, 2))
    assert (
        refused.said.count(
            "checkpoint-2 was written under DDP or on one device, but this run is under FSDP"
        )
        == 1
    ), refused.said
    assert_same(launcher.two(DDP, *REFERENCE, folder=stopped.folder), reference)


def test_an_error_on_one_process_ends_both_and_is_said_once(launcher: Launcher) -> None:
    failed = launcher.two(DDP | {"FAIL_AT": "1:2"}, *REFERENCE, codes=(1, 1))
    assert failed.said.count("error: ") == 1, failed.said
    assert (
        "error: the loss is not finite\n\nhint: lower --learning-rate" in failed.outcomes[1].stderr
    )


def test_a_wrong_setting_is_said_once(launcher: Launcher) -> None:
    failed = launcher.two(DDP, "--per-device-train-batch-size", 4, codes=(2, 2))
    assert (
        failed.said.count(
            "--global-batch-size 4 prompts is not a multiple of 8 (4 per device x 2 devices)"
        )
        == 1
    ), failed.said


def test_mixed_precision_that_only_the_launcher_knows_of_is_refused(launcher: Launcher) -> None:
    failed = launcher.two(DDP | {"ACCELERATE_MIXED_PRECISION": "bf16"}, codes=(2, 2))
    assert (
        failed.said.count("the launcher sets mixed precision bf16, but this run uses float32") == 1
    ), failed.said
