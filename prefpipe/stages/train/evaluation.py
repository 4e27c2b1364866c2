"""What a training run is evaluated on: a share of its own prompts, or groups of their own."""

from shlex import quote
from typing import Any, NamedTuple

from prefpipe.artifacts.fingerprint import field_differences
from prefpipe.artifacts.store import Artifact, open_input, refuse_nesting
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.models.files import ModelFiles
from prefpipe.stages.shared.candidate_rows import parent_identity
from prefpipe.stages.shared.runtime import Runtime
from prefpipe.stages.shared.training_groups import read_rows
from prefpipe.stages.train.reference import EVAL_FOLDER, Reference, reference_of
from prefpipe.stages.train.sides import Side
from prefpipe.training.evaluation_split import refuse_shared_prompts
from prefpipe.training.groups import Group, PreparedGroups, prepare_groups, with_reference

FLAG = "--eval-groups"


class EvaluationGroups(NamedTuple):
    """Groups of their own to evaluate on, and their reference, where the objective has one."""

    artifact: Artifact
    reference: Reference | None

    def identity(self) -> dict[str, Any]:
        """Return what they are in the run's identity."""
        return parent_identity(self.artifact)

    def prepare(self, config: TrainConfig, side: Side, runtime: Runtime) -> PreparedGroups:
        """Return the groups, prepared as those that are trained on are; what is left out is counted in the log.

        Raises:
            IncompleteInputError: parts are missing. The same set is to be evaluated on every time.
            InputError: no group is left.
        """
        groups = side.groups(read_rows(self.artifact, allow_partial=False), self.artifact)
        prepared = prepare_groups(
            groups, max_length=side.max_length, on_too_long=config.on_too_long, lacks=side.lacks
        )
        words = prepared.describe_left_out()
        if words:
            n_left_out = sum(prepared.left_out.values())
            runtime.log(
                f"{n_left_out} of {len(prepared.fates)} responses of {FLAG} are left out: {words}"
            )
        if not prepared.groups:
            raise InputError(
                f"no group of {FLAG} {self.artifact.path} can be evaluated on: {words or 'it holds no group'}",
                hint=f"run `prefpipe inspect {quote(str(self.artifact.path))}` for what select rejected",
            )
        return prepared

    def with_reference(
        self, groups: list[Group], config: TrainConfig, model: ModelFiles, runtime: Runtime
    ) -> list[Group]:
        """Give each response its log-probability under the reference, measured now where it is not on disk yet."""
        if self.reference is None:
            return groups
        return with_reference(groups, self.reference.logps(config.for_evaluation(), model, runtime))


def evaluation_groups(
    config: TrainConfig,
    objective: str,
    model: ModelFiles,
    named: ModelFiles | None,
    trained: Reference | None,
) -> EvaluationGroups | None:
    """Open ``--eval-groups``; None where there are none.

    Args:
        config: of the run.
        objective: by name.
        model: what the training starts from.
        named: the files of ``--reference-model`` where it names a model.
        trained: the reference of the groups that are trained on.

    Raises:
        InputError: no groups, or a reference of others.
        UsageError: the output lies inside them, or their reference is another model than that of the training.
    """
    if config.eval_groups is None:
        return None
    artifact = open_input(config.eval_groups, schema="groups", name=FLAG)
    refuse_nesting(config.output, {FLAG: config.eval_groups})
    artifact.present(range(artifact.n_parts), allow_partial=False)
    reference = reference_of(
        config.for_evaluation(), objective, model, artifact, named, name="--eval-reference"
    )
    if reference is not None and trained is not None and reference.identity != trained.identity:
        lines = [
            difference.worded("in training", "in evaluation")
            for difference in field_differences(trained.identity, reference.identity)
        ]
        raise UsageError(
            "\n  ".join(
                [
                    f"{FLAG} would be measured under another reference than the groups that are trained on:",
                    *lines,
                ]
            ),
            hint=f"prefpipe logprobs {quote(str(config.eval_groups))} --model REFERENCE ..., and pass its folder with "
            "--eval-reference",
        )
    return EvaluationGroups(
        artifact, None if reference is None else reference._replace(folder=EVAL_FOLDER)
    )


def check_apart(train: list[Group], evaluation: list[Group], runtime: Runtime) -> None:
    """Refuse prompts that are on both sides; say so where only their ids differ.

    Raises:
        InputError: a prompt is on both sides.
    """
    refuse_shared_prompts(train, evaluation, FLAG)
    trained = {tuple(group.prompt_token_ids) for group in train}
    n_same = sum(tuple(group.prompt_token_ids) in trained for group in evaluation)
    if n_same:
        runtime.log(
            f"{n_same} of the {len(evaluation)} prompts of {FLAG} have the text of a prompt that is trained on, under another id"
        )
