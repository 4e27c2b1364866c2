"""Groups to train and to evaluate on: prepared alike, kept separate, each with its reference."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any, NamedTuple

from prefpipe.errors import InputError, StoppedEarly
from prefpipe.execution.runtime import Runtime
from prefpipe.maths.selection.registry import STRATEGIES
from prefpipe.models.files import ModelFiles
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.stages.shared.training_groups import read_rows
from prefpipe.stages.train.inputs import OpenedGroups, TrainInputs
from prefpipe.stages.train.loss_weights import describe_weights, weigh_groups
from prefpipe.stages.train.reference import measure_reference
from prefpipe.stages.train.trainable import Trainable
from prefpipe.training.evaluation_split import hold_out, refuse_shared_prompts
from prefpipe.training.groups import (
    Group,
    Key,
    PreparedGroups,
    ResponseStatus,
    prepare_groups,
    require_reward_gaps,
    with_reference,
)
from prefpipe.training.settings import require_kept_steps
from prefpipe.training.time_budget import TimeBudget

ReferenceLogps = dict[Key, tuple[float, int]]
"""By key, the sum over a response's tokens and their number."""


@dataclass(frozen=True)
class TrainingData:
    """The data that a run trains and evaluates on.

    ``rows``: of the groups, rejected prompts among them; ``statuses``: the outcome of each
    response, by key; ``ref_logps``: under the reference, {} without one. ``eval_counts``: responses
    of ``--eval-groups`` by status. ``weights``: what to record about ``--weight-by``, {}
    without it.
    """

    rows: list[Row]
    statuses: dict[Key, ResponseStatus]
    groups: list[Group]
    eval_groups: list[Group]
    eval_counts: dict[str, int]
    ref_logps: ReferenceLogps
    weights: dict[str, Any]


class ReadGroups(NamedTuple):
    """Rows of an artifact, their groups as tokens, and which of those can be used."""

    rows: list[Row]
    groups: list[Group]
    prepared: PreparedGroups


def read_training_data(
    inputs: TrainInputs, trainable: Trainable, runtime: Runtime, budget: TimeBudget | None
) -> TrainingData:
    """Read the groups, leave out unusable responses, and measure the reference if needed.

    Args:
        inputs: of the run.
        trainable: reads rows as tokens.
        runtime: the surroundings.
        budget: measuring stops between parts before it is over.

    Raises:
        InputError: no group is left, a prompt is both trained and evaluated on, or a weight is no
            finite number of at least 0.
        UsageError: a pair without a reward gap, for an objective that takes its logarithm; weights
            that are all 0; a step to keep that never comes.
        StoppedEarly: a stop was requested, or the budget is nearly over; what is measured is kept.
    """
    read = read_groups(inputs.groups, trainable, inputs.on_too_long, runtime.log)
    trained, eval_groups = hold_out(read.prepared, inputs.eval_fraction, inputs.settings.seed)

    eval_counts: dict[str, int] = {}
    eval_rows = read.rows
    if inputs.eval_groups is not None:
        evaluated = read_groups(inputs.eval_groups, trainable, inputs.on_too_long, runtime.log)
        eval_groups, eval_rows = evaluated.prepared.groups, evaluated.rows
        eval_counts = dict(sorted(evaluated.prepared.counts.items()))
        _check_apart(read.groups, eval_groups, inputs.eval_groups.flag, runtime.log)

    # Before the reference: that may take hours.
    if inputs.objective.needs_reward_gaps:
        require_reward_gaps([*trained.groups, *eval_groups], inputs.objective.name)
    require_kept_steps(inputs.settings, len(trained.groups))

    groups = trained.groups
    weights: dict[str, Any] = {}
    if inputs.groups.weighing is not None:
        groups, weights = weigh_groups(groups, read.rows, inputs.groups.weighing)
        runtime.log(describe_weights(weights, "the loss is weighted"))
    # What is held out is weighted by its own mean, so that its loss is on the same scale.
    eval_source = inputs.eval_groups or inputs.groups
    if eval_source.weighing is not None and eval_groups:
        eval_groups, _ = weigh_groups(eval_groups, eval_rows, eval_source.weighing)

    ref_logps, eval_logps = _measure_references(inputs, runtime, budget)
    if ref_logps is not None:
        groups = with_reference(groups, ref_logps)
    if eval_logps is not None:
        eval_groups = with_reference(eval_groups, eval_logps)
    return TrainingData(
        rows=read.rows,
        statuses=trained.statuses,
        groups=groups,
        eval_groups=eval_groups,
        eval_counts=eval_counts,
        ref_logps=ref_logps or {},
        weights=weights,
    )


