"""TRL's preference data in all its layouts become candidates with rewards."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.interchange_files import SKY, assistant, held, lines, read, user

from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.errors import InputError

KEY = prompt_id_of(SKY)
TEXT = SKY[0]["content"]
PAIR = {
    (KEY, 0): ("Blue.", None, {"preference": 1.0}),
    (KEY, 1): ("Red.", None, {"preference": 0.0}),
}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": TEXT, "chosen": "Blue.", "rejected": "Red."},
        {"prompt": SKY, "chosen": assistant("Blue."), "rejected": assistant("Red.")},
        {"prompt": TEXT, "chosen": assistant("Blue."), "rejected": assistant("Red.")},
        {"prompt": SKY, "chosen": assistant("Blue.")[0], "rejected": assistant("Red.")[0]},
        {"chosen": SKY + assistant("Blue."), "rejected": SKY + assistant("Red.")},
        {"prompt": TEXT, "chosen": SKY + assistant("Blue."), "rejected": SKY + assistant("Red.")},
        {"prompt": SKY, "chosen": SKY + assistant("Blue."), "rejected": SKY + assistant("Red.")},
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_explicit_and_implicit_prompts_read_alike_in_text_and_in_turns(
    tmp_path: Path, row: dict[str, Any], suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        lines(path, row)
    else:
        pl.DataFrame([row]).write_parquet(path)
    pool = read(str(path), "trl")
    assert held(pool) == PAIR
    assert pool.prompts.rows[0].messages == SKY


def test_a_system_turn_in_the_conversation_belongs_to_the_prompt(tmp_path: Path) -> None:
    """The H4 sets have the user's text in ``prompt`` and the whole conversation on both sides."""
    system = [{"role": "system", "content": "Be brief."}]
    row = {
        "prompt": TEXT,
        "chosen": system + SKY + assistant("Blue."),
        "rejected": system + SKY + assistant("Red."),
    }
    pool = read(lines(tmp_path / "a.jsonl", row), "trl")
    assert pool.prompts.rows[0].messages == system + SKY


@pytest.mark.parametrize("prompt", [None, json.dumps(SKY), TEXT])
def test_turns_stand_in_csv_as_json(tmp_path: Path, prompt: str | None) -> None:
    row = {
        "chosen": json.dumps(SKY + assistant("Blue.")),
        "rejected": json.dumps(SKY + assistant("Red.")),
    }
    pl.DataFrame([row | ({"prompt": prompt} if prompt else {})]).write_csv(tmp_path / "a.csv")
    assert held(read(str(tmp_path / "a.csv"), "trl")) == PAIR


def test_a_response_that_is_json_stays_a_text(tmp_path: Path) -> None:
    """Elsewhere than in CSV turns are turns, and a text is a text; in CSV one that holds no turns is."""
    answers = json.dumps(assistant("x")), "[1, 2]"
    row = {"prompt": TEXT, "chosen": answers[0], "rejected": answers[1]}
    assert [
        text for text, _, _ in held(read(lines(tmp_path / "a.jsonl", row), "trl")).values()
    ] == list(answers)
    pl.DataFrame([row | {"chosen": "5"}]).write_csv(tmp_path / "a.csv")
    assert [text for text, _, _ in held(read(str(tmp_path / "a.csv"), "trl")).values()] == [
        "5",
        "[1, 2]",
    ]


@pytest.mark.parametrize(
    ("names", "scorer"),
    [
        (("score_chosen", "score_rejected"), "score"), (("chosen_score", "rejected_score"), "score"),
        (("chosen_rating", "rejected_rating"), "rating"), (("chosen_reward", "rejected_reward"), "reward"),
    ],
)  # fmt: skip
def test_scores_under_the_names_people_give_them(
    tmp_path: Path, names: tuple[str, str], scorer: str
) -> None:
    row = {
        "prompt": TEXT,
        "chosen": "Blue.",
        "rejected": "Red.",
        names[0]: 4,
        names[1]: 1.5,
        "chosen_model": "a",
        "rejected_model": "b",
    }
    pool = read(lines(tmp_path / "a.jsonl", row), "trl")
    assert held(pool) == {
        (KEY, 0): ("Blue.", "a", {scorer: 4.0}),
        (KEY, 1): ("Red.", "b", {scorer: 1.5}),
    }


def test_two_kinds_of_scores_are_two_scorers(tmp_path: Path) -> None:
    row = {
        "prompt": TEXT,
        "chosen": "Blue.",
        "rejected": "Red.",
        "score_chosen": 4,
        "score_rejected": 1,
        "chosen_rating": 5,
        "rejected_rating": None,
    }
    pool = read(lines(tmp_path / "a.jsonl", row), "trl")
    assert pool.scorers == ("score", "rating")
    assert held(pool)[KEY, 1] == ("Red.", None, {"score": 1.0, "rating": None})


def test_one_response_in_several_rows_is_one_candidate(tmp_path: Path) -> None:
    rows = [
        {"prompt": TEXT, "chosen": a, "rejected": b, "score_chosen": x, "score_rejected": y}
        for a, b, x, y in (("A", "B", 3, 2), ("A", "C", 3, 1), ("B", "C", 2, None))
    ]
    pool = read(lines(tmp_path / "a.jsonl", *rows), "trl")
    assert held(pool) == {
        (KEY, 0): ("A", None, {"score": 3.0}),
        (KEY, 1): ("B", None, {"score": 2.0}),
        (KEY, 2): ("C", None, {"score": 1.0}),
    }


