"""Names to objects: the only place that turns a config into models, back-ends and a stage.

Back-ends and stages are reached through import strings, so that a command imports what it needs and nothing else;
models are located and hashed here, and opened by the stage when the first part that needs them is made.
"""

import os
import platform
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from prefpipe import __version__
from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.store import Artifact, Shard, open_input
from prefpipe.configs.embed import EmbedConfig
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.export_groups import ANSWER_FORMATS, ExportConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.import_files import ImportConfig
from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.judging import ENGINES, JudgeSpec, JudgingConfig, parse_judge
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.options import ShardedConfig, StageConfig
from prefpipe.configs.pairs import BASE, FAKE, PairsConfig
from prefpipe.configs.sampling import SamplingConfig
from prefpipe.configs.score import ScoreConfig, ScorerSpec, parse_scorer
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.stages.runtime import Advance, Runtime, Summary

VERSIONED = ("torch", "transformers", "vllm", "pyarrow", "numpy", "scikit-learn", "peft", "accelerate")


def load(reference: str) -> Any:
    """Return what an import string ``package.module:name`` names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def run_stage(config: StageConfig, runtime: Runtime) -> Summary:
    """Run the stage that a config belongs to."""
    summary = _RUNNERS[config.stage](config, runtime)
    assert isinstance(summary, Summary)
    return summary


def runtime_for(
    config: StageConfig, *, log: Callable[[str], None], should_stop: Callable[[], bool],
    progress: Callable[[str, int], AbstractContextManager[Advance]], argv: Sequence[str],
) -> Runtime:  # fmt: skip
    """Return the stage's surroundings; the shard comes from the flags, or from the Slurm array variables."""
    without = ", without --overwrite," if config.overwrite else ""  # which would throw away what is finished
    how_to_go_on = f"run the same command again{without} to go on"
    shard = shard_of(config, os.environ) if isinstance(config, ShardedConfig) else Shard()
    if shard.count > 1:
        log(f"shard {shard.index} of {shard.count}")
    return Runtime(
        log=log, should_stop=should_stop, progress=progress, context=context_of(argv), shard=shard, how_to_go_on=how_to_go_on
    )


def shard_of(config: ShardedConfig, environment: Mapping[str, str]) -> Shard:
    """Return this worker's share: flags, else PREFPIPE_SHARD_INDEX / _NUM_SHARDS, else the Slurm array variables.

    Errors:
        UsageError: one variable of a pair is set without the other, or the index does not fit the count.
    """
    if config.shard_index is not None and config.num_shards is not None:
        return Shard(config.shard_index, config.num_shards)
    for index_name, count_name in (
        ("PREFPIPE_SHARD_INDEX", "PREFPIPE_NUM_SHARDS"),
        ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ):
        index, count = environment.get(index_name), environment.get(count_name)
        if (index is None) != (count is None):
            raise UsageError(
                f"only one of {index_name} and {count_name} is set", hint="set both, or pass --shard-index and --num-shards"
            )
        if index is not None and count is not None:
            if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
                raise UsageError(
                    f"{index_name}={index} does not fit {count_name}={count}: shards are numbered from 0",
                    hint="when only some tasks of an array are run again, pass --shard-index and --num-shards yourself",
                )
            return Shard(int(index), int(count))
    return Shard()


def context_of(argv: Sequence[str]) -> dict[str, Any]:
    """Return what ``run.json`` records beside the identity: command line, host, versions."""
    versions = {"prefpipe": __version__, "python": platform.python_version()}
    for name in VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"command": ["prefpipe", *argv[1:]], "host": socket.gethostname(), "folder": str(Path.cwd()), "versions": versions}


def _generate(config: GenerateConfig, runtime: Runtime) -> Summary:
    run, sampler = load("prefpipe.stages.generate:run"), load("prefpipe.stages.generate:Sampler")
    samplers = [
        sampler(name.partition(":")[0] if config.backend == "fake" else name, *generator_for(config, name))
        for name in config.model
    ]
    result: Summary = run(config, samplers, runtime)
    return result


