"""Only a complete checkpoint is resumed from, and a resumed run equals an undisturbed one bit for bit."""

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_models import make_tiny_causal_lm
from support.training_job import metrics_of, run

from prefpipe.errors import UsageError
from prefpipe.training.checkpoints import (
    checkpoint_problem,
    find_last_checkpoint,
    require_checkpoint,
)

KILLED = -signal.SIGKILL


def make_checkpoint(folder, step):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"weight": torch.zeros(3)}, path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"step": step}, path / name)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


def test_the_highest_complete_checkpoint_is_found_by_number_and_not_by_name(tmp_path):
    for step in (9, 10, 100):
        make_checkpoint(tmp_path, step)
    assert find_last_checkpoint(tmp_path).name == "checkpoint-100"


def test_no_folder_and_an_empty_folder_have_no_checkpoint(tmp_path):
    assert find_last_checkpoint(tmp_path / "none") is None
    assert find_last_checkpoint(tmp_path) is None


NAMES = ["trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"]


@pytest.mark.parametrize("harm", ["remove", "empty", "cut"])
@pytest.mark.parametrize("name", NAMES)
def test_a_half_written_checkpoint_is_skipped_and_said_so(tmp_path, name, harm):
    whole, half = make_checkpoint(tmp_path, 10), make_checkpoint(tmp_path, 20)
    content = (half / name).read_bytes()
    if harm == "remove":
        (half / name).unlink()
    else:
        (half / name).write_bytes(b"" if harm == "empty" else content[:-5])
    said = []
    assert find_last_checkpoint(tmp_path, said.append) == whole
    assert said == [f"{half} is skipped: {checkpoint_problem(half)}"]


def test_sharded_weights_need_every_shard(tmp_path):
    path = make_checkpoint(tmp_path, 5)
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    index = {
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        }
    }
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "its weights cannot be read" in checkpoint_problem(path)
    shutil.copy(
        path / "model-00001-of-00002.safetensors", path / "model-00002-of-00002.safetensors"
    )
    assert checkpoint_problem(path) is None


def test_an_explicit_path_may_be_a_checkpoint_or_hold_some(tmp_path):
    path = make_checkpoint(tmp_path, 5)
    assert require_checkpoint(path) == path
    assert require_checkpoint(tmp_path) == path


def test_an_explicit_path_without_a_complete_checkpoint_is_an_error(tmp_path):
    """Starting over without a word is what users of other trainers complain about."""
    with pytest.raises(UsageError, match="nowhere does not exist"):
        require_checkpoint(tmp_path / "nowhere")
    path = make_checkpoint(tmp_path, 5)
    (path / "optimizer.pt").unlink()
    with pytest.raises(
        UsageError,
        match=r"checkpoint-5 is not a complete checkpoint: optimizer.pt is missing or cut off",
    ):
        require_checkpoint(path)
    with pytest.raises(UsageError, match=r"holds no complete checkpoint .*optimizer.pt is missing"):
        require_checkpoint(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        require_checkpoint(tmp_path / "checkpoint-7")


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return make_tiny_causal_lm(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora with dropout"])
def test_killed_and_resumed_equals_undisturbed_bit_for_bit(tmp_path, model_path, lora):
    """SIGKILL in the first epoch, in the middle of a later one, in each phase of writing a checkpoint, and after the end."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    straight.mkdir(), broken.mkdir()
    assert run(straight, model_path, lora) == 0
    assert run(broken, model_path, lora, die_at_step=1) == KILLED
    assert run(broken, model_path, lora, die_in_save=(4, "weights")) == KILLED
    assert run(broken, model_path, lora, die_in_save=(4, "optimizer")) == KILLED
    assert "checkpoint-4 is skipped" in (broken / "skipped.txt").read_text()
    assert run(broken, model_path, lora, die_at_step=7) == KILLED
    assert run(broken, model_path, lora, die_in_save=(10, "state")) == KILLED
    assert run(broken, model_path, lora) == 0
    weights = "adapter_model.safetensors" if lora else "model.safetensors"
    (broken / weights).unlink()
    assert (
        run(broken, model_path, lora) == 0
    )  # all steps are done: only the policy is written again
    expected, found = load_file(straight / weights), load_file(broken / weights)
    assert expected.keys() == found.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
    assert not all(
        value.equal(load_file(straight / "checkpoint-10" / weights)[name])
        for name, value in expected.items()
    )
    tables = [metrics_of(folder) for folder in (straight, broken)]
    assert [row["step"] for row in tables[0]] == list(range(1, 13))
    assert tables[0] == tables[1]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora with dropout"])
def test_killed_with_early_stopping_it_ends_at_the_same_step_with_the_same_best_model(
    tmp_path, model_path, lora
):
    """SIGKILL while the best model is being saved, right after, and while the checkpoint that ends the run is being written."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    straight.mkdir(), broken.mkdir()
    shape = {"patience": 2}
    weights = "adapter_model.safetensors" if lora else "model.safetensors"
    assert run(straight, model_path, lora, **shape) == 0
    table = metrics_of(straight)
    evaluations = [row for row in table if row["split"] == "eval"]
    order = [(row["rewards/accuracy"], -row["loss"]) for row in evaluations]
    best, last = evaluations[order.index(max(order))]["step"], evaluations[-1]["step"]
    assert 1 < best == last - 2 < 10
    assert run(broken, model_path, lora, **shape, die_in_save=(best, "weights")) == KILLED
    assert run(broken, model_path, lora, **shape, die_in_save=(best, "optimizer")) == KILLED
    assert run(broken, model_path, lora, **shape, die_at_step=best) == KILLED
    assert run(broken, model_path, lora, **shape, die_in_save=(last, "state")) == KILLED
    assert run(broken, model_path, lora, **shape) == 0
    (broken / weights).unlink()
    assert (
        run(broken, model_path, lora, **shape) == 0
    )  # patience is over: only the policy is written again
    expected, found = load_file(straight / weights), load_file(broken / weights)
    at_best = load_file(straight / f"checkpoint-{best}" / weights)
    assert all(
        found[name].equal(expected[name]) and at_best[name].equal(expected[name])
        for name in expected
    )
    assert metrics_of(broken) == table
