"""The map of a prompt: every candidate is on it once, readable at any width, and nothing on it can harm a terminal."""

import io
import random
import re
from itertools import pairwise

import pytest
from rich.console import Console
from support.finished_run import HOSTILE, K, N, original
from support.pipelines import open_artifact

from prefpipe.pages.candidate_grid import (
    LETTERS,
    NARROWEST,
    WIDEST,
    Grid,
    Point,
    lay_out,
    points_of,
)
from prefpipe.pages.candidate_map import candidate_map_page
from prefpipe.stages.inspect.candidate_map import with_coordinates
from prefpipe.stages.inspect.one_prompt import PromptSources, one_prompt


def lines_of(grid: Grid) -> list[str]:
    """The grid as text, its labels written where they say they begin."""
    lines = []
    for row in grid.rows:
        line = ""
        for label in row:
            assert label.column >= len(line), "labels overlap"
            line = f"{line:<{label.column}}{label.text}"
        assert len(line) <= grid.n_columns
        lines.append(line)
    return lines


def everyone(grid: Grid) -> list[int]:
    return sorted(
        point.sample_idx for row in grid.rows for label in row for point in label.pile.points
    )


def cloud(n: int, seed: int = 0, spread: float = 1.0, n_chosen: int = 8) -> list[Point]:
    randomness = random.Random(seed)
    roles = ["positive"] + ["negative"] * (n_chosen - 1) + [None] * n
    return [
        Point(spread * randomness.gauss(0, 1), randomness.gauss(0, 0.6), idx, roles[idx])
        for idx in range(n)
    ]


def test_lay_out_places_three_points_where_computed_by_hand() -> None:
    """Ten columns a unit, two columns a row: 3 units across are 30 columns, 2 units up 10 rows."""
    points = [
        Point(0.0, 0.0, 0, "positive"),
        Point(3.0, 2.0, 12, "negative"),
        Point(1.5, 1.0, 5, None),
    ]
    grid = lay_out(points, width=31 + len("P0+2"))
    lines = lines_of(grid)
    assert grid.n_columns == 31 + len("P0+2")
    assert len(lines) == 11
    assert lines[0] == " " * 30 + "n12"
    assert lines[5] == " " * 15 + ".5"
    assert lines[10] == "P0"
    assert [line for line in lines if line] == [lines[0], lines[5], lines[10]]


def test_distances_on_the_grid_are_in_proportion() -> None:
    """One scale in both directions, a row worth two columns: a square stays one."""
    square = [Point(x, y, idx, None) for idx, (x, y) in enumerate([(0, 0), (4, 0), (0, 4), (4, 4)])]
    lines = lines_of(lay_out(square, 80))
    assert [len(lines) - 1, lines[0].index(".3")] == [8 + 4 - 1, 2 * (8 + 4 - 1)]


@pytest.mark.parametrize("width", [NARROWEST, 58, 78, 198, 1000])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 32, 128, 1024])
def test_everyone_is_on_the_grid_once_within_its_width(n: int, width: int) -> None:
    for seed in range(5):
        points = cloud(n, seed)
        grid = lay_out(points, width)
        assert everyone(grid) == list(range(n))
        assert NARROWEST <= grid.n_columns <= min(width, WIDEST)
        assert 3 <= len(lines_of(grid)) <= 33


def test_labels_of_one_row_never_touch_a_count_and_samples_never_touch_a_label() -> None:
    for seed in range(40):
        for row in lay_out(cloud(64, seed, spread=0.5), 58).rows:
            for label, following in pairwise(row):
                gap = following.column - label.column - len(label.text)
                assert gap >= (0 if len(label.text) == 1 else 1)


def test_a_chosen_one_keeps_its_sample_against_those_that_were_not_chosen() -> None:
    for seed in range(40):
        grid = lay_out(cloud(64, seed), 78)
        for row in grid.rows:
            for label, following in pairwise(row):
                head = label.pile.points[0]
                if head.role is not None and following.pile.points[0].role is None:
                    assert label.text.startswith(head.name)


