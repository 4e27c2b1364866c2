"""Files of pairs for tests, and the commands that read them."""

import json
from pathlib import Path
from typing import Any

from prefpipe.cli.main import run as prefpipe
from support.pipelines import write_json_lines

QUICK = ("--bootstrap-draws", "200")


def some_pairs(n: int, **changes: Any) -> list[dict[str, Any]]:
    """Pairs of two RewardBench subsets, two to a prompt, of different lengths."""
    return [
        {
            "prompt": f"What is {i // 2} and one?",
            "chosen": f"It is {i // 2 + 1}." + " Yes!" * (i % 5),
            "id": i,
            "rejected": "I cannot say" + "?" * (i % 3 + 1),
            "subset": ("llmbar-natural", "donotanswer")[i // 2 % 2],
            **changes,
        }
        for i in range(n)
    ]


def pairs_file(folder: Path, rows: list[dict[str, Any]], name: str = "pairs.jsonl") -> str:
    """Write rows as JSON lines and return the path as one types it."""
    return str(write_json_lines(folder / name, rows))


def evaluate(command: str, pairs: str, output: Path, *words: str) -> dict[str, Any]:
    """Run ``prefpipe eval COMMAND`` to its end and return ``summary.json``."""
    assert prefpipe(["eval", command, "--pairs", pairs, "-o", str(output), *words, *QUICK]) == 0
    found: dict[str, Any] = json.loads((output / "summary.json").read_text())
    return found
