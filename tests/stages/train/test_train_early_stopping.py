"""Early stopping through the stage.

What is saved is the best evaluation's model, also after a stop or a kill.
"""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from support.tiny_models import make_tiny_causal_lm
from support.written_groups import row_of, write_groups

from prefpipe.configs.train import TrainConfig
from prefpipe.errors import FingerprintError, StoppedEarly, UsageError
from prefpipe.execution.runtime import Runtime
from prefpipe.models.files import inspect_model
from prefpipe.stages.train import run as train

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
ANSWERS = ["one", "a second, longer one", "third", "the fourth"]
PATIENCE = 2
N_STEPS = 40
SHAPE = {
    "objective": "dpo",
    "beta": 1.0,
    "learning_rate": 3e-2,
    "max_steps": N_STEPS,
    "eval_steps": 2,
    "lr_scheduler_type": "constant",
}
WEIGHTS = {0: "model.safetensors", 4: "adapter_model.safetensors"}
whole_and_adapter = pytest.mark.parametrize("lora_r", [0, 4])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return inspect_model(make_tiny_causal_lm(tmp_path_factory.mktemp("model")), "org/tiny")


@pytest.fixture(scope="module")
def sides(tmp_path_factory, model):
    """Groups, and held-out ones that want the opposite from some step on.

    The policy overfits, and early stopping must see it.
    """
    folder = tmp_path_factory.mktemp("sides")
    rows = [
        row_of(f"p{p}", i, f"{answer} {p}") for p in range(8) for i, answer in enumerate(ANSWERS)
    ]
    train_groups = write_groups(folder / "train", [rows], [model.identity()])
    held = [
        row_of(f"q{p}", i, f"{ANSWERS[(i + p // 2) % 4]} {p}") for p in range(6) for i in range(4)
    ]
    return train_groups, write_groups(folder / "held", [held], [model.identity()], note="held out")


def config_of(sides, output, **changes):
    values = {
        "model": "org/tiny",
        "global_batch_size": 4,
        "report_to": ("none",),
        "early_stopping_patience": PATIENCE,
        "eval_groups": sides[1],
        **SHAPE,
    }
    return TrainConfig(groups=sides[0], output=output, **(values | changes))


def run(config, model, **runtime):
    said = []
    summary = train.run(config, model, Runtime(log=said.append, **runtime))
    return summary, said


def evaluations_of(folder):
    return [
        row
        for row in pq.read_table(folder / "metrics.parquet")
        .drop_columns("tokens_per_s")
        .to_pylist()
        if row["split"] == "eval"
    ]


