"""The stage with a reward model as its target.

Rated responses in, a model out that ``score`` takes and that says the same there.
"""

import json
import math
from dataclasses import fields

import pyarrow.parquet as pq
import pytest
import torch
from support.pipelines import rows_of, write_json_lines
from support.tiny_models import (
    CHAT_TEMPLATE,
    make_tiny_adapter,
    make_tiny_causal_lm,
    make_tiny_encoder,
    make_tiny_reward_model,
)
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from prefpipe.cli.main import run as prefpipe
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import FingerprintError, ModelError, StoppedEarly, UsageError
from prefpipe.execution.runtime import Runtime
from prefpipe.maths.objectives.losses import Targets, mmpo_reward_loss
from prefpipe.models.files import inspect_model
from prefpipe.stages.train import run as train
from prefpipe.stages.train.inputs import settings_of
from prefpipe.text.chat_template import ChatTemplate
from prefpipe.training.trainer import GroupTrainer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
ANSWERS = ["no", "maybe, it depends", "yes, as one sees", "I cannot say"]
LORA = {"lora_r": 4}


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """Pairs with ratings, imported and selected by the real commands.

    12 prompts with the groups' own reward gaps.
    """
    folder = tmp_path_factory.mktemp("rated")
    rows = [
        {
            "prompt": f"Question {i}?",
            "chosen": f"{ANSWERS[i % 4]} {i}",
            "rejected": f"{ANSWERS[(i + 1) % 4]} {j}",
            "score_chosen": 4.0 + i % 2,
            "score_rejected": 3.0 - j,
        }
        for i in range(12)
        for j in range(2)
    ]
    pairs = write_json_lines(folder / "pairs.jsonl", rows)
    assert prefpipe(["import", str(pairs), "-o", str(folder), "--format", "trl"]) == 0
    select = [
        "select",
        str(folder / "candidates"),
        "--scores",
        str(folder / "scores"),
        "-o",
        str(folder / "groups"),
    ]
    assert prefpipe([*select, "--strategy", "all", "--pairs", "all-ordered"]) == 0
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A causal model, a reward model, an encoder without a template, and an adapter."""
    root = tmp_path_factory.mktemp("models")
    make = {
        "causal": make_tiny_causal_lm,
        "reward": make_tiny_reward_model,
        "encoder": make_tiny_encoder,
    }
    found = {
        name: inspect_model(function(root / name), str(root / name))
        for name, function in make.items()
    }
    return found | {
        "adapter": inspect_model(make_tiny_adapter(root / "adapter", root / "causal"), "adapter")
    }


def config_of(rated, output, **changes):
    values = {
        "model": "tiny",
        "target": "reward",
        "learning_rate": 3e-3,
        "global_batch_size": 4,
        "num_train_epochs": 2,
        "report_to": ("none",),
    }
    return TrainConfig(groups=rated / "groups", output=output, **(values | changes))


def run(config, model, **runtime):
    said = []
    return train.run(config, model, Runtime(log=said.append, **runtime)), said


def template_file(folder):
    path = folder / "template.jinja"
    path.write_text(CHAT_TEMPLATE)
    return path


class KeepTrainer:
    """The trainer of a run, kept as it was when its last step was done."""

    def __init__(self, monkeypatch):
        self.scores = {}
        original = GroupTrainer.train

        def train_and_keep(trainer, *arguments, **named):
            result = original(trainer, *arguments, **named)
            trainer.model.eval()
            with torch.no_grad():
                for group in trainer.train_dataset.groups:
                    (batch,) = trainer.data_collator([group])["batches"]
                    found = trainer.scoring.read(
                        trainer.model, batch, measured=False
                    ).scores.tolist()
                    self.scores |= {
                        (group.prompt_id, each.sample_idx): score
                        for each, score in zip(group.responses, found, strict=True)
                    }
            return result

        monkeypatch.setattr(GroupTrainer, "train", train_and_keep)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["causal", "reward", "encoder"])
@pytest.mark.parametrize("lora", [{}, LORA], ids=["whole", "lora"])
@pytest.mark.parametrize("shared_prompt", [True, False])
def test_score_gives_what_the_model_said_at_the_end_of_training(
    rated, models, tmp_path, monkeypatch, start, lora, shared_prompt
):
    """The whole path: `import` of rated pairs, `select`, `train`, `score`, to 1e-5."""
    kept = KeepTrainer(monkeypatch)
    template = {"chat_template": template_file(tmp_path)} if start == "encoder" else {}
    config = config_of(
        rated,
        tmp_path / "reward",
        objective="mmpo",
        shared_prompt=shared_prompt,
        **lora,
        **template,
    )
    summary, said = run(config, models[start])
    assert summary.facts["objective"] == "mmpo-reward"
    assert summary.facts["kind"] == "reward-model"
    once = any("each prompt is computed once:" in line for line in said)
    assert once == (shared_prompt and start != "encoder")
    scorer = f"reward-model:{tmp_path / 'reward'}"
    assert (
        prefpipe(
            ["score", str(rated / "candidates"), "-o", str(tmp_path / "scores"), "--scorer", scorer]
        )
        == 0
    )
    scored = {
        (row["prompt_id"], row["sample_idx"]): row["reward"] for row in rows_of(tmp_path / "scores")
    }
    assert kept.scores.keys() <= scored.keys()
    assert len(kept.scores) == 12 * 3
    assert [scored[key] for key in kept.scores] == pytest.approx(
        list(kept.scores.values()), abs=1e-5
    )
    assert max(kept.scores.values()) - min(kept.scores.values()) > 0.01


@pytest.mark.slow
def test_the_result_is_a_whole_classifier_folder(rated, models, tmp_path):
    run(config_of(rated, tmp_path / "reward", **LORA), models["causal"])
    files = inspect_model(tmp_path / "reward", "reward")
    assert files.kind == "sequence-classification"
    assert files.chat_template_hash == models["causal"].chat_template_hash
    model, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "reward", output_loading_info=True
    )
    assert (model.config.num_labels, model.config.pad_token_id) == (
        1,
        AutoTokenizer.from_pretrained(tmp_path / "reward").pad_token_id,
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert "A reward model trained by prefpipe" in (tmp_path / "reward" / "README.md").read_text()
    assert not list((tmp_path / "reward").glob("adapter*"))


@pytest.mark.slow
def test_plain_pairs_without_ratings_train_a_bradley_terry_model(models, tmp_path):
    """Chosen and rejected alone: import makes the rating 1 and 0 of them, `best-worst` the pair, and bt reads no ratings."""
    rows = [
        {"prompt": f"Question {i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(6)
    ]
    pairs = write_json_lines(tmp_path / "pairs.jsonl", rows)
    assert prefpipe(["import", str(pairs), "-o", str(tmp_path), "--format", "trl"]) == 0
    select = [
        "select",
        str(tmp_path / "candidates"),
        "--scores",
        str(tmp_path / "scores"),
        "-o",
        str(tmp_path / "groups"),
    ]
    assert prefpipe([*select, "--strategy", "best-worst"]) == 0
    summary, _ = run(
        config_of(tmp_path, tmp_path / "reward", num_train_epochs=10, learning_rate=1e-2),
        models["causal"],
    )
    assert summary.facts["objective"] == "bt"
    assert summary.facts["last"]["rewards/accuracy"] == 1.0
    assert summary.facts["last"]["loss"] < summary.facts["first"]["loss"]


@pytest.mark.slow
def test_evaluated_pairs_are_in_metrics_and_summary(rated, models, tmp_path):
    summary, _ = run(
        config_of(rated, tmp_path / "reward", eval_fraction=0.4, learning_rate=1e-2),
        models["causal"],
    )
    found = json.loads((tmp_path / "reward" / "summary.json").read_text())["calibration"]
    rows = [
        row
        for row in pq.read_table(tmp_path / "reward" / "metrics.parquet").to_pylist()
        if row["split"] == "eval"
    ]
    for name in ("accuracy", "ece", "brier", "log_loss"):
        assert rows[-1][f"pairs/{name}"] == pytest.approx(found[name])
        assert math.isfinite(rows[0][f"pairs/{name}"])
    assert rows[-1]["logps/chosen"] is None
    assert (
        found["n_pairs"] == 3 * summary.facts["n_eval_groups"]
    )  # three responses with three grades: three pairs
    assert sum(found["reliability"]["mass"]["n"]) == 2 * found["n_pairs"]
    assert sum(row["n_pairs"] for row in found["by_reward_gap"]) == found["n_pairs"]
    assert any("held-out pairs: accuracy" in note for note in summary.notes)


@pytest.mark.slow
def test_calibration_is_of_the_scores_that_score_gives(rated, models, tmp_path):
    """Held-out pairs, their differences taken of the saved model by hand."""
    summary, _ = run(config_of(rated, tmp_path / "reward", eval_fraction=0.4), models["causal"])
    rows = pq.read_table(tmp_path / "reward" / "part-00000-of-00001.parquet").to_pylist()
    held = {row["prompt_id"] for row in rows if row["status"] == "held_out"}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "reward")
    groups = [row for row in rows_of(rated / "groups") if row["prompt_id"] in held]
    with torch.no_grad():
        scores = {
            (row["prompt_id"], row["sample_idx"]): model(
                torch.tensor(
                    [ChatTemplate(tokenizer).conversation_ids(row["messages"], row["response"])]
                )
            ).logits.item()
            for row in groups
        }
    differences = [
        scores[row["prompt_id"], row["sample_idx"]] - scores[row["prompt_id"], pair["sample_idx"]]
        for row in groups
        for pair in row["beats"]
    ]
    found = summary.facts["calibration"]
    assert found["n_pairs"] == len(differences)
    assert found["accuracy"] == pytest.approx(sum(d > 0 for d in differences) / len(differences))
    brier = sum((1 - 1 / (1 + math.exp(-d))) ** 2 for d in differences) / len(differences)
    assert found["brier"] == pytest.approx(brier, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{}, LORA], ids=["whole", "lora"])
def test_stopped_and_run_again_equals_undisturbed(rated, models, tmp_path, lora):
    shape = {"save_steps": 2, "eval_fraction": 0.3, **lora}
    first, _ = run(config_of(rated, tmp_path / "straight", **shape), models["causal"])
    asked = iter([False] * 2 + [True] * 100)
    with pytest.raises(StoppedEarly, match="train stopped on request"):
        run(
            config_of(rated, tmp_path / "broken", **shape),
            models["causal"],
            should_stop=lambda: next(asked),
        )
    second, said = run(config_of(rated, tmp_path / "broken", **shape), models["causal"])
    assert any("resuming from" in line for line in said)
    models_of = [
        AutoModelForSequenceClassification.from_pretrained(tmp_path / side).state_dict()
        for side in ("straight", "broken")
    ]
    assert all(models_of[1][name].equal(value) for name, value in models_of[0].items())
    assert first.facts["calibration"] == second.facts["calibration"]
    third, said = run(config_of(rated, tmp_path / "broken", **shape), models["causal"])
    assert any("the reward model is trained and kept" in line for line in said)
    assert third.facts["calibration"] == second.facts["calibration"]


@pytest.mark.slow
def test_a_finished_run_whose_model_was_lost_is_saved_again_with_its_calibration(
    rated, models, tmp_path
):
    shape = {"save_steps": 1, "eval_fraction": 0.3}
    first, _ = run(config_of(rated, tmp_path / "reward", **shape), models["causal"])
    (tmp_path / "reward" / "model.safetensors").unlink()
    second, _ = run(config_of(rated, tmp_path / "reward", **shape), models["causal"])
    for name in ("accuracy", "ece", "brier", "log_loss"):
        assert second.facts["calibration"][name] == pytest.approx(first.facts["calibration"][name])


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{}, LORA], ids=["whole", "lora"])
def test_with_early_stopping_calibration_is_of_the_model_that_is_saved(
    rated, models, tmp_path, lora
):
    shape = {
        "eval_fraction": 0.4,
        "eval_steps": 1,
        "learning_rate": 3e-2,
        "num_train_epochs": 6,
        **lora,
    }
    summary, _ = run(
        config_of(rated, tmp_path / "reward", early_stopping_patience=2, **shape), models["causal"]
    )
    best = summary.facts["evaluation"]["best"]
    assert best["step"] < summary.facts["n_steps"]
    rows = pq.read_table(tmp_path / "reward" / "metrics.parquet").to_pylist()
    (row,) = [row for row in rows if row["split"] == "eval" and row["step"] == best["step"]]
    assert summary.facts["calibration"]["brier"] == pytest.approx(row["pairs/brier"], rel=1e-4)


@pytest.mark.slow
def test_seeds_give_other_heads_and_the_same_seed_the_same(rated, models, tmp_path):
    heads = []
    for number, seed in enumerate((0, 0, 1)):
        run(
            config_of(rated, tmp_path / str(number), seed=seed, learning_rate=1e-9),
            models["causal"],
        )
        heads.append(
            AutoModelForSequenceClassification.from_pretrained(tmp_path / str(number)).score.weight
        )
    assert heads[0].equal(heads[1])
    assert not torch.allclose(heads[0], heads[2], atol=1e-3)


@pytest.mark.slow
def test_mmpo_sees_the_grades_of_each_pair_and_not_the_mean_of_the_batch(
    rated, models, tmp_path, monkeypatch
):
    """The published code compares (B, 1) with (B,).

    Every pair gets the mean target. Here each batch's loss is written out.
    """
    seen = []
    original = GroupTrainer._count

    def keep(trainer, batch, found, *arguments):
        share = original(trainer, batch, found, *arguments)
        seen.append((batch, found.scores.detach(), share.detach(), arguments[0]))
        return share

    monkeypatch.setattr(GroupTrainer, "_count", keep)
    gamma = 0.7
    run(
        config_of(
            rated, tmp_path / "reward", objective="mmpo", gamma=gamma, per_device_train_batch_size=4
        ),
        models["causal"],
    )
    assert seen
    differs = 0.0
    for batch, scores, share, n_prompts in seen:
        targets = Targets(batch["rewards"], batch["positives"], batch["slots"] >= 0, batch["pairs"])
        losses, means = [], []
        for p in range(len(scores)):
            pairs = [(w.item(), lost.item()) for w, lost in batch["pairs"][p].nonzero()]
            d = torch.stack([scores[p, w] - scores[p, lost] for w, lost in pairs])
            q = torch.sigmoid(
                gamma
                * torch.stack(
                    [batch["rewards"][p, w] - batch["rewards"][p, lost] for w, lost in pairs]
                )
            )
            losses.append(
                (
                    -q * torch.nn.functional.logsigmoid(d)
                    - (1 - q) * torch.nn.functional.logsigmoid(-d)
                ).mean()
            )
            means.append(
                (
                    -q.mean() * torch.nn.functional.logsigmoid(d)
                    - (1 - q.mean()) * torch.nn.functional.logsigmoid(-d)
                ).mean()
            )
        expected = torch.stack(losses)
        torch.testing.assert_close(mmpo_reward_loss(scores, targets, gamma=gamma), expected)
        torch.testing.assert_close(share, expected.sum() / n_prompts)
        differs = max(differs, (torch.stack(means) - expected).abs().max().item())
    assert differs > 1e-4  # with mean targets it would be another loss


@pytest.mark.slow
def test_responses_beyond_the_models_own_limit_are_left_out(rated, models, tmp_path):
    longest = max(len(row["response"]) for row in rows_of(rated / "groups"))
    summary, said = run(
        config_of(rated, tmp_path / "reward", max_length=longest + 70), models["causal"]
    )
    assert summary.counts["ok"] + summary.counts["too_long"] + summary.counts["no_contrast"] == 36
    _, said = run(config_of(rated, tmp_path / "other"), models["causal"])
    assert any(
        "reads at most 512 tokens: --max-length 2048 is lowered to 512" in line for line in said
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objective": "dpo"},
            r"--target reward has no objective dpo \(it belongs to --target policy\); choose one of bt, bt-margin",
        ),
        (
            {"target": "policy", "objective": "bt"},
            r"--target policy has no objective bt \(it belongs to --target reward\)",
        ),
        (
            {"reference_model": "base"},
            "--reference-model has no effect: a reward model has no reference",
        ),
        (
            {"eval_groups": "x", "eval_reference": "y"},
            "--eval-reference has no effect: a reward model has no reference",
        ),
        ({"on_too_long": "truncate"}, "a reward model reads whole conversations"),
        ({"target": "policy", "chat_template": "x"}, "--chat-template needs --target reward"),
    ],
)
def test_what_does_not_fit_the_target_is_an_error(rated, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        config_of(rated, tmp_path / "reward", **changes)


def test_knobs_are_those_of_the_reward_objective(rated, tmp_path):
    with pytest.raises(UsageError, match="bt has no knob gamma: it belongs to bt-margin, mmpo"):
        settings_of(config_of(rated, tmp_path, gamma=1.0))
    with pytest.raises(
        UsageError, match="bt-margin has no knob beta: no objective of a reward head has it"
    ):
        settings_of(config_of(rated, tmp_path, objective="bt-margin", beta=1.0))
    plain = TrainConfig(groups=tmp_path, output=tmp_path, model="m", target="reward")
    assert (settings_of(plain).objective, settings_of(plain).learning_rate) == (
        "bt",
        9e-6,
    )


def test_the_flag_offers_the_objectives_of_both_targets():
    (item,) = (item for item in fields(TrainConfig) if item.name == "objective")
    assert {"ampo", "dpo", "mmpo", "bt", "bt-margin"} <= set(item.metadata["choices"])
    assert "mmpo-reward" not in item.metadata["choices"]


def test_what_a_reward_model_cannot_start_from_is_said(rated, models, tmp_path):
    with pytest.raises(ModelError, match="has no chat template") as caught:
        run(config_of(rated, tmp_path / "reward"), models["encoder"])
    assert "--chat-template FILE" in caught.value.hint
    with pytest.raises(ModelError, match="is an adapter; a reward model starts from a whole model"):
        run(config_of(rated, tmp_path / "reward"), models["adapter"])
    with pytest.raises(UsageError, match=r"--chat-template .* cannot be read"):
        run(
            config_of(rated, tmp_path / "reward", chat_template=tmp_path / "none"),
            models["encoder"],
        )
    assert not (tmp_path / "reward").exists()


@pytest.mark.slow
def test_another_chat_template_is_another_run(rated, models, tmp_path):
    template = template_file(tmp_path)
    run(config_of(rated, tmp_path / "reward", chat_template=template), models["causal"])
    template.write_text(CHAT_TEMPLATE + " ")
    with pytest.raises(FingerprintError, match="chat_template"):
        run(config_of(rated, tmp_path / "reward", chat_template=template), models["causal"])
