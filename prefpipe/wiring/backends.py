"""The samplers, scorers, judges and raters that a configuration names: what each is in the fingerprint, and how to open it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.template_dates import date_for_run
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.judging import ENGINES, JudgeSpec, JudgingConfig, parse_judge
from prefpipe.configs.options import TemplatedConfig
from prefpipe.configs.pairs import BASE, FAKE, PairsConfig
from prefpipe.configs.score import ScoreConfig, ScorerSpec
from prefpipe.errors import UsageError
from prefpipe.stages.shared.runtime import Runtime
from prefpipe.wiring.objects import load, locate

SERVED_VERSION = 2
"""Grows when the same answers of a server would become other rows, or other settings are sent to it."""


def generator_for(
    config: GenerateConfig, name: str, runtime: Runtime
) -> tuple[dict[str, Any], Callable[[], Any]]:
    """Return what a sampler is in the fingerprint, and how to open it."""
    if config.backend == "fake":
        name, knobs = fake_knobs(name)
        return {"fake": name}, lambda: load("prefpipe.backends.fake:FakeGenerator")(**knobs)
    if config.backend == "openai":
        identity = {"served": name, "served_version": SERVED_VERSION}
        return identity, lambda: load("prefpipe.backends.generators.openai_server:OpenAIGenerator")(
            name,
            base_url=config.base_url,
            concurrency=config.batch_size,
            max_model_len=config.max_model_len,
            surroundings=_surroundings(runtime),
        )
    model = locate(name, trust_remote_code=config.trust_remote_code).dated(template_date(config))
    load("prefpipe.models.files:require_chat_template")(model)
    if config.backend == "vllm":
        return model.identity(), lambda: load(
            "prefpipe.backends.generators.vllm_engine:VllmGenerator"
        )(
            model,
            dtype=config.dtype,
            max_model_len=config.max_model_len,
            trust_remote_code=config.trust_remote_code,
            tensor_parallel_size=config.tensor_parallel_size,
            gpu_memory_utilization=config.gpu_memory_utilization,
            enable_prefix_caching=config.enable_prefix_caching,
            enforce_eager=config.enforce_eager,
        )
    return model.identity(), lambda: load("prefpipe.backends.generators.hf_generator:HfGenerator")(
        model,
        dtype=config.dtype,
        device=config.device,
        batch_size=config.batch_size,
        max_model_len=config.max_model_len,
        trust_remote_code=config.trust_remote_code,
    )


def template_date(config: TemplatedConfig, parents: Sequence[Path] = ()) -> str:
    """Return the day that the chat templates of a run are told, which a run that goes on has on record.

    A run that may be out of date asks its parents first: where they were made again on another day, so is it. Its own record
    comes after them, because a day that has passed alone makes nothing out of date.
    """
    if config.overwrite is Overwrite.STALE:
        return date_for_run(config.template_date, None, [*parents, config.output])
    return date_for_run(config.template_date, None if config.overwrite else config.output, parents)


def fake_knobs(reference: str) -> tuple[str, dict[str, float]]:
    """Return name and knobs of ``fake:delay_s=0.01,error_rate=0.1``; the delay is no part of the name, the rows stay the same."""
    name, _, rest = reference.partition(":")
    try:
        knobs = {
            key: float(value)
            for key, _, value in (pair.partition("=") for pair in rest.split(",") if pair)
        }
    except ValueError as error:
        raise UsageError(
            f"--model {reference}: a fake takes numbers, fake:delay_s=0.01,error_rate=0.1"
        ) from error
    unknown = sorted(knobs.keys() - {"delay_s", "error_rate", "max_model_len"})
    if unknown:
        raise UsageError(
            f"--model {reference}: a fake has no `{unknown[0]}`; it has delay_s, error_rate, max_model_len"
        )
    if "max_model_len" in knobs:
        knobs["max_model_len"] = int(knobs["max_model_len"])
    return ":".join(
        [name, *(f"{key}={value:g}" for key, value in sorted(knobs.items()) if key != "delay_s")]
    ), knobs


def _surroundings(runtime: Runtime) -> Any:
    """Return what a client of a server sees of the run."""
    kind = load("prefpipe.backends.chat_client:Surroundings")
    return kind(runtime.log, runtime.should_stop, runtime.how_to_go_on)


def scorer_for(
    config: ScoreConfig, spec: ScorerSpec, runtime: Runtime
) -> tuple[dict[str, Any], Callable[[], Any]]:
    """Return what a scorer is in the fingerprint, and how to open it."""
    if spec.kind == "fake":
        return {"kind": "fake", "target": spec.target}, load("prefpipe.backends.fake:FakeScorer")
    if spec.kind == "checks":
        version = load("prefpipe.text.checks.column:CHECKS_VERSION")
        return {"kind": "checks", "checks_version": version}, lambda: load(
            "prefpipe.backends.scorers.checks_scorer:ChecksScorer"
        )(trust_python_checks=config.trust_python_checks)
    if spec.kind == "ratings":
        scorer = load("prefpipe.backends.scorers.ratings:RatingsScorer")(
            spec.target,
            rating_column=config.rating_column,
            on_duplicate=config.on_duplicate,
            skip_bad_rows=config.skip_bad_rows,
        )
        for note in scorer.notes_of_reading:
            runtime.log(note)
        return {"kind": "ratings", **scorer.identity()}, lambda: scorer
    if spec.kind == "judge":
        found, settings, desk = language_judge(
            config,
            parse_judge(spec.target),
            runtime,
            kind="pointwise",
            verdict="either",
            default_prompt="pointwise-v1",
        )
        return {**found, "kind": "judge", "engine": found["kind"]}, lambda: load(
            "prefpipe.backends.judges.llm_judge:JudgeScorer"
        )(settings, desk)
    model = locate(spec.target, trust_remote_code=config.trust_remote_code)
    model = model.dated(template_date(config, [config.candidates]))
    identity = {
        "kind": spec.kind,
        **model.identity(),
        "max_length": config.max_length,
        "dtype": config.dtype,
    }
    return identity, lambda: load("prefpipe.backends.scorers.reward_model:RewardModelScorer")(
        model,
        dtype=config.dtype,
        device=config.device,
        batch_size=config.batch_size,
        max_length=config.max_length,
        trust_remote_code=config.trust_remote_code,
    )


def judge_for(
    config: JudgeConfig, runtime: Runtime
) -> tuple[dict[str, Any], bool, Callable[[], Any]]:
    """Return what a judge of pairs is in the fingerprint, whether it sees an order, and how to open it."""
    spec, rule = parse_judge(config.judge), config.verdict_rule
    if spec.kind in ENGINES:
        default = "pairwise-letter-v1" if rule == "logprobs" else "pairwise-v1"
        identity, settings, desk = language_judge(
            config, spec, runtime, kind="pairwise", verdict=rule, default_prompt=default
        )
        return (
            identity,
            True,
            lambda: load("prefpipe.backends.judges.llm_judge:LlmJudge")(settings, desk),
        )
    identity = {
        "kind": spec.kind,
        "target": spec.model,
        "verdict": rule,
        "tie_tolerance": config.tie_tolerance,
    }
    open_scorer = load("prefpipe.backends.fake:FakeScorer")
    if spec.kind == "reward-model":
        model = locate(spec.model, trust_remote_code=config.trust_remote_code)
        model = model.dated(template_date(config, [config.a, config.b]))
        identity |= {
            **model.identity(),
            "target": "",
            "max_length": config.max_length,
            "dtype": config.dtype,
        }
        open_scorer = lambda: load("prefpipe.backends.scorers.reward_model:RewardModelScorer")(  # noqa: E731 - beside its identity
            model,
            dtype=config.dtype,
            device=config.device,
            batch_size=config.batch_size,
            max_length=config.max_length,
            trust_remote_code=config.trust_remote_code,
        )
    return (
        identity,
        False,
        lambda: load("prefpipe.backends.judges.reward_judge:RewardJudge")(
            open_scorer(), rule=rule, tie_tolerance=config.tie_tolerance
        ),
    )


def language_judge(
    config: JudgingConfig,
    spec: JudgeSpec,
    runtime: Runtime,
    *,
    kind: str,
    verdict: str,
    default_prompt: str,
) -> tuple[dict[str, Any], Any, Any]:
    """Return a language model's identity as a judge, its settings, and the desk that answers its questions."""
    prompt = load("prefpipe.backends.judges.judge_prompt_files:read_judge_prompt")(
        config.judge_prompt or default_prompt, kind
    )
    max_tokens = config.judge_max_tokens or load(
        "prefpipe.backends.judges.llm_judge:default_max_tokens"
    )(prompt)
    if spec.kind == "openai":
        name, model_identity = spec.model, {"served": spec.model}
        open_source = lambda: _open_server(config, verdict, runtime)  # noqa: E731 - beside its identity
    else:
        model = locate(spec.model, trust_remote_code=getattr(config, "trust_remote_code", False))
        judged = [config.a, config.b] if isinstance(config, JudgeConfig) else [config.candidates]  # type: ignore[attr-defined]
        model = model.dated(template_date(config, judged))
        load("prefpipe.models.files:require_chat_template")(model)
        model_identity = {
            **model.identity(),
            **{key: getattr(config, key) for key in ("dtype", "max_length")},
        }
        digest = load("prefpipe.artifacts.fingerprint:fingerprint_of")(model_identity)
        name = f"{spec.kind}:{digest}"  # the model's name in the key of an answer

        def open_source() -> Any:
            source = load("prefpipe.backends.judges.engine_source:EngineSource")
            return source(_open_engine(config, spec, model))

    settings = load("prefpipe.backends.judges.llm_judge:JudgeSettings")(
        name, prompt, verdict, max_tokens, config.judge_temperature
    )
    mode = "collect" if config.emit_batch else "ingest" if config.ingest_batch else "ask"
    read_answers = load("prefpipe.artifacts.interchange.judge_batch:read_batch_answers")
    cache = load("prefpipe.artifacts.answer_cache:AnswerCache")(
        config.cache or config.output / "answers"
    )
    desk = load("prefpipe.backends.judges.judge_desk:JudgeDesk")(
        open_source,
        cache,
        mode=mode,
        batch=read_answers(config.ingest_batch),
        ask_again=not isinstance(config, JudgeConfig) or config.retry_errors,
        is_served=spec.kind == "openai",
    )
    return {"kind": spec.kind, **model_identity, **settings.identity()}, settings, desk