def test_points_in_one_place_are_counted_chosen_ones_first() -> None:
    points = [
        Point(0, 0, 4, None),
        Point(0, 0, 9, "negative"),
        Point(0, 0, 7, "positive"),
        Point(0, 0, 2, None),
        Point(5, 0, 1, None),
    ]
    grid = lay_out(points, 60)
    assert [line.split() for line in lines_of(grid) if line] == [["P7+3", ".1"]]
    assert [[point.name for point in pile.points] for pile in grid.piles()] == [
        ["P7", "n9", ".2", ".4"]
    ]


def test_two_chosen_neighbours_give_up_their_samples_before_one_hides_the_other() -> None:
    points = [Point(0.0, 0, 10, "negative"), Point(0.1, 0, 11, "negative"), Point(5.0, 0, 1, None)]
    line = next(line for line in lines_of(lay_out(points, 56)) if line)
    assert line.startswith("nn11 ")


def test_equal_points_are_one_place_in_the_middle() -> None:
    grid = lay_out([Point(0.0, 0.0, idx, None) for idx in range(7)], 60)
    assert [line.strip() for line in lines_of(grid)] == ["", ".0+6", ""]


def found_of(prompt_id: str, *kinds: str) -> dict:
    run = original() / "run"
    sources = PromptSources(
        **{kind: open_artifact(run / kind) for kind in kinds or ("candidates", "groups", "scores")}
    )
    return with_coordinates(
        one_prompt(sources, prompt_id), open_artifact(run / "embeddings"), sources
    )


