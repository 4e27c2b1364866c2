"""A finished run of the fake back-end, made once by the real commands and copied for each test that damages it."""

import json
import shutil
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from prefpipe.cli.main import run

N_PROMPTS, N, PART_SIZE, K = 6, 4, 2, 2
N_PARTS = N_PROMPTS // PART_SIZE
HOSTILE = "\x1b[31mred\x1b[0m [bold]not bold[/bold] \x00 \u202ereversed\u202c \u05e9\u05dc\u05d5\u05dd \U0001f389"


def write_run_prompts(path: Path) -> Path:
    """Write six prompts with checks and a topic; the text of ``p4`` holds everything that can harm a terminal."""
    rows = [
        {
            "prompt_id": f"p{i}",
            "prompt": HOSTILE if i == 4 else f"question {i}",
            "topic": f"t{i % 2}",
            "checks": [{"type": "words", "min": 1, "max": 10}],
        }
        for i in range(N_PROMPTS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make(folder: Path) -> Path:
    """Run generate, score, embed and select; return the folder that holds prompts.jsonl and run/."""
    prompts, out = write_run_prompts(folder / "prompts.jsonl"), folder / "run"
    candidates, scores, embeddings = (
        str(out / name) for name in ("candidates", "scores", "embeddings")
    )
    for words in (
        [
            "generate",
            str(prompts),
            "-o",
            candidates,
            "--backend",
            "fake",
            "--model",
            "fake",
            "--n",
            str(N),
            "--part-size",
            str(PART_SIZE),
            "--max-tokens",
            "64",
        ],
        ["score", candidates, "-o", scores, "--scorer", "checks", "--scorer", "fake"],
        ["embed", candidates, "-o", embeddings, "--model", "fake"],
        [
            "select",
            candidates,
            "--scores",
            scores,
            "--embeddings",
            embeddings,
            "-o",
            str(out / "groups"),
            "--k",
            str(K),
            "--reward",
            "checks + 0.5 * fake",
        ],
    ):
        command(words)
    return folder


def command(words: list[str]) -> None:
    """Run a command in this process as if it had been typed: ``run.json`` records ``sys.argv``."""
    argv, sys.argv = sys.argv, ["prefpipe", *words]
    try:
        assert run(words) == 0
    finally:
        sys.argv = argv


@cache
def original() -> Path:
    """Return the one finished run of this test session; nobody changes it."""
    return make(Path(mkdtemp(prefix="prefpipe-finished-run-")))


def copy_to(folder: Path) -> Path:
    """Copy the finished run so that it looks as if it had been made in ``folder``; return its ``run`` folder."""
    source = original()
    shutil.copytree(source, folder, dirs_exist_ok=True)
    for record in folder.rglob("run.json"):
        record.write_text(
            record.read_text(encoding="utf-8").replace(str(source), str(folder)), encoding="utf-8"
        )
    return folder / "run"
