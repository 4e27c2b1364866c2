"""``prefpipe rounds``: the script it prints, what it refuses before the first step, exit codes, and signals handed on."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.finished_run import command
from support.model_shells import write_model_shell
from support.pipelines import digests_of, identities_of, write_prompts
from support.signalled import start

from prefpipe.artifacts.parts import verify_part
from prefpipe.cli.main import run as prefpipe
from prefpipe.wiring import rounds

PLAN = """\
rounds: 2
prompts: prompts.jsonl
model: "fake:delay_s=0.1"
prompt_use: reuse
generate: {backend: fake, n: 4, part_size: 2, max_tokens: 8}
score: {scorer: fake}
embed: {model: nowhere}
select: {strategy: best-worst}
train: {max_steps: 1, report_to: none}
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a plan whose first step takes a quarter of a minute, and whose third cannot load its model."""
    write_prompts(tmp_path / "prompts.jsonl", 40)
    # models of these names: the fake engine reads its settings from them, and `train` is to find one
    for name in ("nowhere", "fake", "fake:delay_s=0.1", "fake:error_rate=0.5"):
        write_model_shell(tmp_path / name)
    (tmp_path / "plan.yaml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_script_of_the_sample_data_is_what_the_command_prints(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Write it again with: prefpipe rounds sample_data/rounds.yaml -o runs/rounds --dry-run > sample_data/rounds.sh"""
    monkeypatch.chdir(repository)
    command(["rounds", "sample_data/rounds.yaml", "-o", "runs/rounds", "--dry-run"])
    assert capfdbinary.readouterr().out == Path("sample_data/rounds.sh").read_bytes()


def test_the_plan_of_the_quickstart_can_be_run(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repository)
    command(["rounds", "sample_data/quickstart.yaml", "-o", "run", "--dry-run", "--seed", "3"])
    script = capfd.readouterr().out
    assert script.startswith("#!/usr/bin/env bash\n# 2 rounds, printed by: ")
    assert "\nseed=3\n" in script


