"""``--workers N``: the same rows, whoever makes them, and what is left of workers that are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest
from support.pipelines import assert_same_artifact, rows_of, write_json_lines, write_prompts
from support.worker_runs import Running, await_true, processes_marked, run_command

from prefpipe.artifacts.atomic import MACHINE

pytestmark = pytest.mark.slow

N_PROMPTS = 40


def generate(prompts: Path, output: Path, *more: object, delay_s: float = 0.0) -> list[object]:
    """Return a command that makes 20 parts of two prompts, each of 8 times ``delay_s``."""
    model = f"fake:delay_s={delay_s}"
    sampling = ["--backend", "fake", "--model", model, "--n", 4, "--part-size", 2]
    return ["generate", prompts, *sampling, "-o", output, *more]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("workers") / "prompts.jsonl", N_PROMPTS)


@pytest.fixture(scope="module")
def candidates(prompts: Path) -> Path:
    """What one process makes."""
    output = prompts.parent / "candidates"
    assert run_command(*generate(prompts, output)).code == 0
    return output


def stage_words(candidates: Path) -> dict[str, list[object]]:
    return {
        "score": ["score", candidates, "--scorer", "fake"],
        "embed": ["embed", candidates, "--model", "fake"],
        "judge": ["judge", candidates, candidates.parent / "others", "--judge", "fake"],
    }


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_candidates_are_those_of_one_process(
    prompts: Path, candidates: Path, tmp_path: Path, n_workers: int
) -> None:
    output = tmp_path / "out"
    ended = run_command(*generate(prompts, output, "--workers", n_workers, "--json"))
    assert ended.code == 0, ended.stderr
    assert_same_artifact(output, candidates)
    for part in candidates.glob("part-*"):
        assert (output / part.name).read_bytes() == part.read_bytes()
    facts = json.loads(ended.stdout)
    assert facts["n_parts_made"] == 20
    assert facts["n_tokens"] == sum(row["n_response_tokens"] or 0 for row in rows_of(candidates))


@pytest.mark.parametrize("stage", ["score", "embed", "judge"])
def test_other_stages_make_the_same_artifact(
    prompts: Path, candidates: Path, tmp_path: Path, stage: str
) -> None:
    others = candidates.parent / "others"
    if not others.exists():
        assert run_command(*generate(prompts, others, "--seed", 1)).code == 0
    words = stage_words(candidates)[stage]
    alone = run_command(*words, "-o", tmp_path / "alone", "--json")
    together = run_command(*words, "-o", tmp_path / "together", "--json", "--workers", 2)
    assert together.code == alone.code == 0, together.stderr
    for part in (tmp_path / "alone").glob("part-*"):
        assert (tmp_path / "together" / part.name).read_bytes() == part.read_bytes()
    facts = [json.loads(ended.stdout) for ended in (alone, together)]
    for each in facts:
        del each["path"]
        each.pop("elapsed_s", None)
    assert facts[0] == facts[1]


def test_an_evaluation_samples_and_rates_with_workers(prompts: Path, tmp_path: Path) -> None:
    sampling = ["--backend", "fake", "--n", 2, "--part-size", 4, "--prompts", prompts]
    sides = ["--policy", "fake", "--baseline", "fake:error_rate=0", "--scorer", "fake"]
    for name, more in (("alone", []), ("together", ["--workers", 2])):
        ended = run_command("eval", *sides, *sampling, "-o", tmp_path / name, *more)
        assert ended.code == 0, ended.stderr
    for kind in ("candidates", "scores"):
        for part in (tmp_path / "alone" / "policy" / kind).glob("part-*"):
            other = tmp_path / "together" / "policy" / kind / part.name
            assert other.read_bytes() == part.read_bytes()


def test_two_workers_take_half_the_time(prompts: Path, tmp_path: Path) -> None:
    """160 responses of 0.1 s: what is waited for is the engine, not the processor."""
    elapsed_s = {}
    for n_workers in (1, 2):
        started = time.monotonic()
        words = generate(prompts, tmp_path / f"of-{n_workers}", delay_s=0.1)
        assert run_command(*words, "--workers", n_workers).code == 0
        elapsed_s[n_workers] = time.monotonic() - started
    saved_s = elapsed_s[1] - elapsed_s[2]
    # Half of it would be 8 s, and the second worker has to start, on a busy machine slowly.
    assert saved_s > 0.15 * 160 * 0.1, elapsed_s


def test_killed_workers_cost_only_their_open_parts(
    prompts: Path, candidates: Path, tmp_path: Path
) -> None:
    """Up to 18 workers killed at random moments, in six runs: the artifact is the same."""
    moments = random.Random(7)
    n_kills = 0
    for number in range(6):
        output = tmp_path / f"run-{number}"
        running = Running(generate(prompts, output, "--workers", 2, delay_s=0.01), f"kill-{number}")
        for _ in range(3):
            running.await_workers(2)
            time.sleep(moments.uniform(0.0, 0.6))
            workers = running.workers()
            if workers:
                os.kill(moments.choice(workers), signal.SIGKILL)
                n_kills += 1
        ended = running.end()
        assert ended.code == 0, ended.stderr
        assert_same_artifact(output, candidates)
        assert not processes_marked(f"kill-{number}")
    print(f"{n_kills} workers killed")
    assert n_kills >= 12


def test_half_a_file_of_a_killed_worker_is_gone_in_the_end(
    prompts: Path, candidates: Path, tmp_path: Path
) -> None:
    """It was killed while it wrote a part; its driver has looked into the folder before."""
    output = tmp_path / "out"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    running = Running(generate(prompts, output, "--workers", 2, delay_s=0.01), "half-a-file")
    running.await_workers(2)
    (output / f".part-00003.parquet.0123abcd.{MACHINE}.{gone.pid}.tmp").write_bytes(b"PAR1")
    ended = running.end()
    assert ended.code == 0, ended.stderr
    assert_same_artifact(output, candidates)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_ends_leaves_no_worker(
    prompts: Path, candidates: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Three times at a random moment; the same command goes on, and the artifact is the same."""
    moments = random.Random(number)
    output = tmp_path / "out"
    words = generate(prompts, output, "--workers", 2, delay_s=0.01)
    for attempt in range(3):
        mark = f"driver-{number.name}-{attempt}"
        running = Running(words, mark)
        running.await_workers(2)
        time.sleep(moments.uniform(0.2, 0.9))
        os.kill(running.process.pid, number)
        ended = running.end(limit_s=120)
        assert ended.code in (-number, 75 if number == signal.SIGTERM else 130, 0), ended.stderr
        assert await_true(lambda mark=mark: not processes_marked(mark)), "a worker is left"
        if ended.code == 0:
            break
        assert "Traceback" not in ended.stderr
    ended = run_command(*words)
    assert ended.code == 0, ended.stderr
    assert_same_artifact(output, candidates)