def test_without_scores_the_reward_is_the_share_of_comparisons_won(tmp_path: Path) -> None:
    rows = [{"prompt": TEXT, "chosen": a, "rejected": b} for a, b in ("AB", "AC", "BA", "CB")]
    found = held(read(lines(tmp_path / "a.jsonl", *rows), "trl"))
    assert {text: scores["preference"] for text, _, scores in found.values()} == {
        "A": 2 / 3,
        "B": 1 / 3,
        "C": 0.5,
    }


def test_contradictory_scores_name_both_rows(tmp_path: Path) -> None:
    rows = [
        {"prompt": TEXT, "chosen": "A", "rejected": "B", "score_chosen": x, "score_rejected": 1}
        for x in (3, 2.5)
    ]
    with pytest.raises(
        InputError,
        match=r"line 2: prompt \w+: one response has score 2.5 here and 3 at line 1: 'A'",
    ):
        read(lines(tmp_path / "a.jsonl", *rows), "trl")


def test_our_own_keys_are_used_where_they_are(tmp_path: Path) -> None:
    """Two candidates may have the same text then."""
    row = {
        "prompt": SKY,
        "chosen": assistant("A"),
        "rejected": assistant("A"),
        "prompt_id": "p",
        "chosen_sample_idx": 4,
        "rejected_sample_idx": 2,
        "score_chosen": 2,
        "score_rejected": 1,
    }
    assert held(read(lines(tmp_path / "a.jsonl", row), "trl")) == {
        ("p", 2): ("A", None, {"score": 1.0}),
        ("p", 4): ("A", None, {"score": 2.0}),
    }
    other = row | {"chosen": assistant("B")}
    with pytest.raises(
        InputError, match="line 2: prompt p, sample 4 has a different text here than at line 1"
    ):
        read(lines(tmp_path / "b.jsonl", row, other), "trl")


def test_a_text_of_two_models_is_of_the_first_that_is_named(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": TEXT,
            "chosen": "A",
            "rejected": "B",
            "chosen_model": name,
            "rejected_model": "x",
        }
        for name in (None, "m", "n")
    ]
    assert held(read(lines(tmp_path / "a.jsonl", *rows), "trl"))[KEY, 0][1] == "m"


def test_single_completions_are_rewarded_by_labels_or_scores(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": SKY, "completion": assistant("Blue."), "label": True},
        {"prompt": SKY, "completion": assistant("Red."), "label": False},
        {"prompt": TEXT, "completion": "Red.", "label": 1},
    ]
    assert held(read(lines(tmp_path / "a.jsonl", *rows), "trl")) == {
        (KEY, 0): ("Blue.", None, {"preference": 1.0}),
        (KEY, 1): ("Red.", None, {"preference": 0.5}),
    }
    rows = [{**row, "score": score} for row, score in zip(rows[:2], (0.9, None), strict=True)]
    assert held(read(lines(tmp_path / "b.jsonl", *rows), "trl")) == {
        (KEY, 0): ("Blue.", None, {"score": 0.9}),
        (KEY, 1): ("Red.", None, {"score": None}),
    }


def test_a_prompt_in_the_layout_of_hh_rlhf_becomes_turns(tmp_path: Path) -> None:
    row = {
        "prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:",
        "chosen": "d",
        "rejected": "e",
    }
    messages = read(lines(tmp_path / "a.jsonl", row), "trl").prompts.rows[0].messages
    assert messages == user("a") + assistant("b") + user("c")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "The sky is blue.", "rejected": "The sky is red."}, "has no column `prompt`"),
        ({"prompt": "q", "chosen": "a"}, "has no column `rejected`"),
        ({"prompt": "q", "label": True}, "has no column `chosen`"),
        ({"prompt": "q", "completion": "a"}, "has no column `label`"),
        ({"prompt": "q", "completion": "a", "label": "yes"}, "line 1: `label` is 'yes', which is neither true nor false"),
        ({"prompt": "q", "chosen": "a", "rejected": None}, "line 1: `rejected` is null"),
        ({"prompt": "q", "chosen": "a", "rejected": []}, "line 1: `rejected` is an empty list"),
        ({"prompt": "q", "chosen": 5, "rejected": "a"}, "line 1: `chosen` is 5, which is not text"),
        ({"prompt": None, "chosen": SKY + assistant("a"), "rejected": assistant("a")}, "line 1: there is no `prompt`, and `chosen`"),
        ({"chosen": SKY + assistant("a"), "rejected": user("other") + assistant("b")}, "differ before their last turn"),
        ({"chosen": SKY + user("a"), "rejected": SKY + assistant("b")}, "`chosen`: its last turn is from the user"),
        ({"prompt": "other", "chosen": SKY + assistant("a"), "rejected": SKY + assistant("b")}, "`chosen` does not begin with `prompt`: 'other'"),
        ({"prompt": SKY, "chosen": SKY + assistant("a"), "rejected": assistant("b")}, "one of chosen and rejected is a whole conversation"),
        ({"prompt": SKY, "chosen": [{"role": "assistant"}], "rejected": assistant("b")}, "`chosen`: turn 0 needs `role` and `content`"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": "5 of 10", "score_rejected": "1"}, "`score_chosen` is '5 of 10', which is not a number"),
        ({"prompt": "<s>[INST] q", "chosen": "a", "rejected": "b"}, "went through a chat template ([INST])"),
        ({"prompt": SKY + assistant("x"), "chosen": "a", "rejected": "b"}, "its last turn is from the assistant"),
        ({"prompt": "q", "prompt_id": "", "chosen": "a", "rejected": "b"}, "`prompt_id` is empty"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "chosen_sample_idx": 1.5}, "`chosen_sample_idx` is 1.5, which is not a whole number"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(lines(tmp_path / "a.jsonl", row), "trl")
    assert message in caught.value.message
    assert str(tmp_path / "a.jsonl") in caught.value.message
    assert caught.value.hint