def generator_for(config: GenerateConfig, name: str) -> tuple[dict[str, Any], Callable[[], Any]]:
    """Return what a sampler is in the fingerprint, and how to open it."""
    if config.backend == "fake":
        name, knobs = fake_knobs(name)
        return {"fake": name}, lambda: load("prefpipe.backends.fake:FakeGenerator")(**knobs)
    if config.backend == "openai":
        return {"served": name}, lambda: load("prefpipe.backends.openai_server:OpenAIGenerator")(
            name, base_url=config.base_url, concurrency=config.batch_size, max_model_len=config.max_model_len
        )
    model = locate(name, trust_remote_code=config.trust_remote_code)
    load("prefpipe.artifacts.model_files:require_chat_template")(model)
    if config.backend == "vllm":
        return model.identity(), lambda: load("prefpipe.backends.vllm_engine:VllmGenerator")(
            model, dtype=config.dtype, max_model_len=config.max_model_len, trust_remote_code=config.trust_remote_code,
            tensor_parallel_size=config.tensor_parallel_size, gpu_memory_utilization=config.gpu_memory_utilization,
            enable_prefix_caching=config.enable_prefix_caching, enforce_eager=config.enforce_eager,
        )  # fmt: skip
    return model.identity(), lambda: load("prefpipe.backends.hf_generator:HfGenerator")(
        model, dtype=config.dtype, device=config.device, batch_size=config.batch_size, max_model_len=config.max_model_len,
        trust_remote_code=config.trust_remote_code,
    )  # fmt: skip


def fake_knobs(reference: str) -> tuple[str, dict[str, float]]:
    """Return name and knobs of ``fake:delay_s=0.01,error_rate=0.1``; the delay is no part of the name, the rows stay the same."""
    name, _, rest = reference.partition(":")
    try:
        knobs = {key: float(value) for key, _, value in (pair.partition("=") for pair in rest.split(",") if pair)}
    except ValueError as error:
        raise UsageError(f"--model {reference}: a fake takes numbers, fake:delay_s=0.01,error_rate=0.1") from error
    unknown = sorted(knobs.keys() - {"delay_s", "error_rate", "max_model_len"})
    if unknown:
        raise UsageError(f"--model {reference}: a fake has no `{unknown[0]}`; it has delay_s, error_rate, max_model_len")
    if "max_model_len" in knobs:
        knobs["max_model_len"] = int(knobs["max_model_len"])
    return ":".join([name, *(f"{key}={value:g}" for key, value in sorted(knobs.items()) if key != "delay_s")]), knobs


def locate(reference: str, *, trust_remote_code: bool = False) -> Any:
    """Return the files of a model given as a folder, ``org/name[@revision]``, GGUF file or ``bundled:NAME``."""
    return load("prefpipe.backends.model_location:locate_model")(reference, trust_remote_code=trust_remote_code)


def _score(config: ScoreConfig, runtime: Runtime) -> Summary:
    run, rater = load("prefpipe.stages.score:run"), load("prefpipe.stages.score:Rater")
    raters = [rater(spec.name, *scorer_for(config, spec)) for spec in map(parse_scorer, config.scorer)]
    result: Summary = run(config, raters, runtime)
    return result


