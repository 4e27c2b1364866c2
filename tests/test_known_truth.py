"""Labels and ratings of studies C and D: drawn as often as they should be, and the same for a prompt alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.written_pools import rated, write_pools

SCRIPT = Path(__file__).resolve().parents[1] / "sample_data" / "studies" / "known_truth.py"
N_PROMPTS, GAMMA = 600, 6.0


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pool")
    pools = {f"p{i:03d}": rated(*random.integers(0, 21, 4) / 20) for i in range(N_PROMPTS)}
    write_pools(folder, pools, part_size=N_PROMPTS)
    return folder


def rows(pool: Path, output: Path, *words: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(SCRIPT), str(pool), "-o", str(output), *words]
    subprocess.run(command, check=True)
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def test_labels_are_drawn_with_the_true_probability(pool: Path, tmp_path: Path) -> None:
    """By the score of all draws: their mean and spread are those of independent draws from the truth."""
    found = rows(pool, tmp_path / "pairs.jsonl", "--pairs", "2", "--gamma", str(GAMMA))
    first, second = found[::2], found[1::2]
    assert [row["prompt_id"] for row in first] == [row["prompt_id"] for row in second]
    assert len({row["prompt_id"] for row in first}) == len(first) > 1.7 * N_PROMPTS
    # no response is in two pairs of its prompt
    used = {(row["prompt"], row["response"]) for row in found}
    assert len(used) == len(found)
    gap = np.array([a["quality"] - b["quality"] for a, b in zip(first, second, strict=True)])
    won = np.array([row["label"] for row in first])
    assert won.tolist() == [1 - row["label"] for row in second]
    assert (gap != 0).all()

    p = 1 / (1 + np.exp(-GAMMA * gap))
    # the score of gamma: 0 in the mean with the right gamma, and far from it with half or twice
    error = np.sqrt(np.sum(p * (1 - p) * gap**2))
    assert abs(np.sum((won - p) * gap)) < 3 * error
    for wrong in (0.5, 2.0):
        other = 1 / (1 + np.exp(-wrong * GAMMA * gap))
        assert abs(np.sum((won - other) * gap)) > 3 * error


def test_fewer_prompts_are_the_same_lines(pool: Path, tmp_path: Path) -> None:
    whole = rows(pool, tmp_path / "whole.jsonl", "--pairs", "1")
    few = rows(pool, tmp_path / "few.jsonl", "--pairs", "1", "--prompts", "60")
    assert [row for row in whole if row["prompt_id"] in {each["prompt_id"] for each in few}] == few
    assert [row["prompt_id"] for row in few[::2]] == [f"p{10 * i:03d}.0" for i in range(60)]


def test_levels_are_the_nearest_to_what_the_rater_saw(pool: Path, tmp_path: Path) -> None:
    found = rows(pool, tmp_path / "ratings.jsonl", "--responses", "3", "--seed", "2")
    quality = np.array([row["quality"] for row in found])
    for noise in (10, 20, 40):
        seen = np.array([row[f"levels_all_noise_{noise}"] for row in found])
        assert seen.min() >= 0.0
        assert seen.max() <= 1.0
        # of qualities in the middle little is cut off at the ends
        inner = np.abs(quality - 0.5) < 0.11
        if noise < 40:
            assert np.std((seen - quality)[inner]) == pytest.approx(noise / 100, rel=0.15)
        for n_levels in (2, 3, 5, 7, 10):
            rating = np.array([row[f"levels_{n_levels}_noise_{noise}"] for row in found])
            levels = np.linspace(0, 1, n_levels)
            assert np.abs(rating[:, None] - levels).min(axis=1).max() < 1e-12
            assert len(np.unique(rating.round(9))) == n_levels
            nearest = np.abs(seen[:, None] - levels).min(axis=1)
            np.testing.assert_allclose(np.abs(rating - seen), nearest, atol=1e-12)
