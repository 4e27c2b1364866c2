"""``--weight-by``: prompts and pairs that count more, by hand, and what is refused."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from support.tiny_groups import make_groups
from support.written_groups import row_of, write_groups

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import GROUPS
from prefpipe.artifacts.store import Artifact, Shard, open_input, open_output
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import IncompleteInputError, InputError, UsageError
from prefpipe.maths.objectives.losses import Targets, dpo_loss
from prefpipe.maths.objectives.masked import mean_over_pairs
from prefpipe.stages.shared.training_groups import groups_of, read_rows
from prefpipe.stages.train.loss_weights import describe_weights, open_weighing, weigh_groups
from prefpipe.training.batches import GroupCollator
from prefpipe.training.groups import Group


def artifact_of(folder: Path, rows: list[dict], **users: pa.DataType) -> Artifact:
    """Groups in one part, with columns of the user's own."""
    identity = {"stage": "select", "candidates": {"stage": "generate", "models": []}}
    record = RunRecord("select", GROUPS.tag, 1, identity)
    output = open_output(folder, record, shard=Shard(), overwrite=False)
    schema = GROUPS.arrow()
    for name, kind in users.items():
        schema = schema.append(pa.field(name, kind))
    table = pa.Table.from_pylist(rows, schema=schema)
    output.write(0, table, counts={"ok": len(rows)}, parents={})
    return open_input(folder, schema="groups", name="GROUPS")


def two_prompts(**columns: list) -> list[dict]:
    """a: rewards 0, -1, -2; b: rewards 0, -1. Columns are given row by row."""
    rows = [row_of("a", i, f"a {i}") for i in range(3)]
    rows += [row_of("b", i, f"b {i}") for i in range(2)]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


def weighted(artifact: Artifact, text: str) -> tuple[list[Group], dict]:
    weighing = open_weighing(text, artifact, "GROUPS")
    rows = read_rows(artifact, allow_partial=False, further=weighing.columns)
    return weigh_groups(groups_of(rows, None), rows, weighing)


def test_a_column_of_the_prompts_weighs_prompts_and_no_pairs(tmp_path: Path) -> None:
    """3 and 1 are 1.5 and 0.5 times their mean; (1.5 + 0.5)^2 / (1.5^2 + 0.5^2) = 1.6."""
    rows = two_prompts(confidence=[3.0, 3.0, 3.0, 1.0, 1.0])
    groups, figures = weighted(
        artifact_of(tmp_path / "g", rows, confidence=pa.float64()), "confidence"
    )
    assert [(group.weight, group.pair_weights) for group in groups] == [(1.5, None), (0.5, None)]
    assert figures == {
        "expression": "confidence",
        "least": 0.5,
        "greatest": 1.5,
        "n_prompts": 2,
        "effective_prompts": 1.6,
    }
    assert describe_weights(figures, "weights") == (
        "weights by confidence: prompts count 0.5 to 1.5 times their mean, "
        "as much as 1.6 equal ones of 2"
    )


def test_margins_weigh_pairs_and_their_mean_the_prompt(tmp_path: Path) -> None:
    """a: margins 1 and 2, mean 1.5; b: margin 1. Over their mean 1.25: 1.2 and 0.8."""
    groups, _ = weighted(artifact_of(tmp_path / "g", two_prompts()), "margin")
    assert [group.weight for group in groups] == pytest.approx([1.2, 0.8])
    assert groups[0].pair_weights == pytest.approx({(0, 1): 1 / 1.5, (0, 2): 2 / 1.5})
    assert groups[1].pair_weights is None


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("chosen_votes", [8 / 6, 4 / 6]),
        ("rejected_votes", [1.5 / 1.25, 1 / 1.25]),
        ("chosen_votes - rejected_votes", [6.5 / 4.75, 3 / 4.75]),
        ("min(margin, 1) * 7", [1.0, 1.0]),
        ("0 * margin + sure", [2.0, 0.0]),
    ],
)
def test_names_are_read_of_the_winner_of_the_loser_or_of_the_prompt(
    tmp_path: Path, text: str, weights: list[float]
) -> None:
    rows = two_prompts(votes=[8, 1, 2, 4, 1], sure=[True, True, True, False, False])
    artifact = artifact_of(tmp_path / "g", rows, votes=pa.int32(), sure=pa.bool_())
    groups, _ = weighted(artifact, text)
    assert [group.weight for group in groups] == pytest.approx(weights)


