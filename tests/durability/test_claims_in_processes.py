"""Copies of one command that claim their parts: killed, stopped, paused and late, they make what one process makes."""

import json
import random
import signal
from collections import Counter
from pathlib import Path

import pytest
from support.pipelines import assert_same_artifact, open_artifact, write_prompts
from support.stage_server import Command, Outcome, StageServer

pytestmark = pytest.mark.slow

N_PARTS = 12
PROMPTS_A_PART = 2
KILLS, STOPS, PAUSES = 24, 6, 6
LEASE_S = 1.0
TAKEN_OVER = "another worker took it over"


def generate(inputs: Path, output: Path, *more: object, delay_s: float = 0.02) -> list[str]:
    words = [
        "generate",
        inputs / "prompts.jsonl",
        "--backend",
        "fake",
        "--model",
        f"fake:delay_s={delay_s}",
        "--n",
        4,
        "--part-size",
        PROMPTS_A_PART,
        "-o",
        output,
        *more,
    ]
    return [str(word) for word in words]


def claiming(inputs: Path, output: Path, *more: object, delay_s: float = 0.02) -> list[str]:
    return generate(inputs, output, "--claim", "--json", *more, delay_s=delay_s)


@pytest.fixture(scope="module")
def inputs(stages: StageServer, fast_root: Path) -> Path:
    """Prompts, and the artifact that one process makes of them."""
    folder = fast_root / "claimed"
    folder.mkdir()
    write_prompts(folder / "prompts.jsonl", N_PARTS * PROMPTS_A_PART)
    assert stages.run(*generate(folder, folder / "straight")).code == 0
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


def n_made(outcome: Outcome) -> int:
    made: int = json.loads(outcome.stdout)["n_parts_made"]
    return made


def fated(words: list[str], number: int, is_elsewhere: bool, moments: random.Random) -> Command:
    """A copy that comes at once or late, and is killed, stopped, paused for longer than its lease, or none of it."""
    command = Command(words, limit_s=60)
    command.start_after_s = moments.choice([0.0, 0.0, moments.uniform(0, 0.6)])
    if is_elsewhere:
        command.machine = f"node{number}"
    moment_s = command.start_after_s + moments.uniform(0.05, 1.2)
    fate = moments.choices(["kill", "stop", "pause", "live"], [5, 2, 2, 1])[0]
    if fate == "kill":
        command.signal_after_s = moment_s
    elif fate == "stop":
        command.signal_after_s, command.signal = moment_s, signal.SIGTERM
    elif fate == "pause":
        command.paused_s = moment_s, moment_s + LEASE_S * moments.uniform(1.5, 2.5)
    return command


