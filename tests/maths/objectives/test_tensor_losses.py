"""Objectives on tensors: the trainer's losses, under names and defaults of their own."""

import pytest
import torch

import prefpipe
from prefpipe.errors import UsageError
from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.masked import Targets
from prefpipe.maths.objectives.registry import OBJECTIVES, REWARD_OBJECTIVES, resolve_knobs
from prefpipe.maths.objectives.scores import group_losses, score_responses

P, R = 5, 4


def drawn(seed: int = 0) -> dict[str, torch.Tensor]:
    """Responses of five prompts, the last of which has but three."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(P, R, dtype=torch.bool)
    mask[-1, -1] = False
    return {
        "logps": -20 * torch.rand(P, R, generator=generator, dtype=torch.float64),
        "n_tokens": torch.randint(3, 12, (P, R), generator=generator).double(),
        "rewards": torch.randn(P, R, generator=generator, dtype=torch.float64),
        "reference_logps": -20 * torch.rand(P, R, generator=generator, dtype=torch.float64),
        "end_probs": torch.rand(P, R, generator=generator, dtype=torch.float64),
        "mask": mask,
    }


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_it_is_the_loss_of_the_trainer(name: str) -> None:
    values = drawn()
    mask, knobs = values["mask"], resolve_knobs(name, {})
    best = values["rewards"].masked_fill(~mask, -torch.inf).argmax(dim=1)
    positives = torch.nn.functional.one_hot(best, R).bool()
    policy = ResponseLogps(values["logps"], values["n_tokens"], values["end_probs"])
    scores = score_responses(name, policy, values["reference_logps"], mask, knobs)
    targets = Targets(values["rewards"], positives, mask)
    expected = group_losses(name, scores, targets, knobs, policy)
    found = prefpipe.preference_loss(name, **values)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert found.shape == (P,)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", sorted(REWARD_OBJECTIVES))
def test_reward_heads(name: str) -> None:
    values = drawn(1)
    scores = values["logps"].clone().requires_grad_()
    found = prefpipe.reward_model_loss(name, scores, values["rewards"], mask=values["mask"])
    found.sum().backward()
    assert found.shape == (P,)
    assert scores.grad is not None
    assert scores.grad[-1, -1] == 0


def test_dpo_of_one_pair_by_hand() -> None:
    loss = prefpipe.preference_loss(
        "dpo",
        torch.tensor([[-3.0, -5.0]]),
        torch.tensor([[4.0, 4.0]]),
        torch.tensor([[1.0, 0.0]]),
        reference_logps=torch.tensor([[-4.0, -4.5]]),
        beta=0.1,
    )
    expected = -torch.nn.functional.logsigmoid(torch.tensor(0.1 * ((-3 + 4) - (-5 + 4.5))))
    torch.testing.assert_close(loss, expected[None])


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("dpoo", {}, "dpoo"),
        ("bt", {}, "reward head"),
        ("dpo", {"reference_logps": None}, "needs reference log-probabilities"),
        ("dpo", {"rewards": torch.zeros(P, R + 1)}, "rewards has shape"),
        ("dpo", {"n_tokens": torch.zeros(P)}, "n_tokens has shape"),
        ("dpo", {"logps": torch.zeros(R)}, "prompts x responses"),
        ("dpo", {"rewards": torch.full((P, R), torch.nan)}, "not finite"),
        ("dpo", {"gamma": 2.0}, "gamma"),
        ("refa", {"end_probs": None}, "how responses end"),
    ],
)
def test_what_cannot_be_used(name: str, change: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        prefpipe.preference_loss(name, **{**drawn(), **change})


def test_an_objective_of_the_other_kind() -> None:
    with pytest.raises(UsageError, match="trains a policy"):
        prefpipe.reward_model_loss("dpo", torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))


def test_ratings_in_whole_numbers_and_masks_of_0_and_1() -> None:
    values = drawn(2)
    whole = (5 * values["rewards"]).round().long()
    as_floats = values | {"rewards": whole.double()}
    as_numbers = values | {"rewards": whole, "mask": values["mask"].long()}
    for name in ("ampo", "mmpo"):
        expected = prefpipe.preference_loss(name, **as_floats)
        torch.testing.assert_close(prefpipe.preference_loss(name, **as_numbers), expected)

    with pytest.raises(UsageError, match="rewards takes a tensor, not ndarray"):
        prefpipe.preference_loss("ampo", **values | {"rewards": values["rewards"].numpy()})
