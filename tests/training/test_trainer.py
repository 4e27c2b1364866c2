"""The trainer: exact averaging, honest measures, and learning."""

import math

import pyarrow.parquet as pq
import pytest
import torch
from support.group_logps import group_logps
from support.tiny_groups import make_groups
from support.tiny_models import VOCAB_SIZE, make_tiny_tokenizer, tiny_config
from transformers import LlamaForCausalLM, TrainerCallback

from prefpipe.errors import PrefpipeError
from prefpipe.maths.objectives.registry import OBJECTIVES, resolve_knobs
from prefpipe.training.batches import GroupCollator
from prefpipe.training.callbacks import MetricsFile
from prefpipe.training.forward import reference_logps, share_prompts
from prefpipe.training.groups import with_reference
from prefpipe.training.policy import turn_dropout_off
from prefpipe.training.settings import TrainSettings, training_arguments
from prefpipe.training.trainer import GroupTrainer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def make_model(**changes):
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config(**changes))
    turn_dropout_off(model)
    return model


def make_trainer(
    folder,
    objective="simpo",
    model=None,
    groups=None,
    callbacks=(),
    eval_groups=(),
    knobs=None,
    save=False,
    shared_prompt=True,
    **changes,
):
    model = model if model is not None else make_model()
    groups = groups if groups is not None else make_groups(8)
    if shared_prompt:
        assert share_prompts(model) is None
    if OBJECTIVES[objective].needs_reference:
        groups = with_reference(groups, reference_logps(model, groups, pad_token_id=0))
    values = {
        "learning_rate": 1e-3,
        "global_batch_size": 4,
        "max_steps": 1,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0.0,
    }
    settings = TrainSettings(
        objective=objective, knobs=resolve_knobs(objective, knobs or {}), **(values | changes)
    )
    arguments = training_arguments(settings, folder)
    arguments.save_strategy = "steps" if save else "no"
    return GroupTrainer(
        model,
        arguments,
        settings,
        groups,
        tokenizer=make_tiny_tokenizer(),
        eval_groups=eval_groups,
        callbacks=callbacks,
    )


