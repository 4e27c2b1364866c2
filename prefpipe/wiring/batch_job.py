"""What a batch system sets in the environment: which worker this is, and when the job ends."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import Shard
from prefpipe.configs.stage import ShardedConfig
from prefpipe.errors import UsageError

ARRAY = "SLURM_ARRAY_TASK_"
OWN_VARIABLES = ("PREFPIPE_SHARD_INDEX", "PREFPIPE_NUM_SHARDS")
BY_HAND = f"--shard-index ${ARRAY}ID --num-shards N"
SWEEP = "pass --no-shards if each task is a separate run"


class Worker(NamedTuple):
    """A worker's share of the parts, and the variables that it comes from, "" for flags."""

    shard: Shard = Shard()
    source: str = ""
    task_id: str = ""

    def describe(self, output: Location) -> list[str]:
        """Return the first line of the log."""
        if self.shard.count == 1:
            return []
        line = f"shard {self.shard.index} of {self.shard.count}"
        if not self.source:
            return [line]

        lines = [f"{line}, from {self.source}; {SWEEP}"]
        named = _component_with(self.task_id, output) if self.task_id else None
        if named is not None:
            lines.append(
                f"warning: -o {output} contains this task's number in `{named}`. If every task "
                f"writes its own folder, each gets only a share of the parts: {SWEEP}"
            )
        return lines


def worker_of(config: ShardedConfig, environment: Mapping[str, str]) -> Worker:
    """Return this worker's share.

    It comes from flags, else PREFPIPE_SHARD_INDEX and PREFPIPE_NUM_SHARDS, else Slurm's array,
    unless the parts are claimed.

    Raises:
        UsageError: variables that contradict each other, or an array that is no row of numbers at
            equal distances. What is refused is refused in every task: all decide by what all see.
    """
    if config.shard_index is not None and config.num_shards is not None:
        return Worker(Shard(config.shard_index, config.num_shards))
    if not config.shards:
        return Worker()
    if any(name in environment for name in OWN_VARIABLES):
        return _of_own_variables(environment)
    # Tasks of an array that claim their parts are copies of one command.
    if config.claim:
        return Worker()
    if any(f"{ARRAY}{name}" in environment for name in ("ID", "COUNT")):
        return _of_array(environment)
    return Worker()


def end_of_job(environment: Mapping[str, str]) -> float | None:
    """Return when Slurm ends this job, in seconds since the epoch; None if it does not say."""
    text = environment.get("SLURM_JOB_END_TIME", "")
    return float(text) if text.isdecimal() and int(text) > 0 else None


def _of_own_variables(environment: Mapping[str, str]) -> Worker:
    index_name, count_name = OWN_VARIABLES
    index, count = _pair(environment, index_name, count_name)
    if index >= count:
        raise UsageError(
            f"{index_name}={index} does not fit {count_name}={count}: shards are numbered from 0",
            hint=f"set {index_name} to a number from 0 to {count - 1}",
        )
    return Worker(Shard(index, count), f"{index_name}={index} and {count_name}={count}")


def _of_array(environment: Mapping[str, str]) -> Worker:
    """Return the place of this task among the tasks of its array.

    Slurm gives the lowest and the highest number and how many there are, but not which: two tasks
    are the lowest and the highest, and as many as fit between them are all of them. For a step
    SLURM_ARRAY_TASK_STEP must agree, as ``0,1,4`` has the ends and the count of ``0-4:2``.
    """
    id_name, count_name = f"{ARRAY}ID", f"{ARRAY}COUNT"
    task, count = _pair(environment, id_name, count_name)
    first = _number(environment, f"{ARRAY}MIN", 0)
    last = _number(environment, f"{ARRAY}MAX", first + count - 1)
    step = _number(environment, f"{ARRAY}STEP", 1)
    # of two tasks the ends are all of them, whatever step the array was written with
    if count == 2:
        step = last - first

    if count < 1 or step < 1 or (count > 1 and first + (count - 1) * step != last):
        raise UsageError(
            f"this array has {count} tasks from {first} to {last}, with gaps, so parts cannot be "
            "assigned to tasks by number",
            hint=f"pass --claim, which needs no numbers, or {BY_HAND}, where N counts finished "
            f"shards too; {SWEEP}",
        )
    index, rest = divmod(task - first, step)
    if rest or not 0 <= index < count:
        steps = f" in steps of {step}" if step > 1 else ""
        raise UsageError(
            f"{id_name}={task} does not fit {count_name}={count}: tasks are numbered from {first} "
            f"to {last}{steps}",
            hint=f"pass {BY_HAND}; {SWEEP}",
        )

    numbers = f"{first}-{last}"
    if step > 1 and count > 1:
        numbers += f":{step}"
    return Worker(Shard(index, count), f"{id_name}={task} of the array {numbers}", str(task))


def _pair(environment: Mapping[str, str], index_name: str, count_name: str) -> tuple[int, int]:
    """Return two numbers that are set together.

    Raises:
        UsageError: one is not set.
    """
    if (index_name in environment) != (count_name in environment):
        raise UsageError(
            f"only one of {index_name} and {count_name} is set",
            hint="set both, or pass --shard-index and --num-shards, or --no-shards to make all "
            "parts",
        )
    return _number(environment, index_name, 0), _number(environment, count_name, 1)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(
            f"{name}={text} is not a whole number",
            hint="correct or unset it, or pass --no-shards to make all parts",
        )
    return int(text)


def _component_with(task_id: str, output: Location) -> str | None:
    """Return the piece of a path that holds the task's number, leading zeros or not."""
    for piece in str(output).split("/"):
        if any(int(digits) == int(task_id) for digits in re.findall(r"[0-9]+", piece)):
            return piece
    return None
