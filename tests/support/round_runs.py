"""Rounds with fakes and a tiny model: a plan, the files of a run that have no clock in them, and kills in a step.

``PYTHONPATH=tests python -m support.round_runs 24`` kills so often, every step of round 2 by every signal in turn, at random
moments, and prints the counts; `tests/durability/test_rounds.py` kills once in each step.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

from support.pipelines import write_prompts
from support.tiny_models import make_tiny_causal_lm

STAGES = ("generate", "score", "embed", "select", "train", "eval")
PLAN = """\
rounds: 2
prompts: prompts.jsonl
model: model
prompt_use: reuse
pools: all
generate: {backend: fake, n: 4, part_size: 2, max_tokens: 8}
score: {scorer: fake}
embed: {model: fake}
select: {k: 2}
train:
  max_steps: 3
  global_batch_size: 2
  save_steps: 1
  report_to: none
  learning_rate: 1e-2
  warmup_ratio: 0
eval: {prompts: heldout.jsonl, backend: fake, scorer: fake, max_tokens: 8, bootstrap_draws: 300}
"""
WITH_CLOCK = ("run.json", "rounds.json", "metrics.parquet", "trainer_state.json")
"""Files that say when, where or how fast."""
LIMIT_S = 240.0


def write_plan(folder: Path, text: str = PLAN) -> Path:
    """Write the plan with all that it names; return its path."""
    write_prompts(folder / "prompts.jsonl", 6)
    write_prompts(folder / "heldout.jsonl", 3)
    if not (folder / "model").exists():
        make_tiny_causal_lm(folder / "model")
    path = folder / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def start(folder: Path, *flags: str, log: Path | None = None) -> subprocess.Popen[str]:
    """Start ``prefpipe rounds plan.yaml -o run`` in a folder; what it says goes into a file."""
    words = [sys.executable, "-m", "prefpipe", "rounds", "plan.yaml", "-o", "run", *flags]
    with (log or folder / "rounds.log").open("w") as stderr:
        return subprocess.Popen(
            words,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )


def finish(folder: Path, *flags: str) -> str:
    """Run the rounds to their end; return what they said."""
    process = start(folder, *flags)
    stdout, _ = process.communicate(timeout=LIMIT_S)
    said = (folder / "rounds.log").read_text()
    assert process.returncode == 0, said
    assert stdout == "run\n"
    return said


def contents(run: Path) -> dict[str, str]:
    """Return the hash of each file of a run that two runs must agree in, byte for byte."""
    hashes = {}
    for path in sorted(run.rglob("*")):
        has_clock = path.name in WITH_CLOCK or (
            path.parent.name == "policy" and path.name == "summary.json"
        )
        is_checkpoint = any(part.startswith("checkpoint-") for part in path.parts)
        if path.is_file() and not has_clock and not is_checkpoint:
            hashes[str(path.relative_to(run))] = sha256(path.read_bytes()).hexdigest()
    return hashes


def places(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and modification time of each file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            stat = path.stat()
            found[str(path.relative_to(folder))] = (stat.st_ino, stat.st_mtime_ns)
    return found


def kill_in(folder: Path, stage: str, number: signal.Signals, *, after_s: float | None) -> int:
    """Run round 2 and send a signal in one of its steps; return the exit code, 0 where it came too late.

    ``after_s``: from the moment at which the step is announced; None: as soon as it has written its ``run.json``.
    """
    log = folder / "rounds.log"
    folders = dict(
        zip(STAGES, ("candidates", "scores", "embeddings", "groups", "policy", "eval"), strict=True)
    )
    record = folder / "run" / "round-02" / folders[stage] / "run.json"
    was_there = record.exists()
    process = start(folder, "--from-round", "2", log=log)
    gives_up_at = time.monotonic() + LIMIT_S
    while process.poll() is None and f"$ prefpipe {stage} " not in log.read_text():
        assert time.monotonic() < gives_up_at, log.read_text()
        time.sleep(0.01)
    if after_s is None and not was_there:
        while process.poll() is None and not record.exists():
            time.sleep(0.005)
    else:
        time.sleep(after_s or 0.0)
    process.send_signal(number)
    process.communicate(timeout=LIMIT_S)
    said = log.read_text()
    assert "Traceback" not in said, said
    return process.returncode


def only_round_1(source: Path, folder: Path) -> None:
    """Copy a run so that its second round is still to be made."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "run" / "round-02", ignore_errors=True)


def main() -> None:
    """Kill as often as asked for and compare each finished run with an undisturbed one."""
    n_kills, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    root = Path(tempfile.mkdtemp(prefix="rounds-"))
    straight = root / "straight"
    straight.mkdir()
    write_plan(straight)
    finish(straight)
    expected = contents(straight / "run")

    moments, codes = random.Random(seed), Counter[str]()
    signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    killed = root / "killed"
    only_round_1(straight, killed)
    for i in range(n_kills):
        stage, number = STAGES[i % len(STAGES)], signals[i // len(STAGES) % len(signals)]
        after_s = moments.choice(
            [None, moments.uniform(0, 0.3), moments.uniform(0, 6 if stage == "train" else 1.5)]
        )
        code = kill_in(killed, stage, number, after_s=after_s)
        codes[f"{stage} {number.name} {code}"] += 1
        is_finished = i % len(STAGES) == len(STAGES) - 1
        if is_finished or code == 0:
            finish(killed, "--from-round", "2")
            same = contents(killed / "run") == expected
            codes[f"the same afterwards: {same}"] += 1
            if not same:
                sys.stdout.write(f"DIFFERS after {stage} {number.name} {after_s}: {killed}\n")
                return
            shutil.rmtree(killed / "run" / "round-02")
    for name, count in sorted(codes.items()):
        sys.stdout.write(f"{name}: {count}\n")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
