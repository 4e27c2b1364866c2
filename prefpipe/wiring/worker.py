"""The work of a worker, wherever a driver started it."""

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from prefpipe.configs.stages import STAGES
from prefpipe.errors import PrefpipeError
from prefpipe.wiring.stages import run_stage
from prefpipe.wiring.surroundings import StopSource, set_grace

if TYPE_CHECKING:
    from prefpipe.execution.channel import Channel


def work(channel: "Channel", stop: StopSource, on_lost_driver: Callable[[], None]) -> int:
    """Make the parts that a driver hands out, and return the exit code.

    Args:
        channel: the line to the driver, whose first message is the order.
        stop: whether this process itself was asked to stop.
        on_lost_driver: called when the driver is gone.
    """
    from prefpipe.artifacts.storage.bucket import UnconditionalWritesWarning
    from prefpipe.artifacts.storage.unreadable import failure_of_bucket
    from prefpipe.artifacts.store import Shard
    from prefpipe.execution.channel import Failure, Order
    from prefpipe.execution.library_output import library_output
    from prefpipe.execution.runtime import Runtime
    from prefpipe.execution.worker import Worker, WorkerIsDone

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
        is_hurried=stop.is_hurried,
        shard=Shard(order.shard_index, order.num_shards),
        executor=worker,
    )
    try:
        config_class = next(each for each in STAGES if each.stage == order.stage)
        config = config_class.from_values(order.values)
        set_grace(config, stop)
        # the driver has said it
        warnings.simplefilter("ignore", UnconditionalWritesWarning)
        with library_output(worker.log):
            run_stage(config, replace(runtime, grace_s=stop.grace_s))
    except WorkerIsDone:
        channel.send({"type": "end"})
        return 0
    except PrefpipeError as error:
        channel.send({"type": "error", **Failure.of(error).as_fields()})
        return error.exit_code
    except Exception as error:
        unread = failure_of_bucket(error)
        if unread is not None:
            channel.send({"type": "error", **Failure.of(unread).as_fields()})
            return unread.exit_code
        channel.send({"type": "error", **Failure.of(error).as_fields()})
        raise
    return 0
