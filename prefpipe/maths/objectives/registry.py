r"""The table of objectives: score, comparison, target, knobs.

An objective is a **score** for each response, a **comparison** of the scores of a prompt, and a
**target** for it.

=========== ==================================== =====================
score       value                                reference policy
=========== ==================================== =====================
log_ratio   ``beta * (logp - logp_ref)``         needed
mean_logp   ``beta * logp / n_tokens``           not needed
logp        ``beta * logp``                      not needed
reward_head ``r_phi(x, y)``                      none: a reward model
=========== ==================================== =====================

A comparison is ``group``, a softmax over the group or its order, or ``pair``, a function of score
differences, or ``none``, which scores each positive on its own.

``ALL_OBJECTIVES`` is the single list of objectives and their knobs; flags, checks, docs and the
trainer read it. ``OBJECTIVES`` are those that train a policy, ``REWARD_OBJECTIVES`` those that
train a reward head. ``TARGETS`` maps each ``--target`` to the names that it offers: ``mmpo`` of a
reward model is ``mmpo-reward`` here.

The functions are in ``losses.LOSSES``, under the same names: flags and checks read this table
without loading PyTorch. A new objective is a function there, a row here, and a row in
docs/explanation/objectives.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from prefpipe.errors import UsageError
from prefpipe.maths.objectives.knobs import (
    DEVIATION,
    DEVIATION_WEIGHT,
    EVIDENCE,
    FLIPPED,
    LENGTH_NORMALISE,
    NEGATIVES_WEIGHT,
    TARGET_TEMPERATURE,
    Knob,
    KnobValue,
    beta_knob,
)

__all__ = [
    "ALL_OBJECTIVES",
    "KNOB_NAMES",
    "OBJECTIVES",
    "REWARD_OBJECTIVES",
    "SCORE_KNOBS",
    "TARGETS",
    "Knob",
    "KnobValue",
    "LossOption",
    "Objective",
    "find_objective",
    "objective_of",
    "resolve_knobs",
]
SCORE_KNOBS = ("beta", "length_normalise")
"""Knobs that belong to the score; the loss gets the others."""
_POSITIVES = "positives over negatives"


class LossOption(NamedTuple):
    """An option for any objective: a flag of ``prefpipe train``, and the resulting loss.

    ``trains``: what its objectives train. ``not_with``: objectives that do not take it.
    """

    flag: str
    formula: str
    source: str
    meaning: str
    trains: tuple[str, ...]
    not_with: tuple[str, ...] = ()


LOSS_OPTIONS = (
    LossOption(
        flag="--sft-weight A",
        formula="L + A * mean over S+ of ( -log pi(y|x) / |y| )",
        source="arXiv 2604.15602, 2404.19733",
        meaning="fine-tuning on the positives beside the objective, so that they do not lose "
        "likelihood with the negatives",
        trains=("policy",),
        not_with=("sft",),
    ),
    LossOption(
        flag="--weight-by EXPR",
        formula="sum_p v_p * L_p / sum_p v_p, v_p the mean over the prompt's pairs of EXPR",
        source="huggingface/trl#5613",
        meaning="weights each prompt (and each pair, if pairwise) by EXPR, an expression over "
        "columns of the groups, margin, chosen_COLUMN and rejected_COLUMN",
        trains=("policy", "reward head"),
    ),
)
"""Options for any objective. Loss and weights: ``likelihood.sft_loss``, ``masked.Targets``."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One row of the table.

    The attributes from ``reads_roles`` on declare properties of the loss, which tests check.

    Attributes:
        name: as in the table, and in ``losses.LOSSES``.
        score: ``log_ratio``, ``mean_logp``, ``logp`` or ``reward_head``.
        comparison: ``group``, ``pair`` or ``none``.
        target: in words, what the comparison should match.
        knobs: its settings.
        formula: the loss of one pair or group.
        source: paper.
        summary: when to use it, in half a sentence.
        reads_roles: whether roles matter, at the knobs' start values or at others.
        reads_rewards: whether rewards matter.
        shift_invariant: a constant added to all scores of a prompt changes nothing.
        monotone: raising a positive's score never raises the loss.
        needs_reward_gaps: each pair's winner must be rated above its loser.
        reads_ends: the loss takes the log-probabilities as a third argument, to read how responses
            end.
        follows_policy: the target is computed from the scores without a gradient, so the gradient
            is not that of the loss value.
    """

    name: str
    score: str
    comparison: str
    target: str
    knobs: tuple[Knob, ...] = ()
    formula: str
    source: str
    summary: str
    reads_roles: bool = True
    reads_rewards: bool = False
    shift_invariant: bool = True
    monotone: bool = False
    needs_reward_gaps: bool = False
    reads_ends: bool = False
    follows_policy: bool = False

    @property
    def needs_reference(self) -> bool:
        """Whether scores are taken relative to a frozen reference policy."""
        return self.score == "log_ratio"

    @property
    def trains(self) -> str:
        """``policy`` or ``reward head``."""
        return "reward head" if self.score == "reward_head" else "policy"

    @property
    def loss_options(self) -> tuple[LossOption, ...]:
        """The options that it takes."""
        return tuple(
            each
            for each in LOSS_OPTIONS
            if self.trains in each.trains and self.name not in each.not_with
        )

    @property
    def compares(self) -> bool:
        """Whether responses are compared."""
        return self.comparison != "none"

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that are trained on."""
        return ("positive", "negative") if self.compares else ("positive",)

    @property
    def flag_name(self) -> str:
        """Its name for ``--objective``, given its target."""
        return self.name.removesuffix("-reward")

    def knob(self, name: str) -> Knob | None:
        """Return the knob of this name, or None."""
        return next((knob for knob in self.knobs if knob.name == name), None)


