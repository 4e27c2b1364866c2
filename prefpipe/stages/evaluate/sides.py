"""The two sides of an evaluation: a model is sampled and rated first, by the usual stages.

Errors are raised before an hour of sampling, not after it.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple, Protocol

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.storage.location import Location, parse_location
from prefpipe.artifacts.store import Artifact, open_input
from prefpipe.artifacts.template_args import recorded_args
from prefpipe.artifacts.template_dates import date_for_run
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.sampling import SERVED, SamplingConfig
from prefpipe.configs.score import ScoreConfig, parse_scorer
from prefpipe.errors import InputError, UsageError
from prefpipe.execution.runtime import Runtime
from prefpipe.maths.selection.rewards import parse_reward
from prefpipe.models.files import ModelFiles, require_chat_template
from prefpipe.models.tokenizer import read_chat_template
from prefpipe.stages.evaluate.kl import KlReference, why_no_kl
from prefpipe.stages.evaluate.run import run
from prefpipe.stages.shared.partwise import Summary
from prefpipe.stages.shared.recipe import SIDES, RatedCandidates
from prefpipe.text.template_args import refuse_unread


class LocateModel(Protocol):
    """A function that finds the files of a named model."""

    def __call__(self, reference: str, *, trust_remote_code: bool = False) -> ModelFiles:
        """Return them, fetched or converted first if needed."""
        ...


class SideStages(NamedTuple):
    """The stages that an evaluation runs inside, each loaded when it is called.

    ``generate`` and ``score`` make a side; ``measure_reference`` measures the reference of KL.
    """

    generate: Callable[[GenerateConfig, Runtime], Summary]
    score: Callable[[ScoreConfig, Runtime], Summary]
    measure_reference: Callable[[EvalConfig, RatedCandidates, ModelFiles, Runtime], KlReference]


def evaluate(
    config: EvalConfig, stages: SideStages, locate: LocateModel, runtime: Runtime
) -> Summary:
    """Make the missing parts of both sides, and compare them.

    Args:
        config: the stage's knobs.
        stages: what samples, rates and measures.
        locate: finds the files of a model.
        runtime: the surroundings.

    Raises:
        UsageError: a side that cannot be sampled or rated, a reward that the scorers cannot make.
        ModelError: a model that is not there, or that has no chat template.
    """
    config = replace(config, template_date=_template_date(config))
    check_reward(config)
    for name in SIDES:
        check_side(config, name, locate)
    # Found now: a name that is wrong should not cost an hour of sampling.
    reference_model = None
    if config.kl_reference is not None:
        reference_model = locate(config.kl_reference, trust_remote_code=config.trust_remote_code)

    policy, baseline = (open_side(config, name, stages, runtime) for name in SIDES)

    no_kl = why_no_kl(config, policy, baseline)
    if no_kl is not None:
        reference = KlReference(reason=no_kl)
    else:
        if reference_model is None:
            reference_model = locate(config.baseline, trust_remote_code=config.trust_remote_code)
        assert config.template_date is not None
        # it is to read the policy's own prompts
        args = recorded_args(policy.candidates.record.identity) or {}
        reference_model = reference_model.dated(config.template_date).given(args)
        reference = stages.measure_reference(config, policy, reference_model, runtime)
    return run(config, policy, baseline, runtime, reference)


def check_reward(config: EvalConfig) -> None:
    """Refuse a reward that ``--scorer`` does not provide."""
    if config.policy_scores is not None or config.baseline_scores is not None:
        return  # of scores that are there, the comparison says it at once

    given = [parse_scorer(text).name for text in config.scorer]
    if config.reward is None:
        if len(given) > 1:
            raise UsageError(
                f"--reward is needed: --scorer gives {', '.join(given)}",
                hint=f"name one of them, or combine them: --reward '{given[0]} + {given[1]}'",
            )
        return

    unknown = [name for name in parse_reward(config.reward).names if name not in given]
    if unknown:
        raise UsageError(
            f"--reward {config.reward!r} names `{unknown[0]}`; "
            f"--scorer gives: {', '.join(given) or 'none'}"
        )


def check_side(config: EvalConfig, name: str, locate: LocateModel) -> None:
    """Refuse a side that cannot be sampled or rated."""
    reference = getattr(config, name)
    is_model = not _is_candidates(parse_location(reference))
    if is_model and config.prompts is None:
        raise UsageError(
            f"--{name} {reference} is not a candidates folder, so it is read as a model, which "
            "needs --prompts",
            hint="pass the held-out prompts file with --prompts, or correct the path",
        )
    if not config.scorer and getattr(config, f"{name}_scores") is None:
        raise UsageError(
            f"--scorer or --{name}-scores is needed to rate the responses of the {name}"
        )
    if is_model and config.backend not in SERVED:
        model = locate(reference, trust_remote_code=config.trust_remote_code)
        require_chat_template(model)
        template = read_chat_template(model.tokenizer_path) or ""
        refuse_unread(template, config.template_args, model.requested)


def open_side(
    config: EvalConfig, name: str, stages: SideStages, runtime: Runtime
) -> RatedCandidates:
    """Return a side with its candidates and scores, given or made now, and its embeddings."""
    candidates = parse_location(getattr(config, name))
    if not _is_candidates(candidates):
        runtime.log(f"{name}: {getattr(config, name)}")
        candidates = config.output / name / "candidates"
        stages.generate(sampling_of_side(config, name, candidates), runtime)

    scores = getattr(config, f"{name}_scores")
    if scores is None:
        scores = config.output / name / "scores"
        stages.score(rating_of_side(config, candidates, scores), runtime)

    embeddings: Artifact | None = None
    embeddings_folder = getattr(config, f"{name}_embeddings")
    if embeddings_folder is not None:
        embeddings = open_input(embeddings_folder, schema="embeddings", name=f"--{name}-embeddings")

    return RatedCandidates(
        getattr(config, name),
        open_input(candidates, schema="candidates", name=f"--{name}"),
        open_input(scores, schema="scores", name=f"--{name}-scores"),
        embeddings,
    )


def sampling_of_side(config: EvalConfig, name: str, output: Location) -> GenerateConfig:
    """Return how a side that is a model is sampled."""
    sampling = {item.name: getattr(config, item.name) for item in fields(SamplingConfig)}
    sampling |= {"prompts": str(config.prompts), "model": (getattr(config, name),)}
    return GenerateConfig(**{**sampling, "output": output})


def rating_of_side(config: EvalConfig, candidates: Location, output: Location) -> ScoreConfig:
    """Return how the responses of a side are rated."""
    shared = (
        "scorer",
        "device",
        "batch_size",
        "trust_remote_code",
        "trust_python_checks",
        "skip_bad_rows",
        "template_date",
        "overwrite",
        "max_error_rate",
    )
    settings: dict[str, Any] = {each: getattr(config, each) for each in shared}
    return ScoreConfig(candidates=candidates, output=output, base_url=config.judge_url, **settings)


def _template_date(config: EvalConfig) -> str:
    """Return the date for the chat templates of both sides: that of a sampled side, if any."""
    sampled = [parse_location(getattr(config, name)) for name in SIDES]
    if not config.overwrite.replaces_this_run:
        sampled += [config.output / name / "candidates" for name in SIDES]
    return date_for_run(config.template_date, None, sampled)


def _is_candidates(path: Location) -> bool:
    try:
        return read_run_record(path).kind == "candidates"
    except InputError:
        return False
