"""From log-probabilities to scores, and from scores to the loss of an objective."""

from collections.abc import Mapping

import torch
from torch import Tensor

from prefpipe.errors import UsageError
from prefpipe.maths.objectives.knobs import KnobValue
from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.losses import LOSSES
from prefpipe.maths.objectives.masked import Targets
from prefpipe.maths.objectives.registry import SCORE_KNOBS, find_objective


def score_responses(
    name: str,
    policy: ResponseLogps,
    reference_logps: Tensor | None,
    mask: Tensor,
    knobs: Mapping[str, KnobValue],
) -> Tensor:
    """Return the scores (P, R) that a policy objective compares, 0 where there is no response.

    Args:
        name: the objective.
        policy: summed log-probabilities and token counts, each (P, R).
        reference_logps: (P, R) under the reference policy; None for objectives without one.
        mask: (P, R) bool, True where there is a response.
        knobs: the result of ``resolve_knobs``.

    Raises:
        UsageError: the objective needs a missing reference, or it scores with a reward head.
    """
    objective = find_objective(name)
    if objective.trains != "policy":
        raise UsageError(
            f"objective {name} compares the scores of a reward head, not log-probabilities"
        )

    values = policy.logps
    if objective.needs_reference:
        if reference_logps is None:
            raise UsageError(
                f"objective {name} compares the policy with a reference and needs reference "
                "log-probabilities",
                hint="compute them with prefpipe.training.forward.reference_logps and pass them",
            )
        values = values - reference_logps

    if knobs.get("length_normalise", objective.score == "mean_logp"):
        # 0 tokens only where there is no response.
        values = values / policy.n_tokens.clamp(min=1)

    return torch.where(mask, float(knobs.get("beta", 1.0)) * values, torch.zeros_like(values))


def group_losses(
    name: str,
    scores: Tensor,
    targets: Targets,
    knobs: Mapping[str, KnobValue],
    policy: ResponseLogps | None = None,
) -> Tensor:
    """Return the loss of each prompt, (P,).

    Args:
        name: the objective.
        scores: (P, R), from ``score_responses``, or the outputs of a reward head.
        targets: the targets of the scores.
        knobs: the result of ``resolve_knobs``.
        policy: as for ``score_responses``; only objectives with ``reads_ends`` read it.

    Raises:
        UsageError: the objective reads how responses end, and ``policy`` is missing.
    """
    objective = find_objective(name)
    loss = LOSSES[name]
    loss_knobs = {key: value for key, value in knobs.items() if key not in SCORE_KNOBS}
    if not objective.reads_ends:
        return loss(scores, targets, **loss_knobs)

    if policy is None:
        raise UsageError(
            f"objective {name} reads how responses end and needs their log-probabilities"
        )
    return loss(scores, targets, policy, **loss_knobs)