def test_a_worker_asked_to_stop_finishes_its_part_and_another_takes_its_place(
    prompts: Path, candidates: Path, tmp_path: Path
) -> None:
    running = Running(
        generate(prompts, tmp_path / "out", "--workers", 2, delay_s=0.02), "worker-term"
    )
    os.kill(running.await_workers(2)[0], signal.SIGTERM)
    ended = running.end()
    assert ended.code == 0, ended.stderr
    assert_same_artifact(tmp_path / "out", candidates)


def poisoned_candidates(folder: Path, check: str, poisoned: Collection[int]) -> Path:
    """Return candidates of six prompts in six parts, ``poisoned`` of which ``check`` rates."""
    (folder / "poison.py").write_text(
        "import os, signal\n\ndef dies(response, messages, columns):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    rows = []
    for number in range(6):
        kind = (
            {"type": "python", "function": check}
            if number in poisoned
            else {"type": "words", "min": 1}
        )
        rows.append({"prompt_id": f"p{number}", "prompt": f"question {number}", "checks": [kind]})
    prompts = write_json_lines(folder / "prompts.jsonl", rows)
    sampling = ["--backend", "fake", "--model", "fake", "--n", 2, "--part-size", 1]
    output = folder / "candidates"
    words = ["generate", prompts, *sampling, "-o", output]
    ended = run_command(*words)
    assert ended.code == 0, ended.stderr
    return output


@pytest.mark.parametrize(("poisoned", "n_workers"), [([3], 2), ([0], 1), ([0, 1], 1)])
def test_a_part_that_kills_its_worker_is_set_aside_and_the_others_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poisoned: list[int], n_workers: int
) -> None:
    candidates = poisoned_candidates(tmp_path, "poison:dies", poisoned)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words = ["score", candidates, "--scorer", "checks", "--trust-python-checks"]
    ended = run_command(*words, "-o", tmp_path / "scores", "--workers", n_workers)
    assert ended.code == 1
    numbers = ", ".join(map(str, poisoned))
    assert f"lost 3 times and set aside: part {numbers};" in ended.stderr
    made = sorted(int(path.name[5:10]) for path in (tmp_path / "scores").glob("part-*"))
    assert made == [number for number in range(6) if number not in poisoned]