_GROUP = (
    Objective(
        name="ampo",
        score="mean_logp",
        comparison="group",
        target=_POSITIVES,
        knobs=(
            beta_knob(10.0),
            NEGATIVES_WEIGHT,
            DEVIATION_WEIGHT,
            DEVIATION,
            LENGTH_NORMALISE,
        ),
        formula="-log( sum_{S+} e^s / (sum_{S+} e^s + gamma * sum_{S-} e^s) ), "
        "s = score + alpha * (r - mean r)",
        source="arXiv 2502.18293, 2412.16378",
        summary="one positive against all negatives at once, no reference model",
        reads_rewards=True,
        monotone=True,
    ),
    Objective(
        name="refa",
        score="mean_logp",
        comparison="group",
        target=_POSITIVES,
        knobs=(
            beta_knob(10.0),
            NEGATIVES_WEIGHT,
            DEVIATION_WEIGHT,
            DEVIATION,
            Knob(
                "eos_weight",
                1e-5,
                "penalty per token by which a response ends before the group's longest",
                at_least=0.0,
            ),
        ),
        formula="as ampo, + eos_weight * sum_i P(EOS at n_i) * max(0, L_max - n_i)",
        source="arXiv 2412.16378",
        summary="ampo with a penalty for ending early",
        reads_rewards=True,
        monotone=True,
        reads_ends=True,
    ),
    Objective(
        name="swepo",
        score="log_ratio",
        comparison="group",
        target="those above the mean reward over the others",
        knobs=(
            beta_knob(0.1),
            Knob(
                "alpha", 1.0, "weight of a response's deviation from the mean reward", at_least=0.0
            ),
            DEVIATION,
        ),
        formula="-log( sum_{S+} e^s / sum e^s ), "
        "s = score + alpha * (r - mean r), S+ = {r > mean r}",
        source="arXiv 2412.04628",
        summary="all above the mean reward against all others",
        reads_roles=False,
        reads_rewards=True,
    ),
    Objective(
        name="infonca",
        score="log_ratio",
        comparison="group",
        target="softmax of the rewards",
        knobs=(beta_knob(0.1), TARGET_TEMPERATURE),
        formula="-sum_i softmax(r / alpha)_i * log softmax(s)_i",
        source="arXiv 2402.05369",
        summary="the distribution over the group follows the rewards",
        reads_roles=False,
        reads_rewards=True,
    ),
    Objective(
        name="nca",
        score="log_ratio",
        comparison="group",
        target="softmax of the rewards, each response on its own",
        knobs=(beta_knob(0.01), TARGET_TEMPERATURE),
        formula="-sum_i [ softmax(r / alpha)_i * log sigma(s_i) + (1 / K) * log sigma(-s_i) ]",
        source="arXiv 2402.05369",
        summary="as infonca, but absolute: "
        "good responses do not lose likelihood together with bad ones",
        reads_roles=False,
        reads_rewards=True,
        shift_invariant=False,
    ),
    Objective(
        name="plackett-luce",
        score="log_ratio",
        comparison="group",
        target="order of the rewards",
        knobs=(beta_knob(0.1),),
        formula="-sum_k log( e^{s_(k)} / sum_{j >= k} e^{s_(j)} ), (1) the best rewarded",
        source="arXiv 2305.18290",
        summary="the whole ranking; only the order of the rewards counts",
        reads_roles=False,
        reads_rewards=True,
    ),
    Objective(
        name="ddo",
        score="mean_logp",
        comparison="group",
        target="the policy's own softmax, tilted by the rewards",
        knobs=(
            beta_knob(1.0),
            Knob(
                "eta",
                1.0,
                "units of reward per nat in the target: larger means smaller steps",
                above=0.0,
            ),
            LENGTH_NORMALISE,
        ),
        formula="KL(p || pi), pi = softmax(s), "
        "p_i proportional to pi_i * exp((r_i - E_pi r) / eta), no gradient through p",
        source="arXiv 2604.11119",
        summary="the distribution over the group takes a step towards the rewards, "
        "from wherever it is",
        reads_roles=False,
        reads_rewards=True,
        follows_policy=True,
    ),
)

