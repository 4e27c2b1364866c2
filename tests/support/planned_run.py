"""Three rounds by a plan with tiny models, made once a session by the commands that ``prefpipe rounds`` would run."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from prefpipe.configs.round_plan import read_plan
from prefpipe.configs.round_steps import steps_of
from prefpipe.configs.rounds_record import write_rounds_record
from support.finished_run import command
from support.pipelines import write_json_lines
from support.tiny_models import make_tiny_causal_lm

N_HELD_OUT = 12
SAMPLING = (
    "max_tokens: 8, temperature: 1.0, backend: transformers, device: cpu, dtype: float32, "
    "part_size: 4"
)
PLAN = f"""\
rounds: 3
prompts: {{folder}}/prompts.jsonl
model: {{folder}}/start
prompt_use: reuse
generate: {{{{n: 4, {SAMPLING}}}}}
score: {{{{scorer: fake}}}}
select: {{{{k: 2, strategy: bottom-k}}}}
train: {{{{max_steps: 2, global_batch_size: 4, learning_rate: 5e-2, report_to: none}}}}
eval: {{{{prompts: {{folder}}/heldout.jsonl, scorer: fake, n: 2, {SAMPLING}}}}}
changes: {{{{2: {{{{train: {{{{learning_rate: 2e-2}}}}}}}}}}}}
"""


def make(folder: Path, seed: int) -> Path:
    """Run the plan's steps in this process; return the folder that holds plan.yaml and run/."""
    for name, letter, n in (("prompts", "p", 8), ("heldout", "h", N_HELD_OUT)):
        rows = [{"prompt_id": f"{letter}{i}", "prompt": f"{name} {i}"} for i in range(n)]
        write_json_lines(folder / f"{name}.jsonl", rows)
    make_tiny_causal_lm(folder / "start")
    plan_path = folder / "plan.yaml"
    plan_path.write_text(PLAN.format(folder=folder))

    plan = read_plan(plan_path, seed=seed)
    write_rounds_record(folder / "run", plan_path, plan, seed=seed)
    for step in steps_of(plan, folder / "run", name="plan.yaml"):
        command(step.words)
    return folder


@cache
def original(seed: int = 0) -> Path:
    """Return the rounds of this test session; nobody changes them."""
    return make(Path(mkdtemp(prefix="prefpipe-planned-run-")), seed)


def copy_to(folder: Path, seed: int = 0) -> Path:
    """Copy the rounds so that they look as if they had been made in ``folder``; return it."""
    source = original(seed)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    for pattern in ("run.json", "rounds.json", "plan.yaml"):
        for file in folder.rglob(pattern):
            file.write_text(file.read_text().replace(str(source), str(folder)))
    return folder