def shown(folder: Path, script: str) -> list[str]:
    """Return the commands of a script as the shell makes them, a line for each word."""
    stub = folder / "bin"
    stub.mkdir(exist_ok=True)
    (stub / "prefpipe").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (stub / "prefpipe").chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"PATH": f"{stub}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_odd_names_reach_the_commands_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Spaces, quotes, dollars, line ends and a leading dash in values: what bash hands over is what a step is run with."""
    from prefpipe.configs.round_plan import read_plan
    from prefpipe.configs.round_steps import steps_of

    monkeypatch.chdir(tmp_path)
    plan = PLAN.replace("prompts.jsonl", "'my $prompts `ls` \"1\".jsonl'").replace(
        "fake:delay_s=0.1", "org/it's $HOME"
    )
    plan = plan.replace("best-worst", "best-worst, reward: '-fake * 2'") + (
        "eval: {prompts: 'held out.jsonl', scorer: fake}\nseed: 3\n"
        'changes: {2: {score: {rating_column: "a\\ntouch harm"}, '
        "generate: {stop: ['my $run/round-01/$(touch harm)`touch harm`\"']}}}\n"
    )
    (tmp_path / "plan.yaml").write_text(plan)
    command(["rounds", "plan.yaml", "-o", "my $run", "--dry-run"])
    expected = []
    for step in steps_of(read_plan(Path("plan.yaml")), Path("my $run"), name="plan"):
        expected += step.words
    assert shown(tmp_path, capfd.readouterr().out) == "\n".join(expected).splitlines()
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], [1, 2]),
        (["--until-round", "1"], [1]),
        (["--from-round", "2"], [2]),
        (["--from-round", "1", "--until-round", "2"], [1, 2]),
    ],
)
def test_rounds_are_chosen(
    work: Path, flags: list[str], expected: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    command(["rounds", "plan.yaml", "-o", "run", "--dry-run", *flags])
    script = capfd.readouterr().out
    assert [number for number in (1, 2) if f"# round {number}:" in script] == expected


REFUSED = {
    "no plan": (["nowhere.yaml", "-o", "run"], "the plan nowhere.yaml cannot be read", 2),
    "a round that is not there": (
        ["plan.yaml", "-o", "run", "--until-round", "3"],
        "--until-round 3: plan.yaml has 2 rounds",
        2,
    ),
    "an end before the beginning": (
        ["plan.yaml", "-o", "run", "--from-round", "2", "--until-round", "1"],
        "--until-round 1 is before --from-round 2",
        2,
    ),
    "a name that is not UTF-8": (
        ["plan.yaml", "-o", os.fsdecode(b"r\xff")],
        "r\\udcff is not UTF-8",
        2,
    ),
    "everything again": (
        ["plan.yaml", "-o", "run", "--overwrite"],
        "pass --overwrite=stale, or remove run first",
        2,
    ),
    "a round whose policy is missing": (
        ["plan.yaml", "-o", "run", "--from-round", "2"],
        "--from-round 2: round 1 has no policy, run/round-01/policy",
        1,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_before_the_first_step(
    work: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    words, expected, code = REFUSED[case]
    assert prefpipe(["rounds", *words]) == code
    said = capfd.readouterr().err
    assert expected in said
    assert "hint:" in said
    assert not (work / "run").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("eval: {prompts: heldout.jsonl, scorer: fake}", "round 1, eval: no prompts file at heldout.jsonl"),
        ("eval: {scorer: fake}", "eval: `prompts` is missing"),
        ("eval: {prompts: prompts.jsonl, scorer: [fake, checks]}", "eval: `reward` is missing: the scorers are fake, checks"),
        ("changes: {2: {select: {reward: z(fke)}}}", "round 2, select: the reward 'z(fke)' names `fke`, and the scorers are: fake"),
        ("changes: {2: {score: {scorer: [fake, checks]}}}", "round 2, select: `reward` is missing"),
        ("changes: {2: {select: {reward: 'f(fake)'}}}", "round 2, select: the reward expression 'f(fake)' calls 'f'"),
        ("pools: all\nchanges: {2: {score: {scorer: checks}}}", "round 2, score: `pools: all` joins responses rated by the same scorers, and round 1 was not rated by checks"),
        ("pools: all\nchanges: {2: {embed: {model: bundled:minilm}}}", "round 2, embed: `pools: all` joins responses embedded by one model, and `model` is bundled:minilm but was nowhere"),
        ("changes: {2: {train: {weight_by: 'margin +'}}}", "round 2, train: the weight expression 'margin +' cannot be read"),
        ("changes: {2: {select: {strategy: drts}}}", "round 2, select: drts needs the spread of at least two scorers, and the reward names only fake"),
    ],
)  # fmt: skip
def test_files_and_rewards_are_looked_at_before_the_first_step(
    work: Path, more: str, expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (work / "plan.yaml").write_text(PLAN + more + "\n")
    assert prefpipe(["rounds", "plan.yaml", "-o", "run"]) in (1, 2)
    assert expected in capfd.readouterr().err
    assert not (work / "run").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("fake:delay_s=0.1", "fake"), "round 1, train: no config.json in the model folder fake"),
        (("fake:delay_s=0.1", "fak"), "round 1, train: no model at 'fak'"),
        (("nowhere", "nowher"), "round 1, embed: no model at 'nowher'"),
        (("nowhere", "bundled:minilmm"), "round 1, embed: unknown bundled model 'bundled:minilmm'"),
        (("nowhere", "small.gguf"), "round 1, embed: no GGUF file at small.gguf"),
        (("nowhere", "org/name"), "round 1, embed: the model org/name is not in the hub cache of this machine"),
        (("scorer: fake", "scorer: reward-model:rm"), "round 1, score: no model at 'rm'"),
        (("scorer: fake", "scorer: judge:transformers:jm"), "round 1, score: no model at 'jm'"),
        (("scorer: fake", "scorer: 'judge:openai:m'"), "round 1, score: OPENAI_API_KEY is not set"),
        (("scorer: fake", "scorer: 'ratings:r.jsonl'"), "round 1, score: "),
        (("scorer: fake", "scorer: 'judge:openai:m', judge_prompt: jp.txt, base_url: 'http://localhost:1/v1'"), "round 1, score: --judge-prompt jp.txt cannot be read"),
        (("max_steps: 1", "max_steps: 1, eval_groups: held"), "round 1, train: `eval_groups`: held does not exist"),
        (("generate:", "eval: {prompts: broken.jsonl, backend: fake, scorer: fake}\ngenerate:"), "round 1, eval: broken.jsonl"),
        (("generate:", "changes: {2: {embed: {model: later}}}\ngenerate:"), "round 2, embed: no model at 'later'"),
    ],
)  # fmt: skip
def test_what_a_later_step_loads_is_looked_at_before_the_first_step(
    work: Path,
    change: tuple[str, str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    (work / "fake" / "config.json").unlink()
    (work / "broken.jsonl").write_text('{"prompt": 3}\n')
    (work / "plan.yaml").write_text(PLAN.replace(*change))
    assert prefpipe(["rounds", "plan.yaml", "-o", "run"]) == 1
    said = capfd.readouterr().err
    assert f"error: {expected}" in said
    assert "hint: " in said
    assert "$ prefpipe" not in said
    assert not (work / "run").exists()


def begin(work: Path, *flags: str, **variables: str) -> subprocess.Popen[str]:
    return start(["rounds", "plan.yaml", "-o", "run", *flags], work, **variables)


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


def wait_for_a_part(work: Path) -> None:
    gives_up_at = time.monotonic() + 60
    while not list((work / "run" / "round-01" / "candidates").glob("part-*.parquet")):
        assert time.monotonic() < gives_up_at
        time.sleep(0.02)


GO_ON = "to continue, run: prefpipe rounds plan.yaml -o run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, 75, "stopped: round 1, generate: stopped early; finished parts are kept"),
        (signal.SIGUSR1, 75, "stopped: round 1, generate: stopped early; finished parts are kept"),
        (signal.SIGINT, 130, "interrupted: finished parts are kept; run the same command again"),
    ],
)
def test_a_signal_is_handed_on_and_the_step_waited_for(
    work: Path, number: signal.Signals, code: int, said: str
) -> None:
    process = begin(work)
    wait_for_a_part(work)
    process.send_signal(number)
    returned, stdout, stderr = end(process)
    assert returned == code, stderr
    assert said in stderr
    assert stdout == ""
    # the step itself heard it: what it had begun is whole, and nothing of it runs on
    for part in (work / "run").rglob("part-*.parquet"):
        verify_part(part)
    assert not list((work / "run").rglob(".*.tmp"))
    assert GO_ON in stderr
    if number != signal.SIGINT:
        assert "finishing what is begun" in stderr.partition("$ prefpipe generate")[2]
    n_parts = len(list((work / "run" / "round-01" / "candidates").glob("part-*.parquet")))
    assert 1 <= n_parts < 20
    assert prefpipe(["status", "run", "--quick"]) == 4


