"""The stage: groups in, a policy and its record out; stopped, killed, repeated and changed runs."""

import json
import math
from dataclasses import fields

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from support.tiny_models import make_tiny_adapter, make_tiny_causal_lm, make_tiny_tokenizer
from transformers import AutoModelForCausalLM

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import GROUPS
from prefpipe.artifacts.store import Shard, open_output
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import (
    FingerprintError,
    IncompleteInputError,
    InputError,
    StoppedEarly,
    UsageError,
)
from prefpipe.execution.runtime import Runtime
from prefpipe.maths.objectives.registry import OBJECTIVES
from prefpipe.models.files import inspect_model
from prefpipe.stages.train import run as train
from prefpipe.stages.train.inputs import settings_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
TOKENIZER = make_tiny_tokenizer()
TURNS = [{"role": "user", "content": "Say something."}]
PROMPT = TOKENIZER.apply_chat_template(TURNS, add_generation_prompt=True, return_dict=False)
ANSWERS = ["one", "a second, longer one", "third", "the fourth"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return inspect_model(make_tiny_causal_lm(tmp_path_factory.mktemp("model")), "org/tiny")


def rows_of(prompt_id, answers=ANSWERS):
    return [
        {
            "prompt_id": prompt_id,
            "sample_idx": i,
            "role": "negative" if i else "positive",
            "reward": float(len(answers) - i),
            "messages": TURNS,
            "response": f"{prompt_id} {answer}",
            "model": "org/tiny",
            "prompt_token_ids": PROMPT,
            "response_token_ids": [
                *TOKENIZER(f"{prompt_id} {answer}", add_special_tokens=False)["input_ids"],
                3,
            ],
            "finish_reason": "stop",
            "status": "ok",
            "rank": i,
        }
        for i, answer in enumerate(answers)
    ]


def write_groups(folder, rows_by_part, models, strategy="bottom-k"):
    """Write a groups artifact, each part's rows given; None leaves the part out."""
    identity = {
        "stage": "select",
        "strategy": strategy,
        "candidates": {"stage": "generate", "models": models},
    }
    record = RunRecord("select", GROUPS.tag, len(rows_by_part), identity)
    output = open_output(folder, record, shard=Shard(), overwrite=False)
    for index, rows in enumerate(rows_by_part):
        if rows is not None:
            output.write(
                index,
                pa.Table.from_pylist(rows, schema=GROUPS.arrow()),
                counts={"ok": len(rows)},
                parents={},
            )
    return folder


@pytest.fixture
def groups(tmp_path, model):
    rejected = {
        "prompt_id": "p9",
        "messages": TURNS,
        "status": "tie",
        "reason": "all rewards are 1",
    }
    first = [row for i in range(3) for row in rows_of(f"p{i}")]
    second = [row for i in range(3, 6) for row in rows_of(f"p{i}")] + [rejected]
    return write_groups(tmp_path / "groups", [first, second], [model.identity()])


def config_of(groups, output, **changes):
    values = {
        "model": "org/tiny",
        "learning_rate": 1e-3,
        "global_batch_size": 2,
        "num_train_epochs": 2,
        "report_to": ("none",),
    }
    return TrainConfig(groups=groups, output=output, **(values | changes))


def run(config, model, **runtime):
    said = []
    summary = train.run(config, model, Runtime(log=said.append, **runtime))
    return summary, said


def times_of(folder):
    return {
        path.relative_to(folder): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_the_policy_is_a_model_folder_with_the_tokenizer_it_began_with(groups, model, tmp_path):
    summary, _ = run(config_of(groups, tmp_path / "policy"), model)
    policy = inspect_model(tmp_path / "policy", "policy")
    assert (policy.kind, policy.tokenizer_hash, policy.chat_template_hash) == (
        "causal-lm",
        model.tokenizer_hash,
        model.chat_template_hash,
    )
    assert policy.content_hash != model.content_hash
    AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert summary.counts == {"ok": 6 * 4, "tie": 1}
    assert summary.facts["n_steps"] == 2 * math.ceil(6 / 2)


@pytest.mark.slow
def test_every_response_has_a_row_that_says_what_became_of_it(groups, model, tmp_path):
    run(config_of(groups, tmp_path / "policy", max_length=len(PROMPT) + 20), model)
    rows = pq.read_table(tmp_path / "policy" / "part-00000-of-00001.parquet").to_pylist()
    fates = {(row["prompt_id"], row["sample_idx"]): row for row in rows}
    assert len(fates) == 6 * 4 + 1
    assert (fates["p0", 0]["status"], fates["p0", 0]["n_tokens"]) == ("ok", len("p0 one") + 1)
    assert (fates["p0", 1]["status"], fates["p0", 1]["n_tokens"]) == ("too_long", 0)
    assert (fates["p9", None]["status"], fates["p9", None]["reason"]) == (
        "tie",
        "all rewards are 1",
    )


@pytest.mark.slow
def test_a_second_run_finds_everything_finished_and_touches_nothing(groups, model, tmp_path):
    config = config_of(groups, tmp_path / "policy")
    first, _ = run(config, model)
    before = times_of(tmp_path / "policy")
    second, said = run(config, model)
    assert times_of(tmp_path / "policy") == before
    assert any("the policy is trained and kept" in line for line in said)
    assert second.n_parts_kept == 1
    assert second.counts == first.counts


@pytest.mark.slow
@pytest.mark.parametrize("lora_r", [0, 4])
def test_stopped_and_run_again_equals_undisturbed(groups, model, tmp_path, lora_r):
    shape = {"lora_r": lora_r, "objective": "dpo", "save_steps": 2}
    run(config_of(groups, tmp_path / "straight", **shape), model)
    asked = iter([False] * 3 + [True] * 100)
    with pytest.raises(
        StoppedEarly, match=r"train stopped on request at step \d of 6, with a checkpoint"
    ) as caught:
        run(config_of(groups, tmp_path / "broken", **shape), model, should_stop=lambda: next(asked))
    assert caught.value.exit_code == 75
    assert not (tmp_path / "broken" / "config.json").exists()
    reference = times_of(tmp_path / "broken" / "reference")
    _, said = run(config_of(groups, tmp_path / "broken", **shape), model)
    assert any("resuming from" in line for line in said)
    assert len(reference) == 3
    assert times_of(tmp_path / "broken" / "reference") == reference
    name = "adapter_model.safetensors" if lora_r else "model.safetensors"
    straight, broken = (
        load_file(tmp_path / "straight" / name),
        load_file(tmp_path / "broken" / name),
    )
    assert all(broken[key].equal(value) for key, value in straight.items())
    paths = [tmp_path / side / "metrics.parquet" for side in ("straight", "broken")]
    tables = [pq.read_table(path).drop_columns("tokens_per_s") for path in paths]
    assert tables[0].equals(tables[1])


@pytest.mark.slow
def test_an_adapter_names_the_model_it_was_trained_from(groups, model, tmp_path):
    run(config_of(groups, tmp_path / "policy", lora_r=4), model)
    config = json.loads((tmp_path / "policy" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (
        "org/tiny",
        4,
        8,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_target_modules": ("nosuch",)}, "--lora-target-modules nosuch"),
        ({"model": "adapter", "lora_r": 8, "lora_alpha": 8.0}, "r is 4 there, 8 here"),
    ],
)
def test_adapters_that_cannot_be_are_refused_before_anything_is_thrown_away(
    groups, model, tmp_path, changes, message
):
    run(config_of(groups, tmp_path / "policy", lora_r=4, objective="dpo"), model)
    before = times_of(tmp_path / "policy")
    start = model
    if "model" in changes:
        start = inspect_model(
            make_tiny_adapter(tmp_path / "adapter", model.path), "adapter", base=model
        )
    with pytest.raises(UsageError, match=message):
        run(
            config_of(groups, tmp_path / "policy", overwrite=True, **({"lora_r": 4} | changes)),
            start,
        )
    assert times_of(tmp_path / "policy") == before


@pytest.mark.slow
def test_reference_log_probabilities_are_kept_in_the_rows(groups, model, tmp_path):
    run(config_of(groups, tmp_path / "policy", objective="mmpo"), model)
    rows = pq.read_table(tmp_path / "policy" / "part-00000-of-00001.parquet").to_pylist()
    assert all(row["ref_logp"] < 0 for row in rows if row["status"] == "ok")


@pytest.mark.slow
def test_another_learning_rate_in_the_same_folder_is_refused_by_name(groups, model, tmp_path):
    run(config_of(groups, tmp_path / "policy"), model)
    with pytest.raises(FingerprintError, match=r"learning_rate: 0.001 on disk, 0.002 requested"):
        run(config_of(groups, tmp_path / "policy", learning_rate=2e-3), model)


@pytest.mark.slow
def test_overwrite_begins_from_the_start(groups, model, tmp_path):
    run(config_of(groups, tmp_path / "policy", save_steps=2), model)
    _, said = run(config_of(groups, tmp_path / "policy", learning_rate=2e-3, overwrite=True), model)
    assert not any("resuming from" in line for line in said)
    assert (
        pq.read_table(tmp_path / "policy" / "metrics.parquet")["learning_rate"]
        .to_pylist()
        .count(2e-3)
        == 1
    )


@pytest.mark.slow
def test_what_cannot_change_the_weights_may_change_between_runs(groups, model, tmp_path):
    run(config_of(groups, tmp_path / "policy"), model)
    _, said = run(
        config_of(
            groups,
            tmp_path / "policy",
            per_device_train_batch_size=2,
            save_steps=7,
            logging_steps=3,
        ),
        model,
    )
    assert any("trained and kept" in line for line in said)


@pytest.mark.slow
def test_checkpoints_of_other_groups_are_not_gone_on_from(groups, model, tmp_path):
    config = config_of(groups, tmp_path / "policy")
    run(config, model)
    rows = [row | {"reward": -row["reward"]} for i in range(3) for row in rows_of(f"p{i}")]
    (groups / "part-00000-of-00002.parquet").unlink()
    write_groups(groups, [rows, None], [model.identity()])
    _, said = run(config, model)
    assert any("changed since" in line and "training starts again" in line for line in said)
    assert not any("resuming from" in line for line in said)


@pytest.mark.slow
def test_missing_parts_are_refused_unless_allowed(tmp_path, model):
    groups = write_groups(
        tmp_path / "groups",
        [[row for i in range(3) for row in rows_of(f"p{i}")], None],
        [model.identity()],
    )
    with pytest.raises(IncompleteInputError, match="1 of 2 parts are missing"):
        run(config_of(groups, tmp_path / "policy"), model)
    summary, _ = run(config_of(groups, tmp_path / "policy", allow_partial=True), model)
    assert summary.counts == {"ok": 3 * 4}


def test_a_knob_of_another_objective_is_an_error(groups, model, tmp_path):
    with pytest.raises(
        UsageError, match="dpo has no knob gamma: it belongs to ampo, refa, mmpo, simpo"
    ):
        run(config_of(groups, tmp_path / "policy", objective="dpo", gamma=1.0), model)
    with pytest.raises(UsageError, match="dpo has no knob length_normalise"):
        run(config_of(groups, tmp_path / "policy", objective="dpo", length_normalise=False), model)
    assert not (tmp_path / "policy").exists()


def test_groups_that_are_all_too_long_are_an_error_with_the_count(groups, model, tmp_path):
    with pytest.raises(InputError, match=r"no group of .* can be trained on: 24 prompt_too_long"):
        run(config_of(groups, tmp_path / "policy", max_length=4), model)


def test_groups_of_positives_alone_are_an_error_that_names_their_use(model, tmp_path):
    positives = [row for i in range(3) for row in rows_of(f"p{i}") if row["role"] == "positive"]
    groups = write_groups(tmp_path / "groups", [positives], [model.identity()], "best-of-n")
    with pytest.raises(InputError, match="can be trained on: 3 no_contrast") as caught:
        run(config_of(groups, tmp_path / "policy"), model)
    assert "groups of best-of-n have no negatives" in caught.value.hint
    assert "--format trl-sft" in caught.value.hint


def test_an_explicit_checkpoint_that_is_none_is_an_error(groups, model, tmp_path):
    with pytest.raises(UsageError, match="nothing does not exist"):
        run(config_of(groups, tmp_path / "policy", resume_from=tmp_path / "nothing"), model)


@pytest.mark.slow
def test_a_checkpoint_of_another_run_is_refused_before_anything_is_thrown_away(
    groups, model, tmp_path
):
    """Its steps would be signed as this run's: the same name, and another objective's weights."""
    run(config_of(groups, tmp_path / "other", objective="simpo", save_steps=2), model)
    run(config_of(groups, tmp_path / "policy", objective="dpo"), model)
    before = times_of(tmp_path / "policy")
    again = {"objective": "dpo", "resume_from": tmp_path / "other", "overwrite": True}
    with pytest.raises(
        UsageError, match="was written by a run with another configuration or model"
    ):
        run(config_of(groups, tmp_path / "policy", **again), model)
    assert times_of(tmp_path / "policy") == before
    _, said = run(
        config_of(
            groups,
            tmp_path / "copy",
            objective="simpo",
            resume_from=tmp_path / "other" / "checkpoint-4",
        ),
        model,
    )
    assert any("resuming from" in line for line in said)
    straight, copy = (
        load_file(tmp_path / name / "model.safetensors") for name in ("other", "copy")
    )
    assert all(copy[key].equal(value) for key, value in straight.items())


@pytest.mark.slow
def test_ids_of_another_tokenizer_are_made_again_and_it_is_said(tmp_path, model):
    """The stored ids are rubbish here; the text is what counts then."""
    rows = [
        row | {"response_token_ids": [9, 9], "prompt_token_ids": [7]}
        for i in range(2)
        for row in rows_of(f"p{i}")
    ]
    groups = write_groups(
        tmp_path / "groups", [rows], [model.identity() | {"tokenizer_hash": "another"}]
    )
    summary, said = run(config_of(groups, tmp_path / "policy"), model)
    assert any("conversations are tokenised again" in line for line in said)
    kept = pq.read_table(tmp_path / "policy" / "part-00000-of-00001.parquet").to_pylist()
    assert [row["n_tokens"] for row in kept] == [len(row["response"]) + 1 for row in rows]
    assert summary.counts == {"ok": 8}


def test_an_output_inside_its_input_is_refused(groups, model):
    with pytest.raises(UsageError, match="lie inside each other"):
        run(config_of(groups, groups / "policy"), model)


def test_start_values_follow_objective_and_lora(tmp_path):
    plain = TrainConfig(groups=tmp_path, output=tmp_path, model="m")
    full = settings_of(plain)
    assert (full.learning_rate, full.global_batch_size, full.knobs["gamma"]) == (4e-7, 128, 3.0)
    adapters = settings_of(TrainConfig(groups=tmp_path, output=tmp_path, model="m", lora_r=8))
    assert adapters.learning_rate == 10 * full.learning_rate


def test_the_flag_offers_every_objective():
    (item,) = (item for item in fields(TrainConfig) if item.name == "objective")
    assert sorted(item.metadata["choices"]) == sorted({*OBJECTIVES, "bt", "bt-margin"})


@pytest.mark.parametrize("given", [None, True, False])
def test_length_normalise_has_the_start_value_of_the_objective_unless_given(tmp_path, given):
    values = {"groups": tmp_path, "output": tmp_path, "model": "m", "length_normalise": given}
    chosen = [
        settings_of(TrainConfig(objective=name, **values)).knobs["length_normalise"]
        for name in ("ampo", "ipo")
    ]
    assert chosen == ([True, False] if given is None else [given, given])


@pytest.mark.parametrize(
    ("name", "value"),
    [("eps", 0.2), ("length_normalise", True), ("eta", 2.0), ("form", "squared"), ("weight", 0.1)],
)
def test_a_knob_of_another_objective_is_refused(tmp_path, name, value):
    config = TrainConfig(
        groups=tmp_path, output=tmp_path, model="m", objective="dpo", **{name: value}
    )
    with pytest.raises(UsageError, match=f"dpo has no knob {name}: it belongs to "):
        settings_of(config)


def test_odpo_refuses_a_pair_without_a_reward_gap_before_the_reference_is_measured(tmp_path, model):
    rows = [
        [
            row | {"reward": 4.0 if i == 1 and row["sample_idx"] == 2 else row["reward"]}
            for i in range(2)
            for row in rows_of(f"p{i}")
        ]
    ]
    groups = write_groups(tmp_path / "groups", rows, [model.identity()])
    message = r"in 1 of 6 pairs .* in prompt p1 response 0 has reward 4 and response 2 has 4"
    with pytest.raises(UsageError, match=message) as caught:
        run(config_of(groups, tmp_path / "policy", objective="odpo"), model)
    assert "--min-margin" in caught.value.hint
    assert not (tmp_path / "policy" / "reference.parquet").exists()


@pytest.mark.slow
def test_refa_trains_on_groups_whose_ends_it_sees(groups, model, tmp_path):
    """The end-of-turn token is the last of every stored response.

    A price on ending early changes what is learnt.
    """
    losses = {}
    for price in (0.0, 1.0):
        run(
            config_of(
                groups,
                tmp_path / str(price),
                objective="refa",
                eos_weight=price,
                max_steps=1,
                num_train_epochs=None,
            ),
            model,
        )
        losses[price] = pq.read_table(tmp_path / str(price) / "metrics.parquet")["loss"].to_pylist()
    assert losses[1.0][0] > losses[0.0][0]


@pytest.mark.slow
def test_weights_and_likelihood_are_in_the_loss_and_in_the_summary(groups, model, tmp_path):
    """Margins are 1, 2 and 3 in every prompt: prompts count alike, pairs do not."""
    first = {}
    for name, changes in {
        "plain": {},
        "sft": {"sft_weight": 0.5},
        "weighted": {"weight_by": "margin"},
        "constant": {"weight_by": "0 * margin + 3"},
    }.items():
        config = config_of(
            groups,
            tmp_path / name,
            objective="simpo",
            max_steps=1,
            num_train_epochs=None,
            **changes,
        )
        summary, said = run(config, model)
        first[name] = pq.read_table(tmp_path / name / "metrics.parquet").to_pylist()[0]
        if name == "weighted":
            assert summary.facts["weights"] == {
                "expression": "margin",
                "least": 1.0,
                "greatest": 1.0,
                "n_prompts": 6,
                "effective_prompts": 6.0,
            }
            assert any("the loss is weighted by margin: prompts count 1 to 1" in x for x in said)
    assert first["sft"]["loss"] == pytest.approx(
        first["plain"]["loss"] - 0.5 * first["plain"]["logps/chosen"], rel=1e-5
    )
    assert first["constant"]["loss"] == first["plain"]["loss"]
    assert abs(first["weighted"]["loss"] - first["plain"]["loss"]) > 1e-5


@pytest.mark.slow
def test_an_expression_that_fits_no_column_leaves_an_older_policy_alone(groups, model, tmp_path):
    """It is refused before --overwrite throws anything away."""
    run(config_of(groups, tmp_path / "policy", max_steps=1, num_train_epochs=None), model)
    before = times_of(tmp_path / "policy")
    with pytest.raises(UsageError, match=r"names wieght, which is not a numeric column"):
        run(
            config_of(groups, tmp_path / "policy", weight_by="wieght", overwrite=True),
            model,
        )
    assert times_of(tmp_path / "policy") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_steps": 5, "num_train_epochs": 1.0},
            "--max-steps and --num-train-epochs exclude each other",
        ),
        (
            {"lora_alpha": 8.0},
            "--lora-alpha, --lora-dropout and --lora-target-modules need --lora-r",
        ),
        ({"learning_rate": 0.0}, "--learning-rate must be above 0, not 0.0"),
        ({"report_to": ("none", "wandb")}, "--report-to none excludes other trackers"),
    ],
)
def test_bad_values_are_named(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(groups=tmp_path, output=tmp_path, model="m", **changes)


@pytest.mark.slow
def test_a_time_budget_stops_with_a_checkpoint_and_the_same_command_goes_on(
    groups, model, tmp_path
):
    """A budget that nothing fits in gets on by a step each time, to the weights of a run without one."""
    run(config_of(groups, tmp_path / "straight"), model)
    for step in range(1, 4):
        message = rf"train stopped before --max-hours 1e-09 are over at step {step} of 6, with a checkpoint"
        with pytest.raises(StoppedEarly, match=message) as caught:
            run(config_of(groups, tmp_path / "short", max_hours=1e-9), model)
        assert (caught.value.exit_code, caught.value.hint) == (
            75,
            "run the same command again to go on",
        )
        assert (tmp_path / "short" / f"checkpoint-{step}").exists()
    _, said = run(config_of(groups, tmp_path / "short", max_hours=10.0), model)
    assert any("resuming from" in line for line in said)
    straight, short = (
        load_file(tmp_path / side / "model.safetensors") for side in ("straight", "short")
    )
    assert all(short[key].equal(value) for key, value in straight.items())


def test_a_budget_that_is_over_while_the_reference_is_measured_stops_between_parts(
    groups, model, tmp_path
):
    with pytest.raises(
        StoppedEarly,
        match="--max-hours 1e-09 are nearly over: logprobs stopped on request: 1 parts made now, "
        "1 left",
    ):
        run(config_of(groups, tmp_path / "policy", objective="dpo", max_hours=1e-9), model)
    assert len(list((tmp_path / "policy" / "reference").glob("part-*"))) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("error::FutureWarning")
def test_adapters_and_checkpointing_warn_of_nothing_old_started_and_resumed(
    groups, model, tmp_path
):
    shape = {
        "lora_r": 4,
        "gradient_checkpointing": True,
        "eval_fraction": 0.5,
        "early_stopping_patience": 9,
        "num_train_epochs": None,
        "max_steps": 4,
    }
    asked = iter([False] * 1 + [True] * 100)
    with pytest.raises(StoppedEarly):
        run(config_of(groups, tmp_path / "policy", **shape), model, should_stop=lambda: next(asked))
    run(config_of(groups, tmp_path / "policy", **shape), model)
    assert (tmp_path / "policy" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_rows_of_a_stopped_run_leave_no_prompt_out_when_logging_is_rarer_than_steps(
    groups, model, tmp_path
):
    """Rows at 3 and 6, and with the checkpoints at 2, 4 and 6. Stopped at 4 and at 1, where the checkpoint makes a row of its own."""
    shape = {"save_steps": 2, "logging_steps": 3}
    rows = {}
    for name, stop_at in (("straight", None), ("at 4", 4), ("at 1", 1)):
        config = config_of(groups, tmp_path / name, **shape)
        if stop_at:
            asked = iter([False] * (stop_at - 1) + [True] * 100)
            with pytest.raises(StoppedEarly, match=f"at step {stop_at} of 6"):
                run(config, model, should_stop=lambda asked=asked: next(asked))
        run(config, model)
        table = (
            pq.read_table(tmp_path / name / "metrics.parquet")
            .drop_columns("tokens_per_s")
            .to_pylist()
        )
        rows[name] = [row for row in table if row["split"] == "train"]
    assert [row["step"] for row in rows["straight"]] == [2, 3, 4, 6]
    assert rows["at 4"] == rows["straight"]
    assert [row["step"] for row in rows["at 1"]] == [1, 2, 3, 4, 6]
    assert {
        name: sum(row["n_prompts"] for row in found) for name, found in rows.items()
    } == dict.fromkeys(rows, 12)
