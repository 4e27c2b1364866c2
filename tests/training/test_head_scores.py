"""Scores of a reward head: packed = padded = alone, in gradients too, and a trainer that does not care which."""

import pytest
import torch
from support.tiny_groups import make_groups
from support.tiny_models import PAD_ID, make_tiny_encoder, make_tiny_tokenizer, tiny_config
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    TrainerCallback,
)

from prefpipe.errors import ModelError
from prefpipe.maths.objectives.losses import Targets
from prefpipe.maths.objectives.registry import REWARD_OBJECTIVES, resolve_knobs
from prefpipe.maths.objectives.scores import group_losses
from prefpipe.models.files import inspect_model
from prefpipe.training.batches import GroupCollator
from prefpipe.training.forward import by_group, shares_prompts
from prefpipe.training.groups import pairs_in
from prefpipe.training.head_scores import head_scores, score_head, share_conversations
from prefpipe.training.policy import LoraSettings, turn_dropout_off
from prefpipe.training.reward_model import load_reward_model, load_reward_tokenizer
from prefpipe.training.scoring import RewardScoring
from prefpipe.training.settings import TrainSettings, training_arguments
from prefpipe.training.trainer import GroupTrainer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def make_model(kind="llama"):
    torch.manual_seed(0)
    if kind == "bert":
        shape = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        model = BertForSequenceClassification(
            BertConfig(vocab_size=260, initializer_range=0.2, num_labels=1, **shape)
        )
    else:
        settings = tiny_config(num_labels=1).to_dict()
        classes = {
            "llama": (tiny_config, LlamaForSequenceClassification),
            "qwen2": (Qwen2Config, Qwen2ForSequenceClassification),
        }
        config, model_class = classes[kind]
        names = (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
            "initializer_range",
        )
        model = model_class(
            config(**{name: settings[name] for name in names}, num_labels=1, pad_token_id=PAD_ID)
        )
    turn_dropout_off(model)
    return model


def scores_alone(model, groups):
    """Each conversation in a row of its own, (S,)."""
    rows = [
        [*group.prompt_token_ids, *each.token_ids] for group in groups for each in group.responses
    ]
    return torch.stack([model(input_ids=torch.tensor([row])).logits[0, 0] for row in rows])