@pytest.mark.slow
def test_a_signal_that_all_processes_are_sent_is_one_request(work: Path) -> None:
    """Slurm ends a job so: the step finishes what it has begun, as if the signal had come once."""
    process = begin(work)
    wait_for_a_part(work)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGTERM)
    code, _, stderr = end(process)
    assert len(children) == 1
    assert code == 75, stderr
    assert "stopped at once by a second signal" not in stderr
    assert stderr.count("SIGTERM: finishing what is begun") == 2


@pytest.mark.slow
def test_a_step_ends_with_its_rounds_and_what_comes_next_waits_for_it(work: Path) -> None:
    """SIGKILL reaches the command alone: the step finishes its open part, and a second command does not work beside it."""
    process = begin(work)
    wait_for_a_part(work)
    process.kill()
    process.wait()
    seen = identities_of(work / "run" / "round-01" / "candidates")
    # how long a fake takes is no part of what it is
    (work / "plan.yaml").write_text(PLAN.replace(":delay_s=0.1", ""))
    code, _, stderr = end(begin(work))
    # it goes on to the step that cannot be done
    assert "round 1, embed: it ended with exit code 1" in stderr
    assert code == 1, stderr
    n_kept = re.search(r"candidates: (\d+) of 20 parts are finished and kept", stderr)
    assert n_kept is not None
    # on other systems a step goes on to its end, and is waited for
    assert int(n_kept[1]) < 20 or sys.platform != "linux"
    assert seen.items() <= identities_of(work / "run" / "round-01" / "candidates").items()