def read_groups(
    source: OpenedGroups, trainable: Trainable, on_too_long: str, log: Callable[[str], None]
) -> ReadGroups:
    """Read groups and check them against the length limit; the log counts what is left out.

    Raises:
        IncompleteInputError: parts are missing that may not be.
        InputError: no group is left.
    """
    further = [] if source.weighing is None else source.weighing.columns
    rows = read_rows(source.artifact, allow_partial=source.allow_partial, further=further)
    groups = trainable.groups(rows, source.artifact)
    prepared = prepare_groups(
        groups,
        max_length=trainable.max_length,
        on_too_long=on_too_long,
        find_missing=trainable.missing,
        roles=trainable.roles,
    )

    left_out = prepared.describe_left_out()
    if left_out:
        n_left_out = sum(prepared.left_out.values())
        of_flag = f" of {source.flag}" if source.flag else ""
        log(f"{n_left_out} of {len(prepared.statuses)} responses{of_flag} are left out: {left_out}")
    if not prepared.groups:
        raise _nothing_left(source, prepared)
    return ReadGroups(rows, groups, prepared)


def _nothing_left(source: OpenedGroups, prepared: PreparedGroups) -> InputError:
    """Return the error that says why no group can be used.

    It counts responses by reason, and holds one refusal of the template in full.
    """
    path = source.artifact.path
    use = f"{path} can be trained on"
    if source.flag:
        use = f"{source.flag} {path} can be evaluated on"

    problem = f"no group of {use}: {prepared.describe_left_out() or 'it holds no group'}"
    for status, reason in prepared.statuses.values():
        if status == "template_error":
            problem += f"; {reason}"
            break

    if any("long" in name for name in prepared.counts):
        return InputError(problem, hint="raise --max-length")
    strategy = STRATEGIES.get(str(source.artifact.record.identity.get("strategy")))
    if strategy is not None and strategy.n_negatives == 0:
        return InputError(
            problem,
            hint=f"groups of {strategy.name} have no negatives: train with --objective sft, or "
            f"run `prefpipe export {quote(str(path))} --format trl-sft`",
        )
    return InputError(
        problem, hint=f"run `prefpipe inspect {quote(str(path))}` to see what select rejected"
    )


def _check_apart(
    groups: list[Group], eval_groups: list[Group], flag: str, log: Callable[[str], None]
) -> None:
    """Refuse prompts that are both trained and evaluated on; warn if only their ids differ.

    Raises:
        InputError: there is such a prompt.
    """
    refuse_shared_prompts(groups, eval_groups, flag)

    trained = {tuple(group.prompt_token_ids) for group in groups}
    n_same = sum(tuple(group.prompt_token_ids) in trained for group in eval_groups)
    if n_same:
        log(
            f"{n_same} of the {len(eval_groups)} prompts of {flag} have the text of a training "
            "prompt under another id"
        )


def _measure_references(
    inputs: TrainInputs, runtime: Runtime, budget: TimeBudget | None
) -> tuple[ReferenceLogps | None, ReferenceLogps | None]:
    """Return the reference's log-probabilities of the training and evaluation groups.

    None if there is no reference.

    Raises:
        StoppedEarly: a stop was requested, or the budget is nearly over.
    """
    measuring = runtime
    if budget is not None:
        would_not_fit = budget.stops_between_parts()
        measuring = replace(runtime, should_stop=lambda: runtime.should_stop() or would_not_fit())

    try:
        # What is held out is of the same groups, and measured with them.
        if inputs.eval_groups is None:
            ref_logps = _reference_logps(inputs.groups, inputs.start.model, measuring)
            return ref_logps, ref_logps
        eval_logps = _reference_logps(inputs.eval_groups, inputs.start.model, measuring)
        return _reference_logps(inputs.groups, inputs.start.model, measuring), eval_logps
    except StoppedEarly as error:
        if budget is None or runtime.should_stop():
            raise
        message = f"--max-hours {inputs.settings.max_hours:g} are nearly over: {error.message}"
        raise StoppedEarly(message, hint=error.hint) from error


def _reference_logps(
    source: OpenedGroups, policy: ModelFiles, runtime: Runtime
) -> ReferenceLogps | None:
    if source.reference is None:
        return None
    return measure_reference(
        source.reference, source.artifact, policy, runtime, allow_partial=source.allow_partial
    )
