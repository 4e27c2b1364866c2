"""The executor of a stage, chosen by its flags."""

import os
from typing import TYPE_CHECKING

from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.judging import parse_judge
from prefpipe.configs.sampling import SERVED, SamplingConfig
from prefpipe.configs.score import ScoreConfig, parse_scorer
from prefpipe.configs.stage import ShardedConfig, StageConfig
from prefpipe.configs.workers import WorkersConfig
from prefpipe.execution.claim_source import claimed
from prefpipe.execution.this_process import OpenSource, ThisProcess, listed

if TYPE_CHECKING:
    from prefpipe.execution.driver import Crew
    from prefpipe.execution.runtime import Executor


def executor_for(config: StageConfig) -> "Executor":
    """Return the executor that makes the parts.

    Raises:
        UsageError: fewer GPUs than the workers need.
    """
    open_source = _source_of(config)
    if not isinstance(config, WorkersConfig) or config.workers is None:
        return ThisProcess(open_source)
    from prefpipe.execution.driver import Driver

    return Driver(_crew_of(config), open_source)


def _source_of(config: StageConfig) -> OpenSource:
    """Return the source of parts: a fixed share, or parts that no worker has claimed."""
    if isinstance(config, ShardedConfig) and config.claim:
        return claimed(config.lease_seconds)
    return listed


def _crew_of(config: WorkersConfig) -> "Crew":
    # An engine that spreads a model over several GPUs needs as many.
    n_each = config.gpus_per_worker
    n_tensor_parallel = getattr(config, "tensor_parallel_size", 1)
    if n_each is None and n_tensor_parallel > 1:
        n_each = n_tensor_parallel
    uses_gpus = runs_a_model_here(config)
    if config.on is not None:
        from prefpipe.execution.ray_workers import RayWorkers, address_of

        # None is left to the cluster, which has GPUs or has not.
        n_reserved = n_each if n_each is not None or uses_gpus else 0
        assert config.n_workers is not None, "the configuration asks for a number"
        return RayWorkers(address_of(config.on, os.environ), config.n_workers, n_reserved)

    from prefpipe.backends.visible_gpus import deal_gpus
    from prefpipe.execution.processes import LocalWorkers

    return LocalWorkers(deal_gpus(os.environ, config.n_workers, n_each, uses_gpus=uses_gpus))


def runs_a_model_here(config: WorkersConfig) -> bool:
    """Return whether workers run a model on a device, instead of calling a server or a fake."""
    if getattr(config, "device", "auto") == "cpu":
        return False
    if isinstance(config, SamplingConfig):
        return config.backend not in SERVED
    if isinstance(config, ScoreConfig):
        return any(_scorer_runs_a_model(text) for text in config.scorer)
    if isinstance(config, JudgeConfig):
        return parse_judge(config.judge).kind not in SERVED
    return getattr(config, "model", None) != "fake"


def _scorer_runs_a_model(text: str) -> bool:
    scorer = parse_scorer(text)
    if scorer.kind == "judge":
        return parse_judge(scorer.target).kind != "openai"
    return scorer.kind == "reward-model"