_LIKELIHOOD = (
    Objective(
        name="sft",
        score="mean_logp",
        comparison="none",
        target="the positives alone",
        knobs=(LENGTH_NORMALISE,),
        formula="mean over S+ of -s, s = log pi(y|x) / |y|",
        source="arXiv 2304.06767, 2307.09288",
        summary="fine-tuning on the positives, for example of best-of-n: the baseline without "
        "negatives",
        shift_invariant=False,
        monotone=True,
    ),
)

_GRADED = (
    Objective(
        name="mmpo",
        score="log_ratio",
        comparison="pair",
        target="reward margins",
        knobs=(
            beta_knob(0.01),
            EVIDENCE,
            Knob(
                "comparison",
                "pair",
                "pair: each positive against each negative; group: the whole group",
                choices=("pair", "group"),
            ),
        ),
        formula="-p log sigma(d) - (1-p) log sigma(-d), "
        "d = s_w - s_l, p = sigma(gamma * (r_w - r_l)); "
        "group: -sum_i softmax(gamma * r)_i * log softmax(s)_i",
        source="arXiv 2410.03145",
        summary="graded rewards as soft labels: score margins match reward margins",
        reads_rewards=True,
    ),
    Objective(
        name="odpo",
        score="log_ratio",
        comparison="pair",
        target=f"{_POSITIVES}, by a margin that grows with the reward gap",
        knobs=(
            beta_knob(0.1),
            Knob("alpha", 1.0, "weight of the offset log(r_w - r_l)", at_least=0.0),
        ),
        formula="-log sigma(d - alpha * log(r_w - r_l)), d = s_w - s_l",
        source="arXiv 2402.10571",
        summary="dpo with a larger margin for a larger reward gap",
        reads_rewards=True,
        monotone=True,
        needs_reward_gaps=True,
    ),
    Objective(
        name="rpo",
        score="log_ratio",
        comparison="pair",
        target="reward margins",
        knobs=(
            beta_knob(0.1),
            Knob("eta", 1.0, "nats of margin per unit of reward", at_least=0.0),
            Knob(
                "form",
                "squared",
                "squared: squared distance; forward-kl: the divergence KL(policy, target)",
                choices=("squared", "forward-kl"),
            ),
        ),
        formula="squared: (d - g)^2, d = s_w - s_l, g = eta * (r_w - r_l); "
        "forward-kl: KL( Bernoulli(sigma(d)) || Bernoulli(sigma(g)) )",
        source="arXiv 2406.11704",
        summary="score margins regress on reward margins",
        reads_rewards=True,
    ),
)

