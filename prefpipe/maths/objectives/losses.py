r"""Losses over groups of responses, one function an objective.

Every loss takes ``scores`` (P, R), P prompts with up to R responses each, and ``targets``, what the
scores are compared with; it returns one loss per prompt, (P,). Models, reference policies and beta
are unknown here: ``prefpipe.maths.objectives.scores`` computes the scores,
``prefpipe.maths.objectives.registry`` holds the table.

- ``group``: a softmax over the whole group, or its order;
- ``pairwise``: a loss of the score difference of a positive and a negative;
- ``graded``: the same with the reward difference as the target;
- ``likelihood``: of the positives alone;
- ``reward_head``: for the scores of a reward model;
- ``masked``: what they share.

All losses have these properties:

- Entries outside ``targets.mask`` are ignored. They change neither loss nor gradient, even if they
  are NaN.
- A prompt that offers no comparison (no positive or no negative, or a single response) has loss 0
  and gradient 0; under ``sft``, which compares nothing, one without a positive.
- Losses and gradients are finite for scores and rewards of any size that float32 holds comfortably
  (tested at 1e4): softmax by ``logsumexp``, logistic terms by ``softplus``.
- The order of responses does not matter, and a constant added to all rewards of a prompt changes
  nothing.
- A constant added to all scores of a prompt changes nothing, except under ``nca``, ``orpo`` and
  ``sft``, which use each score on its own.

A pairwise loss on a group is the mean over all pairs (positive, negative) of the group, or
over those that ``targets.pairs`` names, so a group of 1 and k gives k pairs that share one
positive, and each prompt weighs the same whatever its k **(ours)**: the papers have one pair a
prompt, where the rule is the paper's.

Roles, not rewards, say which of the two should win; if rewards tie, ``dpo`` and similar losses
still follow the roles (selection drops ties). These losses let rewards order the responses:
``swepo``, ``infonca``, ``nca``, ``plackett-luce``, ``ddo`` and the group form of ``mmpo`` read no
roles; ``mmpo``, ``rpo`` and ``mmpo-reward`` take pairs from the roles and their order from the
rewards.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from prefpipe.maths.objectives.graded import mmpo_loss, odpo_loss, rpo_loss
from prefpipe.maths.objectives.group import (
    ampo_loss,
    ddo_loss,
    infonca_loss,
    nca_loss,
    plackett_luce_loss,
    refa_loss,
    swepo_loss,
)
from prefpipe.maths.objectives.likelihood import sft_loss
from prefpipe.maths.objectives.masked import Targets
from prefpipe.maths.objectives.pairwise import (
    cdpo_loss,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    orpo_loss,
    rdpo_loss,
    simpo_loss,
)
from prefpipe.maths.objectives.reward_head import bt_loss, bt_margin_loss, mmpo_reward_loss

LOSSES: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "ampo": ampo_loss,
        "refa": refa_loss,
        "swepo": swepo_loss,
        "infonca": infonca_loss,
        "nca": nca_loss,
        "plackett-luce": plackett_luce_loss,
        "ddo": ddo_loss,
        "mmpo": mmpo_loss,
        "odpo": odpo_loss,
        "rpo": rpo_loss,
        "dpo": dpo_loss,
        "cdpo": cdpo_loss,
        "rdpo": rdpo_loss,
        "ipo": ipo_loss,
        "hinge": hinge_loss,
        "simpo": simpo_loss,
        "orpo": orpo_loss,
        "sft": sft_loss,
        "bt": bt_loss,
        "bt-margin": bt_margin_loss,
        "mmpo-reward": mmpo_reward_loss,
    }
)
"""The loss of every objective of `prefpipe.maths.objectives.registry`, by the table's name:
``loss(scores (P, R), targets, **knobs)`` gives (P,), where knobs are all of the objective's except
those of the score."""

__all__ = [
    "LOSSES",
    "Targets",
    "ampo_loss",
    "bt_loss",
    "bt_margin_loss",
    "cdpo_loss",
    "ddo_loss",
    "dpo_loss",
    "hinge_loss",
    "infonca_loss",
    "ipo_loss",
    "mmpo_loss",
    "mmpo_reward_loss",
    "nca_loss",
    "odpo_loss",
    "orpo_loss",
    "plackett_luce_loss",
    "rdpo_loss",
    "refa_loss",
    "rpo_loss",
    "sft_loss",
    "simpo_loss",
    "swepo_loss",
]
