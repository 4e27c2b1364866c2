"""Several ratings of one response come to one score by a rule that is said, and samples of one text stay samples."""

from pathlib import Path
from typing import Any

import pytest
from support.interchange_files import held, lines, read

from prefpipe.artifacts.conversations import ReadingRules
from prefpipe.errors import InputError

RATERS = [("a", "x", 1), ("a", "y", 5), ("a", "z", 6), ("b", "x", 4), ("b", "y", 2)]


def rated(rows: list[tuple[str, str | None, Any]], **more: Any) -> list[dict[str, Any]]:
    return [
        {"prompt_id": "p", "prompt": "q", "response": text, "rater": rater, "r": score, **more}
        for text, rater, score in rows
    ]


def scores_of(pool: Any) -> list[tuple[str, float | None]]:
    return [(text, scores["r"]) for text, _, scores in held(pool).values()]


def test_the_mean_is_the_default_and_is_said(tmp_path: Path) -> None:
    pool = read(lines(tmp_path / "a.jsonl", *rated(RATERS)), "rows", rewards={"r": "r"})
    assert scores_of(pool) == [("a", 4.0), ("b", 3.0)]
    assert pool.notes[0] == (
        "2 responses occur in 2 to 3 rows each, first at line 1 and line 2: each becomes one "
        "candidate with the mean of its scores (--on-duplicate mean); to keep equal texts as "
        "separate samples, add a sample_idx"
    )
    assert (
        pool.prompts.columns.column_names == []
    )  # who rated is no column of the prompt, though the first rows agree


def test_the_order_of_ratings_decides_nothing(tmp_path: Path) -> None:
    pool = read(lines(tmp_path / "a.jsonl", *rated(RATERS[::-1])), "rows", rewards={"r": "r"})
    assert sorted(scores_of(pool)) == [("a", 4.0), ("b", 3.0)]


def test_the_first_or_none_where_one_says_so(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", *rated(RATERS))
    pool = read(source, "rows", rewards={"r": "r"}, rules=ReadingRules(on_duplicate="first"))
    assert scores_of(pool) == [("a", 1.0), ("b", 4.0)]
    assert "with the first of its scores (--on-duplicate first)" in pool.notes[0]
    with pytest.raises(InputError) as caught:
        read(source, "rows", rewards={"r": "r"}, rules=ReadingRules(on_duplicate="refuse"))
    assert (
        "line 2: prompt p: one response has r 5.0 here and 1.0 at line 1: 'a'"
        in caught.value.message
    )
    assert (
        "line 5: prompt p: one response has r 2.0 here and 4.0 at line 4: 'b'"
        in caught.value.message
    )


def test_raters_who_agree_are_raters_where_others_do_not(tmp_path: Path) -> None:
    """What a file holds is one thing for all of it: chance does not decide response by response."""
    rows = rated([("a", None, 5), ("a", None, 5), ("b", None, 4), ("b", None, 2)])
    assert scores_of(read(lines(tmp_path / "a.jsonl", *rows), "rows", rewards={"r": "r"})) == [
        ("a", 5.0),
        ("b", 3.0),
    ]


def test_raters_are_known_by_their_names_where_all_agree(tmp_path: Path) -> None:
    rows = rated([("a", "x", 5), ("a", "y", 5), ("b", "x", 4), ("b", "y", 4)])
    assert scores_of(read(lines(tmp_path / "a.jsonl", *rows), "rows", rewards={"r": "r"})) == [
        ("a", 5.0),
        ("b", 4.0),
    ]


def test_the_same_text_with_the_same_scores_is_a_sample_of_its_own(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "response": text, "r": score}
        for text, score in (("a", 5), ("b", 4), ("a", 5))
    ]
    pool = read(lines(tmp_path / "a.jsonl", *rows), "rows", rewards={"r": "r"})
    assert scores_of(pool) == [("a", 5.0), ("b", 4.0), ("a", 5.0)]
    assert (
        "responses that repeat text and scores of another one of their prompt: 1, kept as separate samples"
        in pool.notes
    )