def test_an_engine_that_no_worker_can_open_is_no_fault_of_the_parts(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers try three times each, and not three times for each of 20 parts."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    words = ["generate", prompts, "--backend", "openai", "--model", "gpt-5", "--part-size", 2]
    ended = run_command(*words, "-o", tmp_path / "out", "--workers", 2)
    assert ended.code == 1
    assert "error: OPENAI_API_KEY is not set" in ended.stderr, ended.stderr
    assert ended.stderr.count("loading gpt-5") == 6
    assert "set aside" not in ended.stderr


def test_a_disk_that_takes_no_part_ends_the_command_and_not_every_part_is_made_three_times(
    prompts: Path, tmp_path: Path
) -> None:
    """No file may grow beyond 6 KiB: enough for run.json, too little for a part of 30 responses."""
    sampling = ["--backend", "fake", "--model", "fake", "--n", 30, "--part-size", 1]
    words = ["generate", prompts, *sampling, "-o", tmp_path / "out", "--workers", 2]
    prefpipe = [sys.executable, "-m", "prefpipe"]
    ended = subprocess.run(
        ["prlimit", "--fsize=6144", *prefpipe, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.count("error:") == 1, ended.stderr
    assert "error: cannot write" in ended.stderr
    assert "set aside" not in ended.stderr
    again = run_command(*words)
    assert again.code == 0, again.stderr


def test_modules_in_the_working_directory_take_no_module_s_place_in_workers(
    prompts: Path, tmp_path: Path
) -> None:
    """``python -m`` would find a user's ``select.py`` before the library's; a script does not."""
    for name in ("select", "queue", "datasets", "prefpipe"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name}.py of the user')\n")
    main = "from prefpipe.__main__ import main; main()"
    words = map(str, generate(prompts, tmp_path / "out", "--workers", 2))
    ended = subprocess.run(
        [sys.executable, "-P", "-c", main, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


REFUSALS: Sequence[tuple[list[object], str]] = (
    (["--workers", 0], "--workers must be 1 or more, or auto, not 0"),
    (["--workers", "two"], "--workers must be 1 or more, or auto, not two"),
    (["--workers", 21], "--workers 21 is more than the 20 parts"),
    (["--gpus-per-worker", 1], "--gpus-per-worker needs --workers"),
    (["--workers", 2, "--on", "slurm"], "--on must be ray or ray:ADDRESS, not slurm"),
    (["--on", "ray"], "--on needs --workers N"),
)


@pytest.mark.parametrize(("flags", "message"), REFUSALS)
def test_flags_that_cannot_be_followed_are_refused_before_an_engine_loads(
    prompts: Path, tmp_path: Path, flags: list[object], message: str
) -> None:
    ended = run_command(*generate(prompts, tmp_path / "out", *flags))
    assert ended.code == 2
    assert message in ended.stderr
    assert "loading" not in ended.stderr


def test_what_no_worker_can_load_is_one_error(candidates: Path, tmp_path: Path) -> None:
    words = ["score", candidates, "--scorer", f"reward-model:{tmp_path}", "-o", tmp_path / "out"]
    ended = run_command(*words, "--workers", 2)
    assert ended.code == 1
    assert ended.stderr.count("error:") == 1
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("channel", [None, "", "nonsense", "-1", "1", "4095"])
def test_a_worker_that_nobody_drives_is_an_error(
    monkeypatch: pytest.MonkeyPatch, channel: str | None
) -> None:
    if channel is not None:
        monkeypatch.setenv("PREFPIPE_WORKER_CHANNEL", channel)
    ended = run_command("worker")
    assert ended.code == 2
    assert "start workers with `prefpipe generate ... --workers N`" in ended.stderr


@pytest.mark.models
def test_a_real_model_samples_the_same_with_workers(tmp_path: Path) -> None:
    """SmolLM2 with one thread each: the same tokens; log-probabilities to the rounding of batches."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", 6)
    sampling = ["--backend", "transformers", "--model", "bundled:smollm2-135m"]
    sampling += ["--n", 2, "--max-tokens", 12, "--part-size", 2]
    for name, more in (("alone", []), ("together", ["--workers", 2])):
        ended = run_command("generate", prompts, *sampling, "-o", tmp_path / name, *more)
        assert ended.code == 0, ended.stderr
    alone, together = rows_of(tmp_path / "alone"), rows_of(tmp_path / "together")
    for ours, theirs in zip(alone, together, strict=True):
        assert ours.pop("logp") == pytest.approx(theirs.pop("logp"), abs=1e-3)
        assert ours == theirs
