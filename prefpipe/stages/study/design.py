"""What of a study's record its figures need."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.study_keys import AT_EPOCH, EPOCH
from prefpipe.configs.study_measures import MEASURES, PAIR_MEASURES, StudyMeasure
from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_record import RULES, StudyRecord
from prefpipe.configs.study_steps import judgement_draft
from prefpipe.stages.evaluate.kl import SHAPING, sampling_otherwise


class Contrast(NamedTuple):
    """Two arms that are compared; ``declared`` before the first run was judged.

    Either side may be an arm at one epoch, ``bt@6``: then the other one is, too.
    """

    first: str
    second: str
    declared: bool = True

    @property
    def budget(self) -> str | None:
        """The budget that it belongs to, that of its first side; None for every one."""
        return arm_and_budget(self.first)[1]


def arm_and_budget(side: str) -> tuple[str, str | None]:
    """Return the arm of a contrast's side, and the budget that it names, ``epoch-6``, if any."""
    match = AT_EPOCH.fullmatch(side)
    return (side, None) if match is None else (match[1], f"{EPOCH}{match[2]}")


class StudyDesign(NamedTuple):
    """What of a study's record the figures need; the names are those of the plan.

    ``sampled_otherwise``: how held-out responses are sampled, None if that is from the policy
    itself, or where none are: with it a divergence is biased.
    """

    study: str
    model: str
    target: str
    arms: Sequence[str]
    seeds: Sequence[int]
    judged_at: Sequence[str]
    measures: Mapping[str, StudyMeasure]
    measure: str
    contrasts: Sequence[Contrast] = ()
    worst_below: float | None = None
    equivalence: float | None = None
    notes: Sequence[str] = ()
    sampled_otherwise: str | None = None

    def contrasts_at(self, budget: str) -> list[Contrast]:
        """Return the contrasts that are made at a budget."""
        return [each for each in self.contrasts if each.budget in (None, budget)]


def design_of(record: StudyRecord) -> StudyDesign:
    """Return what of a study's record its figures need.

    Every contrast that was declared before the first run was judged counts, those too that the plan
    has no more: Holm's correction is over all that were to be looked at.
    """
    plan = record.plan_then()
    contrasts = [Contrast(each.first, each.second, each.is_before) for each in record.declared]
    notes = []
    for each in record.declared:
        pair = f"{each.first} against {each.second}"
        if not each.is_before:
            notes.append(f"{pair} was added on {each.at}, after results")
        elif (each.first, each.second) not in plan.contrasts:
            notes.append(f"{pair} was declared before the run and is no longer in the plan")
    notes += _changed_rules(record)
    notes += [f"{each.what} was left out on {each.at}, after results" for each in record.dropped]
    if plan.allow_different_prompts:
        notes.append("the plan allows arms to be trained on different prompts")
    return StudyDesign(
        study=plan.study,
        model=plan.model,
        target=plan.target,
        arms=list(plan.arms),
        seeds=plan.seeds,
        judged_at=plan.judged_at,
        measures=MEASURES if plan.truth is None else PAIR_MEASURES,
        measure=plan.measure,
        contrasts=contrasts,
        worst_below=plan.worst_below,
        equivalence=plan.equivalence,
        notes=notes,
        sampled_otherwise=None if plan.truth is not None else _sampled_otherwise(plan),
    )


def _changed_rules(record: StudyRecord) -> Iterator[str]:
    """Yield by what contrasts were to be judged, and are judged since there were results."""
    before = [rules for rules in record.rules if rules.is_before]
    if not before:
        return
    now, then = record.rules[-1], before[-1]
    for key in RULES:
        if now.values.get(key) != then.values.get(key):
            yield (
                f"the plan had `{key}: {then.values.get(key)}` when contrasts were declared, and "
                f"has {now.values.get(key)} since {now.at}, after results"
            )


def _sampled_otherwise(plan: StudyPlan) -> str | None:
    """Return how ``eval`` samples, as a record of its candidates would say it."""
    arm, *_ = plan.arms.values()
    config = judgement_draft(plan, Path(), arm, plan.seeds[0], 1).step().config
    assert isinstance(config, EvalConfig)
    names = ("temperature", "top_p", "top_k", "ignore_eos")
    settings = {name: getattr(config, name) for name in names}
    for name in SHAPING:
        value = getattr(config, name)
        if value != getattr(EvalConfig, name):
            settings[name] = value
    return sampling_otherwise(settings)
