"""Objectives as functions of tensors, for training loops of your own."""

from prefpipe.errors import MissingExtraError, UsageError

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise MissingExtraError("an objective on tensors", "torch", "train") from error

from prefpipe.maths.objectives.knobs import KnobValue
from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.masked import Targets
from prefpipe.maths.objectives.registry import find_objective, resolve_knobs
from prefpipe.maths.objectives.scores import group_losses, score_responses


def preference_loss(
    objective: str,
    logps: Tensor,
    n_tokens: Tensor,
    rewards: Tensor,
    *,
    reference_logps: Tensor | None = None,
    positives: Tensor | None = None,
    mask: Tensor | None = None,
    end_probs: Tensor | None = None,
    **knobs: KnobValue,
) -> Tensor:
    """Return the loss of each prompt under an objective that trains a policy.

    ``prefpipe objectives NAME`` prints the formula, the source and the knobs of each. The mean over
    prompts is what ``prefpipe train`` descends. P prompts, R responses of a prompt.

    Args:
        objective: ``ampo``, ``dpo``, ``mmpo``, ``simpo``, ...
        logps: (P, R), summed log-probabilities of the responses under the policy, in nats; the
            gradient goes through them.
        n_tokens: (P, R), tokens of each response.
        rewards: (P, R), higher is better, any scale.
        reference_logps: (P, R), the same under the reference policy, for objectives that need one.
        positives: (P, R) bool, responses to prefer; default the highest reward of each prompt.
        mask: (P, R) bool, False where a prompt has fewer responses; default all True.
        end_probs: (P, R), probability of the token that ended the response, for ``refa``.
        knobs: ``beta``, ``gamma`` and others of the objective; default as in ``prefpipe train``.

    Returns:
        (P,), 0 for a prompt that offers no contrast.

    Raises:
        UsageError: no such objective or knob, one that trains a reward head, shapes that differ, a
            reference that is needed and missing.
    """
    targets = _targets_of(logps, rewards, positives, mask)
    _require_shape(logps.shape, n_tokens=n_tokens, reference_logps=reference_logps)
    _require_shape(logps.shape, end_probs=end_probs)
    settled = resolve_knobs(objective, knobs)
    policy = ResponseLogps(logps, n_tokens, end_probs)
    if find_objective(objective).reads_ends and end_probs is None:
        raise UsageError(
            f"objective {objective} reads how responses end: give end_probs",
            hint="they are the probabilities of the end-of-sequence token, 0 for cut responses",
        )
    scores = score_responses(objective, policy, reference_logps, targets.mask, settled)
    return group_losses(objective, scores, targets, settled, policy)


def reward_model_loss(
    objective: str,
    scores: Tensor,
    rewards: Tensor,
    *,
    positives: Tensor | None = None,
    mask: Tensor | None = None,
    **knobs: KnobValue,
) -> Tensor:
    """Return the loss of each prompt under an objective that trains a reward model.

    Args:
        objective: ``bt``, ``bt-margin`` or ``mmpo-reward``.
        scores: (P, R), outputs of the reward head; the gradient goes through them.
        rewards: (P, R), the ratings, higher is better.
        positives: (P, R) bool, responses to prefer; default the highest rating of each prompt.
        mask: (P, R) bool, False where a prompt has fewer responses; default all True.
        knobs: of the objective; default as in ``prefpipe train --target reward``.

    Returns:
        (P,).

    Raises:
        UsageError: no such objective or knob, one that trains a policy, shapes that differ.
    """
    if find_objective(objective).trains == "policy":
        raise UsageError(
            f"objective {objective} trains a policy", hint="use prefpipe.preference_loss"
        )
    targets = _targets_of(scores, rewards, positives, mask)
    clean_scores = torch.where(targets.mask, scores, torch.zeros_like(scores))
    return group_losses(objective, clean_scores, targets, resolve_knobs(objective, knobs))


def _targets_of(
    scores: Tensor, rewards: Tensor, positives: Tensor | None, mask: Tensor | None
) -> Targets:
    given = {"scores": scores, "rewards": rewards, "positives": positives, "mask": mask}
    for name, tensor in given.items():
        if tensor is not None and not isinstance(tensor, Tensor):
            raise UsageError(
                f"{name} takes a tensor, not {type(tensor).__name__}",
                hint="convert it with torch.as_tensor",
            )
    if scores.ndim != 2:
        raise UsageError(
            f"a tensor of prompts x responses is needed, and its shape is {tuple(scores.shape)}",
            hint="reshape one prompt to (1, R)",
        )
    _require_shape(scores.shape, rewards=rewards, positives=positives, mask=mask)
    # ratings may be whole numbers, and masks 0 and 1
    if not rewards.is_floating_point():
        rewards = rewards.to(torch.float32)
    mask = torch.ones_like(rewards, dtype=torch.bool) if mask is None else mask.bool()
    if not torch.isfinite(rewards[mask]).all():
        raise UsageError(
            "a reward is not finite", hint="mask the response, or leave the prompt out"
        )
    if positives is None:
        best = rewards.masked_fill(~mask, float("-inf")).argmax(dim=1, keepdim=True)
        positives = torch.zeros_like(mask).scatter(1, best, value=True) & mask
    return Targets(rewards.to(scores.dtype), positives.bool() & mask, mask)


def _require_shape(shape: torch.Size, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != shape:
            raise UsageError(
                f"{name} has shape {tuple(tensor.shape)}, and the scores {tuple(shape)}",
                hint="all tensors are prompts x responses",
            )
