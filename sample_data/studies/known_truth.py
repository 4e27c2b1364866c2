"""Write rated responses whose true preferences are known, for studies C and D.

    python sample_data/studies/known_truth.py POOL -o FILE.jsonl --pairs 3 --gamma 6 --seed 0
    python sample_data/studies/known_truth.py POOL -o FILE.jsonl --responses 6 --seed 0

POOL holds `candidates` and `scores`. Of each prompt a few responses with different scores are
drawn; --prompts N takes N prompts, evenly over their ids, and so of every family. A score in [0, 1]
is the quality q, the column `quality`.

--pairs K: 2 K responses of a prompt are K pairs, no response in two of them. The first of a pair is
the better one with the probability sigma(gamma * (q_1 - q_2)), and `label` is 1 for the winner of
one draw from it, 0 for the other. Each pair is a prompt of its own, with an id of its own.

--responses R: `levels_L_noise_S` is q with a rater's noise of standard deviation S / 100 added, cut
to [0, 1] and rounded to L levels, for every L of 2, 3, 5, 7, 10 and `all`.

What is drawn for a prompt depends on its id and the seed alone. known_truth.sh runs this for both
studies and imports the files.
"""

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
import polars as pl

import prefpipe

LEVELS = (2, 3, 5, 7, 10)
NOISES = (0.1, 0.2, 0.4)


def read_pool(pool: Path) -> pl.DataFrame:
    """Return the rated responses that can be used, in the order of their keys."""
    key = ["prompt_id", "sample_idx"]
    candidates = prefpipe.read(pool / "candidates").filter(
        pl.col("status").is_in(["ok", "truncated"])
    )
    scores = prefpipe.read(pool / "scores").select(*key, quality="reward")
    return (
        candidates.filter(pl.col("duplicate_of").is_null())
        .join(scores, on=key)
        .filter(pl.col("quality").is_not_null())
        .sort(key)
    )


def take_prompts(rows: pl.DataFrame, n_prompts: int | None) -> pl.DataFrame:
    """Return the rows of so many prompts, evenly over the sorted ids; None takes all."""
    prompt_ids = rows["prompt_id"].unique().sort()
    if n_prompts is None:
        return rows
    if n_prompts > len(prompt_ids):
        raise SystemExit(f"--prompts {n_prompts}: the pool has {len(prompt_ids)}")
    places = np.arange(n_prompts) * len(prompt_ids) // n_prompts
    return rows.filter(pl.col("prompt_id").is_in(prompt_ids[places.tolist()].implode()))


def draw_responses(rows: pl.DataFrame, n_responses: int, draw: np.random.Generator) -> pl.DataFrame:
    """Return so many responses, no two of one quality; fewer where there are fewer."""
    shuffled = rows[draw.permutation(len(rows)).tolist()]
    return shuffled.unique("quality", keep="first", maintain_order=True).head(n_responses)


def labels_of(quality: np.ndarray, gamma: float, draw: np.random.Generator) -> list[int]:
    """Return 1 for the winner of two responses and 0 for the other, drawn once."""
    probability = 1 / (1 + np.exp(-gamma * (quality[0] - quality[1])))
    first_wins = bool(draw.random() < probability)
    return [int(first_wins), int(not first_wins)]


def rating_columns(quality: np.ndarray, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Return what a rater of each granularity and noise would have said."""
    columns = {}
    for noise in NOISES:
        # one draw a noise: raters of all granularities make the same mistakes
        seen = np.clip(quality + noise * draw.standard_normal(len(quality)), 0, 1)
        columns[f"levels_all_noise_{100 * noise:.0f}"] = seen
        for n_levels in LEVELS:
            steps = np.floor(seen * (n_levels - 1) + 0.5)
            columns[f"levels_{n_levels}_noise_{100 * noise:.0f}"] = steps / (n_levels - 1)
    return columns


def lines_of(rows: pl.DataFrame, prompt_id: str, columns: dict[str, np.ndarray]) -> list[str]:
    """Return a line of JSON for each response."""
    lines = []
    for place, row in enumerate(rows.iter_rows(named=True)):
        prompt = row["messages"][-1]["content"]
        values = {name: column[place].item() for name, column in columns.items()}
        line = {"prompt_id": prompt_id, "prompt": prompt, "response": row["response"], **values}
        lines.append(json.dumps(line, ensure_ascii=False))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pool", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--prompts", type=int)
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--pairs", type=int)
    wanted.add_argument("--responses", type=int)
    parser.add_argument("--gamma", type=float, default=6.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    lines = []
    pool = take_prompts(read_pool(given.pool), given.prompts)
    for (prompt_id,), rows in pool.group_by("prompt_id", maintain_order=True):
        draw = np.random.default_rng([given.seed, zlib.crc32(str(prompt_id).encode())])
        drawn = draw_responses(rows, given.responses or 2 * given.pairs, draw)
        quality = drawn["quality"].to_numpy()
        if given.responses:
            columns = {"quality": quality, **rating_columns(quality, draw)}
            lines += lines_of(drawn, str(prompt_id), columns) if len(drawn) > 1 else []
            continue

        for number in range(len(drawn) // 2):
            pair = slice(2 * number, 2 * number + 2)
            labels = labels_of(quality[pair], given.gamma, draw)
            columns = {"quality": quality[pair], "label": np.array(labels)}
            lines += lines_of(drawn[pair], f"{prompt_id}.{number}", columns)
    given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
