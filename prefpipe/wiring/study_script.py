"""The script of ``prefpipe study --dry-run``: the steps that are known now, and how to continue."""

from collections.abc import Iterator
from pathlib import Path

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.step_ledger import StepLedger
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_steps import (
    Place,
    StudyStep,
    candidates_folder,
    groups_folder,
    run_steps,
    selection_draft,
    selection_steps,
    shared_steps,
)
from prefpipe.errors import PrefpipeError
from prefpipe.execution.study_script import ScriptedRun, StudySteps, study_script
from prefpipe.stages.study.places import places_of
from prefpipe.stages.study.power import detectable_notes
from prefpipe.stages.study.progress import StudyProgress
from prefpipe.stages.study.step_seconds import (
    estimated_seconds,
    most_tokens_of_groups,
    rates_of,
)
from prefpipe.wiring.open_study import Study, command_of

NOT_PLACED = "the step at which it is judged depends on groups that do not exist yet"


def script_of(study: Study) -> str:
    """Return the shell script of the command's steps."""
    config = study.config
    entries = StepLedger(config.output).read()
    progress = StudyProgress(study.plan, config.output, entries)
    steps = _steps_known(study, progress)

    rates = rates_of(
        entries,
        sampled_per_s=config.sample_tokens_per_s,
        trained_per_s=config.train_tokens_per_s,
    )
    finished = set(_finished(study, progress))
    pool = candidates_folder(study.plan, config.output)
    sampling = [step.config for step in steps.shared if step.output == pool]
    most = {}
    if sampling and isinstance(sampling[0], GenerateConfig):
        most = most_tokens_of_groups(sampling[0], steps.selections)
    seconds = {}
    for step in steps.all:
        expected = (
            0.0
            if step.name in finished
            else estimated_seconds(step, rates, most_of_group=most.get(step.arm))
        )
        if expected is not None:
            seconds[step.name] = expected
    return study_script(
        study.plan,
        steps,
        config.output,
        command=command_of(config, dry_run=True),
        seconds=seconds,
        notes=detectable_notes(study.plan, config.output),
    )


def _steps_known(study: Study, progress: StudyProgress) -> StudySteps:
    """Return the steps that are known now, without those of finished runs."""
    plan, folder = study.plan, study.config.output
    overwrite = study.config.overwrite
    # of the arm whose tokens count the groups are needed, whether it is run or not
    selected = [arm for arm in plan.arms if arm in study.arms or arm == plan.budgets.like]
    selections = selection_steps(
        plan, folder, arms=selected, seeds=study.seeds, overwrite=overwrite
    )

    runs = []
    for seed in study.seeds:
        for arm in study.arms:
            places, note = _places(plan, folder, arm, seed)
            steps: list[StudyStep] = []
            if places and progress.run(arm, seed).state == "done":
                note = "finished"
            elif places:
                steps = run_steps(plan, folder, arm, seed, places, overwrite=overwrite)
            runs.append(ScriptedRun(arm, seed, places, steps, note))
    return StudySteps(shared_steps(plan, folder, overwrite=overwrite), selections, runs)


def _places(plan: StudyPlan, folder: Path, arm: str, seed: int) -> tuple[list[Place], str]:
    """Return where an arm is judged; none, and why, if that is not known yet."""
    read = {each for each in (arm, plan.budgets.like) if each is not None}
    # outdated groups say nothing about the groups that will replace them
    if plan.budgets.like is not None or plan.budgets.response_tokens or plan.epochs:
        for each in read:
            if not _is_selected(plan, folder, each, seed):
                return [], NOT_PLACED
    try:
        return places_of(plan, folder, arm, seed), ""
    except PrefpipeError as error:
        return [], f"{NOT_PLACED}: {error.message}"


def _is_selected(plan: StudyPlan, folder: Path, arm: str, seed: int) -> bool:
    """Return whether an arm's groups on disk were selected as the plan says now."""
    groups = groups_folder(plan, folder, arm, seed)
    if groups is None:
        return True  # its rounds select as they go
    config = selection_draft(plan, folder, arm, seed).step().config
    assert config is not None
    try:
        made = read_run_record(groups).identity
    except PrefpipeError:
        return False
    # what is not given, as the reward of an only scorer, is settled when they are made
    given = {key: value for key, value in config.identity().items() if value is not None}
    return all(made.get(key) == value for key, value in given.items() if key != "seed")


def _finished(study: Study, progress: StudyProgress) -> Iterator[str]:
    """Yield the names of steps that are finished with the current settings."""
    for step, key in progress.shared():
        if progress.is_finished(step, key):
            yield step.name
    for step, key in progress.selections(study.plan.arms, study.seeds):
        if progress.is_finished(step, key):
            yield step.name
    for run in (progress.run(arm, seed) for arm in study.arms for seed in study.seeds):
        yield from run.finished
