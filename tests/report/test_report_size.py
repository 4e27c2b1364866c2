"""What a page holds is bounded, and says what it leaves out."""

import json
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.sampled_evaluations import write_prompts

from prefpipe.cli.main import run as prefpipe
from prefpipe.report.maps import (
    ALL_TEXT,
    LEAST_TEXT,
    MOST_CANDIDATES,
    TEXT_LIMIT,
    _drawn,
    _with_texts_cut,
)
from prefpipe.report.pools import MAX_POINTS
from prefpipe.stages.inspect.curves import read_points


def map_of(n: int, n_chars: int) -> dict[str, Any]:
    return {"candidates": [{"sample_idx": i, "response": "x" * n_chars} for i in range(n)]}


@pytest.mark.parametrize(
    ("n_maps", "n", "limit"), [(2, 8, TEXT_LIMIT), (12, 64, ALL_TEXT // 768), (12, 512, LEAST_TEXT)]
)
def test_texts_of_many_candidates_are_cut_earlier_and_say_so(
    n_maps: int, n: int, limit: int
) -> None:
    maps = _with_texts_cut([map_of(n, 2_000) for _ in range(n_maps)])
    texts = [each["response"] for made in maps for each in made["candidates"]]
    assert {text.count("x") for text in texts} == {limit}
    assert all(text.endswith(f"({2_000 - limit:,} more characters)") for text in texts)


def test_short_texts_are_whole() -> None:
    [made] = _with_texts_cut([map_of(4, 100)])
    assert {each["response"] for each in made["candidates"]} == {"x" * 100}


def test_a_map_of_many_candidates_shows_the_kept_ones_and_an_even_sample() -> None:
    candidates = map_of(1_000, 1)["candidates"]
    kept = [3, 500, 999]
    selections = [{"kept": [{"sample_idx": number} for number in kept]}]
    drawn = [each["sample_idx"] for each in _drawn(candidates, selections)]
    assert set(kept) <= set(drawn)
    assert len(drawn) == MOST_CANDIDATES + len(kept)
    assert drawn == sorted(drawn)
    assert max(b - a for a, b in pairwise(drawn)) <= 10
    few = candidates[:5]
    assert _drawn(few, selections) == few


def test_a_cloud_has_no_more_points_than_are_allowed_and_counts_all(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", "many", 300)
    run = tmp_path / "run"
    sampled = ["--backend", "fake", "--model", "fake", "--n", "4", "--max-tokens", "20"]
    assert prefpipe(["generate", str(prompts), "-o", f"{run}/candidates", *sampled]) == 0
    scored = ["score", f"{run}/candidates", "-o", f"{run}/scores", "--scorer", "fake"]
    assert prefpipe(scored) == 0
    capsys.readouterr()
    page = tmp_path / "report.html"
    assert prefpipe(["report", str(run), "-o", str(page), "--model", "8B", "--json"]) == 0
    points = json.loads(capsys.readouterr().out)["pools"][0]["rewards"]["lengths"]["points"]["none"]
    assert points["n"] == 1_200
    assert 0 < len(points["reward"]) == len(points["length"]) <= MAX_POINTS
    assert page.stat().st_size < 1_500_000


def test_a_long_curve_is_drawn_as_means_with_first_and_last_as_logged(tmp_path: Any) -> None:
    steps = list(range(1, 1_001))
    table = {"step": steps, "epoch": [0.1] * 1_000, "split": ["train"] * 1_000}
    pq.write_table(
        pa.table(table | {"loss": [float(s) for s in steps]}), tmp_path / "metrics.parquet"
    )
    [curve] = read_points(tmp_path, 40)
    assert (curve["n"], len(curve["values"])) == (1_000, 40)
    assert (curve["first"], curve["last"]) == (1.0, 1_000.0)
    assert curve["values"][0] == 13.0
