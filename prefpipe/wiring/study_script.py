"""The script of ``prefpipe study --dry-run``: the steps that are known now, and how to go on."""

from collections.abc import Mapping, Sequence

from prefpipe.configs.study_keys import PROMPTS
from prefpipe.configs.study_steps import (
    Place,
    global_batch_size,
    run_steps,
    selection_steps,
    shared_steps,
)
from prefpipe.execution.study_script import ScriptedRun, StudySteps, study_script
from prefpipe.wiring.open_study import Study, command_of


def script_of(
    study: Study, *, seconds: Mapping[str, float] | None = None, notes: Sequence[str] = ()
) -> str:
    """Return the shell script that does what the command does.

    Args:
        study: of `open_study`.
        seconds: by the name of a step how long it is expected to take, as far as that is known.
        notes: what else is known before the run.
    """
    return study_script(
        study.plan,
        steps_known(study),
        study.config.output,
        command=command_of(study.config, dry_run=True),
        seconds=seconds or {},
        notes=notes,
    )


def steps_known(study: Study) -> StudySteps:
    """Return the steps that are known now: where arms are judged may depend on groups."""
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
            places = _places(study, arm)
            if not places:
                note = "where it is judged is known when the groups are there"
                runs.append(ScriptedRun(arm, seed, note=note))
                continue
            steps = run_steps(plan, folder, arm, seed, places, overwrite=overwrite)
            runs.append(ScriptedRun(arm, seed, places, steps))
    return StudySteps(shared_steps(plan, folder, overwrite=overwrite), selections, runs)


def _places(study: Study, arm: str) -> list[Place]:
    """Return where an arm is judged, none where that is not known yet."""
    plan = study.plan
    if plan.judged_at != (PROMPTS,):
        return []
    assert plan.budgets.prompts is not None
    return [Place(plan.budgets.prompts // global_batch_size(plan, arm), (PROMPTS,))]
