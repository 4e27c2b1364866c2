"""Names to objects: the only place that turns a config into models, back-ends and a stage.

Back-ends and stages are reached through import strings, so that a command imports what it needs and nothing else;
models are located and hashed here, and opened by the stage when the first part that needs them is made.
"""

import os
import platform
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from prefpipe import __version__
from prefpipe.artifacts.store import Shard
from prefpipe.configs.embed import EmbedConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.options import PartwiseConfig, StageConfig
from prefpipe.configs.score import ScoreConfig, ScorerSpec, parse_scorer
from prefpipe.configs.select import SelectConfig
from prefpipe.errors import UsageError
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
    shard = shard_of(config, os.environ) if isinstance(config, PartwiseConfig) else Shard()
    if shard.count > 1:
        log(f"shard {shard.index} of {shard.count}")
    return Runtime(log=log, should_stop=should_stop, progress=progress, context=context_of(argv), shard=shard)


def shard_of(config: PartwiseConfig, environment: Mapping[str, str]) -> Shard:
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
    samplers = [sampler(name, *generator_for(config, name)) for name in config.model]
    result: Summary = run(config, samplers, runtime)
    return result


def generator_for(config: GenerateConfig, name: str) -> tuple[dict[str, Any], Callable[[], Any]]:
    """Return what a sampler is in the fingerprint, and how to open it."""
    if config.backend == "fake":
        return {"fake": name}, lambda: load("prefpipe.backends.fake:FakeGenerator").from_reference(name)
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
        return {"kind": "checks", "checks_version": version}, load("prefpipe.backends.checks_scorer:ChecksScorer")
    if spec.kind == "ratings":
        scorer = load("prefpipe.backends.ratings:RatingsScorer")(spec.target, rating_column=config.rating_column)
        return {"kind": "ratings", **scorer.identity()}, lambda: scorer
    model = locate(spec.target, trust_remote_code=config.trust_remote_code)
    identity = {"kind": spec.kind, **model.identity(), "max_length": config.max_length, "dtype": config.dtype}
    return identity, lambda: load("prefpipe.backends.reward_model:RewardModelScorer")(
        model, dtype=config.dtype, device=config.device, batch_size=config.batch_size, max_length=config.max_length,
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


_RUNNERS: dict[str, Callable[[Any, Runtime], Summary]] = {
    "generate": _generate, "score": _score, "embed": _embed, "select": _select,
}  # fmt: skip