def test_two_commands_do_not_work_in_one_folder(
    work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rounds, "LONGEST_WAIT_S", 0.3)
    (work / "run").mkdir()
    descriptor = os.open(work / "run", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert prefpipe(["rounds", "plan.yaml", "-o", "run"]) == 2
    said = capfd.readouterr().err
    assert "run is in use: waiting up to" in said
    assert "another `prefpipe rounds`, or a step of one, is running in run" in said
    os.close(descriptor)
    assert [path.name for path in (work / "run").iterdir()] == []


@pytest.mark.slow
def test_exit_codes_of_steps_are_passed_on_with_the_step_and_the_way_on(work: Path) -> None:
    """3: too many failed rows; 2: a knob was changed without --overwrite=stale; 1: there is no such model."""
    plan = work / "plan.yaml"
    plan.write_text(PLAN.replace("delay_s=0.1", "error_rate=0.5"))
    code, stdout, stderr = end(begin(work))
    assert (code, stdout) == (3, "")
    assert "round 1, generate: more rows failed than --max-error-rate allows" in stderr
    assert (
        "run the step's command with --retry-errors to make the failed rows again, or raise "
        "max_error_rate in section `generate` of the plan. Then to continue" in stderr
    )

    plan.write_text(plan.read_text().replace("max_tokens: 8", "max_tokens: 9, max_error_rate: 1"))
    code, _, stderr = end(begin(work))
    assert code == 2
    assert "max_tokens: 8 on disk, 9 requested" in stderr
    assert f"{GO_ON}; add --overwrite=stale if you changed the plan on purpose" in stderr

    code, _, stderr = end(begin(work, "--overwrite=stale"))
    assert code == 1
    assert "round 1, embed: it ended with exit code 1, its error is printed above" in stderr
    assert f"{GO_ON} --overwrite=stale" in stderr
    assert len(digests_of(work / "run" / "round-01" / "scores")) == 20


@pytest.mark.slow
def test_a_task_of_an_array_runs_all_parts_of_its_rounds(work: Path) -> None:
    """An array over seeds: the variables by which a stage would take a share do not reach the steps."""
    plan = (work / "plan.yaml").read_text()
    (work / "plan.yaml").write_text(plan.replace(":delay_s=0.1", ""))
    array = {"ID": "1", "COUNT": "4", "MIN": "0", "MAX": "3"}
    variables = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}
    _, _, stderr = end(begin(work, **variables, PREFPIPE_SHARD_INDEX="0", PREFPIPE_NUM_SHARDS="2"))
    assert "round 1, embed" in stderr
    assert len(digests_of(work / "run" / "round-01" / "candidates")) == 20


@pytest.mark.slow
def test_the_way_on_names_a_plan_that_begins_with_a_dash_so_that_it_is_no_flag(work: Path) -> None:
    (work / "-p.yaml").write_text(PLAN.replace(":delay_s=0.1", "").replace("n: 4", "n: 1"))
    process = start(["rounds", "./-p.yaml", "-o", "-run"], work)
    code, _, stderr = end(process)
    assert code == 1
    assert "round 1, embed: it ended with exit code 1" in stderr
    assert "to continue, run: prefpipe rounds ./-p.yaml -o -run" in stderr