def page_of(found: dict, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    for item in candidate_map_page(found, width=width):
        console.print(item, soft_wrap=True)
    return console.file.getvalue()


def frame_of(page: str) -> list[str]:
    lines = page.splitlines()
    edges = [number for number, line in enumerate(lines) if re.fullmatch(r"\+-+\+", line)]
    assert len(edges) == 2
    return [line[1:-1] for line in lines[edges[0] + 1 : edges[1]]]


def made(coordinates: list[tuple[float, float] | None], roles: list[str | None], **changes) -> dict:
    """A prompt as ``with_coordinates`` returns it."""
    entries = [
        {
            "sample_idx": idx,
            "role": role,
            "reward": 1.0 - idx,
            "response": f"text {idx}",
            "represents": None,
            "marginal_gain": None,
            "cluster": None,
            "beats": None,
            "beaten_by": None,
            "x": None if place is None else place[0],
            "y": None if place is None else place[1],
        }
        for idx, (place, role) in enumerate(zip(coordinates, roles, strict=True))
    ]
    facts = {
        "embeddings": "e",
        "n_points": len([1 for place in coordinates if place]),
        "n_dimensions": 384,
        "shares": [0.31, 0.12],
    }
    return {
        "prompt_id": "p",
        "part": 0,
        "messages": [{"role": "user", "content": "question"}],
        "group": None,
        "candidates": entries,
        "map": facts,
        "n_candidates": len(entries),
        "ranked_by": "x",
        **changes,
    }


@pytest.mark.slow
def test_the_page_shows_roles_variance_and_what_each_negative_stands_for() -> None:
    found = found_of("p3")
    page = page_of(found, 200)
    grid = " ".join(frame_of(page))
    for entry in found["candidates"]:
        assert f"{LETTERS[entry['role']]}{entry['sample_idx']}" in grid
    across, up = found["map"]["shares"]
    assert (
        f"they show {across + up:.0%} of the variance of the embeddings ({across:.0%} across, {up:.0%} upwards)"
        in page
    )
    assert "2 of 16 dimensions" in page
    assert page.count("   stands for ") == K
    assert "P positive   n negative   . not kept (1)" in page
    assert page.startswith(
        "prompt p3   part 1   opt-select: 1 positive + 2 negative\n      question 3\n"
    )


@pytest.mark.parametrize("width", range(60, 201, 20))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for prompt_id in ("p0", "p4"):
        assert all(len(line) <= width for line in page_of(found_of(prompt_id), width).splitlines())
    crowd = cloud(64)
    found = made([(point.x, point.y) for point in crowd], [point.role for point in crowd])
    for entry in found["candidates"]:
        entry["represents"] = list(range(40)) if entry["role"] == "negative" else None
    assert all(len(line) <= width for line in page_of(found, width).splitlines())


def test_the_map_is_plain_ascii() -> None:
    crowd = cloud(64)
    page = page_of(made([(point.x, point.y) for point in crowd], [point.role for point in crowd]))
    assert page.isascii()


def test_hostile_text_reaches_the_page_as_signs() -> None:
    found = made(
        [(0, 0), (1, 1)],
        ["positive", "negative"],
        prompt_id=HOSTILE,
        messages=[{"role": "user", "content": HOSTILE}],
    )
    found["candidates"][0]["response"] = HOSTILE + "\n" * 50 + "x" * 10_000
    page = page_of(found)
    assert not set(page) & {"\x1b", "\x00", "\u202e", "\u202c"}
    assert "␛[31mred␛[0m [bold]not bold[/bold]" in page
    assert len(page) < 5000


def test_map_of_two_candidates_shows_both_and_all_variance() -> None:
    found = made([(0.5, 0.0), (-0.5, 0.0)], ["positive", "negative"])
    found["map"]["shares"] = [1.0, 0.0]
    page = page_of(found, 200)
    assert [row.split() for row in frame_of(page) if row.strip()] == [["n1", "P0"]]
    assert "they show 100% of the variance of the embeddings (100% across, 0% upwards)" in page


def test_map_of_equal_embeddings_is_one_pile() -> None:
    found = made([(0.0, 0.0)] * 4, ["positive", "negative", None, None])
    found["map"]["shares"] = [0.0, 0.0]
    page = page_of(found)
    assert [row.strip() for row in frame_of(page) if row.strip()] == ["P0+3"]
    assert "all 4 embeddings are the same: there is nothing to tell apart" in page
    assert "together are: (P0 n1 .2 .3)" in page


def test_map_of_one_embedding_is_one_point() -> None:
    page = page_of(made([(0.0, 0.0), None], [None, None]))
    assert "one candidate has an embedding" in page
    assert "without an embedding, so not on the map: #1" in page


def test_map_page_names_chosen_candidate_without_embedding() -> None:
    page = page_of(made([(0.0, 0.0), (1.0, 0.0), None], ["positive", None, "negative"]))
    assert "n2    negative   reward -1" in page
    assert "not on the map: it has no embedding" in page


def test_candidates_without_an_embedding_are_named_below_the_map() -> None:
    page = page_of(made([(0.0, 0.0), (1.0, 0.0), None, None], [None] * 4))
    assert "not on the map: #2 #3" in page


def test_a_rejected_prompt_has_a_map_and_says_why() -> None:
    group = {
        "strategy": "coreset",
        "status": "tie",
        "reason": "4 candidates, 4 usable; rewards 1 to 1",
    }
    page = page_of(made([(0, 0), (1, 0), (0, 1)], [None] * 3, group=group))
    assert "rejected by select, tie: 4 candidates, 4 usable; rewards 1 to 1" in page
    assert ". a candidate (3)" in page
    assert "positive" not in page


def test_candidates_without_groups_have_a_map() -> None:
    found = found_of("p2", "candidates")
    assert {entry["role"] for entry in found["candidates"]} == {None}
    assert len(re.findall(r"\.\d", " ".join(frame_of(page_of(found))))) == N


def test_groups_without_their_candidates_show_what_was_kept() -> None:
    found = found_of("p2", "groups")
    assert len(points_of(found["candidates"])) == K + 1
    assert found["map"]["n_points"] == K + 1


def test_many_piles_are_counted_not_listed() -> None:
    places = [(float(idx), 0.0) for idx in range(12) for _ in range(2)]
    page = page_of(made(places, [None] * 24), 120)
    assert "(.0 .1)  (.2 .3)" in page
    assert "and 4 more places" in page
