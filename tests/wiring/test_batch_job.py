"""Which worker a process is, by flags and by the variables of a batch system."""

from pathlib import Path

import pytest

from prefpipe.artifacts.store import Shard
from prefpipe.configs.select import SelectConfig
from prefpipe.errors import UsageError
from prefpipe.wiring.batch_job import Worker, end_of_job, worker_of


def config(**changes: object) -> SelectConfig:
    settings = {
        "candidates": Path("c"),
        "scores": Path("s"),
        "output": Path("run/groups"),
        "strategy": "bottom-k",
        "k": 2,
    }
    return SelectConfig(**(settings | changes))


def array(tasks: list[int], task: int, step: int = 1) -> dict[str, str]:
    """Return what Slurm sets in a task of an array."""
    return {
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_COUNT": str(len(tasks)),
        "SLURM_ARRAY_TASK_MIN": str(min(tasks)),
        "SLURM_ARRAY_TASK_MAX": str(max(tasks)),
        "SLURM_ARRAY_TASK_STEP": str(step),
    }


@pytest.mark.parametrize(
    ("tasks", "step"),
    [
        ([0, 1, 2, 3], 1),
        ([1, 2, 3, 4], 1),
        ([5, 6, 7], 1),
        ([0, 4, 8, 12], 4),
        ([1, 3, 5], 2),
        ([1, 3], 1),  # a list: Slurm's step is of no use
        ([2, 9], 2),
        ([7], 1),
    ],
)
def test_every_task_of_an_array_has_its_place_and_all_together_make_all_parts(
    tasks: list[int], step: int
) -> None:
    shards = [worker_of(config(), array(tasks, task, step)).shard for task in tasks]
    assert shards == [Shard(place, len(tasks)) for place in range(len(tasks))]
    assert sorted(part for shard in shards for part in shard.parts(11)) == list(range(11))


@pytest.mark.parametrize("tasks", [[0, 1, 4], [1, 2, 5, 6], [0, 3, 4, 9, 11]])
@pytest.mark.parametrize("step", [1, 3])
def test_an_array_with_other_gaps_is_refused_in_every_task(tasks: list[int], step: int) -> None:
    for task in tasks:
        with pytest.raises(
            UsageError, match=f"{len(tasks)} tasks from {tasks[0]} to {tasks[-1]}, with gaps"
        ) as caught:
            worker_of(config(), array(tasks, task, step))
        assert "--shard-index $SLURM_ARRAY_TASK_ID --num-shards N" in caught.value.hint
        assert "--no-shards" in caught.value.hint


@pytest.mark.parametrize("task", [0, 1, 4])
def test_flags_and_no_shards_help_where_an_array_is_refused(task: int) -> None:
    variables = array([0, 1, 4], task)
    assert worker_of(config(shard_index=task, num_shards=5), variables) == Worker(Shard(task, 5))
    assert worker_of(config(shards=False), variables).shard == Shard(0, 1)


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        (
            {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "2"},
            "SLURM_ARRAY_TASK_ID=2 does not fit SLURM_ARRAY_TASK_COUNT=2",
        ),
        (array([1, 2], 3), "tasks are numbered from 1 to 2"),
        (array([0, 2, 4], 3, step=2), "numbered from 0 to 4 in steps of 2"),
        (
            {"SLURM_ARRAY_TASK_ID": "-1", "SLURM_ARRAY_TASK_COUNT": "2"},
            "SLURM_ARRAY_TASK_ID=-1 is not a whole number",
        ),
        (
            {"SLURM_ARRAY_TASK_ID": "²", "SLURM_ARRAY_TASK_COUNT": "2"},
            "SLURM_ARRAY_TASK_ID=² is not a whole number",
        ),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "0"}, "0 tasks from 0 to -1"),
        (
            {"PREFPIPE_SHARD_INDEX": "3", "PREFPIPE_NUM_SHARDS": "3"},
            "PREFPIPE_SHARD_INDEX=3 does not fit PREFPIPE_NUM_SHARDS=3",
        ),
    ],
)
def test_what_does_not_fit_is_refused(variables: dict[str, str], complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        worker_of(config(), variables)
    assert complaint in caught.value.message


def test_a_shard_from_the_environment_is_said_with_its_source_and_what_switches_it_off() -> None:
    worker = worker_of(config(), array([1, 2, 3, 4], 2))
    assert worker.describe(Path("run/groups")) == [
        (
            "shard 1 of 4, from SLURM_ARRAY_TASK_ID=2 of the array 1-4; pass --no-shards if each "
            "task is a separate run"
        )
    ]
    assert worker_of(config(shard_index=1, num_shards=4), {}).describe(Path("run/groups")) == [
        "shard 1 of 4"
    ]
    assert worker_of(config(), {}).describe(Path("run/groups-1")) == []
    assert worker_of(config(shards=False), array([1, 2], 2)).describe(Path("run/groups-2")) == []


@pytest.mark.parametrize(
    "output", ["sweep/groups-2", "sweep/2/groups", "seed_002/groups", "k2b/groups"]
)
def test_an_output_named_after_the_task_is_warned_about(output: str) -> None:
    warning = worker_of(config(), array([1, 2, 3, 4], 2)).describe(Path(output))[1]
    assert f"warning: -o {output} contains this task's number in" in warning
    assert "--no-shards" in warning


@pytest.mark.parametrize("output", ["run/groups", "run/groups-12", "run-20/groups", "v1.3/groups"])
def test_an_output_with_other_numbers_is_not(output: str) -> None:
    assert len(worker_of(config(), array([1, 2, 3, 4], 2)).describe(Path(output))) == 1


def test_no_shards_and_a_shard_by_hand_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--no-shards excludes --shard-index and --num-shards"):
        config(shards=False, shard_index=0, num_shards=2)


@pytest.mark.parametrize(
    ("text", "end"),
    [("1764450000", 1764450000.0), ("", None), ("0", None), ("N/A", None), ("-5", None)],
)
def test_the_end_of_the_job_where_slurm_says_it(text: str, end: float | None) -> None:
    assert end_of_job({"SLURM_JOB_END_TIME": text}) == end
    assert end_of_job({}) is None