def scorer_for(config: ScoreConfig, spec: ScorerSpec) -> tuple[dict[str, Any], Callable[[], Any]]:
    """Return what a scorer is in the fingerprint, and how to open it."""
    if spec.kind == "fake":
        return {"kind": "fake", "target": spec.target}, load("prefpipe.backends.fake:FakeScorer")
    if spec.kind == "checks":
        version = load("prefpipe.text.checks:CHECKS_VERSION")
        return {"kind": "checks", "checks_version": version}, lambda: load("prefpipe.backends.checks_scorer:ChecksScorer")(
            trust_python_checks=config.trust_python_checks
        )
    if spec.kind == "ratings":
        scorer = load("prefpipe.backends.ratings:RatingsScorer")(spec.target, rating_column=config.rating_column)
        return {"kind": "ratings", **scorer.identity()}, lambda: scorer
    if spec.kind == "judge":
        found, settings, desk = language_judge(
            config, parse_judge(spec.target), kind="pointwise", verdict="either", default_prompt="pointwise-v1"
        )
        return {**found, "kind": "judge", "engine": found["kind"]}, lambda: load("prefpipe.backends.llm_judge:JudgeScorer")(
            settings, desk
        )
    model = locate(spec.target, trust_remote_code=config.trust_remote_code)
    identity = {"kind": spec.kind, **model.identity(), "max_length": config.max_length, "dtype": config.dtype}
    return identity, lambda: load("prefpipe.backends.reward_model:RewardModelScorer")(
        model, dtype=config.dtype, device=config.device, batch_size=config.batch_size, max_length=config.max_length,
        trust_remote_code=config.trust_remote_code,
    )  # fmt: skip


def _judge(config: JudgeConfig, runtime: Runtime) -> Summary:
    run, judge = load("prefpipe.stages.judge:run"), load("prefpipe.stages.judge:Judge")
    result: Summary = run(config, judge(*judge_for(config)), runtime)
    return result


def judge_for(config: JudgeConfig) -> tuple[dict[str, Any], bool, Callable[[], Any]]:
    """Return what a judge of pairs is in the fingerprint, whether it sees an order, and how to open it."""
    spec, rule = parse_judge(config.judge), config.verdict_rule
    if spec.kind in ENGINES:
        default = "pairwise-letter-v1" if rule == "logprobs" else "pairwise-v1"
        identity, settings, desk = language_judge(config, spec, kind="pairwise", verdict=rule, default_prompt=default)
        return identity, True, lambda: load("prefpipe.backends.llm_judge:LlmJudge")(settings, desk)
    identity = {"kind": spec.kind, "target": spec.model, "verdict": rule, "tie_tolerance": config.tie_tolerance}
    open_scorer = load("prefpipe.backends.fake:FakeScorer")
    if spec.kind == "reward-model":
        model = locate(spec.model, trust_remote_code=config.trust_remote_code)
        identity |= {**model.identity(), "target": "", "max_length": config.max_length, "dtype": config.dtype}
        open_scorer = lambda: load("prefpipe.backends.reward_model:RewardModelScorer")(  # noqa: E731 - beside its identity
            model, dtype=config.dtype, device=config.device, batch_size=config.batch_size, max_length=config.max_length,
            trust_remote_code=config.trust_remote_code,
        )  # fmt: skip
    return (
        identity,
        False,
        lambda: load("prefpipe.backends.reward_judge:RewardJudge")(open_scorer(), rule=rule, tie_tolerance=config.tie_tolerance),
    )


def language_judge(
    config: JudgingConfig, spec: JudgeSpec, *, kind: str, verdict: str, default_prompt: str
) -> tuple[dict[str, Any], Any, Any]:
    """Return a language model's identity as a judge, its settings, and the desk that answers its questions."""
    prompt = load("prefpipe.backends.judge_prompt_files:read_judge_prompt")(config.judge_prompt or default_prompt, kind)
    max_tokens = config.judge_max_tokens or load("prefpipe.backends.llm_judge:default_max_tokens")(prompt)
    if spec.kind == "openai":
        name, model_identity = spec.model, {"served": spec.model}
        open_source = lambda: _open_server(config, is_flexible=verdict == "either")  # noqa: E731 - beside its identity
    else:
        model = locate(spec.model, trust_remote_code=getattr(config, "trust_remote_code", False))
        load("prefpipe.artifacts.model_files:require_chat_template")(model)
        model_identity = {**model.identity(), **{key: getattr(config, key) for key in ("dtype", "max_length")}}
        digest = load("prefpipe.artifacts.fingerprint:fingerprint_of")(model_identity)
        name = f"{spec.kind}:{digest}"  # the model's name in the key of an answer
        open_source = lambda: load("prefpipe.backends.engine_source:EngineSource")(_open_engine(config, spec, model))  # noqa: E731
    settings = load("prefpipe.backends.llm_judge:JudgeSettings")(name, prompt, verdict, max_tokens, config.judge_temperature)
    mode = "collect" if config.emit_batch else "ingest" if config.ingest_batch else "ask"
    read_answers = load("prefpipe.artifacts.interchange.judge_batch:read_batch_answers")
    cache = load("prefpipe.artifacts.answer_cache:AnswerCache")(config.cache or config.output / "answers")
    desk = load("prefpipe.backends.judge_desk:JudgeDesk")(
        open_source,
        cache,
        mode=mode,
        batch=read_answers(config.ingest_batch),
        ask_again=not isinstance(config, JudgeConfig) or config.retry_errors,
    )
    return {"kind": spec.kind, **model_identity, **settings.identity()}, settings, desk


