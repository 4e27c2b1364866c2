"""TRL's own losses on a stand-in for its trainers, beside ours from the same log-probabilities of tokens.

TRL knows pairs, sums and one number a batch; so groups are pairs, and means over prompts are compared. TRL is imported where it
is called.
"""

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import torch

from prefpipe.maths.objectives.likelihood import sft_loss
from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.losses import Targets
from prefpipe.maths.objectives.registry import find_objective, resolve_knobs
from prefpipe.maths.objectives.scores import group_losses, score_responses
from support.written_out_losses import Deviation

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


def alike(policy, reference, exists):
    """The same pairs with chosen responses of one length."""
    exists = exists.clone()
    exists[:, 0] = torch.arange(N_TOKENS) < 5
    return policy, reference, exists


def log_ratios(policy, reference, exists):
    return ((policy - reference) * exists).sum(-1)


def means(policy, _reference, exists):
    return (policy * exists).sum(-1) / exists.sum(-1)


def orpo_trainer_loss(policy, reference, exists):
    """TRL computes the odds in float32, so the last digits are float32's; its first term also
    counts the prompt, ours does not."""
    from trl.experimental.orpo import ORPOTrainer

    chosen, rejected = means(policy, reference, exists).unbind(-1)
    trainer = SimpleNamespace(beta=0.25, accelerator=ACCELERATOR)
    odds = ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)[0]
    return (-chosen - odds).mean()


def with_likelihood(name, knobs, *pairs):
    """Ours with ``--sft-weight 0.7``."""
    mask = torch.ones(N_PAIRS, 2, dtype=torch.bool)
    targets = Targets(mask * 1.0, torch.tensor([[True, False]]).expand(N_PAIRS, 2), mask)
    return ours(name, knobs, *pairs) + 0.7 * sft_loss(means(*pairs), targets).mean()


class Peer(NamedTuple):
    """A loss of TRL's and ours with the settings that make them one: of ``(policy, reference, exists)``.

    ``name``: the objective, or the flag beside others. ``words``: what of TRL it is, and under which condition. ``rtol``: where
    numbers are large.
    """

    name: str
    words: str
    mine: Callable
    other: Callable
    rtol: float = 0.0


def _dpo(name, knobs, loss_type, **options):
    return Peer(
        name,
        f"DPOTrainer `{loss_type}`",
        lambda *pairs: ours(name, knobs, *pairs),
        lambda *pairs: theirs(loss_type, *pairs, **options),
    )


def _cpo(name, knobs, words, scores, loss_type, **options):
    return Peer(
        name,
        words,
        lambda *pairs: ours(name, knobs, *pairs),
        lambda *pairs: cpo_loss(loss_type, *scores(*pairs).unbind(-1), **options),
        rtol=1e-9,
    )


def _beside(name, knobs, loss_type):
    return Peer(
        "--sft-weight",
        f"DPOTrainer `sft` beside `{loss_type}`, chosen responses of one length",
        lambda *pairs: with_likelihood(name, knobs, *alike(*pairs)),
        lambda *pairs: theirs(loss_type, *alike(*pairs), beta=0.3, sft_weight=0.7),
    )


def _of_tokens(policy, _reference, exists):
    return sft_trainer_loss(policy, exists)


def _of_responses(policy, _reference, exists):
    return sft_trainer_loss(policy, exists) * exists[:, 0].sum(-1).double().mean()


PEERS = (
    _dpo("nca", {"beta": 0.3, "alpha": 1e-3}, "nca_pair", beta=0.3),
    _dpo("dpo", {"beta": 0.3}, "sigmoid", beta=0.3),
    _cpo(
        "cdpo",
        {"beta": 0.3, "eps": 0.2},
        "CPOTrainer `sigmoid` with label smoothing, on log-ratios",
        log_ratios,
        "sigmoid",
        beta=0.3,
        label_smoothing=0.2,
    ),
    _dpo("rdpo", {"beta": 0.3, "eps": 0.2}, "robust", beta=0.3, label_smoothing=0.2),
    _dpo("ipo", {"tau": 0.3, "length_normalise": True}, "ipo", beta=0.3),
    _cpo("ipo", {"tau": 0.3}, "CPOTrainer `ipo`, sums of log-ratios", log_ratios, "ipo", beta=0.3),
    _dpo("hinge", {"beta": 0.3}, "hinge", beta=0.3),
    # TRL's `simpo_gamma` is in units of the scores too.
    _cpo("simpo", {}, "CPOTrainer `simpo`", means, "simpo", beta=2.5, simpo_gamma=1.375),
    Peer(
        "orpo",
        "ORPOTrainer, its odds in float32",
        lambda *pairs: ours("orpo", {"weight": 0.25}, *pairs),
        orpo_trainer_loss,
    ),
    Peer(
        "sft",
        "SFTTrainer, positives of one length",
        lambda *pairs: ours("sft", {}, *alike(*pairs)),
        lambda *pairs: _of_tokens(*alike(*pairs)),
    ),
    Peer(
        "sft",
        "SFTTrainer times the mean length, `--no-length-normalise`",
        lambda *pairs: ours("sft", {"length_normalise": False}, *pairs),
        _of_responses,
    ),
    _beside("dpo", {"beta": 0.3}, "sigmoid"),
    _beside("ipo", {"tau": 0.3, "length_normalise": True}, "ipo"),
)


def _both(mine, other, start):
    results = []
    for loss in (mine, other):
        values = start.clone().requires_grad_()
        value = loss(values)
        value.backward()
        results.append((value.detach().double(), values.grad.double()))
    return results


def _deviation(results):
    (value, gradient), (their_value, their_gradient) = results
    return Deviation(
        (value - their_value).abs().item(), (gradient - their_gradient).abs().max().item()
    )


def compare(peer, seed):
    """Return ``(value, gradient in every token's log-probability)`` of ours and of TRL's."""
    policy, reference, exists = make_pairs(seed)
    return _both(
        lambda values: peer.mine(values, reference, exists),
        lambda values: peer.other(values, reference, exists),
        policy,
    )


def deviation_from_trl(peer, seed):
    return _deviation(compare(peer, seed))


def compare_rewards(name, seed):
    """The same of ``bt`` or ``bt-margin`` and RewardTrainer, in the scores of a reward head."""
    generator = torch.Generator().manual_seed(seed)
    rewards, start = torch.randn(2, N_PAIRS, 2, generator=generator, dtype=torch.float64)
    targets = Targets(
        rewards,
        torch.tensor([[True, False]]).expand(N_PAIRS, 2),
        torch.ones(N_PAIRS, 2, dtype=torch.bool),
    )
    knobs = {"bt": {}, "bt-margin": {"gamma": 0.7}}[name]
    margins = knobs["gamma"] * (rewards[:, 0] - rewards[:, 1]) if knobs else None
    return _both(
        lambda scores: group_losses(name, scores, targets, knobs).mean(),
        lambda scores: reward_loss(scores, margins),
        start,
    )


def deviation_from_reward_trainer(name, seed):
    return _deviation(compare_rewards(name, seed))