def test_samples_with_their_own_index_stay_samples_whatever_their_scores(tmp_path: Path) -> None:
    rows = [
        row | {"sample_idx": number}
        for number, row in enumerate(rated([("a", "x", 1), ("a", "x", 5), ("b", "x", 3)]))
    ]
    assert scores_of(read(lines(tmp_path / "a.jsonl", *rows), "rows", rewards={"r": "r"})) == [
        ("a", 1.0),
        ("a", 5.0),
        ("b", 3.0),
    ]


def test_rows_of_one_index_are_ratings_of_one_sample(tmp_path: Path) -> None:
    rows = [
        row | {"sample_idx": index}
        for row, index in zip(
            rated([("a", "x", 1), ("a", "y", 5), ("a", "x", 7)]), (0, 0, 3), strict=True
        )
    ]
    pool = read(lines(tmp_path / "a.jsonl", *rows), "rows", rewards={"r": "r"})
    assert {key: scores["r"] for key, (_, _, scores) in held(pool).items()} == {
        ("p", 0): 3.0,
        ("p", 3): 7.0,
    }


def test_one_key_twice_with_nothing_new_is_a_mistake(tmp_path: Path) -> None:
    rows = rated([("a", "x", 1), ("a", "x", 1)], sample_idx=0)
    with pytest.raises(InputError, match="line 2: prompt p, sample 0 already occurs at line 1"):
        read(lines(tmp_path / "a.jsonl", *rows), "rows", rewards={"r": "r"})


def test_one_text_of_two_models_is_two_candidates_and_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "response": "a", "model": model, "r": score}
        for model, score in (("m", 1), ("n", 5))
    ]
    pool = read(lines(tmp_path / "a.jsonl", *rows), "rows", rewards={"r": "r"})
    assert scores_of(pool) == [("a", 1.0), ("a", 5.0)]
    assert any(
        note.startswith("texts that several models wrote, with different scores: 1")
        for note in pool.notes
    )


def test_a_rater_who_gave_none_is_no_part_of_the_mean(tmp_path: Path) -> None:
    rows = rated(
        [
            ("a", "x", 2),
            ("a", "y", None),
            ("a", "z", float("nan")),
            ("b", "x", None),
            ("b", "y", None),
        ]
    )
    assert scores_of(read(lines(tmp_path / "a.jsonl", *rows), "rows", rewards={"r": "r"})) == [
        ("a", 2.0),
        ("b", None),
    ]


@pytest.mark.parametrize(("rule", "score"), [("mean", 3.0), ("first", 4.0)])
def test_pairs_that_contradict_each_other_by_the_users_rule(
    tmp_path: Path, rule: str, score: float
) -> None:
    rows = [
        {
            "prompt": "q",
            "chosen": "a",
            "rejected": other,
            "score_chosen": value,
            "score_rejected": 1,
        }
        for other, value in (("b", 4), ("c", 2))
    ]
    pool = read(lines(tmp_path / "a.jsonl", *rows), "trl", rules=ReadingRules(on_duplicate=rule))
    assert [scores["score"] for _, _, scores in held(pool).values()] == [score, 1.0, 1.0]
    assert any(f"first at line 1 and line 2: the {rule}" in note for note in pool.notes)
    with pytest.raises(InputError, match="pass --on-duplicate mean to use the mean"):
        read(str(tmp_path / "a.jsonl"), "trl")


@pytest.mark.parametrize(("rule", "score"), [("mean", 4.0), ("first", 1.0)])
def test_a_list_of_scores_is_several_ratings(tmp_path: Path, rule: str, score: float) -> None:
    source = lines(tmp_path / "a.jsonl", {"prompt": "q", "response": "a", "r": [1, 5, None, 6]})
    rules = ReadingRules(on_duplicate=rule)
    assert scores_of(read(source, "rows", rewards={"r": "r"}, rules=rules)) == [("a", score)]
    with pytest.raises(
        InputError, match=r"`r` is \[1, 5, None, 6\], several scores of one response"
    ):
        read(source, "rows", rewards={"r": "r"}, rules=ReadingRules(on_duplicate="refuse"))
