"""Who makes the parts of a stage, as its flags say; and what a worker does."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.judging import parse_judge
from prefpipe.configs.sampling import SamplingConfig
from prefpipe.configs.score import ScoreConfig, parse_scorer
from prefpipe.configs.stage import StageConfig
from prefpipe.configs.workers import WorkersConfig

if TYPE_CHECKING:
    from prefpipe.execution.channel import Channel
    from prefpipe.execution.driver import Crew
    from prefpipe.execution.runtime import Executor
    from prefpipe.wiring.surroundings import StopSource


def executor_for(config: StageConfig) -> "Executor | None":
    """Return who makes the parts, None for this process alone.

    Raises:
        UsageError: fewer GPUs than the workers need.
    """
    if not isinstance(config, WorkersConfig) or config.workers is None:
        return None
    from prefpipe.execution.driver import Driver

    return Driver(_crew_of(config))


def _crew_of(config: WorkersConfig) -> "Crew":
    from prefpipe.backends.visible_gpus import deal_gpus
    from prefpipe.execution.processes import LocalWorkers

    # An engine that spreads a model over several GPUs needs as many.
    n_each = config.gpus_per_worker
    n_tensor_parallel = getattr(config, "tensor_parallel_size", 1)
    if n_each is None and n_tensor_parallel > 1:
        n_each = n_tensor_parallel
    uses_gpus = _runs_a_model_here(config)
    return LocalWorkers(deal_gpus(os.environ, config.n_workers, n_each, uses_gpus=uses_gpus))


def _runs_a_model_here(config: WorkersConfig) -> bool:
    """Return whether workers run a model on a device, and do not ask a server or a fake."""
    if getattr(config, "device", "auto") == "cpu":
        return False
    if isinstance(config, SamplingConfig):
        return config.backend not in ("openai", "fake")
    if isinstance(config, ScoreConfig):
        kinds = [parse_scorer(text).kind for text in config.scorer]
        return any(kind not in ("fake", "checks", "ratings") for kind in kinds)
    if isinstance(config, JudgeConfig):
        return parse_judge(config.judge).kind not in ("openai", "fake")
    return getattr(config, "model", None) != "fake"


def work(channel: "Channel", stop: "StopSource", on_lost_driver: Callable[[], None]) -> int:
    """Make the parts that a driver hands out, and return the exit code.

    Args:
        channel: the line to the driver, whose first message is the order.
        stop: whether this process itself was asked to stop.
        on_lost_driver: called when the driver is gone.
    """
    from prefpipe.artifacts.store import Shard
    from prefpipe.configs.stages import STAGES
    from prefpipe.errors import PrefpipeError
    from prefpipe.execution.channel import Failure, Order
    from prefpipe.execution.runtime import Runtime
    from prefpipe.execution.worker import Worker, WorkerIsDone
    from prefpipe.wiring.stages import run_stage

    message = channel.receive()
    if message is None:
        return 1
    order = Order.of(message)
    os.chdir(order.folder)
    worker = Worker(channel, on_lost_driver)
    runtime = Runtime(
        log=worker.log,
        should_stop=lambda: stop() or worker.should_stop(),
        finishing=stop.finishing,
        interruptible=stop.interruptible,
        shard=Shard(order.shard_index, order.num_shards),
        executor=worker,
    )
    try:
        config_class = next(each for each in STAGES if each.stage == order.stage)
        run_stage(config_class.from_values(order.values), runtime)
    except WorkerIsDone:
        channel.send({"type": "end"})
        return 0
    except PrefpipeError as error:
        channel.send({"type": "error", **Failure.of(error).as_fields()})
        return error.exit_code
    except Exception as error:
        channel.send({"type": "error", **Failure.of(error).as_fields()})
        raise
    return 0