def _open_server(config: JudgingConfig, *, is_flexible: bool) -> Any:
    settings = load("prefpipe.backends.chat_client:ServerSettings")(
        config.base_url, config.concurrency, config.requests_per_minute, config.timeout_s, config.max_tries, is_flexible
    )
    return load("prefpipe.backends.chat_client:ChatClient")(settings)


def _open_engine(config: Any, spec: JudgeSpec, model: Any) -> Any:
    if spec.kind == "vllm":
        return load("prefpipe.backends.vllm_engine:VllmGenerator")(
            model, dtype=config.dtype, max_model_len=config.max_length, trust_remote_code=config.trust_remote_code,
            tensor_parallel_size=getattr(config, "tensor_parallel_size", 1),  # score has none of these flags
            gpu_memory_utilization=getattr(config, "gpu_memory_utilization", 0.9),
            enable_prefix_caching=True, enforce_eager=getattr(config, "enforce_eager", False),
        )  # fmt: skip
    return load("prefpipe.backends.hf_generator:HfGenerator")(
        model, dtype=config.dtype, device=config.device, batch_size=config.batch_size, max_model_len=config.max_length,
        trust_remote_code=config.trust_remote_code,
    )  # fmt: skip


def _embed(config: EmbedConfig, runtime: Runtime) -> Summary:
    run = load("prefpipe.stages.embed:run")
    if config.model == "fake":
        identity, opener = {"fake": config.model}, load("prefpipe.backends.fake:FakeEmbedder")
    else:
        model = locate(config.model, trust_remote_code=config.trust_remote_code)
        identity = model.identity()
        opener = lambda: load("prefpipe.backends.sentence_embedder:SentenceEmbedder")(  # noqa: E731 - beside its identity
            model, device=config.device, batch_size=config.batch_size, max_length=config.max_length,
            trust_remote_code=config.trust_remote_code,
        )  # fmt: skip
    result: Summary = run(config, identity, opener, runtime)
    return result


def _select(config: SelectConfig, runtime: Runtime) -> Summary:
    result: Summary = load("prefpipe.stages.select:run")(config, runtime)
    return result


def _train(config: TrainConfig, runtime: Runtime) -> Summary:
    model = locate(config.model, trust_remote_code=config.trust_remote_code)
    name = config.reference_model
    reference = locate(name, trust_remote_code=config.trust_remote_code) if name not in (None, "base") else None
    result: Summary = load("prefpipe.stages.train:run")(config, model, runtime, reference_model=reference)
    return result


def _logprobs(config: LogprobsConfig, runtime: Runtime) -> Summary:
    model = locate(config.model, trust_remote_code=config.trust_remote_code)
    result: Summary = load("prefpipe.stages.logprobs:run")(config, model, runtime)
    return result


def _eval(config: EvalConfig, runtime: Runtime) -> Summary:
    side = load("prefpipe.stages.eval_recipe:Side")
    names = load("prefpipe.stages.eval:SIDES")
    if config.reward is not None and config.policy_scores is None and config.baseline_scores is None:
        names = [parse_scorer(text).name for text in config.scorer]
        unknown = [name for name in load("prefpipe.maths.rewards:parse_reward")(config.reward).names if name not in names]
        if unknown:  # before an hour of sampling, not after
            raise UsageError(f"--reward {config.reward!r} names `{unknown[0]}`; --scorer gives: {', '.join(names) or 'none'}")
    sides = [side(getattr(config, name), *_artifacts_of(config, name, runtime)) for name in names]
    result: Summary = load("prefpipe.stages.eval:run")(config, *sides, runtime)
    return result


