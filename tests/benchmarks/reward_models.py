"""Reward models trained for real: bt against mmpo on graded responses, over seeds.

Through the commands a user types. Run as a program (not by pytest):
``python tests/benchmarks/reward_models.py --work DIR``. It needs
``../shared/data/prometheus_rubric_1to5.parquet`` (or ``--data``) and the package behind
``bundled:minilm``; what lies in DIR from an earlier run is kept. A seed draws the held-out prompts,
the head's start and the order of training, the same for every objective, so objectives differ in
nothing else.

Each prompt of the file has four responses, and each response the mean of three GPT-4 scores from 1
to 5. Only prompts whose four responses answer one text are taken: the multi-turn half of the file
continues each model's own first answer.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
DATA = (
    Path(os.environ.get("PREFPIPE_TEST_DATA", ROOT.parent / "shared" / "data"))
    / "prometheus_rubric_1to5.parquet"
)
TEMPLATE = Path(__file__).with_name("encoder_template.jinja")
FIGURES = ("accuracy", "auc", "ece", "ece_mass", "brier", "log_loss")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", default="bundled:minilm")
    parser.add_argument("--objectives", nargs="+", default=["bt", "mmpo"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--train",
        nargs=argparse.REMAINDER,
        default=[],
        help="further flags of train, last on the line",
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    groups = select_groups(options.work, options.data)
    results = defaultdict(list)
    for seed in options.seeds:
        for objective in options.objectives:
            started = time.monotonic()
            output = options.work / f"{objective}-{seed}"
            prefpipe(
                "train",
                groups,
                "-o",
                output,
                "--model",
                options.model,
                "--target",
                "reward",
                "--objective",
                objective,
                "--chat-template",
                TEMPLATE,
                "--seed",
                seed,
                "--eval-fraction",
                "0.3",
                "--eval-steps",
                "1000",
                "--learning-rate",
                "1e-4",
                "--global-batch-size",
                "4",
                "--num-train-epochs",
                "2",
                "--report-to",
                "none",
                *options.train,
            )
            found = json.loads((output / "summary.json").read_text())["calibration"]
            row = {name: found[name] for name in FIGURES} | {
                "n_pairs": found["n_pairs"],
                "seconds": time.monotonic() - started,
            }
            print(json.dumps({"objective": objective, "seed": seed, **row}), flush=True)
            results[objective].append(row)
        results["before training"].append(
            first_evaluation(options.work / f"{options.objectives[0]}-{seed}")
        )
        results["the longer one"].append(
            {"accuracy": longer_wins(options.work / f"{options.objectives[0]}-{seed}", groups)}
        )
    print(table(results))


def select_groups(work: Path, data: Path) -> Path:
    """Import the graded responses and keep all of them, with every pair of different grades."""
    members = defaultdict(list)
    for row in pq.read_table(data).to_pylist():
        members[f"{row['set']}-{row['idx']}"].append(row)
    with (work / "graded.jsonl").open("w", encoding="utf-8") as file:
        for prompt_id, rows in members.items():
            if len({row["prompt"] for row in rows}) == 1:
                for row in rows:
                    own = {name: row[name] for name in ("prompt", "response", "model")}
                    file.write(
                        json.dumps({"prompt_id": prompt_id, **own, "grade": row["score"]}) + "\n"
                    )
    prefpipe(
        "import", work / "graded.jsonl", "-o", work, "--format", "rows", "--reward-column", "grade"
    )
    prefpipe(
        "select",
        work / "candidates",
        "--scores",
        work / "scores",
        "-o",
        work / "groups",
        "--strategy",
        "all",
        "--pairs",
        "all-ordered",
    )
    return work / "groups"


def prefpipe(*arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "prefpipe", *map(str, arguments)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def first_evaluation(output: Path) -> dict[str, float]:
    """Return the figures of the held-out pairs before the first step."""
    rows = [
        row
        for row in pq.read_table(output / "metrics.parquet").to_pylist()
        if row["split"] == "eval"
    ]
    return {
        name.removeprefix("pairs/"): value
        for name, value in rows[0].items()
        if name.startswith("pairs/")
    }


def longer_wins(output: Path, groups: Path) -> float:
    """Return the share of held-out pairs whose winner is the longer response, in characters: a
    scorer that reads nothing."""
    fates = [
        row
        for part in sorted(output.glob("part-*.parquet"))
        for row in pq.read_table(part).to_pylist()
    ]
    held = {(row["prompt_id"], row["sample_idx"]) for row in fates if row["status"] == "held_out"}
    rows = [
        row
        for part in sorted(groups.glob("part-*.parquet"))
        for row in pq.read_table(part).to_pylist()
    ]
    lengths = {(row["prompt_id"], row["sample_idx"]): len(row["response"] or "") for row in rows}
    wins = []
    for row in rows:
        winner = row["prompt_id"], row["sample_idx"]
        for pair in row["beats"] or ():
            loser = row["prompt_id"], pair["sample_idx"]
            if winner in held and loser in held:
                wins.append(
                    0.5
                    * (1 + (lengths[winner] > lengths[loser]) - (lengths[winner] < lengths[loser]))
                )
    return fmean(wins)


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Return a Markdown table: mean and standard error over seeds."""
    lines = [f"| scorer | {' | '.join(FIGURES)} |", "|---" * (len(FIGURES) + 1) + "|"]
    for name, rows in results.items():
        cells = []
        for figure in FIGURES:
            values = [row[figure] for row in rows if figure in row]
            error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else float("nan")
            cells.append(f"{fmean(values):.3f} ± {error:.3f}" if values else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
