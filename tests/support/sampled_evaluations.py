"""Small runs with an evaluation, by the fake back-end: a second each, no model is trained."""

import json
from pathlib import Path

from support.finished_run import command

N_HELDOUT, N_TRAIN, N = 30, 8, 3
HOSTILE = "</script><script>window.stolen = 1</script><b>&amp; {{ 7 * 7 }}"


def write_prompts(
    path: Path, name: str, n_prompts: int, *, topic: str = "", is_reversed: bool = False
) -> Path:
    """Write prompts, the first of which is hostile, and a column of the user's if there is a topic."""
    rows = [{"prompt": f"{name} {i} {HOSTILE if i == 0 else ''}"} for i in range(n_prompts)]
    if topic:
        rows = [{**row, "topic": topic} for row in rows]
    if is_reversed:
        rows.reverse()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sample(prompts: Path, folder: Path, *, seed: int, n: int = 2, max_tokens: int = 30) -> None:
    """Sample and rate candidates."""
    words = ["--backend", "fake", "--model", "fake", "--n", str(n), "--seed", str(seed)]
    words += ["--max-tokens", str(max_tokens)]
    command(["generate", str(prompts), "-o", f"{folder}/candidates", *words])
    command(["score", f"{folder}/candidates", "-o", f"{folder}/scores", "--scorer", "fake"])


def evaluated_run(
    folder: Path,
    *,
    seed: int,
    heldout: str = "held out",
    n_heldout: int = N_HELDOUT,
    baseline_seed: int = 0,
    max_tokens: int = 30,
    topic: str = "",
    is_reversed: bool = False,
) -> Path:
    """Return a run with a pool of its own and an evaluation; samples are those of the seed."""
    prompts = write_prompts(
        folder.parent / f"{heldout}.jsonl", heldout, n_heldout, topic=topic, is_reversed=is_reversed
    )
    train = write_prompts(folder.parent / "train.jsonl", "train", N_TRAIN)
    sample(train, folder, seed=seed, n=N)
    sides = {"policy": seed, "baseline": baseline_seed}
    words: list[str] = []
    for side, of_side in sides.items():
        place = folder / "sides" / side
        sample(prompts, place, seed=of_side, max_tokens=max_tokens)
        words += [f"--{side}", f"{place}/candidates", f"--{side}-scores", f"{place}/scores"]
    command(["eval", *words, "-o", f"{folder}/eval", "--bootstrap-draws", "500"])
    return folder
