"""A configuration and the stage that it runs."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.store import Artifact, open_input
from prefpipe.artifacts.template_dates import date_for_run
from prefpipe.configs.embed import EmbedConfig
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.export_groups import ANSWER_FORMATS, ExportConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.import_files import ImportConfig
from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.options import StageConfig
from prefpipe.configs.pairs import PairsConfig
from prefpipe.configs.sampling import SamplingConfig
from prefpipe.configs.score import ScoreConfig, parse_scorer
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.stages.shared.runtime import Runtime, Summary
from prefpipe.wiring.backends import generator_for, judge_for, pair_rater, scorer_for, template_date
from prefpipe.wiring.objects import load, locate


def run_stage(config: StageConfig, runtime: Runtime) -> Summary:
    """Run the stage that a config belongs to."""
    summary = _RUNNERS[config.stage](config, runtime)
    assert isinstance(summary, Summary)
    return summary


def _generate(config: GenerateConfig, runtime: Runtime) -> Summary:
    run, sampler = load("prefpipe.stages.generate:run"), load("prefpipe.stages.generate:Sampler")
    samplers = [
        sampler(
            name.partition(":")[0] if config.backend == "fake" else name,
            *generator_for(config, name, runtime),
        )
        for name in config.model
    ]
    result: Summary = run(config, samplers, runtime)
    return result


def _score(config: ScoreConfig, runtime: Runtime) -> Summary:
    run, rater = load("prefpipe.stages.score:run"), load("prefpipe.stages.score:Rater")
    raters = [
        rater(spec.name, *scorer_for(config, spec, runtime))
        for spec in map(parse_scorer, config.scorer)
    ]
    result: Summary = run(config, raters, runtime)
    return result


def _judge(config: JudgeConfig, runtime: Runtime) -> Summary:
    run, judge = load("prefpipe.stages.judge.run:run"), load("prefpipe.stages.judge.run:Judge")
    result: Summary = run(config, judge(*judge_for(config, runtime)), runtime)
    return result


def _embed(config: EmbedConfig, runtime: Runtime) -> Summary:
    run = load("prefpipe.stages.embed:run")
    if config.model == "fake":
        identity, opener = {"fake": config.model}, load("prefpipe.backends.fake:FakeEmbedder")
    else:
        model = locate(config.model, trust_remote_code=config.trust_remote_code)
        identity = model.identity()
        opener = lambda: load("prefpipe.backends.embedders.sentence_embedder:SentenceEmbedder")(  # noqa: E731 - beside its identity
            model,
            device=config.device,
            batch_size=config.batch_size,
            max_length=config.max_length,
            trust_remote_code=config.trust_remote_code,
        )
    result: Summary = run(config, identity, opener, runtime)
    return result


def _select(config: SelectConfig, runtime: Runtime) -> Summary:
    result: Summary = load("prefpipe.stages.select.run:run")(config, runtime)
    return result


def _train(config: TrainConfig, runtime: Runtime) -> Summary:
    # one day for the policy, its reference and a reward model: that of the candidates, where they have one
    day = template_date(
        config, [config.groups, *([] if config.reference is None else [config.reference])]
    )
    model = locate(config.model, trust_remote_code=config.trust_remote_code).dated(day)
    if config.chat_template is not None:  # counts in the place of the model's own
        model = load("prefpipe.training.reward_model:with_template")(
            model, config.chat_template, day
        )
    name = config.reference_model
    named = name not in (None, "base")
    reference = (
        locate(name or "", trust_remote_code=config.trust_remote_code).dated(day) if named else None
    )
    result: Summary = load("prefpipe.stages.train.run:run")(
        config, model, runtime, reference_model=reference
    )
    return result


def _logprobs(config: LogprobsConfig, runtime: Runtime) -> Summary:
    model = locate(config.model, trust_remote_code=config.trust_remote_code)
    model = model.dated(template_date(config, [config.groups]))
    result: Summary = load("prefpipe.stages.logprobs:run")(config, model, runtime)
    return result


def _eval(config: EvalConfig, runtime: Runtime) -> Summary:
    side = load("prefpipe.stages.shared.recipe:RatedCandidates")
    names = load("prefpipe.stages.shared.recipe:SIDES")
    # both sides are told the same day: that of a side that has been sampled, where there is one
    sampled = [Path(getattr(config, name)) for name in names]
    if not config.overwrite.replaces_this_run:
        sampled += [config.output / name / "candidates" for name in names]
    day = date_for_run(config.template_date, None, sampled)
    config = replace(config, template_date=day)
    _check_reward(config)
    for name in names:
        _check_side(config, name)
    named = config.kl_reference  # looked for before an hour of sampling, not after
    model = (
        locate(named, trust_remote_code=config.trust_remote_code).dated(day)
        if named is not None
        else None
    )
    sides = [side(getattr(config, name), *_artifacts_of(config, name, runtime)) for name in names]
    no_kl = load("prefpipe.stages.evaluate.kl:why_no_kl")(config, *sides)
    if no_kl is None:
        model = model or locate(config.baseline, trust_remote_code=config.trust_remote_code).dated(
            day
        )
        reference = load("prefpipe.stages.evaluate.reference:measure_reference")(
            config, sides[0], model, runtime
        )
    else:
        reference = load("prefpipe.stages.evaluate.kl:KlReference")(reason=no_kl)
    result: Summary = load("prefpipe.stages.evaluate.run:run")(config, *sides, runtime, reference)
    return result


def _check_reward(config: EvalConfig) -> None:
    """Refuse a reward that cannot be made of the scorers: before an hour of sampling, not after."""
    if config.policy_scores is not None or config.baseline_scores is not None:
        return  # of scores that are there, the stage says it at once
    given = [parse_scorer(text).name for text in config.scorer]
    if config.reward is None:
        if len(given) > 1:
            raise UsageError(
                f"--reward is needed: --scorer gives {', '.join(given)}",
                hint=f"name one of them, or combine them: --reward '{given[0]} + {given[1]}'",
            )
        return
    unknown = [
        name
        for name in load("prefpipe.maths.selection.rewards:parse_reward")(config.reward).names
        if name not in given
    ]
    if unknown:
        raise UsageError(
            f"--reward {config.reward!r} names `{unknown[0]}`; --scorer gives: {', '.join(given) or 'none'}"
        )


def _check_side(config: EvalConfig, side: str) -> None:
    """Refuse a side that cannot be sampled or rated: before an hour of sampling the other one, not after."""
    reference = getattr(config, side)
    is_model = not _is_candidates(Path(reference))
    if is_model and config.prompts is None:
        raise UsageError(
            f"--{side} {reference} is no candidates folder, so a model, and --prompts is needed",
            hint="pass the held-out prompts file, or correct the folder",
        )
    if not config.scorer and getattr(config, f"{side}_scores") is None:
        raise UsageError(
            f"--scorer or --{side}-scores is needed to rate the responses of the {side}"
        )
    if is_model and config.backend not in ("fake", "openai"):  # whose models are not on this disk
        model = locate(reference, trust_remote_code=config.trust_remote_code)
        load("prefpipe.models.files:require_chat_template")(model)


def _pairs(config: PairsConfig, runtime: Runtime) -> Summary:
    result: Summary = load("prefpipe.stages.pairs.run:run")(
        config, pair_rater(config, runtime), runtime
    )
    return result


def _artifacts_of(config: EvalConfig, side: str, runtime: Runtime) -> list[Artifact | None]:
    """Return a side's candidates and scores, those given or made now by the usual stages, and the embeddings given."""
    reference, scores = getattr(config, side), getattr(config, f"{side}_scores")
    candidates, folder = Path(reference), config.output / side
    shared: dict[str, Any] = {
        "overwrite": config.overwrite,
        "max_error_rate": config.max_error_rate,
    }
    if not _is_candidates(candidates):
        candidates = folder / "candidates"
        sampled = {item.name for item in fields(SamplingConfig)} - shared.keys() - {"output"}
        sampling = {name: getattr(config, name) for name in sampled} | {
            "prompts": str(config.prompts)
        }
        runtime.log(f"{side}: {reference}")
        _generate(
            GenerateConfig(model=(reference,), output=candidates, **sampling, **shared), runtime
        )
    if scores is None:
        scores = folder / "scores"
        names = (
            "scorer",
            "device",
            "batch_size",
            "trust_remote_code",
            "trust_python_checks",
            "skip_bad_rows",
        )
        rating: dict[str, Any] = {name: getattr(config, name) for name in names}
        rating |= {"base_url": config.judge_url, "template_date": config.template_date}
        _score(ScoreConfig(candidates=candidates, output=scores, **rating, **shared), runtime)
    embeddings = getattr(config, f"{side}_embeddings")
    return [
        open_input(candidates, schema="candidates", name=f"--{side}"),
        open_input(scores, schema="scores", name=f"--{side}-scores"),
        None
        if embeddings is None
        else open_input(embeddings, schema="embeddings", name=f"--{side}-embeddings"),
    ]


def _import(config: ImportConfig, runtime: Runtime) -> Summary:
    result: Summary = load("prefpipe.stages.import_files:run")(config, runtime)
    return result


def _export(config: ExportConfig, runtime: Runtime) -> Summary:
    of_candidates = config.format in ANSWER_FORMATS
    result: Summary = load(
        "prefpipe.stages.export.candidates:run"
        if of_candidates
        else "prefpipe.stages.export.groups:run"
    )(config, runtime)
    return result


def _is_candidates(path: Path) -> bool:
    try:
        return read_run_record(path).schema.partition("/")[0] == "candidates"
    except InputError:
        return False


_RUNNERS: dict[str, Callable[[Any, Runtime], Summary]] = {
    "generate": _generate,
    "score": _score,
    "embed": _embed,
    "select": _select,
    "logprobs": _logprobs,
    "train": _train,
    "judge": _judge,
    "eval": _eval,
    "import": _import,
    "export": _export,
    "eval rewardbench": _pairs,
    "eval calibration": _pairs,
}