@pytest.fixture(scope="module", params=[0, 4], ids=["whole model", "adapter"])
def straight(request, sides, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    summary, _ = run(config_of(sides, folder, lora_r=request.param), model)
    return request.param, folder, summary


def assert_same(left, right, lora_r):
    one, other = (load_file(folder / WEIGHTS[lora_r]) for folder in (left, right))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


@pytest.mark.slow
def test_the_run_ends_with_patience_and_the_best_evaluation_is_what_is_saved(straight):
    lora_r, folder, summary = straight
    rows = evaluations_of(folder)[1:]
    order = [(row["rewards/accuracy"], -row["loss"]) for row in rows]
    best = order.index(max(order))
    assert len(rows) == best + 1 + PATIENCE
    assert rows[-1]["step"] < N_STEPS
    figures = json.loads((folder / "summary.json").read_text())["evaluation"]
    assert figures["stopped_early"]
    assert figures["best"]["step"] == rows[best]["step"]
    assert figures["best"]["rewards/accuracy"] == pytest.approx(rows[best]["rewards/accuracy"])
    assert_same(folder, folder / f"checkpoint-{rows[best]['step']}", lora_r)
    last = load_file(folder / f"checkpoint-{rows[-1]['step']}" / WEIGHTS[lora_r])
    assert any(
        not last[name].equal(value) for name, value in load_file(folder / WEIGHTS[lora_r]).items()
    )
    assert any(
        f"the saved model is that of step {rows[best]['step']}" in line for line in summary.notes
    )


@pytest.mark.slow
@pytest.mark.parametrize("after", range(1, 8, 2))
def test_stopped_and_run_again_equals_undisturbed(straight, sides, model, tmp_path, after):
    """Checkpoints on the way are few, so that the best would be deleted if nothing kept it."""
    lora_r, folder, _ = straight
    asked = iter([False] * after + [True] * 1000)
    config = config_of(sides, tmp_path / "broken", lora_r=lora_r, save_total_limit=1, save_steps=1)
    with pytest.raises(StoppedEarly):
        run(config, model, should_stop=lambda: next(asked))
    assert not (tmp_path / "broken" / WEIGHTS[lora_r]).exists()
    run(config, model)
    assert_same(folder, tmp_path / "broken", lora_r)
    assert evaluations_of(folder) == evaluations_of(tmp_path / "broken")
    assert (folder / "summary.json").read_text() == (
        tmp_path / "broken" / "summary.json"
    ).read_text()


@pytest.mark.slow
def test_killed_between_the_end_of_patience_and_the_saving_takes_no_step_more(
    straight, sides, model, tmp_path
):
    """The checkpoint says that patience is over: going on from it only saves the best model."""
    lora_r, folder, _ = straight
    shutil.copytree(folder, tmp_path / "killed")
    for name in (WEIGHTS[lora_r], "part-00000-of-00001.parquet", "summary.json"):
        (tmp_path / "killed" / name).unlink()
    for name in ("config.json", "adapter_config.json"):
        (tmp_path / "killed" / name).unlink(missing_ok=True)
    _, said = run(config_of(sides, tmp_path / "killed", lora_r=lora_r), model)
    assert any("resuming from" in line for line in said)
    assert_same(folder, tmp_path / "killed", lora_r)
    assert (folder / "summary.json").read_text() == (
        tmp_path / "killed" / "summary.json"
    ).read_text()
    assert evaluations_of(folder) == evaluations_of(tmp_path / "killed")


@pytest.mark.slow
def test_a_best_checkpoint_that_is_gone_is_an_error_and_not_another_model(
    straight, sides, model, tmp_path
):
    lora_r, folder, _ = straight
    shutil.copytree(folder, tmp_path / "lost")
    best = json.loads((folder / "summary.json").read_text())["evaluation"]["best"]["step"]
    shutil.rmtree(tmp_path / "lost" / f"checkpoint-{best}")
    (tmp_path / "lost" / "summary.json").unlink()
    with pytest.raises(
        UsageError, match=f"best evaluation was at step {best}, but its model, .* is gone"
    ):
        run(config_of(sides, tmp_path / "lost", lora_r=lora_r), model)


@pytest.mark.slow
def test_a_run_whose_patience_lasts_saves_its_best_too(sides, model, tmp_path):
    summary, _ = run(
        config_of(sides, tmp_path / "policy", early_stopping_patience=100, max_steps=12), model
    )
    figures = summary.facts["evaluation"]
    assert not figures["stopped_early"]
    assert figures["last"]["step"] == 12
    assert_same(
        tmp_path / "policy", tmp_path / "policy" / f"checkpoint-{figures['best']['step']}", 0
    )


@pytest.mark.slow
def test_how_often_it_is_evaluated_is_part_of_the_run_with_early_stopping(sides, model, tmp_path):
    run(config_of(sides, tmp_path / "policy", max_steps=4), model)
    with pytest.raises(FingerprintError, match="eval_steps: 2 on disk, 1 requested"):
        run(config_of(sides, tmp_path / "policy", max_steps=4, eval_steps=1), model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"early_stopping_patience": 2},
            "--early-stopping-patience needs --eval-fraction or --eval-groups",
        ),
        (
            {"early_stopping_patience": 0, "eval_fraction": 0.1},
            "--early-stopping-patience must be 1 or more, not 0",
        ),
    ],
)
def test_bad_values_are_named(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(groups=tmp_path, output=tmp_path, model="m", **changes)
