"""The plan of ``prefpipe study``: arms that are compared, what they share, and how they are judged.

A key of a section is a flag of its command. All arms share one pool, one held-out set and the
sections of the plan; an arm says what is another value with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from prefpipe.configs.plan_sections import (
    SECTIONS,
    PlanError,
    Section,
    by_field,
    read_plan_values,
    value_problems,
)
from prefpipe.configs.study_keys import (
    EPOCH,
    LIKE,
    OF_ARMS,
    OF_POOL,
    PAGE,
    POLICY,
    PROMPTS,
    RESPONSE_TOKENS,
)
from prefpipe.configs.study_problems import plan_problems


class Pool(NamedTuple):
    """What all arms select from.

    ``prompts``: sampled for, None where the responses are there. ``candidates``, ``scores``,
    ``embeddings``: folders that are there, None where the study makes them.
    """

    prompts: str | None = None
    candidates: str | None = None
    scores: str | None = None
    embeddings: str | None = None


class HeldOut(NamedTuple):
    """What arms are judged on.

    ``prompts``: that policies are sampled for, None where pairs of ``candidates`` judge them.
    ``candidates``, ``scores``: of the model before training, None where the study makes them.
    """

    prompts: str | None = None
    candidates: str | None = None
    scores: str | None = None


class Budgets(NamedTuple):
    """How much an arm may train before it is judged; None is a budget that is not compared at.

    ``prompts``: so many. ``response_tokens``: so many tokens of responses. ``like``: as many of
    them as this arm has seen after ``prompts``, with the same seed.
    """

    prompts: int | None = None
    response_tokens: int | None = None
    like: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The budgets at which arms are compared."""
        has_tokens = self.response_tokens is not None or self.like is not None
        given = ((PROMPTS, self.prompts is not None), (RESPONSE_TOKENS, has_tokens))
        return tuple(name for name, is_given in given if is_given)


class Truth(NamedTuple):
    """What is known of held-out pairs: i beats j with probability sigma(gamma (q_i - q_j)).

    ``reward``: q, an expression over the held-out scores.
    """

    reward: str
    gamma: float


@dataclass(frozen=True)
class Arm:
    """One way to select and to train.

    Attributes:
        name: what its folder is called.
        sections: ``select`` and ``train``: the shared values, those of the arm that it is like, and
            its own.
        rounds: how it goes through several rounds, by keys of a plan of rounds; None for one.
        trainer: the command of another trainer, with places in braces; None for ``train``.
    """

    name: str
    sections: Mapping[str, Section]
    rounds: Section | None = None
    trainer: str | None = None


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """Arms by seeds over one pool and one held-out set.

    Attributes:
        study: its name.
        model: what all arms train, and what they are compared with.
        target: ``policy`` or ``reward``: what is trained.
        seeds: of the trainings.
        pool: what all arms select from.
        heldout: what all arms are judged on.
        sections: by stage the shared values of its flags, by field.
        arms: by name, in the plan's order.
        budgets: at which they are compared; none with ``epochs``.
        epochs: after which they are judged, in place of budgets.
        truth: of the held-out pairs, None where arms are judged by what they sample.
        measure: what the contrasts are of.
        worst_below: a response with a lower reward is a worst failure; None counts none.
        contrasts: pairs of arms that were declared to be compared, each at every place at which
            arms are judged; with epochs also of an arm at one epoch, ``bt@6``.
        equivalence: a difference within this, either way, is none; None tests no equivalence.
        allow_different_prompts: arms may have groups of different prompts.
        values: what the file says, as JSON values.
    """

    study: str
    model: str
    seeds: tuple[int, ...]
    pool: Pool
    heldout: HeldOut
    sections: Mapping[str, Section]
    arms: Mapping[str, Arm]
    budgets: Budgets = Budgets()
    epochs: tuple[int, ...] = ()
    truth: Truth | None = None
    target: str = POLICY
    measure: str = "reward"
    worst_below: float | None = None
    contrasts: tuple[tuple[str, str], ...] = ()
    equivalence: float | None = None
    allow_different_prompts: bool = False
    values: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def from_values(cls, values: Mapping[Any, Any], *, name: str) -> Self:
        """Make the plan of what a file says.

        What each command makes of its section is checked where the commands are made.

        Args:
            values: the file's keys and values.
            name: of the file, for messages.

        Raises:
            PlanError: everything that is wrong: unknown keys, with the nearest spelling; missing
                ones; values that cannot be; keys that the plan sets itself.
        """
        # first and alone: a value that holds itself can be neither walked nor shown
        unfit = list(value_problems(values))
        if unfit:
            raise study_plan_error(name, unfit)

        given = by_field(values)
        problems = list(plan_problems(given))
        if len(given) < len(values):
            problems.insert(0, "a key stands there twice, with _ and with -")
        if problems:
            raise study_plan_error(name, problems)
        return cls(**_fields_of(given))

    def arm(self, name: str) -> Arm:
        """Return the arm of a name."""
        return self.arms[name]

    @property
    def judged_at(self) -> tuple[str, ...]:
        """The budgets, or epochs as ``epoch-4``, in the order in which tables have them."""
        if self.epochs:
            return tuple(f"{EPOCH}{epoch}" for epoch in self.epochs)
        return self.budgets.names


