"""Where TRL has an objective, ours is TRL's, in value and gradient, to 1e-6.

Its own methods run on a stand-in for the trainer. TRL knows pairs, sums and one number a batch; so
the groups here are pairs, and the mean over prompts is compared.
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from prefpipe.maths.objectives.likelihood import sft_loss
from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.losses import Targets
from prefpipe.maths.objectives.registry import find_objective, resolve_knobs
from prefpipe.maths.objectives.scores import group_losses, score_responses

pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's experimental modules announce themselves

N_PAIRS, N_TOKENS = 7, 9
ACCELERATOR = SimpleNamespace(
    device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
)


def make_pairs(seed=0):
    """Token log-probabilities (B, 2, T) under policy and reference, and which tokens exist."""
    generator = torch.Generator().manual_seed(seed)
    policy = -2 * torch.rand(N_PAIRS, 2, N_TOKENS, generator=generator, dtype=torch.float64)
    reference = policy + 0.5 * torch.randn(
        N_PAIRS, 2, N_TOKENS, generator=generator, dtype=torch.float64
    )
    lengths = torch.randint(1, N_TOKENS + 1, (N_PAIRS, 2, 1), generator=generator)
    return policy, reference, torch.arange(N_TOKENS) < lengths


def ours(name, knobs, policy, reference, exists):
    """The mean loss over pairs, from token log-probabilities to the end."""
    mask = torch.ones(N_PAIRS, 2, dtype=torch.bool)
    responses = ResponseLogps((policy * exists).sum(-1), exists.sum(-1))
    knobs = resolve_knobs(name, knobs)
    reference_logps = (reference * exists).sum(-1) if find_objective(name).needs_reference else None
    scores = score_responses(name, responses, reference_logps, mask, knobs)
    rewards = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(N_PAIRS, 2)
    return group_losses(name, scores, Targets(rewards, rewards > 0.5, mask), knobs).mean()


def theirs(loss_type, policy, reference, exists, beta=0.1, label_smoothing=0.0, sft_weight=None):
    """``DPOTrainer._compute_loss`` on a model that gives these token log-probabilities."""
    from trl import DPOTrainer

    def stack(values):
        return torch.cat([values[:, 0], values[:, 1]])  # all chosen, then all rejected

    zeros = torch.zeros(2 * N_PAIRS, N_TOKENS)
    outputs = SimpleNamespace(
        log_probs=stack(policy * exists), entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )
    completion = torch.cat(
        [torch.zeros(2 * N_PAIRS, 1), stack(exists)], 1
    ).long()  # one prompt token, which nothing predicts
    reference_logps = (reference * exists).sum(-1)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=ACCELERATOR,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type] if sft_weight is None else [loss_type, "sft"],
        loss_weights=[1.0] if sft_weight is None else [1.0, sft_weight],
        beta=beta,
        label_smoothing=label_smoothing,
        use_weighting=False,
        _total_train_tokens=0,
        _tp_size=1,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    inputs = {
        "input_ids": torch.zeros_like(completion),
        "attention_mask": torch.ones_like(completion),
        "completion_mask": completion,
        "ref_chosen_logps": reference_logps[:, 0],
        "ref_rejected_logps": reference_logps[:, 1],
    }
    return DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False)


def assert_same(mine, other, seed, rtol=0.0):
    """Values and gradients in every token's log-probability."""
    results = []
    for loss in (mine, other):
        policy, reference, exists = make_pairs(seed)
        value = loss(policy.requires_grad_(), reference, exists)
        value.backward()
        results.append((value.detach().double(), policy.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-6)
    assert results[0][1].abs().max() > 1e-4


seeds = pytest.mark.parametrize("seed", range(3))


@seeds
@pytest.mark.parametrize(
    ("name", "knobs", "loss_type", "options"),
    [
        ("dpo", {"beta": 0.3}, "sigmoid", {"beta": 0.3}),
        ("hinge", {"beta": 0.3}, "hinge", {"beta": 0.3}),
        ("ipo", {"tau": 0.3, "length_normalise": True}, "ipo", {"beta": 0.3}),
        ("rdpo", {"beta": 0.3, "eps": 0.2}, "robust", {"beta": 0.3, "label_smoothing": 0.2}),
        ("nca", {"beta": 0.3, "alpha": 1e-3}, "nca_pair", {"beta": 0.3}),
    ],
)
def test_losses_of_the_dpo_trainer(name, knobs, loss_type, options, seed):
    assert_same(
        lambda *pairs: ours(name, knobs, *pairs),
        lambda *pairs: theirs(loss_type, *pairs, **options),
        seed,
    )


@seeds
@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_the_term_of_likelihood_is_the_dpo_trainers_sft_where_positives_are_equally_long(
    loss_type, seed
):
    """TRL's is a mean over all tokens of the batch's positives, ours one a response."""
    name, knobs = {
        "sigmoid": ("dpo", {"beta": 0.3}),
        "ipo": ("ipo", {"tau": 0.3, "length_normalise": True}),
    }[loss_type]

    def alike(policy, reference, exists):
        exists = exists.clone()
        exists[:, 0] = torch.arange(N_TOKENS) < 5
        return policy, reference, exists

    def mine(*pairs):
        policy, reference, exists = alike(*pairs)
        mask = torch.ones(N_PAIRS, 2, dtype=torch.bool)
        targets = Targets(mask * 1.0, torch.tensor([[True, False]]).expand(N_PAIRS, 2), mask)
        a_token = (policy * exists).sum(-1) / exists.sum(-1)
        likelihood = sft_loss(a_token, targets).mean()
        return ours(name, knobs, policy, reference, exists) + 0.7 * likelihood

    assert_same(
        mine,
        lambda *pairs: theirs(loss_type, *alike(*pairs), beta=0.3, sft_weight=0.7),
        seed,
    )


def sft_trainer_loss(policy, exists):
    """``SFTTrainer.compute_loss`` on the chosen responses, token by token."""
    from trl import SFTTrainer

    chosen, tokens = policy[:, 0] * exists[:, 0], exists[:, 0]
    zeros = torch.zeros(N_PAIRS, N_TOKENS)
    outputs = SimpleNamespace(
        log_probs=chosen, label_mask=tokens, entropy=zeros, is_top1=zeros.bool()
    )
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(**vars(ACCELERATOR), parallelism_config=None),
        aux_loss_enabled=False,
        compute_loss_func=None,
        label_smoother=None,
        args=SimpleNamespace(loss_type="nll", average_tokens_across_devices=False),
        _total_train_tokens=0,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    return SFTTrainer.compute_loss(trainer, lambda **_: outputs, {"input_ids": zeros})


@seeds
def test_sft_is_the_sft_trainers_where_positives_are_equally_long(seed):
    def alike(policy, reference, exists):
        exists = exists.clone()
        exists[:, 0] = torch.arange(N_TOKENS) < 5
        return policy, reference, exists

    def other(*pairs):
        policy, _, exists = alike(*pairs)
        return sft_trainer_loss(policy, exists)

    assert_same(lambda *pairs: ours("sft", {}, *alike(*pairs)), other, seed)


@seeds
def test_sft_in_sum_is_the_sft_trainers_times_the_mean_length_of_positives(seed):
    def other(policy, _reference, exists):
        return sft_trainer_loss(policy, exists) * exists[:, 0].sum(-1).double().mean()

    assert_same(lambda *pairs: ours("sft", {"length_normalise": False}, *pairs), other, seed)


def cpo_loss(loss_type, chosen, rejected, **options):
    from trl.experimental.cpo import CPOTrainer

    trainer = SimpleNamespace(
        **(
            {
                "alpha": 0.0,
                "label_smoothing": 0.0,
                "loss_type": loss_type,
                "accelerator": ACCELERATOR,
            }
            | options
        )
    )
    return CPOTrainer.cpo_loss(trainer, chosen, rejected)[0].mean()


@seeds
def test_simpo_of_the_cpo_trainer(seed):
    """TRL's ``simpo_gamma`` is in units of the scores too."""

    def other(policy, _reference, exists):
        means = (policy * exists).sum(-1) / exists.sum(-1)
        return cpo_loss("simpo", means[:, 0], means[:, 1], beta=2.5, simpo_gamma=1.375)

    assert_same(lambda *pairs: ours("simpo", {}, *pairs), other, seed)


@seeds
def test_cdpo_is_the_cpo_trainers_label_smoothing_on_log_ratios(seed):
    """DPOTrainer dropped label smoothing for its sigmoid loss; CPOTrainer has the same line,
    without a reference."""

    def other(policy, reference, exists):
        ratios = ((policy - reference) * exists).sum(-1)
        return cpo_loss("sigmoid", ratios[:, 0], ratios[:, 1], beta=0.3, label_smoothing=0.2)

    assert_same(lambda *pairs: ours("cdpo", {"beta": 0.3, "eps": 0.2}, *pairs), other, seed)


@seeds
def test_ipo_without_length_normalisation_is_the_cpo_trainers_on_log_ratios(seed):
    def other(policy, reference, exists):
        ratios = ((policy - reference) * exists).sum(-1)
        return cpo_loss("ipo", ratios[:, 0], ratios[:, 1], beta=0.3)

    assert_same(lambda *pairs: ours("ipo", {"tau": 0.3}, *pairs), other, seed, rtol=1e-9)


@seeds
def test_orpo_of_the_orpo_trainer(seed):
    """TRL computes the odds in float32, so the last digits are float32's; its first term also
    counts the prompt, ours does not."""
    from trl.experimental.orpo import ORPOTrainer

    def other(policy, _reference, exists):
        means = (policy * exists).sum(-1) / exists.sum(-1)
        trainer = SimpleNamespace(beta=0.25, accelerator=ACCELERATOR)
        odds = ORPOTrainer.odds_ratio_loss(trainer, means[:, 0], means[:, 1])[0]
        return (-means[:, 0] - odds).mean()

    assert_same(lambda *pairs: ours("orpo", {"weight": 0.25}, *pairs), other, seed)


@seeds
@pytest.mark.parametrize("gamma", [None, 0.7])
def test_bt_and_bt_margin_of_the_reward_trainer(seed, gamma):
    generator = torch.Generator().manual_seed(seed)
    rewards, start = torch.randn(2, N_PAIRS, 2, generator=generator, dtype=torch.float64)
    name, knobs = ("bt", {}) if gamma is None else ("bt-margin", {"gamma": gamma})
    targets = Targets(
        rewards,
        torch.tensor([[True, False]]).expand(N_PAIRS, 2),
        torch.ones(N_PAIRS, 2, dtype=torch.bool),
    )
    margins = None if gamma is None else gamma * (rewards[:, 0] - rewards[:, 1])
    results = []
    for loss in (
        lambda scores: group_losses(name, scores, targets, knobs).mean(),
        lambda scores: reward_loss(scores, margins),
    ):
        scores = start.clone().requires_grad_()
        value = loss(scores)
        value.backward()
        results.append((value.detach(), scores.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def reward_loss(scores, margins):
    """``RewardTrainer.compute_loss`` on a model that gives these scores."""
    from trl import RewardTrainer

    outputs = SimpleNamespace(logits=torch.cat([scores[:, :1], scores[:, 1:]]))
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=ACCELERATOR,
        _metrics=defaultdict(lambda: defaultdict(list)),
        args=SimpleNamespace(center_rewards_coefficient=None),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"attention_mask": torch.ones(2 * N_PAIRS, 1)} | (
        {} if margins is None else {"margin": margins}
    )
    return RewardTrainer.compute_loss(trainer, lambda **_: outputs, inputs)
