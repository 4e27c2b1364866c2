"""The stage with an evaluation split: what is held out is evaluated on and not trained on."""

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from support.tiny_models import make_tiny_causal_lm
from support.written_groups import PROMPT, row_of, write_groups

from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import (
    FingerprintError,
    IncompleteInputError,
    InputError,
    StoppedEarly,
    UsageError,
)
from prefpipe.execution.runtime import Runtime
from prefpipe.models.files import inspect_model
from prefpipe.stages import logprobs
from prefpipe.stages.train import run as train
from prefpipe.status.checker import StatusChecker

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
ANSWERS = ["one", "a second, longer one", "third", "the fourth"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return inspect_model(make_tiny_causal_lm(tmp_path_factory.mktemp("model")), "org/tiny")


def rows_of(first, last):
    return [
        row_of(f"p{p}", i, f"{answer} {p}")
        for p in range(first, last)
        for i, answer in enumerate(ANSWERS)
    ]


@pytest.fixture
def groups(tmp_path, model):
    return write_groups(tmp_path / "groups", [rows_of(0, 5), rows_of(5, 10)], [model.identity()])


@pytest.fixture
def others(tmp_path, model):
    return write_groups(tmp_path / "others", [rows_of(10, 13)], [model.identity()], note="others")


def config_of(groups, output, **changes):
    values = {
        "model": "org/tiny",
        "learning_rate": 1e-2,
        "global_batch_size": 2,
        "num_train_epochs": 2,
        "report_to": ("none",),
    }
    return TrainConfig(groups=groups, output=output, **(values | changes))


def run(config, model, **runtime):
    said = []
    summary = train.run(config, model, Runtime(log=said.append, **runtime))
    return summary, said


def fates_of(folder):
    return pq.read_table(folder / "part-00000-of-00001.parquet").to_pylist()


def metrics_of(folder, split):
    return [
        row
        for row in pq.read_table(folder / "metrics.parquet")
        .drop_columns("tokens_per_s")
        .to_pylist()
        if row["split"] == split
    ]


@pytest.mark.slow
def test_held_out_prompts_are_evaluated_and_not_trained_on(groups, model, tmp_path):
    summary, said = run(
        config_of(groups, tmp_path / "policy", eval_fraction=0.4, objective="dpo"), model
    )
    held = {
        row["prompt_id"] for row in fates_of(tmp_path / "policy") if row["status"] == "held_out"
    }
    assert 0 < len(held) < 10
    assert summary.counts == {"ok": (10 - len(held)) * 4, "held_out": len(held) * 4}
    assert (summary.facts["n_groups"], summary.facts["n_eval_groups"]) == (
        10 - len(held),
        len(held),
    )
    assert all(row["ref_logp"] < 0 for row in fates_of(tmp_path / "policy"))
    assert sum(row["n_prompts"] for row in metrics_of(tmp_path / "policy", "train")) == 2 * (
        10 - len(held)
    )
    assert any(f"{10 - len(held)} groups and {len(held)} to evaluate on" in line for line in said)


@pytest.mark.slow
def test_the_run_is_that_of_groups_without_the_held_out_prompts(groups, model, tmp_path):
    """The weights are those of training on the other prompts alone.

    Nothing of the held-out ones gets into them.
    """
    run(config_of(groups, tmp_path / "split", eval_fraction=0.4, lora_r=4, lora_dropout=0.3), model)
    held = {row["prompt_id"] for row in fates_of(tmp_path / "split") if row["status"] == "held_out"}
    kept = [row for row in rows_of(0, 10) if row["prompt_id"] not in held]
    alone = write_groups(tmp_path / "alone", [kept], [model.identity()])
    run(config_of(alone, tmp_path / "plain", lora_r=4, lora_dropout=0.3), model)
    left, right = (
        load_file(tmp_path / side / "adapter_model.safetensors") for side in ("split", "plain")
    )
    assert all(left[name].equal(value) for name, value in right.items())


@pytest.mark.slow
def test_there_is_a_baseline_before_the_first_step_ten_rows_on_the_way_and_one_at_the_end(
    groups, model, tmp_path
):
    """25 steps: a tenth rounds up to every 3, so 3, 6, ..., 24, and the last."""
    run(
        config_of(
            groups,
            tmp_path / "policy",
            eval_fraction=0.4,
            objective="dpo",
            num_train_epochs=None,
            max_steps=25,
        ),
        model,
    )
    rows = metrics_of(tmp_path / "policy", "eval")
    assert [row["step"] for row in rows] == [0, *range(3, 25, 3), 25]
    assert (rows[0]["rewards/margins"], rows[0]["rewards/accuracy"]) == (
        0,
        0,
    )  # policy and reference are one model
    assert rows[-1]["loss"] != rows[0]["loss"]


@pytest.mark.slow
def test_how_often_it_is_evaluated_does_not_change_the_weights(groups, model, tmp_path):
    shape = {"eval_fraction": 0.4, "lora_r": 4, "lora_dropout": 0.3}
    for steps in (1, 5):
        run(config_of(groups, tmp_path / str(steps), eval_steps=steps, **shape), model)
    left, right = (load_file(tmp_path / side / "adapter_model.safetensors") for side in "15")
    assert all(left[name].equal(value) for name, value in right.items())
    assert len(metrics_of(tmp_path / "1", "eval")) > len(metrics_of(tmp_path / "5", "eval"))


@pytest.mark.slow
def test_stopped_and_run_again_has_the_metrics_of_an_undisturbed_run(groups, model, tmp_path):
    shape = {"eval_fraction": 0.4, "objective": "dpo", "eval_steps": 2}
    run(config_of(groups, tmp_path / "straight", **shape), model)
    asked = iter([False] * 4 + [True] * 100)
    with pytest.raises(StoppedEarly):
        run(config_of(groups, tmp_path / "broken", **shape), model, should_stop=lambda: next(asked))
    run(config_of(groups, tmp_path / "broken", **shape), model)
    assert metrics_of(tmp_path / "straight", "eval") == metrics_of(tmp_path / "broken", "eval")
    assert metrics_of(tmp_path / "straight", "train") == metrics_of(tmp_path / "broken", "train")


@pytest.mark.slow
def test_the_steps_asked_for_when_going_on_are_those_that_count(groups, model, tmp_path):
    """A checkpoint brings the steps between evaluations that it was made with."""
    asked = iter([False] * 1 + [True] * 100)
    with pytest.raises(StoppedEarly):
        run(
            config_of(groups, tmp_path / "policy", eval_fraction=0.4, eval_steps=4),
            model,
            should_stop=lambda: next(asked),
        )
    run(config_of(groups, tmp_path / "policy", eval_fraction=0.4, eval_steps=1), model)
    assert [row["step"] for row in metrics_of(tmp_path / "policy", "eval")] == [0, *range(3, 9)]


@pytest.mark.slow
def test_another_fraction_in_the_same_folder_is_refused_by_name(groups, model, tmp_path):
    run(config_of(groups, tmp_path / "policy", eval_fraction=0.4), model)
    with pytest.raises(FingerprintError, match=r"eval_fraction: 0.4 on disk, 0.5 requested"):
        run(config_of(groups, tmp_path / "policy", eval_fraction=0.5), model)


@pytest.mark.slow
def test_groups_of_their_own_are_evaluated_on_with_their_own_reference(
    groups, others, model, tmp_path
):
    summary, _ = run(
        config_of(groups, tmp_path / "policy", eval_groups=others, objective="dpo"), model
    )
    assert (summary.facts["n_groups"], summary.facts["n_eval_groups"]) == (10, 3)
    assert summary.counts == {"ok": 40}
    assert metrics_of(tmp_path / "policy", "eval")[0]["rewards/margins"] == 0
    assert (tmp_path / "policy" / "reference-eval" / "run.json").exists()
    run(config_of(groups, tmp_path / "plain", objective="dpo"), model)
    left, right = (load_file(tmp_path / side / "model.safetensors") for side in ("policy", "plain"))
    assert all(left[name].equal(value) for name, value in right.items())


@pytest.mark.slow
def test_evaluation_groups_are_prepared_as_those_that_are_trained_on_and_counted(
    groups, model, tmp_path
):
    """A copy of the positive and a response over the limit are left out.

    A group with nothing to compare is no group.
    """
    rows = [
        row_of("a", 0, "one"),
        row_of("a", 1, "one"),
        row_of("a", 2, "two"),
        row_of("a", 3, "x" * 60),
        row_of("b", 0, "one"),
        row_of("b", 1, "x" * 60),
    ]
    mixed = write_groups(tmp_path / "mixed", [rows], [model.identity()], note="mixed")
    config = config_of(
        groups, tmp_path / "policy", eval_groups=mixed, objective="dpo", max_length=len(PROMPT) + 40
    )
    summary, said = run(config, model)
    assert summary.facts["eval_counts"] == {
        "identical": 1,
        "no_contrast": 1,
        "ok": 2,
        "too_long": 2,
    }
    assert (summary.facts["n_eval_groups"], summary.facts["n_eval_responses"]) == (1, 2)
    assert (
        "4 of 6 responses of --eval-groups are left out: 1 identical, 1 no_contrast, 2 too_long"
        in said
    )


@pytest.mark.slow
def test_a_policy_is_stale_when_its_evaluation_groups_were_made_again(
    groups, others, model, tmp_path
):
    run(config_of(groups, tmp_path / "policy", eval_groups=others), model)
    assert StatusChecker().check(tmp_path / "policy").state == "done"
    (others / "part-00000-of-00001.parquet").unlink()
    write_groups(others, [rows_of(20, 22)], [model.identity()], note="others")
    report = StatusChecker().check(tmp_path / "policy")
    assert report.state == "stale"
    assert any("another version of its eval_groups" in reason for reason in report.reasons)


@pytest.mark.slow
def test_other_evaluation_groups_are_another_run(groups, others, model, tmp_path):
    run(config_of(groups, tmp_path / "policy", eval_groups=others), model)
    more = write_groups(tmp_path / "more", [rows_of(10, 15)], [model.identity()], note="more")
    with pytest.raises(
        FingerprintError, match=r"eval_groups.note: \"?others\"? on disk, \"?more\"? requested"
    ):
        run(config_of(groups, tmp_path / "policy", eval_groups=more), model)


@pytest.mark.slow
def test_evaluation_groups_whose_rows_changed_are_trained_with_again(
    groups, others, model, tmp_path
):
    run(config_of(groups, tmp_path / "policy", eval_groups=others), model)
    (others / "part-00000-of-00001.parquet").unlink()
    write_groups(others, [rows_of(20, 22)], [model.identity()], note="others")
    summary, said = run(config_of(groups, tmp_path / "policy", eval_groups=others), model)
    assert any(f"{others} changed since" in line for line in said)
    assert summary.facts["n_eval_groups"] == 2


def test_a_prompt_on_both_sides_is_refused_before_the_reference_is_measured(
    groups, model, tmp_path
):
    both = write_groups(tmp_path / "both", [rows_of(8, 12)], [model.identity()], note="both")
    with pytest.raises(
        InputError, match="2 of the 4 prompts of --eval-groups are also trained on: p8, p9"
    ):
        run(config_of(groups, tmp_path / "policy", eval_groups=both, objective="dpo"), model)
    assert not (tmp_path / "policy" / "reference").exists()


@pytest.mark.slow
def test_the_text_of_a_trained_prompt_under_another_id_is_said(groups, others, model, tmp_path):
    _, said = run(
        config_of(
            groups, tmp_path / "policy", eval_groups=others, max_steps=1, num_train_epochs=None
        ),
        model,
    )
    assert any(
        "3 of the 3 prompts of --eval-groups have the text of a training prompt" in line
        for line in said
    )


def test_missing_parts_of_the_evaluation_groups_are_refused_even_with_allow_partial(
    groups, model, tmp_path
):
    half = write_groups(tmp_path / "half", [rows_of(10, 12), None], [model.identity()], note="half")
    with pytest.raises(IncompleteInputError, match="1 of 2 parts are missing"):
        run(config_of(groups, tmp_path / "policy", eval_groups=half, allow_partial=True), model)


def logprobs_of(groups, output, model):
    logprobs.run(
        LogprobsConfig(groups=groups, output=output, model="org/tiny", max_length=2048),
        model,
        Runtime(log=[].append),
    )
    return output


@pytest.mark.slow
def test_a_given_reference_is_taken_for_both_sides(groups, others, model, tmp_path):
    given = {
        "reference": logprobs_of(groups, tmp_path / "r", model),
        "eval_reference": logprobs_of(others, tmp_path / "e", model),
    }
    run(config_of(groups, tmp_path / "policy", eval_groups=others, objective="dpo", **given), model)
    assert not list((tmp_path / "policy").glob("reference*"))
    wrong = given | {"eval_reference": given["reference"]}
    with pytest.raises(InputError, match=f"--eval-reference {given['reference']} was not made for"):
        run(
            config_of(groups, tmp_path / "wrong", eval_groups=others, objective="dpo", **wrong),
            model,
        )


def test_two_sides_under_different_references_are_refused(groups, others, model, tmp_path):
    another = inspect_model(make_tiny_causal_lm(tmp_path / "another", seed=7), "org/tiny")
    given = logprobs_of(groups, tmp_path / "reference", another)
    with pytest.raises(
        UsageError, match=r"(?s)another reference than the training groups.*content_hash"
    ) as caught:
        run(
            config_of(
                groups, tmp_path / "policy", eval_groups=others, objective="dpo", reference=given
            ),
            model,
        )
    assert "--eval-reference" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_fraction": 1.0}, "--eval-fraction must be at least 0 and below 1, not 1.0"),
        (
            {"eval_fraction": 0.1, "eval_groups": "x"},
            "--eval-fraction and --eval-groups exclude each other",
        ),
        ({"eval_steps": 5}, "--eval-steps needs --eval-fraction or --eval-groups"),
        ({"eval_steps": 0, "eval_fraction": 0.1}, "--eval-steps must be 1 or more, not 0"),
        ({"eval_reference": "x"}, "--eval-reference needs --eval-groups"),
    ],
)
def test_bad_values_are_named(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(groups=tmp_path, output=tmp_path, model="m", **changes)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["reference", "reference_model"])
def test_a_reference_for_an_objective_without_one_is_looked_at_and_changes_nothing(
    groups, model, tmp_path, how
):
    given = logprobs_of(groups, tmp_path / "reference", model) if how == "reference" else "org/tiny"
    run(config_of(groups, tmp_path / "plain", objective="simpo", eval_fraction=0.4), model)
    config = config_of(
        groups, tmp_path / "watched", objective="simpo", eval_fraction=0.4, **{how: given}
    )
    watched = train.run(
        config, model, Runtime(), reference_model=model if how == "reference_model" else None
    )
    left, right = (
        load_file(tmp_path / side / "model.safetensors") for side in ("plain", "watched")
    )
    assert all(left[name].equal(value) for name, value in right.items())
    for split in ("train", "eval"):
        plain, rows = (metrics_of(tmp_path / side, split) for side in ("plain", "watched"))
        assert [row["loss"] for row in rows] == [row["loss"] for row in plain]
        assert [row["rewards/margins"] for row in rows] == [row["rewards/margins"] for row in plain]
        assert {row["kl"] for row in plain} == {None}
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert abs(rows[-1]["kl"]) > 1e-4
    _, said = run(
        config_of(groups, tmp_path / "watched", objective="simpo", eval_fraction=0.4), model
    )
    assert any("trained and kept" in line for line in said)  # it is the same run
    assert watched.facts["last"]["kl"] is not None
