"""Columns of scores are recognised however they are spelled, and what only looks like them is named."""

from pathlib import Path
from typing import Any

import pytest
from support.interchange_files import held, lines, read

from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.interchange.pair_rows import read_pairs
from prefpipe.artifacts.interchange.score_columns import words_of
from prefpipe.errors import InputError

KEY = prompt_id_of([{"role": "user", "content": "q"}])
PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chosen-rating", ("chosen", "rating")), ("chosen_ratings", ("chosen", "rating")), ("ChosenRating", ("chosen", "rating")),
        ("scoreChosen", ("score", "chosen")), ("Score (chosen)", ("score", "chosen")),
        ("gpt4_score_chosen", ("gpt4", "score", "chosen")), ("chosen.RM scores", ("chosen", "rm", "score")),
    ],
)  # fmt: skip
def test_a_name_is_its_words(name: str, words: tuple[str, ...]) -> None:
    assert words_of(name) == words


@pytest.mark.parametrize(
    ("chosen", "rejected", "scorer"),
    [
        ("chosen-rating", "rejected-rating", "rating"), ("chosen_ratings", "rejected_ratings", "rating"),
        ("ChosenReward", "RejectedReward", "reward"), ("score-chosen", "score-rejected", "score"),
        ("gpt4_score_chosen", "gpt4_score_rejected", "gpt4_score"), ("chosenQuality", "rejectedQuality", "quality"),
        ("chosen_avg_grade", "rejected_avg_grade", "avg_grade"), ("Chosen Score", "Rejected Score", "score"),
    ],
)  # fmt: skip
def test_a_pair_of_scores_in_any_spelling(
    tmp_path: Path, chosen: str, rejected: str, scorer: str
) -> None:
    source = lines(tmp_path / "a.jsonl", PAIR | {chosen: 4, rejected: 1.5})
    assert held(read(source, "trl")) == {
        (KEY, 0): ("a", None, {scorer: 4.0}),
        (KEY, 1): ("b", None, {scorer: 1.5}),
    }
    found = read_pairs(source, needs_texts=False)
    assert found.score_columns == (chosen, rejected)
    assert [row.scores for row in found.rows] == [(4.0, 1.5)]


def test_model_columns_are_known_in_another_spelling(tmp_path: Path) -> None:
    row = PAIR | {
        "chosen-model": "m",
        "rejected-model": "n",
        "chosen-rating": 2,
        "rejected-rating": 1,
    }
    assert [
        model for _, model, _ in held(read(lines(tmp_path / "a.jsonl", row), "trl")).values()
    ] == ["m", "n"]


def test_the_plain_spelling_of_a_scorer_is_taken(tmp_path: Path) -> None:
    row = PAIR | {
        "chosen-score": 1,
        "rejected-score": 2,
        "score_chosen": 9,
        "score_rejected": 8,
        "gpt4_score_chosen": 5,
        "gpt4_score_rejected": 4,
    }
    source = lines(tmp_path / "a.jsonl", row)
    pool = read(source, "trl")
    assert held(pool)[KEY, 0][2] == {"score": 9.0, "gpt4_score": 5.0}
    assert any(note.endswith("): chosen-score, rejected-score") for note in pool.notes)
    assert read_pairs(source, needs_texts=False).score_columns == ("score_chosen", "score_rejected")


def test_two_plain_pairs_are_a_choice_and_two_others_too(tmp_path: Path) -> None:
    for number, names in enumerate((("score", "rating"), ("gpt4_score", "human_score"))):
        more = {f"{name}_{side}": 1 for name in names for side in ("chosen", "rejected")}
        with pytest.raises(InputError, match="has several pairs of scores"):
            read_pairs(lines(tmp_path / f"{number}.jsonl", PAIR | more), needs_texts=False)


@pytest.mark.parametrize(
    "more",
    [
        {"chosen-rating": 4},  # one of two
        {"chosen-rating": "good", "rejected-rating": "bad"},
        {"chosen-rating": [4, 5], "rejected-rating": [1, 2]},
    ],
)
def test_what_looks_like_scores_and_is_not_taken_is_named(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    pool = read(lines(tmp_path / "a.jsonl", PAIR | more), "trl")
    assert pool.scorers == ("preference",)
    (note,) = pool.notes
    assert note.startswith("columns that look like scores and are not used")
    assert note.endswith(": " + ", ".join(sorted(more)))


@pytest.mark.parametrize(
    "name", ["chosen_rating_count", "score_id_chosen", "chosen_n_scores", "chosen_length"]
)
def test_numbers_that_count_something_are_no_scores(tmp_path: Path, name: str) -> None:
    source = lines(tmp_path / "a.jsonl", PAIR | {name: 4, name.replace("chosen", "rejected"): 2})
    assert read(source, "trl").scorers == ("preference",)


@pytest.mark.parametrize("name", ["Score", "ratings", "rewards"])
def test_a_score_of_single_completions_in_another_spelling(tmp_path: Path, name: str) -> None:
    rows = [
        {"prompt": "q", "completion": text, name: score}
        for text, score in (("a", 0.5), ("b", 0.25))
    ]
    scorer = words_of(name)[0]
    assert held(read(lines(tmp_path / "a.jsonl", *rows), "trl")) == {
        (KEY, 0): ("a", None, {scorer: 0.5}),
        (KEY, 1): ("b", None, {scorer: 0.25}),
    }


def test_rows_name_the_flag_that_takes_a_column(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "q",
            "response": text,
            "grades": [score, score + 2],
            "human score": score,
            "annotator_id": score,
            "fluent": "yes",
        }
        for text, score in (("a", 1), ("b", 3))
    ]
    source = lines(tmp_path / "a.jsonl", *rows)
    flags = "--reward-column grades, --reward-column 'score=human score'"
    assert (
        f"no scores are read, but some columns could be scores; to read them, pass {flags}"
        in read(source, "rows").notes
    )
    pool = read(source, "rows", rewards={"grades": "grades"})
    assert [scores for _, _, scores in held(pool).values()] == [{"grades": 2.0}, {"grades": 4.0}]
    assert (
        "`grades` holds several scores of each response: their mean is used (--on-duplicate mean)"
        in pool.notes
    )
    assert (
        "other columns also hold numbers for the responses; to read them, pass --reward-column 'score=human score'"
        in pool.notes
    )


def test_a_column_of_the_prompt_is_no_score(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "response": text, "difficulty": 0.5, "n_words": number}
        for number, text in enumerate("ab")
    ]
    assert not any(
        "--reward-column" in note for note in read(lines(tmp_path / "a.jsonl", *rows), "rows").notes
    )