_PAIRWISE = (
    Objective(
        name="dpo",
        score="log_ratio",
        comparison="pair",
        target=_POSITIVES,
        knobs=(beta_knob(0.1),),
        formula="-log sigma(s_w - s_l)",
        source="arXiv 2305.18290, on groups 2604.15602",
        summary="the baseline: each positive beats each negative (group DPO with several "
        "negatives)",
        monotone=True,
    ),
    Objective(
        name="cdpo",
        score="log_ratio",
        comparison="pair",
        target=f"{_POSITIVES}, wrong with probability eps",
        knobs=(beta_knob(0.1), FLIPPED),
        formula="-(1 - eps) log sigma(d) - eps log sigma(-d), d = s_w - s_l",
        source="Mitchell 2023 (the cDPO note)",
        summary="dpo with smoothed labels: margins stop at log((1 - eps) / eps)",
    ),
    Objective(
        name="rdpo",
        score="log_ratio",
        comparison="pair",
        target=f"{_POSITIVES}, wrong with probability eps",
        knobs=(beta_knob(0.1), FLIPPED),
        formula="[ -(1 - eps) log sigma(d) + eps log sigma(-d) ] / (1 - 2 eps), d = s_w - s_l",
        source="arXiv 2403.00409",
        summary="dpo corrected for noise: its mean over wrong labels is dpo's loss on right ones",
        monotone=True,
    ),
    Objective(
        name="ipo",
        score="log_ratio",
        comparison="pair",
        target=f"{_POSITIVES} by 1 / (2 tau)",
        knobs=(
            Knob("tau", 0.1, "pull to the reference: the target margin is 1 / (2 tau)", above=0.0),
            Knob(
                "length_normalise",
                default=False,
                help="mean log-ratio per token, as in TRL, instead of the sum, as in the paper",
            ),
        ),
        formula="(d - 1 / (2 tau))^2, d = s_w - s_l, beta = 1",
        source="arXiv 2310.12036",
        summary="a margin of fixed size, no more: does not overfit pairs that always agree",
    ),
    Objective(
        name="hinge",
        score="log_ratio",
        comparison="pair",
        target=f"{_POSITIVES} by 1",
        knobs=(beta_knob(0.1),),
        formula="max(0, 1 - (s_w - s_l))",
        source="arXiv 2309.06657",
        summary="pairs with a large enough margin are left alone",
        monotone=True,
    ),
    Objective(
        name="simpo",
        score="mean_logp",
        comparison="pair",
        target=f"{_POSITIVES} by gamma",
        knobs=(
            beta_knob(2.5),
            Knob(
                "gamma",
                1.375,
                "margin in units of the scores; papers quote gamma / beta (0.55)",
                at_least=0.0,
            ),
        ),
        formula="-log sigma(s_w - s_l - gamma)",
        source="arXiv 2405.14734",
        summary="pairs with a margin, no reference model, no length bias from summing",
        monotone=True,
    ),
    Objective(
        name="orpo",
        score="mean_logp",
        comparison="pair",
        target=f"{_POSITIVES} in odds, and the positives themselves",
        knobs=(
            Knob(
                "weight",
                0.1,
                "weight of the odds ratio beside fine-tuning on the positives (lambda)",
                at_least=0.0,
            ),
        ),
        formula="-s_w - weight * log sigma(log odds_w - log odds_l), "
        "odds = P / (1 - P), P = e^s, beta = 1",
        source="arXiv 2403.07691",
        summary="fine-tuning and preferences at once, from a base model",
        shift_invariant=False,
        monotone=True,
    ),
)

_REWARD_HEAD = (
    Objective(
        name="bt",
        score="reward_head",
        comparison="pair",
        target=_POSITIVES,
        formula="-log sigma(s_w - s_l)",
        source="arXiv 2203.02155",
        summary="a reward model's baseline (Bradley-Terry)",
        monotone=True,
    ),
    Objective(
        name="bt-margin",
        score="reward_head",
        comparison="pair",
        target=f"{_POSITIVES} by a margin set by the ratings",
        knobs=(Knob("gamma", 1.0, "margin per unit of rating", at_least=0.0),),
        formula="-log sigma(s_w - s_l - m), m = gamma * (r_w - r_l)",
        source="arXiv 2307.09288",
        summary="bt with a larger margin for a larger rating gap",
        reads_rewards=True,
        monotone=True,
    ),
    Objective(
        name="mmpo-reward",
        score="reward_head",
        comparison="pair",
        target="reward margins",
        knobs=(EVIDENCE,),
        formula="-p log sigma(d) - (1-p) log sigma(-d), "
        "d = s_w - s_l, p = sigma(gamma * (r_w - r_l))",
        source="arXiv 2410.03145",
        summary="graded ratings as soft labels for a reward model",
        reads_rewards=True,
    ),
)