def read_study_plan(path: Path) -> StudyPlan:
    """Read a plan.

    Raises:
        UsageError: no file, no YAML, or what `StudyPlan.from_values` refuses.
    """
    return StudyPlan.from_values(read_plan_values(path, page=PAGE), name=str(path))


def study_plan_error(name: str, problems: Sequence[str]) -> PlanError:
    """Return the error of a plan that cannot be run, a line for each problem."""
    return PlanError(name, problems, page=PAGE)


def _fields_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plan's attributes; what is given has no problems."""
    pool, heldout = by_field(given["pool"]), by_field(given["heldout"])
    sections = {}
    for stage in SECTIONS:
        home = pool if stage in OF_POOL else given
        if stage in home:
            sections[stage] = by_field(home[stage] or {})

    truth = given.get("truth")
    plain = ("study", "model", "target", "worst_below", "equivalence", "allow_different_prompts")
    return {
        **{key: given[key] for key in plain if given.get(key) is not None},
        "seeds": tuple(given["seeds"]),
        "pool": Pool(**{key: pool.get(key) for key in Pool._fields}),
        "heldout": HeldOut(**{key: heldout.get(key) for key in HeldOut._fields}),
        "sections": sections,
        "arms": _arms_of(given, sections),
        "budgets": _budgets_of(given.get("budgets")),
        "epochs": tuple(given.get("epochs") or ()),
        "truth": None if truth is None else Truth(truth["reward"], float(truth["gamma"])),
        "measure": given.get("measure") or ("reward" if truth is None else "log_loss"),
        "contrasts": tuple((first, second) for first, second in given.get("contrasts") or ()),
        "values": dict(given),
    }


def _budgets_of(given: Mapping[str, Any] | None) -> Budgets:
    if given is None:
        return Budgets()
    values = by_field(given)
    tokens = values.get(RESPONSE_TOKENS)
    match = LIKE.fullmatch(tokens) if isinstance(tokens, str) else None
    if match is not None:
        return Budgets(values.get(PROMPTS), like=match[1])
    return Budgets(values.get(PROMPTS), tokens)


def _arms_of(given: Mapping[str, Any], shared: Mapping[str, Section]) -> dict[str, Arm]:
    """Return the arms, each with all its values: the shared ones, changed as it says."""
    return {name: _arm_of(name, given["arms"], shared) for name in given["arms"]}


def _arm_of(name: str, arms: Mapping[str, Any], shared: Mapping[str, Section]) -> Arm:
    sections: dict[str, dict[str, Any]] = {stage: dict(shared.get(stage, {})) for stage in OF_ARMS}
    rounds: dict[str, Any] | None = None
    trainer: str | None = None
    for changed in _lineage(name, arms):
        for stage in OF_ARMS:
            sections[stage] |= by_field(changed.get(stage, {}))
        if "rounds" in changed:
            own = changed["rounds"]
            rounds = None if own is None else {**(rounds or {}), **by_field(own)}
        if "trainer" in changed:
            trainer = changed["trainer"]

    # a value that is null is left out: the command's own default
    without_null = {
        stage: {key: value for key, value in section.items() if value is not None}
        for stage, section in sections.items()
    }
    return Arm(name, without_null, rounds, trainer)


def _lineage(name: str, arms: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what an arm says, and before it what the arms say that it is like, the last first."""
    lineage: list[Mapping[str, Any]] = []
    place: str | None = name
    while place is not None:
        own = by_field(arms[place] or {})
        lineage.insert(0, own)
        place = own.get("like")
    return lineage
