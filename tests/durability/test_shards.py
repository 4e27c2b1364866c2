"""Several workers on one artifact: the rows and the bytes of one undivided run, whatever the number of workers."""

from pathlib import Path

import pytest
from support.pipelines import assert_same_artifact, identities_of, rows_of, write_prompts
from support.stage_server import Command, StageServer

pytestmark = pytest.mark.slow

N_PROMPTS, PART_SIZE = 14, 2  # seven parts


def generate(prompts: Path, output: Path, *more: object, n: int = 3) -> list[str]:
    words = [
        "generate",
        prompts,
        "--backend",
        "fake",
        "--model",
        "fake",
        "--n",
        n,
        "--part-size",
        PART_SIZE,
        "-o",
        output,
        *more,
    ]
    return [str(word) for word in words]


def shard(words: list[str], index: int, count: int) -> Command:
    return Command([*words, "--shard-index", str(index), "--num-shards", str(count)])


@pytest.fixture(scope="module")
def undivided(stages: StageServer, fast_root: Path) -> Path:
    """A folder with prompts and the artifacts of all stages, each made by one worker."""
    folder = fast_root / "undivided"
    folder.mkdir()
    write_prompts(folder / "prompts.jsonl", N_PROMPTS)
    commands = [
        generate(folder / "prompts.jsonl", folder / "generate"),
        *later_stages(folder, folder),
    ]
    for words in commands:
        assert stages.run(*words).code == 0
    return folder


def later_stages(inputs: Path, outputs: Path) -> list[list[str]]:
    candidates = str(inputs / "generate")
    return [
        ["score", candidates, "--scorer", "fake", "-o", str(outputs / "score")],
        ["embed", candidates, "--model", "fake", "-o", str(outputs / "embed")],
        [
            "select",
            candidates,
            "--scores",
            str(inputs / "score"),
            "--embeddings",
            str(inputs / "embed"),
            "--k",
            "1",
            "-o",
            str(outputs / "select"),
        ],
    ]


@pytest.mark.parametrize("stage", ["generate", "score", "embed", "select"])
def test_two_shards_in_two_processes_at_once_equal_one_undivided_run(
    stages: StageServer, undivided: Path, folder: Path, stage: str
) -> None:
    words = {words[0]: words for words in later_stages(undivided, folder)}
    words["generate"] = generate(undivided / "prompts.jsonl", folder / "generate")
    outcomes = stages.run_at_once([shard(words[stage], 0, 2), shard(words[stage], 1, 2)])
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert "shard 1 of 2" in outcomes[1].stderr
    assert_same_artifact(folder / stage, undivided / stage)


def test_a_whole_chain_runs_shard_by_shard_without_waiting_for_other_shards(
    stages: StageServer, undivided: Path, folder: Path
) -> None:
    """Part i of every stage speaks of the same prompts: shard 1 of 2 scores, embeds and selects while shard 0 has not begun."""
    commands = [
        generate(undivided / "prompts.jsonl", folder / "generate"),
        *later_stages(folder, folder),
    ]
    for index in (1, 0):
        for words in commands:
            outcome = stages.run_at_once([shard(words, index, 2)])[0]
            assert outcome.code == 0, outcome.stderr
    for stage in ("generate", "score", "embed", "select"):
        assert_same_artifact(folder / stage, undivided / stage)


def test_the_number_of_shards_may_change_between_reruns(
    stages: StageServer, undivided: Path, folder: Path
) -> None:
    """Shard 0 of 3 makes parts 0, 3, 6; then 1 of 2 makes 1 and 5 and keeps 3; then an undivided run makes 2 and 4."""
    words = generate(undivided / "prompts.jsonl", folder / "parts")
    assert stages.run_at_once([shard(words, 0, 3)])[0].code == 0
    first = identities_of(folder / "parts")
    assert sorted(first) == [f"part-{index:05d}-of-00007.parquet" for index in (0, 3, 6)]
    assert (
        "1 of 3 parts are finished and kept" in stages.run_at_once([shard(words, 1, 2)])[0].stderr
    )
    second = identities_of(folder / "parts")
    assert first.items() <= second.items()
    assert "5 of 7 parts are finished and kept" in stages.run(*words).stderr
    assert second.items() <= identities_of(folder / "parts").items()
    assert_same_artifact(folder / "parts", undivided / "generate")


