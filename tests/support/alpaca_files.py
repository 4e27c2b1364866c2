"""Files as AlpacaEval writes them: ``annotations.json``, ``model_outputs.json``, and its tables of difficulties and gamed rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def annotation(
    number: int, preference: float | None, *, model: str = "model", longer: int = 0, **more: Any
) -> dict[str, Any]:
    """Return one row: output_1 is the baseline's response, output_2 the model's, and 2 says that the model's is better."""
    return {
        "instruction": f"Explain item {number}.",
        "output_1": "b" * (100 + 7 * number),
        "generator_1": "gpt4_1106_preview",
        "dataset": "helpful_base",
        "datasplit": "eval",
        "output_2": "m" * (100 + longer + 11 * (number % 5)),
        "generator_2": model,
        "annotator": "weighted_alpaca_eval_gpt4_turbo",
        "preference": preference,
        "price_per_example": 0.01,
        "time_per_example": 0.4,
        "raw_completion": {
            "finish_reason": "length",
            "logprobs": {"content": [{"token": "M", "logprob": -0.1, "top_logprobs": []}]},
        },
        **more,
    }


def annotations(path: Path, n: int = 40, *, model: str = "model", seed: int = 0) -> Path:
    """Write ``n`` rows with graded preferences."""
    values = 1 + np.random.default_rng(seed).uniform(size=n)
    path.write_text(
        json.dumps(
            [annotation(i, float(value), model=model) for i, value in enumerate(values)], indent=2
        )
    )
    return path


def difficulty_table(path: Path, n: int = 40) -> Path:
    """Write ``instruction_difficulty.csv``: pandas's row numbers in a column without a name."""
    rows = "".join(f"{i},{0.1 * (i % 7) - 0.3}\n" for i in range(n))
    path.write_text(f",instruction_difficulty\n{rows}")
    return path


def gamed_table(path: Path, n: int = 20) -> Path:
    """Write ``df_gamed.csv``."""
    rows = "".join(
        f"gpt4_gamed,{i},{0.3 + 0.01 * i},{(-1) ** i * 1.5},{0.1 * (i % 7)},False\n"
        for i in range(n)
    )
    path.write_text(
        f"model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline\n{rows}"
    )
    return path
