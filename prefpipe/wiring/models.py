"""The files of a model that a configuration names, and the settings of its chat template."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.template_args import args_of_parent, args_of_policy
from prefpipe.artifacts.template_dates import date_for_run
from prefpipe.configs.init import InitConfig
from prefpipe.configs.stage import TemplatedConfig
from prefpipe.configs.template_args import PolicyTemplateConfig
from prefpipe.errors import ModelError, UsageError
from prefpipe.text.template_args import (
    FLAG,
    args_read_by,
    refuse_contradiction,
    refuse_unread,
    written_args,
)
from prefpipe.text.thoughts import AUTO, find_markers, read_markers

if TYPE_CHECKING:
    from prefpipe.execution.runtime import Runtime
    from prefpipe.models.files import ModelFiles


def locate(reference: str, *, trust_remote_code: bool = False) -> "ModelFiles":
    """Return the files of a folder, ``org/name[@revision]``, GGUF file or ``bundled:NAME``."""
    from prefpipe.models.location import locate_model

    return locate_model(reference, trust_remote_code=trust_remote_code)


def require_model_of_dry_run(config: InitConfig) -> None:
    """Refuse a dry run that would stop at `train`, which has no fake.

    Raises:
        UsageError: the model is not there.
    """
    from prefpipe.models.location import require_model

    try:
        require_model(config.model_or_default)
    except ModelError as error:
        raise UsageError(
            f"--backend fake samples without a model, but `train` needs one: {error.message}",
            hint=f"{error.hint}; or pass the folder of another small model with --model",
        ) from error


def template_date(config: TemplatedConfig, parents: Sequence[Location] = ()) -> str:
    """Return the date that a run's chat templates use; a resumed run has it on record.

    A run that may be out of date uses its parents' date first: if they were made again on another
    day, so is it. Its own record comes after them, because a new day alone makes nothing out of
    date.
    """
    if config.overwrite is Overwrite.STALE:
        return date_for_run(config.template_date, None, [*parents, config.output])

    own_record = None if config.overwrite else config.output
    return date_for_run(config.template_date, own_record, parents)


def sampled_with_args(
    model: "ModelFiles", config: PolicyTemplateConfig, runtime: "Runtime"
) -> "ModelFiles":
    """Return a model that samples, with the arguments that its chat template is given.

    Raises:
        UsageError: its template never reads one of them.
    """
    args = config.template_args
    refuse_unread(_template_of(model), args, model.requested)
    trained_with = args_of_policy(model.path)
    if trained_with is not None and trained_with != args:
        runtime.log(
            f"warning: {model.requested} was trained on prompts with {FLAG} "
            f"{written_args(trained_with)}, but samples here with {written_args(args)}"
        )
    return model.given(args)


def trained_with_args(
    model: "ModelFiles", config: PolicyTemplateConfig, candidates: Location, runtime: "Runtime"
) -> "ModelFiles":
    """Return a model with the arguments that its chat template was given at sampling.

    Args:
        model: what is trained or measured.
        config: of the stage.
        candidates: the artifact that knows what sampled them: candidates, or what was made of them.
        runtime: the surroundings.

    Raises:
        UsageError: its template never reads an argument that is given; or the candidates were
            sampled with another one.
    """
    given = config.template_args
    template = _template_of(model)
    refuse_unread(template, given, model.requested)
    recorded = args_of_parent(candidates)
    if recorded is None:  # imported: nobody knows
        return model.given(given)

    refuse_contradiction(given, recorded, str(candidates))
    inherited = args_read_by(template, recorded)
    if inherited.keys() != recorded.keys():
        unread = {key: value for key, value in recorded.items() if key not in inherited}
        runtime.log(
            f"the chat template of {model.requested} ignores {written_args(unread)}, with which "
            "the candidates were sampled"
        )
    return model.given(inherited)


def with_thoughts(model: "ModelFiles", thinking_markers: str) -> "ModelFiles":
    """Return a model that samples, with the markers around its thoughts.

    Args:
        model: the model.
        thinking_markers: ``--thinking-markers``.
    """
    from prefpipe.models.tokenizer import added_tokens_of

    markers = read_markers(thinking_markers)
    if thinking_markers == AUTO:
        markers = find_markers(_template_of(model), added_tokens_of(model.tokenizer_path))
    return model.thinking(markers)


def _template_of(model: "ModelFiles") -> str:
    """Return the source of a model's chat template, "" if it has none."""
    from prefpipe.models.tokenizer import read_chat_template

    return read_chat_template(model.tokenizer_path) or ""