def test_copies_that_are_killed_stopped_and_paused_make_what_one_process_makes(
    stages: StageServer, inputs: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At least 24 SIGKILLs, 6 SIGTERMs and 6 SIGSTOPs for longer than the lease.

    In every second episode each copy is on a machine of its own for the others, so that a killed one is missed by its
    lease alone. A paused one comes back and writes the part that another has made meanwhile.
    """
    moments = random.Random(13)
    counts: Counter[str] = Counter()
    wanted = {"killed": KILLS, "stopped": STOPS, "paused": PAUSES, "taken over": 1}
    while any(counts[what] < n for what, n in wanted.items()):
        # two artifacts at a time: most of it is waiting
        outputs = [folder / f"episode{counts['episodes'] + i}" for i in range(2)]
        counts["episodes"] += 2
        unfinished = list(outputs)
        while unfinished:
            commands = []
            for output in unfinished:
                words = claiming(inputs, output, "--lease-seconds", LEASE_S)
                commands += [fated(words, number, output is outputs[0], moments) for number in range(4)]  # fmt: skip
            outcomes = stages.run_at_once(commands)
            counts["rounds"] += len(unfinished)
            for command, outcome in zip(commands, outcomes, strict=True):
                assert outcome.code in (0, 75, -signal.SIGKILL), outcome.stderr
                counts["killed"] += outcome.code == -signal.SIGKILL
                counts["stopped"] += outcome.code == 75
                counts["paused"] += command.paused_s is not None and outcome.elapsed_s > LEASE_S
                counts["taken over"] += outcome.stderr.count(TAKEN_OVER)
                counts["left behind"] += outcome.stderr.count("was left behind by")
                # whoever ends with 0 has seen all parts on disk
                output = Path(command.argv[command.argv.index("-o") + 1])
                if outcome.code == 0:
                    assert len(files_of(output)) == N_PARTS
                    unfinished = [each for each in unfinished if each != output]

        for output in outputs:
            again = stages.run(*claiming(inputs, output))
            assert (again.code, n_made(again)) == (0, 0), again.stderr
            assert files_of(output) == files_of(inputs / "straight")
            assert_same_artifact(output, inputs / "straight")
    with capsys.disabled():
        print(f"\nclaims: {dict(counts)}")


@pytest.mark.parametrize("attempt", range(4))
def test_copies_that_start_at_once_in_an_empty_folder_make_each_part_once(
    stages: StageServer, inputs: Path, folder: Path, attempt: int
) -> None:
    words = claiming(inputs, folder / "parts", delay_s=0.003)
    outcomes = stages.run_at_once([Command(words) for _ in range(7)])
    assert [outcome.code for outcome in outcomes] == [0] * 7, outcomes
    assert sum(map(n_made, outcomes)) == N_PARTS
    assert_same_artifact(folder / "parts", inputs / "straight")


def test_a_late_copy_takes_parts_and_the_first_does_not_wait_for_it_to_come(
    stages: StageServer, inputs: Path, folder: Path
) -> None:
    words = claiming(inputs, folder / "parts", delay_s=0.03)
    first, late = stages.run_at_once([Command(words), Command(words, start_after_s=0.7)])
    assert (first.code, late.code) == (0, 0)
    assert min(n_made(first), n_made(late)) >= 1
    assert n_made(first) + n_made(late) == N_PARTS
    assert f"{n_made(first)} parts were made by other workers meanwhile" in late.stderr or (
        "parts are finished and kept" in late.stderr
    )
    assert_same_artifact(folder / "parts", inputs / "straight")


def test_a_copy_that_is_stopped_or_fails_leaves_no_claim(
    stages: StageServer, inputs: Path, folder: Path
) -> None:
    output = folder / "parts"
    words = claiming(inputs, output, delay_s=0.1)
    stopped = stages.run(*words, signal=signal.SIGTERM, signal_after_s=1.5)
    assert stopped.code == 75, stopped.stderr
    assert "left" in stopped.stderr
    assert not (output / "claims").exists()

    # the part that comes next cannot be written
    failed = stages.run(*words, max_file_bytes=2000)
    assert failed.code == 1, failed.stderr
    assert not (output / "claims").exists()
    assert stages.run(*claiming(inputs, output, delay_s=0.003)).code == 0
    assert_same_artifact(output, inputs / "straight")


def test_status_shows_who_makes_what_and_a_plain_run_clears_what_was_left_behind(
    stages: StageServer, inputs: Path, folder: Path
) -> None:
    output = folder / "parts"
    status = ["status", "--quick", "--json", str(output)]
    words = claiming(inputs, output, delay_s=2)
    # far apart: the status is over when the other is killed, also on a busy machine
    making, asked = stages.run_at_once(
        [Command(words, signal_after_s=16.0), Command(status, start_after_s=4.0)]
    )
    assert making.code == -signal.SIGKILL
    [report] = json.loads(asked.stdout)
    # several parts are open at a time
    assert report["claims"]
    for claim in report["claims"]:
        assert claim["part"] in report["missing"]
        assert not claim["is_left_behind"]
        assert claim["lease_s"] == 120
    [report] = json.loads(stages.run(*status).stdout)
    assert report["claims"]
    assert all(claim["is_left_behind"] for claim in report["claims"])
    shown = stages.run("status", "--quick", str(output))
    assert f"left behind by {claim['worker']}, last renewed" in shown.stdout
    assert stages.run(*generate(inputs, output, delay_s=0.003)).code == 0
    assert_same_artifact(output, inputs / "straight")


def test_copies_with_workers_of_their_own_share_with_others_and_one_whose_driver_is_killed_is_missed(
    stages: StageServer, inputs: Path, folder: Path
) -> None:
    """The driver claims on behalf of its workers."""
    output = folder / "parts"
    several = claiming(inputs, output, "--workers", 2, delay_s=0.05)
    alone = claiming(inputs, output, delay_s=0.2)
    outcomes = stages.run_at_once([Command(several), Command(alone)])
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert sum(map(n_made, outcomes)) == N_PARTS
    assert min(map(n_made, outcomes)) >= 1
    assert_same_artifact(output, inputs / "straight")

    output = folder / "killed"
    words = claiming(inputs, output, "--workers", 2, delay_s=0.5)
    stages.run(*words, signal_after_s=4.5)
    assert stages.run(*claiming(inputs, output)).code == 0
    assert_same_artifact(output, inputs / "straight")


def test_copies_of_shards_claim_within_their_shard(
    stages: StageServer, inputs: Path, folder: Path
) -> None:
    words = claiming(inputs, folder / "parts", delay_s=0.005)
    shards = [Command([*words, "--shard-index", str(i), "--num-shards", "2"]) for i in (0, 0, 1)]
    outcomes = stages.run_at_once(shards)
    assert [outcome.code for outcome in outcomes] == [0, 0, 0]
    assert n_made(outcomes[0]) + n_made(outcomes[1]) == n_made(outcomes[2]) == N_PARTS // 2
    assert_same_artifact(folder / "parts", inputs / "straight")


def test_tasks_of_any_array_are_copies(stages: StageServer, inputs: Path, folder: Path) -> None:
    """Tasks 3, 4 and 9 of an array with gaps, which no fixed share could be read from."""
    words = claiming(inputs, folder / "parts")
    array = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in [("COUNT", 3), ("MIN", 3), ("MAX", 9)]}  # fmt: skip
    tasks = [
        Command(words, env={**array, "SLURM_ARRAY_TASK_ID": str(number)}) for number in (3, 4, 9)
    ]
    outcomes = stages.run_at_once(tasks)
    assert [outcome.code for outcome in outcomes] == [0, 0, 0]
    assert sum(map(n_made, outcomes)) == N_PARTS
    refused = stages.run(*generate(inputs, folder / "other"), env=tasks[0].env)
    assert refused.code == 2
    assert "hint: pass --claim, which needs no numbers" in refused.stderr


def test_a_copy_with_another_configuration_is_refused_while_the_first_has_no_part_yet(
    stages: StageServer, inputs: Path, folder: Path
) -> None:
    """And is not while nobody works there: then the first was a failed attempt."""
    output = folder / "parts"
    slow = claiming(inputs, output, delay_s=1.0)
    other = claiming(inputs, output, "--seed", 1)
    first, second = stages.run_at_once(
        [Command(slow, signal_after_s=4.0), Command(other, start_after_s=2.5)]
    )
    assert first.code == -signal.SIGKILL
    assert second.code == 2
    assert "seed: 0 on disk, 1 requested" in second.stderr
    assert (output / "claims").exists()
    assert stages.run(*other).code == 0
    assert not (output / "claims").exists()


def test_overwrite_is_refused_and_another_configuration_is_replaced_when_stale(
    stages: StageServer, inputs: Path, folder: Path
) -> None:
    output = folder / "parts"
    assert stages.run(*generate(inputs, output, "--seed", 1)).code == 0
    refused = stages.run(*claiming(inputs, output, "--overwrite"))
    assert refused.code == 2
    assert "--claim excludes --overwrite" in refused.stderr
    for lease in ("0.5", "90000"):
        refused = stages.run(*claiming(inputs, output, "--lease-seconds", lease))
        assert refused.code == 2
        assert "--lease-seconds must be within 1 and 86400" in refused.stderr
    words = claiming(inputs, output, "--overwrite=stale", delay_s=0.005)
    outcomes = stages.run_at_once([Command(words) for _ in range(4)])
    assert [outcome.code for outcome in outcomes] == [0] * 4, outcomes
    assert_same_artifact(output, inputs / "straight")


def test_copies_that_retry_errors_make_the_parts_again_that_have_some(
    stages: StageServer, inputs: Path, folder: Path
) -> None:
    """The finished parts are on disk all the while: only their files tell who made which again."""
    words = generate(inputs, folder / "parts", "--max-error-rate", 1)
    words = [word.replace("delay_s=0.02", "error_rate=0.1") for word in words]
    assert stages.run(*words).code == 0
    before = {path.name: path.stat().st_ino for path in (folder / "parts").glob("part-*")}
    retried = [*words, "--retry-errors", "--claim", "--json"]
    outcomes = stages.run_at_once([Command(retried) for _ in range(3)])
    assert [outcome.code for outcome in outcomes] == [0] * 3, outcomes
    after = {path.name: path.stat().st_ino for path in (folder / "parts").glob("part-*")}
    artifact = open_artifact(folder / "parts")
    with_errors = [i for i in range(N_PARTS) if artifact.footer(i).counts.get("error")]
    assert with_errors
    changed = [i for i in range(N_PARTS) if before[artifact.part_path(i).name] != after[artifact.part_path(i).name]]  # fmt: skip
    assert changed == with_errors
    assert sum(map(n_made, outcomes)) >= len(with_errors)
    assert not (folder / "parts" / "claims").exists()


def test_later_stages_are_claimed_as_well(stages: StageServer, inputs: Path, folder: Path) -> None:
    candidates = str(inputs / "straight")
    for stage, *flags in [("score", "--scorer", "fake"), ("embed", "--model", "fake")]:
        words = [stage, candidates, *flags, "--json", "-o", str(folder / stage)]
        outcomes = stages.run_at_once([Command([*words, "--claim"]) for _ in range(3)])
        assert [outcome.code for outcome in outcomes] == [0] * 3, outcomes
        assert sum(map(n_made, outcomes)) == N_PARTS
        straight = folder / f"straight-{stage}"
        assert stages.run(*words[:-1], straight).code == 0
        assert_same_artifact(folder / stage, straight)