def _pairs(config: PairsConfig, runtime: Runtime) -> Summary:
    result: Summary = load("prefpipe.stages.pair_scores:run")(config, pair_rater(config, runtime), runtime)
    return result


def pair_rater(config: PairsConfig, runtime: Runtime) -> Any:
    """Return what rates pairs of responses, None where the file has the scores."""
    if config.model is None:
        return None
    if config.model == FAKE:
        return load("prefpipe.stages.pair_rating:scorer_rater")({FAKE: FAKE}, FAKE, load("prefpipe.backends.fake:FakeScorer"))
    model = locate(config.model, trust_remote_code=config.trust_remote_code)
    if config.reward_model:
        return load("prefpipe.stages.pair_rewards:reward_rater")(config, model)
    named = config.reference not in (None, BASE)
    reference = locate(config.reference or "", trust_remote_code=config.trust_remote_code) if named else None
    return load("prefpipe.stages.pair_policies:policy_rater")(config, model, reference, runtime.log)


def _artifacts_of(config: EvalConfig, side: str, runtime: Runtime) -> tuple[Artifact, Artifact]:
    """Return a side's candidates and scores: those given, or made now by the same stages as everywhere else."""
    reference, scores = getattr(config, side), getattr(config, f"{side}_scores")
    candidates, folder = Path(reference), config.output / side
    shared: dict[str, Any] = {"overwrite": config.overwrite, "max_error_rate": config.max_error_rate}
    if not _is_candidates(candidates):
        if config.prompts is None:
            raise UsageError(f"--{side} {reference} is a model, so --prompts is needed", hint="pass the held-out prompts file")
        candidates = folder / "candidates"
        names = {item.name for item in fields(SamplingConfig)} - shared.keys() - {"output"}
        sampling = {name: getattr(config, name) for name in names}
        runtime.log(f"{side}: {reference}")
        _generate(GenerateConfig(prompts=config.prompts, model=(reference,), output=candidates, **sampling, **shared), runtime)
    if scores is None:
        if not config.scorer:
            raise UsageError(f"--scorer or --{side.replace('_', '-')}-scores is needed to rate the responses of the {side}")
        scores = folder / "scores"
        rating: dict[str, Any] = {
            name: getattr(config, name) for name in ("scorer", "device", "batch_size", "trust_remote_code", "trust_python_checks")
        }
        _score(ScoreConfig(candidates=candidates, output=scores, **rating, **shared), runtime)
    return (open_input(candidates, schema="candidates", name=f"--{side}"),
            open_input(scores, schema="scores", name=f"--{side}-scores"))  # fmt: skip


def _import(config: ImportConfig, runtime: Runtime) -> Summary:
    result: Summary = load("prefpipe.stages.import_files:run")(config, runtime)
    return result


def _export(config: ExportConfig, runtime: Runtime) -> Summary:
    of_candidates = config.format in ANSWER_FORMATS
    result: Summary = load("prefpipe.stages.export_candidates:run" if of_candidates else "prefpipe.stages.export_groups:run")(
        config, runtime
    )
    return result


def _is_candidates(path: Path) -> bool:
    try:
        return read_run_record(path).schema.partition("/")[0] == "candidates"
    except InputError:
        return False


_RUNNERS: dict[str, Callable[[Any, Runtime], Summary]] = {
    "generate": _generate, "score": _score, "embed": _embed, "select": _select, "logprobs": _logprobs, "train": _train,
    "judge": _judge, "eval": _eval, "import": _import, "export": _export,
    "eval rewardbench": _pairs, "eval calibration": _pairs,
}  # fmt: skip