class KeepGradients(TrainerCallback):
    """Gradients of each optimizer step, before it is taken."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, _args, _state, _control, model=None, **_kwargs):
        self.steps.append([parameter.grad.clone() for parameter in model.parameters()])


def gradients(folder, per_device, n_groups=8, **changes):
    keep = KeepGradients()
    make_trainer(
        folder,
        groups=make_groups(n_groups),
        callbacks=[keep],
        per_device_train_batch_size=per_device,
        max_grad_norm=0.0,
        **changes,
    ).train()
    return keep.steps


def assert_same(left, right):
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["simpo", "mmpo"])
def test_four_micro_batches_of_one_have_the_gradient_of_one_batch_of_four(tmp_path, objective):
    (whole,) = gradients(tmp_path / "a", 4, objective=objective)
    for per_device in (1, 2):
        (split,) = gradients(tmp_path / str(per_device), per_device, objective=objective)
        assert_same(split, whole)
    assert max(gradient.abs().max() for gradient in whole) > 1e-3


@pytest.mark.slow
def test_a_short_last_step_is_the_mean_over_its_prompts(tmp_path):
    """7 groups in steps of 4: the last step has 3, split 2 + 1. A mean of means would weigh the last group double."""
    whole = gradients(tmp_path / "a", 4, n_groups=7, max_steps=2, learning_rate=0.0)
    split = gradients(tmp_path / "b", 2, n_groups=7, max_steps=2, learning_rate=0.0)
    assert len(whole) == len(split) == 2
    assert_same(split[1], whole[1])


@pytest.mark.slow
def test_the_gradient_is_that_of_the_mean_loss_written_out(tmp_path):
    """SimPO over 4 groups, one sequence at a time, without trainer, collator or objective table."""
    groups = make_groups(4)
    keep = KeepGradients()
    trainer = make_trainer(
        tmp_path,
        groups=groups,
        callbacks=[keep],
        max_grad_norm=0.0,
        knobs={"beta": 2.0, "gamma": 0.5},
    )
    trainer.train()
    model, total = make_model(), 0.0
    for group in groups:
        scores = []
        for response in group.responses:
            ids = torch.tensor([[*group.prompt_token_ids, *response.token_ids]])
            shares = torch.log_softmax(model(ids).logits[0], -1)
            start = len(group.prompt_token_ids)
            scores.append(
                2.0
                * torch.stack(
                    [shares[start + t - 1, x] for t, x in enumerate(response.token_ids)]
                ).mean()
            )
        pairs = [-torch.nn.functional.logsigmoid(scores[0] - score - 0.5) for score in scores[1:]]
        total = total + torch.stack(pairs).mean() / len(groups)
    total.backward()
    assert_same(keep.steps[0], [parameter.grad for parameter in model.parameters()])
    assert trainer.state.log_history[0]["loss"] == pytest.approx(total.item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_to_prefer_what_it_should(tmp_path, objective):
    knobs = (
        {"beta": 1.0}
        if OBJECTIVES[objective].needs_reference and OBJECTIVES[objective].knob("beta")
        else {}
    )
    trainer = make_trainer(
        tmp_path, objective, max_steps=12, global_batch_size=8, learning_rate=3e-3, knobs=knobs
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert rows[-1]["loss"] < rows[0]["loss"]
    wanted = "rewards/margins" if OBJECTIVES[objective].compares else "logps/chosen"
    assert rows[-1][wanted] > rows[0][wanted]


@pytest.mark.slow
def test_dpo_starts_at_log_two_with_margins_zero(tmp_path):
    """Policy and reference are the same model at the first step, whatever dropout its config asks for."""
    trainer = make_trainer(tmp_path, "dpo", model=make_model(attention_dropout=0.3))
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_a_row_has_the_means_over_the_step_and_its_counts(tmp_path):
    groups = make_groups(4)
    trainer = make_trainer(tmp_path, groups=groups)
    logps, n_tokens, *_ = group_logps(trainer.model, GroupCollator(0, packed=True)(groups))
    trainer.train()
    row = trainer.state.log_history[0]
    chosen = sum((logps[p, 0] / n_tokens[p, 0]).item() for p in range(4)) / 4
    assert row["logps/chosen"] == pytest.approx(chosen, rel=1e-5)
    assert row["n_prompts"] == 4
    assert 0 < row["entropy"] < math.log(VOCAB_SIZE)
    assert row["n_tokens"] == sum(
        len(response.token_ids) for group in groups for response in group.responses
    )
    assert row["grad_norm"] > 0
    assert row["learning_rate"] == 1e-3


@pytest.mark.slow
def test_rows_add_up_when_logging_is_rarer_than_steps(tmp_path):
    groups = make_groups(8)
    trainer = make_trainer(tmp_path, groups=groups, max_steps=4, logging_steps=2)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in rows] == [2, 4]
    assert [row["n_prompts"] for row in rows] == [8, 8]


@pytest.mark.slow
def test_evaluation_is_the_mean_over_groups_whatever_its_batches(tmp_path):
    groups = make_groups(7)
    means = []
    for per_device in (1, 2, 4):
        trainer = make_trainer(
            tmp_path / str(per_device), eval_groups=groups, per_device_train_batch_size=per_device
        )
        means.append(trainer.evaluate())
    for name in ("eval_loss", "eval_rewards/accuracy", "eval_logps/chosen"):
        assert [mean[name] for mean in means] == pytest.approx([means[0][name]] * 3, rel=1e-5)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(PrefpipeError, match="the loss is nan at step 1"):
        make_trainer(tmp_path, model=model).train()


@pytest.mark.slow
def test_gradient_checkpointing_changes_memory_and_not_the_gradient(tmp_path):
    (plain,) = gradients(tmp_path / "a", 2)
    (checkpointed,) = gradients(tmp_path / "b", 2, gradient_checkpointing=True)
    assert_same(checkpointed, plain)


@pytest.mark.slow
def test_bfloat16_trains_float32_weights(tmp_path):
    trainer = make_trainer(tmp_path, bf16=True, max_steps=2)
    trainer.train()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


@pytest.mark.slow
def test_nothing_is_printed_on_stdout(tmp_path, capsys):
    make_trainer(tmp_path, max_steps=2, callbacks=[MetricsFile(tmp_path)]).train()
    assert capsys.readouterr().out == ""
    assert pq.read_table(tmp_path / "metrics.parquet").num_rows == 2


@pytest.mark.slow
def test_a_checkpoint_is_a_whole_model_with_tokenizer_and_template(tmp_path):
    make_trainer(tmp_path, max_steps=2, save=True).train()
    names = {path.name for path in (tmp_path / "checkpoint-2").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["simpo", "mmpo", "ampo", "refa"])
@pytest.mark.parametrize("max_batch_tokens", [1, 20, 45])
def test_groups_that_span_micro_batches_have_the_gradient_of_one_batch(
    tmp_path, objective, max_batch_tokens
):
    """One token: every response a row of its own, in two passes. 45.

    Some groups whole, some in pieces.
    """
    (whole,) = gradients(tmp_path / "a", 4, objective=objective)
    (cut,) = gradients(tmp_path / "b", 4, objective=objective, max_batch_tokens=max_batch_tokens)
    assert_same(cut, whole)


@pytest.mark.slow
def test_padded_and_packed_training_agree(tmp_path):
    (packed,) = gradients(tmp_path / "a", 2)
    (padded,) = gradients(tmp_path / "b", 2, shared_prompt=False)
    (narrow,) = gradients(tmp_path / "c", 4, shared_prompt=False, max_batch_tokens=30)
    assert_same(padded, packed)
    assert_same(narrow, packed)


@pytest.mark.slow
def test_losses_and_measures_do_not_depend_on_the_token_budget(tmp_path):
    rows = []
    for number, max_batch_tokens in enumerate((1, 30, 10_000)):
        trainer = make_trainer(
            tmp_path / str(number),
            max_steps=2,
            max_batch_tokens=max_batch_tokens,
            eval_groups=make_groups(3),
        )
        trainer.train()
        rows.append(trainer.state.log_history[0] | trainer.evaluate())
    for name in (
        "loss",
        "rewards/margins",
        "logps/chosen",
        "n_tokens",
        "n_prompts",
        "grad_norm",
        "eval_loss",
    ):
        assert [row[name] for row in rows] == pytest.approx([rows[0][name]] * 3, rel=1e-4)


@pytest.mark.slow
def test_a_row_says_how_far_the_policy_is_from_its_reference(tmp_path):
    """After the first step, which begins at the reference.

    Kl is the mean over groups of (ref - logp) / tokens of each response.
    """
    groups = make_groups(4)
    trainer = make_trainer(tmp_path, "dpo", groups=groups, max_steps=2, learning_rate=1e-2)
    with torch.no_grad():
        before = group_logps(trainer.model, GroupCollator(0, packed=True)(groups))
    trainer.train()
    first, second = (row for row in trainer.state.log_history if "loss" in row)
    assert [
        first[name] for name in ("kl", "logps/chosen_fall", "logps/rejected_fall")
    ] == pytest.approx([0, 0, 0], abs=1e-6)
    again = make_trainer(tmp_path / "again", "dpo", groups=groups, max_steps=1, learning_rate=1e-2)
    again.train()
    with torch.no_grad():
        after = group_logps(again.model, GroupCollator(0, packed=True)(groups))
    falls = (before.logps - after.logps) / before.n_tokens.clamp(min=1)
    exists = before.n_tokens > 0
    assert second["kl"] == pytest.approx(
        ((falls * exists).sum(-1) / exists.sum(-1)).mean().item(), rel=1e-3
    )
    assert second["logps/chosen_fall"] == pytest.approx(falls[:, 0].mean().item(), rel=1e-3)


@pytest.mark.slow
def test_without_a_reference_there_is_no_kl_and_evaluations_fall_from_the_baseline(tmp_path):
    trainer = make_trainer(
        tmp_path, "simpo", eval_groups=make_groups(3, seed=1), max_steps=3, learning_rate=1e-2
    )
    trainer.evaluate()
    history = list(trainer.state.log_history)
    trainer.train()
    trainer.state.log_history[:0] = history
    trainer.evaluate()
    rows = trainer.state.log_history
    assert not any("kl" in row or "eval_kl" in row for row in rows)
    first, last = (row for row in rows if "eval_loss" in row)
    assert first["eval_logps/chosen_fall"] == 0
    assert last["eval_logps/chosen_fall"] == pytest.approx(
        first["eval_logps/chosen"] - last["eval_logps/chosen"], rel=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("shared_prompt", [True, False])
def test_a_row_counts_the_tokens_that_were_computed(tmp_path, shared_prompt):
    groups = make_groups(4)
    trainer = make_trainer(tmp_path, groups=groups, shared_prompt=shared_prompt)
    trainer.train()
    row = trainer.state.log_history[0]
    once = sum(len(group.prompt_token_ids) for group in groups)
    each = sum(len(group.prompt_token_ids) * len(group.responses) for group in groups)
    assert row["prompt_tokens_saved"] == pytest.approx(1 - once / each if shared_prompt else 0.0)
    assert row["tokens_per_s"] > 0


WEIGHTS = (1.5, 0.5, 0.0, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"max_batch_tokens": 12}], ids=["one pass", "two passes"])
def test_a_step_is_the_mean_of_the_prompts_losses_times_their_weights(tmp_path, changes):
    groups = make_groups(4)
    weighted = [
        group._replace(weight=weight) for group, weight in zip(groups, WEIGHTS, strict=True)
    ]
    keep = KeepGradients()
    trainer = make_trainer(
        tmp_path / "all", groups=weighted, callbacks=[keep], max_grad_norm=0.0, **changes
    )
    trainer.train()

    expected, losses = [0.0] * len(keep.steps[0]), 0.0
    for i, (group, weight) in enumerate(zip(groups, WEIGHTS, strict=True)):
        alone = KeepGradients()
        one = make_trainer(
            tmp_path / str(i),
            groups=[group],
            callbacks=[alone],
            global_batch_size=1,
            max_grad_norm=0.0,
        )
        one.train()
        losses += weight * one.state.log_history[0]["loss"] / 4
        expected = [
            total + weight * gradient / 4
            for total, gradient in zip(expected, alone.steps[0], strict=True)
        ]
    assert_same(keep.steps[0], expected)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(losses, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"max_batch_tokens": 12}], ids=["one pass", "two passes"])
def test_the_positives_likelihood_is_added_to_the_objective(tmp_path, changes):
    """The gradient less the objective's own is that of a plain loop over the positives."""
    groups = make_groups(4)
    steps, losses = [], []
    for sft_weight in (0.0, 0.7):
        keep = KeepGradients()
        trainer = make_trainer(
            tmp_path / str(sft_weight),
            groups=groups,
            callbacks=[keep],
            max_grad_norm=0.0,
            sft_weight=sft_weight,
            **changes,
        )
        trainer.train()
        steps.append(keep.steps[0])
        losses.append(trainer.state.log_history[0]["loss"])

    model = make_model()
    total = 0.0
    for group in groups:
        response = group.responses[0]
        tokens = torch.tensor([[*group.prompt_token_ids, *response.token_ids]])
        shares = model(tokens).logits[0].log_softmax(-1)
        start = len(group.prompt_token_ids)
        means = [shares[start + t - 1, x] for t, x in enumerate(response.token_ids)]
        total = total - 0.7 * torch.stack(means).mean() / 4
    total.backward()
    added = [both - alone for alone, both in zip(*steps, strict=True)]
    assert_same(added, [parameter.grad for parameter in model.parameters()])
    assert losses[1] - losses[0] == pytest.approx(total.item(), rel=1e-4)
