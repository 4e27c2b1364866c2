"""Groups of scores and rewards for tests of the losses, and every objective with the knob settings that make it another one."""

from typing import NamedTuple

import torch
from torch import Tensor

from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.losses import Targets
from prefpipe.maths.objectives.registry import ALL_OBJECTIVES, resolve_knobs
from prefpipe.maths.objectives.scores import group_losses

VARIANTS = {
    "ampo": ("ampo", {}),
    "ampo with deviations": ("ampo", {"alpha": 0.7}),
    "ampo with absolute deviations": ("ampo", {"alpha": 0.7, "deviation": "absolute"}),
    "refa": ("refa", {"eos_weight": 0.01}),
    "refa with deviations": ("refa", {"eos_weight": 0.01, "alpha": 0.7}),
    "swepo": ("swepo", {}),
    "swepo with absolute deviations": ("swepo", {"deviation": "absolute"}),
    "infonca": ("infonca", {}),
    "nca": ("nca", {"alpha": 0.5}),
    "plackett-luce": ("plackett-luce", {}),
    "ddo": ("ddo", {}),
    "ddo by small steps": ("ddo", {"eta": 4.0}),
    "mmpo": ("mmpo", {}),
    "mmpo on the group": ("mmpo", {"comparison": "group"}),
    "mmpo with gamma 0": ("mmpo", {"gamma": 0.0}),
    "odpo": ("odpo", {}),
    "odpo with half the offset": ("odpo", {"alpha": 0.5}),
    "rpo": ("rpo", {"eta": 0.7}),
    "rpo by divergence": ("rpo", {"eta": 0.7, "form": "forward-kl"}),
    "dpo": ("dpo", {}),
    "cdpo": ("cdpo", {}),
    "rdpo": ("rdpo", {}),
    "ipo": ("ipo", {"tau": 0.3}),
    "hinge": ("hinge", {}),
    "simpo": ("simpo", {}),
    "orpo": ("orpo", {"weight": 0.6}),
    "sft": ("sft", {}),
    "bt": ("bt", {}),
    "bt-margin": ("bt-margin", {"gamma": 0.4}),
    "mmpo-reward": ("mmpo-reward", {}),
}


def row_of(variant):
    """The variant's row of the table."""
    return ALL_OBJECTIVES[VARIANTS[variant][0]]


def comparison_of(variant):
    """``pair``, ``group`` or ``none``: of mmpo a knob decides."""
    return VARIANTS[variant][1].get("comparison", row_of(variant).comparison)


def reads_roles(variant):
    return row_of(variant).reads_roles and not (
        variant.startswith("mmpo") and comparison_of(variant) == "group"
    )


class Groups(NamedTuple):
    """What a loss looks at, each (P, R); ``pairs`` (P, R, R) or None."""

    scores: Tensor
    rewards: Tensor
    positives: Tensor
    mask: Tensor
    n_tokens: Tensor
    end_probs: Tensor
    pairs: Tensor | None = None

    @property
    def targets(self):
        return Targets(self.rewards, self.positives, self.mask, self.pairs)

    def prompts(self, index):
        """The prompts at an index or slice, alone."""
        return Groups(*(None if values is None else values[index] for values in self))

    def responses(self, index):
        """The same prompts with responses in another order, or some of them."""
        pairs = None if self.pairs is None else self.pairs[:, index][:, :, index]
        return Groups(*(values[:, index] for values in self[:6]), pairs)


def losses_of(variant, groups):
    name, knobs = VARIANTS[variant]
    responses = ResponseLogps(groups.scores, groups.n_tokens, groups.end_probs)
    return group_losses(name, groups.scores, groups.targets, resolve_knobs(name, knobs), responses)


def gradient_of(variant, groups):
    """The gradient of the summed losses in the scores, (P, R)."""
    scores = groups.scores.detach().clone().requires_grad_()
    losses_of(variant, groups._replace(scores=scores)).sum().backward()
    return scores.grad


def make_groups(n_prompts=6, n_responses=5, seed=0, scale=1.0):
    """Random scores and rewards; one or two positives, at least one negative, some padding at the end of a row.

    Scores are below 0, as mean log-probabilities are, and positives are rated above negatives in most pairs.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = (
        -0.05
        - scale * torch.rand(n_prompts, n_responses, generator=generator, dtype=torch.float64) * 3
    )
    rewards = scale * torch.randn(n_prompts, n_responses, generator=generator, dtype=torch.float64)
    n_tokens = torch.randint(1, 40, (n_prompts, n_responses), generator=generator)
    end_probs = torch.rand(n_prompts, n_responses, generator=generator, dtype=torch.float64)
    mask = torch.ones(n_prompts, n_responses, dtype=torch.bool)
    for p in range(n_prompts):
        mask[p, n_responses - p % 3 :] = False
    positives = torch.zeros_like(mask)
    positives[:, 0] = True
    positives[::2, 1] = True
    return Groups(scores, rewards + 2 * positives, positives, mask, n_tokens, end_probs)