def _open_server(config: JudgingConfig, verdict: str, runtime: Runtime) -> Any:
    settings = load("prefpipe.backends.chat_client:ServerSettings")(
        base_url=config.base_url,
        concurrency=config.concurrency,
        requests_per_minute=config.requests_per_minute,
        timeout_s=config.timeout_s,
        max_tries=config.max_tries,
        can_do_without=("logprobs", "top_logprobs") if verdict == "either" else (),
        needs_logprobs=verdict == "logprobs",
    )
    return load("prefpipe.backends.chat_client:ChatClient")(settings, _surroundings(runtime))


def _open_engine(config: Any, spec: JudgeSpec, model: Any) -> Any:
    if spec.kind == "vllm":
        return load("prefpipe.backends.generators.vllm_engine:VllmGenerator")(
            model,
            dtype=config.dtype,
            max_model_len=config.max_length,
            trust_remote_code=config.trust_remote_code,
            tensor_parallel_size=getattr(
                config, "tensor_parallel_size", 1
            ),  # score has none of these flags
            gpu_memory_utilization=getattr(config, "gpu_memory_utilization", 0.9),
            enable_prefix_caching=True,
            enforce_eager=getattr(config, "enforce_eager", False),
        )
    return load("prefpipe.backends.generators.hf_generator:HfGenerator")(
        model,
        dtype=config.dtype,
        device=config.device,
        batch_size=config.batch_size,
        max_model_len=config.max_length,
        trust_remote_code=config.trust_remote_code,
    )


def pair_rater(config: PairsConfig, runtime: Runtime) -> Any:
    """Return what rates pairs of responses, None where the file has the scores."""
    if config.model is None:
        return None
    if config.model == FAKE:
        return load("prefpipe.stages.pairs.rating:scorer_rater")(
            {FAKE: FAKE}, FAKE, load("prefpipe.backends.fake:FakeScorer")
        )
    day = template_date(config)
    model = locate(config.model, trust_remote_code=config.trust_remote_code).dated(day)
    if config.reward_model:
        return load("prefpipe.stages.pairs.rewards:reward_rater")(config, model)
    named = config.reference not in (None, BASE)
    reference = (
        locate(config.reference or "", trust_remote_code=config.trust_remote_code).dated(day)
        if named
        else None
    )
    return load("prefpipe.stages.pairs.policies:policy_rater")(
        config, model, reference, runtime.log
    )