def gradients_of(model, scores):
    model.zero_grad()
    (scores * torch.linspace(-1, 1, len(scores))).sum().backward()
    return {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_packed_is_padded_is_alone_in_scores_and_gradients(kind):
    model, groups = make_model(kind), make_groups(5)
    alone = scores_alone(model, groups)
    expected = gradients_of(model, alone)
    padded = head_scores(model, GroupCollator(PAD_ID)(groups))
    found = gradients_of(model, padded.scores)
    assert share_conversations(model) is None
    packed = head_scores(model, GroupCollator(PAD_ID, packed=True)(groups))
    for each in (padded, packed):
        torch.testing.assert_close(each.scores, alone, rtol=1e-5, atol=1e-5)
        assert each.n_tokens.tolist() == [
            len(one.token_ids) for group in groups for one in group.responses
        ]
    for gradients in (found, gradients_of(model, packed.scores)):
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


def test_an_encoder_is_computed_padded_and_says_why():
    model, groups = make_model("bert"), make_groups(4)
    problem = share_conversations(model)
    assert "an encoder's prompt attends to the response" in problem
    assert not shares_prompts(model)
    torch.testing.assert_close(
        head_scores(model, GroupCollator(0)(groups)).scores, model_alone(model, groups)
    )


def model_alone(model, groups):
    model.eval()
    return scores_alone(model, groups)


def test_training_mode_scores_as_evaluation_mode_does():
    """Dropout is off, that of attention functions included.

    BERT's configuration asks for 0.1 of both.
    """
    model, groups = make_model("bert"), make_groups(4)
    batch = GroupCollator(0)(groups)
    in_training = head_scores(model.train(), batch).scores
    torch.testing.assert_close(in_training, head_scores(model.eval(), batch).scores)


def test_the_last_token_is_the_one_that_is_read():
    """Another last token is another score; another response of the group is not."""
    model, groups = make_model(), make_groups(2)
    assert share_conversations(model) is None
    first, *others = groups[0].responses
    changed = first._replace(token_ids=[*first.token_ids[:-1], first.token_ids[-1] + 1])
    collate = GroupCollator(PAD_ID, packed=True)
    before = head_scores(model, collate([groups[0]])).scores
    after = head_scores(model, collate([groups[0]._replace(responses=[changed, *others])])).scores
    assert (before[0] - after[0]).abs() > 1e-3
    torch.testing.assert_close(before[1:], after[1:])


def test_a_model_without_a_head_is_named():
    with pytest.raises(ModelError, match="Linear has no score head"):
        score_head(torch.nn.Linear(2, 1))


class KeepGradients(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, _args, _state, _control, model=None, **_kwargs):
        self.steps.append(
            {
                name: weight.grad.clone()
                for name, weight in model.named_parameters()
                if weight.grad is not None
            }
        )


def make_trainer(
    folder,
    model,
    groups,
    objective="mmpo-reward",
    eval_groups=(),
    callbacks=(),
    packed=True,
    **changes,
):
    assert not packed or share_conversations(model) is None
    values = {
        "learning_rate": 1e-3,
        "global_batch_size": 4,
        "max_steps": 1,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0.0,
    }
    settings = TrainSettings(
        objective=objective,
        knobs=resolve_knobs(objective, {}),
        evaluates=bool(eval_groups),
        **(values | changes),
    )
    arguments = training_arguments(settings, folder)
    arguments.save_strategy = "no"
    width = max((len(group.responses) for group in eval_groups), default=0)
    return GroupTrainer(
        model,
        arguments,
        settings,
        groups,
        tokenizer=make_tiny_tokenizer(),
        eval_groups=eval_groups,
        callbacks=callbacks,
        scoring=RewardScoring(objective, settings.knobs, width=width),
    )


def gradient(folder, model, **changes):
    keep = KeepGradients()
    make_trainer(
        folder, model, make_groups(8), callbacks=[keep], max_grad_norm=0.0, **changes
    ).train()
    (step,) = keep.steps
    return step


@pytest.mark.slow
@pytest.mark.parametrize("objective", REWARD_OBJECTIVES)
@pytest.mark.parametrize(
    "changes",
    [
        {"packed": False},
        {"max_batch_tokens": 1},
        {"max_batch_tokens": 45},
        {"per_device_train_batch_size": 4},
    ],
)
def test_the_gradient_of_a_step_does_not_depend_on_how_it_is_computed(tmp_path, objective, changes):
    """Padded; every response a row of its own, in two passes; groups in pieces.

    One batch of four.
    """
    expected = gradient(tmp_path / "a", make_model(), objective=objective)
    found = gradient(tmp_path / "b", make_model(), objective=objective, **changes)
    assert found.keys() == expected.keys()
    for name, each in found.items():
        torch.testing.assert_close(each, expected[name], rtol=1e-4, atol=1e-6)
    assert max(each.abs().max() for each in expected.values()) > 1e-4


@pytest.mark.slow
def test_gradient_checkpointing_changes_memory_and_not_the_gradient(tmp_path):
    plain = gradient(tmp_path / "a", make_model())
    checkpointed = gradient(tmp_path / "b", make_model(), gradient_checkpointing=True)
    for name, each in checkpointed.items():
        torch.testing.assert_close(each, plain[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("objective", REWARD_OBJECTIVES)
def test_every_objective_learns_to_rank(tmp_path, objective):
    groups = make_groups(8)
    trainer = make_trainer(
        tmp_path,
        make_model(),
        groups,
        objective,
        max_steps=15,
        global_batch_size=8,
        learning_rate=3e-3,
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["rewards/accuracy"] > rows[0]["rewards/accuracy"]
    assert "logps/chosen" not in rows[0]


@pytest.mark.slow
def test_the_logged_loss_is_that_of_scores_taken_one_by_one(tmp_path):
    groups = make_groups(4)
    model = make_model()
    scores = scores_alone(model, groups).detach()
    batch = GroupCollator(PAD_ID)(groups)
    by_prompt = by_group([head_scores(model, batch)._replace(scores=scores)], batch["slots"]).scores
    targets = Targets(batch["rewards"], batch["positives"], batch["slots"] >= 0)
    losses = group_losses("mmpo-reward", by_prompt, targets, {"gamma": 1.1})
    trainer = make_trainer(tmp_path, model, groups)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)


def test_evaluation_does_not_depend_on_batches_and_counts_every_pair(tmp_path):
    groups = make_groups(7)
    found = []
    for number, (per_device, max_batch_tokens) in enumerate(((1, 10_000), (4, 10_000), (2, 20))):
        model = make_model()
        trainer = make_trainer(
            tmp_path / str(number),
            model,
            groups,
            eval_groups=groups,
            per_device_train_batch_size=per_device,
            max_batch_tokens=max_batch_tokens,
        )
        found.append(trainer.evaluate())
        assert trainer.scoring.calibration["n_pairs"] == sum(
            len(pairs_in(group)) for group in groups
        )
    for name in (
        "eval_loss",
        "eval_rewards/margins",
        "eval_pairs/accuracy",
        "eval_pairs/ece",
        "eval_pairs/log_loss",
    ):
        assert [each[name] for each in found] == pytest.approx([found[0][name]] * 3, rel=1e-4)


def test_named_pairs_are_what_is_measured(tmp_path):
    """A group with one named pair of its three, whose winner is a negative by role."""
    group = make_groups(8)[1]
    low, middle = group.responses[-1], group.responses[1]
    members = [
        each._replace(beats=[middle.sample_idx] if each is low else []) for each in group.responses
    ]
    named = group._replace(responses=members)
    model = make_model()
    scores = dict(
        zip(
            (each.sample_idx for each in members),
            scores_alone(model, [named]).tolist(),
            strict=True,
        )
    )
    trainer = make_trainer(tmp_path, model, [named], "bt", eval_groups=[named])
    rows = trainer.evaluate()
    gap = scores[low.sample_idx] - scores[middle.sample_idx]
    assert rows["eval_rewards/margins"] == pytest.approx(gap, rel=1e-4)
    assert rows["eval_rewards/accuracy"] == float(gap > 0)
    assert trainer.scoring.calibration["n_pairs"] == 1


def test_lora_trains_adapters_and_the_head_and_nothing_else(tmp_path):
    files = inspect_model(make_tiny_encoder(tmp_path / "encoder"), "encoder")
    template = tmp_path / "t.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}<|im_end|>{% endfor %}")
    tokenizer = load_reward_tokenizer(files, chat_template=template)
    policy = load_reward_model(files, tokenizer, lora=LoraSettings(r=4, alpha=8), seed=0)
    trained = {name for name, weight in policy.model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name or ".classifier." in name for name in trained)
    assert any(".classifier." in name for name in trained)
    assert any(".query." in name for name in trained)
