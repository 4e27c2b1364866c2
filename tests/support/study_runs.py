"""A small study on tiny models: its plan, its steps forked, and what two studies of one plan must agree in.

``PYTHONPATH=tests python -m support.study_runs 24`` kills one so often by real signals to real processes, at random moments,
and prints the counts; `tests/durability/test_study.py` kills twenty times with forked steps.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import polars as pl

from support.pipelines import write_json_lines, write_prompts
from support.tiny_models import make_tiny_causal_lm

PLAN = """\
study: tiny
model: model
seeds: [0]
pool:
  prompts: prompts.jsonl
  generate: {backend: fake, n: 4, part_size: 3, max_tokens: 8}
  score: {scorer: fake}
heldout: {prompts: heldout.jsonl}
eval: {backend: transformers, device: cpu, scorer: fake, max_tokens: 8, n: 2, bootstrap_draws: 300}
select: {k: 2}
train:
  global_batch_size: 2
  report_to: none
  learning_rate: 1e-2
  lr_scheduler_type: constant
  warmup_ratio: 0
  save_steps: 1
budgets: {prompts: 4, response_tokens: like bottom}
arms:
  bottom: {select: {strategy: bottom-k}}
  pair: {select: {strategy: best-worst, k: null}}
contrasts: [[bottom, pair]]
"""
LIMIT_S = 300.0
CLOCKS = ("seconds",)
"""Columns of ``runs.parquet`` that say how long something took."""


def write_study(folder: Path, plan: str = PLAN) -> None:
    """Write the plan with all that it names."""
    write_prompts(folder / "prompts.jsonl", 6)
    heldout = [{"prompt_id": f"h{i}", "prompt": f"unseen {i}"} for i in range(3)]
    write_json_lines(folder / "heldout.jsonl", heldout)
    if not (folder / "model").exists():
        make_tiny_causal_lm(folder / "model")
    (folder / "plan.yaml").write_text(plan, encoding="utf-8")


def tables_of(study: Path) -> dict[str, object]:
    """Return what two studies of one plan must agree in, to the last digit: both tables but clocks, and the figures."""
    summary = json.loads((study / "summary.json").read_text(encoding="utf-8"))
    return {
        "results": pl.read_parquet(study / "results.parquet").to_dicts(),
        "runs": pl.read_parquet(study / "runs.parquet").drop(CLOCKS).to_dicts(),
        "summary": without_clocks(summary),
    }


def without_clocks(value: object) -> object:
    """Return JSON values without those that say how long something took."""
    if isinstance(value, dict):
        return {key: without_clocks(each) for key, each in value.items() if key not in CLOCKS}
    return [without_clocks(each) for each in value] if isinstance(value, list) else value


def ledger(study: Path) -> list[dict[str, object]]:
    """Return the entries of a study's ledger."""
    lines = (study / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def weights_in(study: Path) -> list[str]:
    """Return the files of weights that lie in a study's folder."""
    return sorted(str(path.relative_to(study)) for path in study.rglob("*.safetensors"))


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start ``prefpipe study plan.yaml -o run`` in a folder; what it says goes into a file."""
    with (folder / "study.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "prefpipe", "study", "plan.yaml", "-o", "run"],
            cwd=folder,
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )


def main() -> None:
    """Kill as often as asked for, in one of the steps that are next, and compare what is finished with an undisturbed study."""
    n_kills, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    root = Path(tempfile.mkdtemp(prefix="studies-"))
    straight, killed = root / "straight", root / "killed"
    for folder in (straight, killed):
        folder.mkdir()
        write_study(folder)
    assert start(straight).wait(LIMIT_S) == 0, (straight / "study.log").read_text()

    moments, codes = random.Random(seed), Counter[str]()
    signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    n_done = 0
    while n_done < n_kills:
        number = signals[n_done % len(signals)]
        process, n_steps = start(killed), moments.randrange(1, 6)
        while process.poll() is None:
            if (killed / "study.log").read_text().count("$ prefpipe") >= n_steps:
                break
            time.sleep(0.01)
        time.sleep(moments.choice([0.0, moments.uniform(0, 1), moments.uniform(0, 8)]))
        process.send_signal(number)
        code, said = process.wait(LIMIT_S), (killed / "study.log").read_text()
        assert "Traceback" not in said, said
        steps = [line.split()[2] for line in said.splitlines() if line.startswith("$ prefpipe")]
        if code == 0:
            same = tables_of(killed / "run") == tables_of(straight / "run")
            codes[f"finished between two kills, the same tables: {same}"] += 1
            shutil.rmtree(killed / "run")
            continue
        n_done += 1
        codes[f"{steps[-1] if steps else 'between steps'} {number.name} {code}"] += 1

    assert start(killed).wait(LIMIT_S) == 0, (killed / "study.log").read_text()
    same = tables_of(killed / "run") == tables_of(straight / "run")
    codes[f"finished, the same tables: {same}"] += 1
    for name, count in sorted(codes.items()):
        sys.stdout.write(f"{name}: {count}\n")
    if same:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
