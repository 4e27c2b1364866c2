r"""The table of objectives: score, loss, knobs.

An objective is a **score** for each response, and a loss that compares the scores of a prompt with a target.

========== ==================================== =====================
score      value                                reference policy
========== ==================================== =====================
log_ratio  ``beta * (logp - logp_ref)``         needed
mean_logp  ``beta * logp / n_tokens``           not needed
logp       ``beta * logp``                      not needed
========== ==================================== =====================

``OBJECTIVES`` is the one place that says which objectives exist and which knobs they have; flags, checks, docs and
the trainer read it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prefpipe.errors import UsageError
from prefpipe.maths.logps import ResponseLogps
from prefpipe.maths.losses import (
    Targets,
    ampo_loss,
    dpo_loss,
    infonca_loss,
    mmpo_loss,
    simpo_loss,
    swepo_loss,
)

KnobValue = float | bool | str


@dataclass(frozen=True)
class Knob:
    """One setting of an objective: its start value, what it does and which values it takes."""

    name: str
    default: KnobValue
    help: str
    above: float | None = None
    at_least: float | None = None
    choices: tuple[str, ...] = ()

    def problem(self, value: object) -> str | None:
        """Say what is wrong with a value, or None."""
        if isinstance(self.default, bool):
            return None if isinstance(value, bool) else f"{self.name} is {value!r}, not true or false"
        if self.choices:
            return None if value in self.choices else f"{self.name} is {value!r}, not one of {', '.join(self.choices)}"
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"{self.name} is {value!r}, not a finite number"
        if self.above is not None and value <= self.above:
            return f"{self.name} is {value}, not above {self.above:g}"
        if self.at_least is not None and value < self.at_least:
            return f"{self.name} is {value}, below {self.at_least:g}"
        return None


@dataclass(frozen=True)
class Objective:
    """One row of the table.

    ``score`` names the score kind; ``loss(scores (P, R), targets, **knobs)`` returns (P,), where knobs are all of the
    objective's but beta and length_normalise, which belong to the score.
    """

    name: str
    score: str
    loss: Callable[..., Tensor]
    knobs: tuple[Knob, ...]
    formula: str
    source: str
    summary: str

    @property
    def needs_reference(self) -> bool:
        """Whether scores are taken relative to a frozen reference policy."""
        return self.score == "log_ratio"

    def knob(self, name: str) -> Knob | None:
        """Return the knob of that name, or None."""
        return next((knob for knob in self.knobs if knob.name == name), None)


_SCORE_KNOBS = ("beta", "length_normalise")
_DEVIATION = Knob(
    "deviation",
    "signed",
    "signed: very bad negatives weigh less; absolute: they weigh more",
    choices=("signed", "absolute"),
)


def _beta(default: float) -> Knob:
    return Knob("beta", default, "scale of the scores: larger means sharper comparisons", above=0.0)


_ALL = (
    Objective(
        "ampo",
        "mean_logp",
        ampo_loss,
        (
            _beta(10.0),
            Knob("gamma", 3.0, "weight of the negatives: log(gamma) is the margin asked for", above=0.0),
            Knob("alpha", 0.0, "weight of a response's deviation from the mean reward", at_least=0.0),
            _DEVIATION,
            Knob("length_normalise", default=True, help="mean log-probability a token; false: the sum"),
        ),
        "-log( sum_{S+} e^s / (sum_{S+} e^s + gamma * sum_{S-} e^s) ), s = score + alpha * (r - mean r)",
        "arXiv 2502.18293, 2412.16378",
        "one positive against all negatives at once, no reference model",
    ),
    Objective(
        "mmpo",
        "log_ratio",
        mmpo_loss,
        (
            _beta(0.01),
            Knob(
                "gamma",
                1.1,
                "nats of margin a unit of reward: 1.1 = log 3 reads one point wins 75 %",
                at_least=0.0,
            ),
            Knob(
                "comparison",
                "pair",
                "pair: each positive against each negative; group: the whole group",
                choices=("pair", "group"),
            ),
        ),
        "-p log sigma(d) - (1-p) log sigma(-d), d = s_w - s_l, p = sigma(gamma * (r_w - r_l))",
        "arXiv 2410.03145",
        "graded rewards as soft labels: score margins match reward margins",
    ),
    Objective(
        "dpo",
        "log_ratio",
        dpo_loss,
        (_beta(0.1),),
        "-log sigma(s_w - s_l)",
        "arXiv 2305.18290",
        "the baseline: each positive beats each negative",
    ),
    Objective(
        "simpo",
        "mean_logp",
        simpo_loss,
        (
            _beta(2.5),
            Knob(
                "gamma",
                1.375,
                "margin in units of the scores; papers quote gamma / beta (0.55)",
                at_least=0.0,
            ),
        ),
        "-log sigma(s_w - s_l - gamma)",
        "arXiv 2405.14734",
        "pairs with a margin, no reference model, no length bias from summing",
    ),
    Objective(
        "swepo",
        "log_ratio",
        swepo_loss,
        (
            _beta(0.1),
            Knob("alpha", 1.0, "weight of a response's deviation from the mean reward", at_least=0.0),
            _DEVIATION,
        ),
        "-log( sum_{S+} e^s / sum e^s ), s = score + alpha * (r - mean r), S+ = {r > mean r}",
        "arXiv 2412.04628",
        "all above the mean reward against all others",
    ),
    Objective(
        "infonca",
        "log_ratio",
        infonca_loss,
        (_beta(0.1), Knob("alpha", 1.0, "temperature of the target softmax(r / alpha)", above=0.0)),
        "-sum_i softmax(r / alpha)_i * log softmax(s)_i",
        "arXiv 2402.05369",
        "the distribution over the group follows the rewards",
    ),
)

OBJECTIVES: dict[str, Objective] = {objective.name: objective for objective in _ALL}


def find_objective(name: str) -> Objective:
    """Return the objective of that name.

    Errors:
        UsageError: there is none.
    """
    if name not in OBJECTIVES:
        raise UsageError(f"unknown objective {name!r}", hint=f"choose one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


def resolve_knobs(name: str, given: Mapping[str, KnobValue | None]) -> dict[str, KnobValue]:
    """Return all knobs of an objective: those given, else the defaults. None counts as not given.

    Errors:
        UsageError: a knob that the objective does not have (it names those that do), or a value out of range;
            all problems in one message.
    """
    objective = find_objective(name)
    chosen = {key: value for key, value in given.items() if value is not None}
    problems = []
    for key, value in chosen.items():
        knob = objective.knob(key)
        if knob is None:
            owners = [other.name for other in OBJECTIVES.values() if other.knob(key) is not None]
            place = f"it belongs to {', '.join(owners)}" if owners else "no objective has it"
            problems.append(f"{name} has no knob {key}: {place}")
        elif (problem := knob.problem(value)) is not None:
            problems.append(problem)
    if problems:
        names = ", ".join(knob.name for knob in objective.knobs)
        raise UsageError("; ".join(problems), hint=f"the knobs of {name} are {names}")
    return {knob.name: chosen.get(knob.name, knob.default) for knob in objective.knobs}


def score_responses(
    name: str,
    policy: ResponseLogps,
    reference_logps: Tensor | None,
    mask: Tensor,
    knobs: Mapping[str, KnobValue],
) -> Tensor:
    """Return the scores (P, R) that an objective compares, 0 where there is no response.

    Args:
        name: the objective.
        policy: summed log-probabilities and token counts, each (P, R).
        reference_logps: (P, R) under the reference policy; None for objectives without one.
        mask: (P, R) bool, True where there is a response.
        knobs: what ``resolve_knobs`` returned.

    Errors:
        UsageError: the objective needs a reference and none was given.
    """
    objective = find_objective(name)
    values = policy.logps
    if objective.needs_reference:
        if reference_logps is None:
            raise UsageError(
                f"objective {name} compares the policy with a reference, and no reference log-probabilities were given",
                hint="compute them with prefpipe.training.reference.reference_logps",
            )
        values = values - reference_logps
    elif knobs.get("length_normalise", objective.score == "mean_logp"):
        values = values / policy.n_tokens.clamp(min=1)  # 0 tokens only where there is no response
    return torch.where(mask, float(knobs["beta"]) * values, torch.zeros_like(values))


def group_losses(name: str, scores: Tensor, targets: Targets, knobs: Mapping[str, KnobValue]) -> Tensor:
    """Return the loss of each prompt, (P,), for scores that ``score_responses`` made."""
    objective = find_objective(name)
    return objective.loss(scores, targets, **{key: knobs[key] for key in knobs if key not in _SCORE_KNOBS})