def test_more_shards_than_parts_leave_some_workers_without_work_and_no_part_undone(
    stages: StageServer, undivided: Path, folder: Path
) -> None:
    words = generate(undivided / "prompts.jsonl", folder / "parts")
    outcomes = stages.run_at_once([shard(words, index, 9) for index in range(9)])
    assert [outcome.code for outcome in outcomes] == [0] * 9
    assert_same_artifact(folder / "parts", undivided / "generate")


def test_slurm_array_variables_are_the_shards(
    stages: StageServer, undivided: Path, folder: Path
) -> None:
    words = generate(undivided / "prompts.jsonl", folder / "parts")
    array = [
        Command(words, env={"SLURM_ARRAY_TASK_ID": str(i), "SLURM_ARRAY_TASK_COUNT": "2"})
        for i in range(2)
    ]
    assert [outcome.code for outcome in stages.run_at_once(array)] == [0, 0]
    assert_same_artifact(folder / "parts", undivided / "generate")
    beyond = stages.run(*words, env={"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "2"})
    assert beyond.code == 2
    assert (
        "SLURM_ARRAY_TASK_ID=2 does not fit SLURM_ARRAY_TASK_COUNT=2: tasks are numbered from 0 to 1"
        in beyond.stderr
    )
    half = stages.run(*words, env={"SLURM_ARRAY_TASK_ID": "0"})
    assert half.code == 2
    assert "only one of SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT is set" in half.stderr


def test_flags_beat_slurm_variables_and_must_fit(
    stages: StageServer, undivided: Path, folder: Path
) -> None:
    words = generate(undivided / "prompts.jsonl", folder / "parts")
    array = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
    assert stages.run(*words, "--shard-index", 0, "--num-shards", 1, env=array).code == 0
    assert_same_artifact(folder / "parts", undivided / "generate")
    wrong = stages.run(*words, "--shard-index", 2, "--num-shards", 2)
    assert wrong.code == 2
    assert "--shard-index must be within 0 and 1, not 2" in wrong.stderr
    alone = stages.run(*words, "--shard-index", 2)
    assert alone.code == 2
    assert "--shard-index and --num-shards go together" in alone.stderr


@pytest.mark.parametrize("attempt", range(4))
def test_shards_that_start_at_the_very_same_moment_agree_on_run_json(
    stages: StageServer, undivided: Path, folder: Path, attempt: int
) -> None:
    """Seven workers, one part each, into a folder that does not exist."""
    words = generate(undivided / "prompts.jsonl", folder / "new" / "parts")
    outcomes = stages.run_at_once([shard(words, index, 7) for index in range(7)])
    assert [(outcome.code, outcome.stderr) for outcome in outcomes if outcome.code] == []
    assert_same_artifact(folder / "new" / "parts", undivided / "generate")


@pytest.mark.parametrize("old_part_size", [2, 5])
def test_shards_that_overwrite_at_the_very_same_moment_lose_no_part_of_each_other(
    stages: StageServer, undivided: Path, folder: Path, old_part_size: int
) -> None:
    """Four workers throw away another run, of as many parts or of fewer, and none throws away what another has just made."""
    for attempt in range(3):
        output = folder / f"parts{attempt}"
        old = [*generate(undivided / "prompts.jsonl", output, n=1), "--part-size", old_part_size]
        assert stages.run(*old).code == 0
        words = generate(undivided / "prompts.jsonl", output, "--overwrite")
        outcomes = stages.run_at_once([shard(words, index, 4) for index in range(4)])
        assert [(outcome.code, outcome.stderr) for outcome in outcomes if outcome.code] == []
        assert_same_artifact(output, undivided / "generate")


def test_overwriting_one_shard_again_leaves_the_other_shard_alone(
    stages: StageServer, undivided: Path, folder: Path
) -> None:
    words = generate(undivided / "prompts.jsonl", folder / "parts")
    assert stages.run(*words).code == 0
    before = identities_of(folder / "parts")
    assert stages.run_at_once([shard([*words, "--overwrite"], 1, 2)])[0].code == 0
    after = identities_of(folder / "parts")
    assert [name for name in sorted(before) if before[name] != after[name]] == [
        f"part-{index:05d}-of-00007.parquet" for index in (1, 3, 5)
    ]
    assert_same_artifact(folder / "parts", undivided / "generate")


def test_two_workers_on_the_same_shard_write_the_same_part_twice_and_harm_nothing(
    stages: StageServer, undivided: Path, folder: Path
) -> None:
    """As when Slurm starts a job again while the old one is still dying."""
    words = generate(undivided / "prompts.jsonl", folder / "parts")
    outcomes = stages.run_at_once([Command(words), Command(words), Command(words)])
    assert [outcome.code for outcome in outcomes] == [0, 0, 0]
    assert_same_artifact(folder / "parts", undivided / "generate")


def test_shards_extended_at_the_same_moment_equal_a_straight_run(
    stages: StageServer, undivided: Path, folder: Path
) -> None:
    words = generate(undivided / "prompts.jsonl", folder / "parts", n=1)
    assert stages.run(*words).code == 0
    grown = generate(undivided / "prompts.jsonl", folder / "parts", "--extend")
    outcomes = stages.run_at_once([shard(grown, index, 3) for index in range(3)])
    assert [(outcome.code, outcome.stderr) for outcome in outcomes if outcome.code] == []
    assert_same_artifact(folder / "parts", undivided / "generate")


def test_seeds_and_responses_depend_on_neither_n_nor_part_size_nor_shards(
    stages: StageServer, undivided: Path, folder: Path
) -> None:
    """A sample is a function of run seed, prompt_id and sample_idx (and temperature), so more samples only add rows."""
    words = [*generate(undivided / "prompts.jsonl", folder / "other", n=7), "--part-size", "3"]
    assert [o.code for o in stages.run_at_once([shard(words, index, 3) for index in range(3)])] == [
        0,
        0,
        0,
    ]
    columns = ("prompt_id", "sample_idx", "seed", "response", "logp", "temperature")

    def samples(path: Path) -> dict[tuple[object, ...], tuple[object, ...]]:
        return {
            (row["prompt_id"], row["sample_idx"]): tuple(row[name] for name in columns)
            for row in rows_of(path)
        }

    few, many = samples(undivided / "generate"), samples(folder / "other")
    assert few.items() <= many.items()
    assert len({row[2] for row in many.values()}) == len(many) == N_PROMPTS * 7


def test_a_shard_refuses_an_input_whose_parts_for_it_are_missing_and_says_which(
    stages: StageServer, undivided: Path, folder: Path
) -> None:
    """Exit 4; with --allow-partial what is there is worked on, and a later run adds the rest."""
    words = generate(undivided / "prompts.jsonl", folder / "generate")
    assert stages.run_at_once([shard(words, 0, 2)])[0].code == 0
    score = later_stages(folder, folder)[0]
    refused = stages.run(*score)
    assert refused.code == 4
    assert "is incomplete: 3 of 7 parts are missing (part 1, 3, 5)" in refused.stderr
    assert "finish that stage, or pass --allow-partial" in refused.stderr
    assert stages.run(*score, "--allow-partial").code == 0
    assert len(identities_of(folder / "score")) == 4
    assert stages.run_at_once([shard(words, 1, 2)])[0].code == 0
    assert stages.run(*score).code == 0
    assert_same_artifact(folder / "score", undivided / "score")
