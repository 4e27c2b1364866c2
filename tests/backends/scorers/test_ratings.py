"""Ratings are joined by key, and nothing doubtful is taken for a rating."""

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefpipe.backends.protocol import ScoreRequest
from prefpipe.backends.scorers.ratings import RatingsScorer
from prefpipe.errors import InputError

RATED = [
    {"prompt_id": "a", "sample_idx": 0, "rating": 7.5},
    {"prompt_id": "b", "sample_idx": 2, "rating": -1},
]


def request(prompt_id, sample_idx, response="text"):
    return ScoreRequest(prompt_id, sample_idx, [], response, {})


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "human.jsonl"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_ratings(tmp_path, suffix):
    path = tmp_path / f"human{suffix}"
    if suffix == ".jsonl":
        write(path, RATED)
    elif suffix == ".json":
        path.write_text(json.dumps(RATED))
    elif suffix == ".csv":
        path.write_text("rating,sample_idx,prompt_id\n7.5,0,a\n-1,2,b\n")
    else:
        pq.write_table(pa.Table.from_pylist(RATED), path)
    scores = RatingsScorer(path).score([request("b", 2), request("a", 0), request("a", 1)])
    assert [score.reward for score in scores] == [-1.0, 7.5, None]
    assert [score.status for score in scores] == ["ok", "ok", "unrated"]
    assert scores[2].reason == f"human{suffix} has no rating for this prompt_id and sample_idx"


def test_the_response_is_the_key_where_there_is_no_sample_idx(path):
    write(
        path,
        [
            {"prompt_id": "a", "response": "Hi\n😀", "rating": "8"},
            {"prompt_id": "a", "response": "", "rating": 0},
        ],
    )
    scorer = RatingsScorer(path)
    scores = scorer.score([request("a", 5, ""), request("a", 0, "Hi\n😀"), request("b", 0, "")])
    assert [score.reward for score in scores] == [0.0, 8.0, None]
    assert scorer.unknown_keys([("a", 0, "")]) == ["prompt_id 'a', response 'Hi\\n😀' (line 1)"]


def test_numbers_of_prompts_are_text_and_whole_floats_are_indices(path):
    write(path, [{"prompt_id": 7, "sample_idx": 1.0, "rating": 3}])
    assert RatingsScorer(path).score([request("7", 1)])[0].reward == 3.0


def test_ratings_of_other_candidates_are_named_with_their_place(path):
    scorer = RatingsScorer(write(path, RATED))
    assert scorer.unknown_keys([("a", 0, "x"), ("b", 1, "x"), ("c", 0, "x")]) == [
        "prompt_id 'b', sample_idx 2 (line 2)"
    ]
    assert scorer.unknown_keys({("a", 0, "x"), ("b", 2, "x")}) == []


def test_another_column_may_hold_the_rating(path):
    write(path, [{"prompt_id": "a", "sample_idx": 0, "helpfulness": 4, "rating": 1}])
    scorer = RatingsScorer(path, rating_column="helpfulness")
    assert scorer.score([request("a", 0)])[0].reward == 4.0
    assert scorer.identity() == {
        "ratings_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "rating_column": "helpfulness",
    }


def test_a_repeated_row_counts_once_and_a_contradiction_is_refused(path):
    scorer = RatingsScorer(write(path, [*RATED, RATED[0]]))
    assert (len(scorer), scorer.n_repeated) == (2, 1)
    write(path, [*RATED, RATED[0] | {"rating": 3}])
    with pytest.raises(
        InputError,
        match=r"line 3: second rating 3 for prompt_id 'a', sample_idx 0; line 1 says 7.5",
    ):
        RatingsScorer(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rating": float("nan")}, "line 2: `rating` is nan, which is not finite"),
        ({"rating": float("-inf")}, "line 2: `rating` is -inf, which is not finite"),
        ({"rating": "1e999"}, "line 2: `rating` is '1e999', which is not finite"),
        ({"rating": "good"}, "line 2: `rating` is 'good', which is not a number"),
        ({"rating": True}, "line 2: `rating` is True, which is not a number"),
        ({"rating": [7]}, r"line 2: `rating` is \[7\], which is not a number"),
        ({"rating": None}, "line 2: `rating` is empty"),
        ({"rating": ""}, "line 2: `rating` is empty"),
        ({"sample_idx": None}, "line 2: `sample_idx` is empty"),
        (
            {"sample_idx": -1},
            "line 2: `sample_idx` is -1, which is not a whole number of at least 0",
        ),
        (
            {"sample_idx": 1.5},
            "line 2: `sample_idx` is 1.5, which is not a whole number of at least 0",
        ),
        (
            {"sample_idx": False},
            "line 2: `sample_idx` is False, which is not a whole number of at least 0",
        ),
        ({"prompt_id": ""}, "line 2: `prompt_id` is empty"),
        ({"prompt_id": 1.5}, "line 2: `prompt_id` is 1.5; an id is a text or a whole number"),
    ],
)
def test_what_is_no_rating_is_refused_with_its_row(path, change, message):
    write(path, [RATED[0], RATED[1] | change])
    with pytest.raises(InputError, match=message):
        RatingsScorer(path)


def test_all_problems_are_listed_and_a_long_list_is_counted(path):
    write(path, [{"prompt_id": "a", "sample_idx": i, "rating": "?"} for i in range(25)])
    with pytest.raises(InputError) as caught:
        RatingsScorer(path)
    lines = caught.value.message.splitlines()
    assert (len(lines), lines[-1]) == (10, "  and 17 more")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "human.jsonl holds no rows"),
        (
            [{"id": "a", "score": 3}],
            r"has no column prompt_id, rating, sample_idx \(or response\); it has id, score",
        ),
        ([{"prompt_id": "a", "response": 3, "rating": 3}], "`response` is 3, which is not text"),
    ],
)
def test_files_without_the_key_are_refused(path, rows, message):
    with pytest.raises(InputError, match=message):
        RatingsScorer(write(path, rows))


def test_a_missing_ratings_file_is_refused(path):
    with pytest.raises(InputError, match=r"human.jsonl does not exist"):
        RatingsScorer(path)


def test_long_responses_are_shortened_in_messages(path):
    scorer = RatingsScorer(write(path, [{"prompt_id": "a", "response": "x" * 1000, "rating": 1}]))
    assert len(scorer.unknown_keys([])[0]) < 100
    scorer.close()


@pytest.mark.parametrize(("rule", "reward"), [("mean", 4.5), ("first", 7.5)])
def test_several_ratings_of_one_candidate_by_the_users_rule(path, rule, reward):
    write(path, [*RATED, RATED[0] | {"rating": 3}, RATED[0] | {"rating": 3}])
    scorer = RatingsScorer(path, on_duplicate=rule)
    assert scorer.score([request("a", 0)])[0].reward == reward  # (7.5 + 3 + 3) / 3
    note = (
        "human.jsonl: 1 candidates have several ratings, first at line 1 and line 3; "
        f"--on-duplicate {rule} takes their {rule}"
    )
    assert scorer.notes_of_reading == [note]
    assert scorer.identity()["on_duplicate"] == rule
    with pytest.raises(InputError, match="second rating 3") as caught:
        RatingsScorer(path)
    assert "--on-duplicate mean" in caught.value.hint