ALL_OBJECTIVES: dict[str, Objective] = {
    each.name: each for each in (*_GROUP, *_GRADED, *_PAIRWISE, *_LIKELIHOOD, *_REWARD_HEAD)
}
OBJECTIVES: dict[str, Objective] = {
    name: each for name, each in ALL_OBJECTIVES.items() if each.trains == "policy"
}
REWARD_OBJECTIVES: dict[str, Objective] = {
    name: each for name, each in ALL_OBJECTIVES.items() if each.trains == "reward head"
}
KNOB_NAMES: tuple[str, ...] = tuple(
    dict.fromkeys(knob.name for each in ALL_OBJECTIVES.values() for knob in each.knobs)
)
"""The knobs that at least one objective has; each is a flag of ``prefpipe train``."""
TARGETS: dict[str, dict[str, str]] = {
    "policy": {each.flag_name: name for name, each in OBJECTIVES.items()},
    "reward": {each.flag_name: name for name, each in REWARD_OBJECTIVES.items()},
}
"""Each target's objectives: the name for ``--objective``, and the table's name."""
DEFAULTS = {"policy": "ampo", "reward": "bt"}
OFFERED: tuple[str, ...] = tuple(
    dict.fromkeys(name for names in TARGETS.values() for name in names)
)
"""All names that ``--objective`` takes for any target."""


def objective_of(target: str, given: str | None) -> str:
    """Return the table's name of an objective, or of the target's default.

    Args:
        target: ``policy`` or ``reward``.
        given: the value of ``--objective``, if any.

    Raises:
        UsageError: an unknown target, or an objective that it does not take; the hint lists those
            that it takes.
    """
    if target not in TARGETS:
        raise UsageError(f"unknown target {target!r}", hint=f"choose one of {', '.join(TARGETS)}")
    name = DEFAULTS[target] if given is None else given
    if name in TARGETS[target]:
        return TARGETS[target][name]

    others = [other for other, names in TARGETS.items() if name in names]
    where = f" (it belongs to --target {others[0]})" if others else ""
    raise UsageError(
        f"--target {target} has no objective {name}{where}",
        hint=f"choose one of {', '.join(TARGETS[target])}",
    )


def find_objective(name: str) -> Objective:
    """Return the objective of this name.

    Raises:
        UsageError: there is no such objective.
    """
    if name not in ALL_OBJECTIVES:
        raise UsageError(
            f"unknown objective {name!r}", hint=f"choose one of {', '.join(ALL_OBJECTIVES)}"
        )
    return ALL_OBJECTIVES[name]


def owners_of(knob_name: str, trains: str | None = None) -> list[tuple[str, Knob]]:
    """Return the objectives that have a knob, with their own form of it.

    Args:
        knob_name: its name.
        trains: ``policy`` or ``reward head``, to search only those; None searches all.
    """
    owners = []
    for objective in ALL_OBJECTIVES.values():
        knob = objective.knob(knob_name)
        if knob is not None and trains in (None, objective.trains):
            owners.append((objective.name, knob))
    return owners


def resolve_knobs(name: str, given: Mapping[str, KnobValue | None]) -> dict[str, KnobValue]:
    """Return all knobs of an objective, given or default. None counts as not given.

    Raises:
        UsageError: a knob that the objective does not have (it names those that do), or a value out
            of range; all problems in one message.
    """
    objective = find_objective(name)
    chosen = {key: value for key, value in given.items() if value is not None}

    problems = []
    for key, value in chosen.items():
        knob = objective.knob(key)
        if knob is None:
            problems.append(
                f"{objective.flag_name} has no knob {key}: {_where_it_is(key, objective)}"
            )
            continue
        problem = knob.problem(value)
        if problem is not None:
            problems.append(problem)

    if problems:
        names = ", ".join(knob.name for knob in objective.knobs)
        hint = f"{objective.flag_name} has no knobs"
        if names:
            hint = f"the knobs of {objective.flag_name} are {names}"
        raise UsageError("; ".join(problems), hint=hint)

    return {knob.name: chosen.get(knob.name, knob.default) for knob in objective.knobs}


def _where_it_is(knob_name: str, objective: Objective) -> str:
    """Return which objectives have a knob that this one lacks."""
    owners = owners_of(knob_name, objective.trains)
    if owners:
        return f"it belongs to {', '.join(find_objective(name).flag_name for name, _ in owners)}"
    if owners_of(knob_name):
        return f"no objective of a {objective.trains} has it"
    return "no objective has it"