def test_pairs_that_selection_named_are_those_that_are_weighed(tmp_path: Path) -> None:
    named = [[{"sample_idx": 2, "margin": 2.0}], [{"sample_idx": 2, "margin": 1.0}], []]
    rows = two_prompts(beats=[*named, None, None])
    groups, _ = weighted(artifact_of(tmp_path / "g", rows), "margin")
    assert set(groups[0].pair_weights or {}) == {(0, 2), (1, 2)}


def test_the_loss_of_a_batch_is_the_sum_over_pairs_of_weight_times_loss_by_their_sum() -> None:
    """One pair a prompt, as trl#5613 asks; and several, each prompt's share its pairs' mean."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    values = torch.rand(3, 3, 3, generator=generator, dtype=torch.float64)
    positives = torch.tensor([[True, False, False]]).expand(3, 3)
    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    targets = Targets(scores, positives, mask, pair_weights=values)

    total, divisor = 0.0, 0.0
    for p in range(3):
        losers = [r for r in (1, 2) if mask[p, r]]
        for r in losers:
            loss = torch.nn.functional.softplus(scores[p, r] - scores[p, 0]).item()
            total += values[p, 0, r].item() * loss / len(losers)
            divisor += values[p, 0, r].item() / len(losers)

    means = mean_over_pairs(values, targets._replace(pair_weights=None))
    weights = means / means.mean()
    assert (weights * dpo_loss(scores, targets)).mean().item() == pytest.approx(total / divisor)


def test_weights_that_are_all_zero_within_a_prompt_give_loss_zero_and_no_nan() -> None:
    scores = torch.zeros(1, 2, requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    targets = Targets(
        mask * 1.0, torch.tensor([[True, False]]), mask, pair_weights=torch.zeros(1, 2, 2)
    )
    loss = dpo_loss(scores, targets)
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    assert scores.grad is not None
    assert scores.grad.tolist() == [[0.0, 0.0]]


def test_a_batch_has_weights_only_where_groups_do_not_count_alike() -> None:
    groups = make_groups(2)
    collator = GroupCollator(0)
    assert not {"weights", "pair_weights"} & set(collator(groups))
    groups[1] = groups[1]._replace(weight=0.25, pair_weights={(0, 1): 0.5, (0, 2): 1.5})
    batch = collator(groups)
    assert batch["weights"].tolist() == [1.0, 0.25]
    assert batch["pair_weights"][0].eq(1).all()
    assert batch["pair_weights"][1, 0].tolist() == [1.0, 0.5, 1.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("confidense", r"names confidense, which is not a numeric column .*\(did you mean `confi"),
        ("response", "names response, which is not a numeric column of GROUPS"),
        ("chosen_role", "names chosen_role, which is not a numeric column"),
        ("exp(margin)", "the weight expression 'exp.margin.' calls 'exp', which is not a function"),
        ("2 + 3", "names no column"),
    ],
)
def test_what_cannot_be_read_is_named_before_any_row_is_read(
    tmp_path: Path, text: str, message: str
) -> None:
    rows = two_prompts(confidence=[1.0] * 5)
    artifact = artifact_of(tmp_path / "g", rows, confidence=pa.float64())
    with pytest.raises(UsageError, match=message):
        open_weighing(text, artifact, "GROUPS")


@pytest.mark.parametrize(
    ("text", "values", "message"),
    [
        ("w", [1.0, 1.0, 2.0, 1.0, 1.0], "w is 1.0 and 2.0 within prompt a"),
        ("-margin", [1.0] * 5, "is -1 for responses 0 over 1 of prompt a"),
        ("w", [1.0, 1.0, 1.0, None, None], "is nan for responses 0 over 1 of prompt b"),
        ("1 / (margin - 1)", [1.0] * 5, "is inf for responses 0 over 1 of prompt a"),
    ],
)
def test_a_weight_that_is_none_is_an_error_that_names_its_place(
    tmp_path: Path, text: str, values: list, message: str
) -> None:
    artifact = artifact_of(tmp_path / "g", two_prompts(w=values), w=pa.float64())
    with pytest.raises(InputError, match=message):
        weighted(artifact, text)


def test_weights_that_are_all_zero_are_refused(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path / "g", two_prompts())
    with pytest.raises(UsageError, match=r"'0 . margin' is 0 for all 2 prompts"):
        weighted(artifact, "0 * margin")


def test_groups_without_a_part_are_incomplete(tmp_path: Path) -> None:
    folder = write_groups(tmp_path / "g", [None], [])
    artifact = open_input(folder, schema="groups", name="GROUPS")
    with pytest.raises(IncompleteInputError, match="has no parts yet"):
        open_weighing("margin", artifact, "GROUPS")


def test_both_flags_enter_the_identity_only_where_they_are_given(tmp_path: Path) -> None:
    def identity(**changes: object) -> dict:
        return TrainConfig(groups=tmp_path, output=tmp_path, model="m", **changes).identity()

    assert not {"sft_weight", "weight_by"} & set(identity())
    given = identity(sft_weight=0.2, weight_by="margin")
    assert (given["sft_weight"], given["weight_by"]) == (0.2, "margin")
    assert json.dumps(given)


def test_a_reward_model_takes_weights_and_no_likelihood(tmp_path: Path) -> None:
    values = {"groups": tmp_path, "output": tmp_path, "model": "m", "target": "reward"}
    TrainConfig(**values, weight_by="margin")
    with pytest.raises(UsageError, match="--sft-weight has no effect: a reward model gives"):
        TrainConfig(**values, sft_weight=0.1)
    with pytest.raises(UsageError, match="--sft-weight must be 0 or more"):
        TrainConfig(groups=tmp_path, output=tmp_path, model="m", sft_weight=-0.1)


def of_positives(artifact: Artifact, text: str) -> tuple[list[Group], dict]:
    """Weights as an objective that compares nothing reads them, of groups without negatives."""
    weighing = open_weighing(text, artifact, "GROUPS", of_pairs=False)
    rows = read_rows(artifact, allow_partial=False, further=weighing.columns)
    return weigh_groups(groups_of(rows, None), rows, weighing)


def test_without_pairs_a_prompt_weighs_the_mean_over_its_positives(tmp_path: Path) -> None:
    """a: 4 and 2, mean 3; b: 1. Over their mean 2: 1.5 and 0.5."""
    rows = two_prompts(sure=[4.0, 2.0, None, 1.0, None])
    kept = [row | {"role": "positive"} for row in (rows[0], rows[1], rows[3])]
    artifact = artifact_of(tmp_path / "g", kept, sure=pa.float64())
    groups, figures = of_positives(artifact, "chosen_sure")
    assert [group.weight for group in groups] == pytest.approx([1.5, 0.5])
    assert [group.pair_weights for group in groups] == [None, None]
    assert figures["effective_prompts"] == pytest.approx(1.6)

    with pytest.raises(InputError, match="within prompt a") as caught:
        of_positives(artifact, "sure")
    assert caught.value.hint == "name the column of one response: chosen_sure"
    with pytest.raises(InputError, match=r"is -2 for response 0 of prompt a$"):
        of_positives(artifact, "2 - chosen_sure")


@pytest.mark.parametrize("text", ["margin", "1 + margin", "rejected_sure", "rejected_reward"])
def test_what_only_a_pair_has_is_refused_without_pairs(tmp_path: Path, text: str) -> None:
    rows = [row | {"role": "positive"} for row in two_prompts(sure=[1.0] * 5)]
    artifact = artifact_of(tmp_path / "g", rows, sure=pa.float64())
    with pytest.raises(UsageError, match=r"and the objective trains only on positives"):
        open_weighing(text, artifact, "GROUPS", of_pairs=False)
