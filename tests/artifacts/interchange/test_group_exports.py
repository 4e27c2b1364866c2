"""One group in the words of each format, written by hand."""

from typing import Any

import pytest
from support.interchange_files import assistant, kept, rejected, user

from prefpipe.artifacts.interchange.group_exports import (
    ROWS,
    SCHEMAS,
    ExportedGroup,
    alternates,
    groups_of,
    nemo_group_rows,
    pairs_of,
)

POSITIVE, GOOD, BAD = (
    kept("p", 4, "positive", 2.0),
    kept("p", 1, "negative", 1.5),
    kept("p", 2, "negative", -1.0),
)
SCORED = {"prompt_id": "p", "chosen_sample_idx": 4, "score_chosen": 2.0, "chosen_model": "m0"}
TO_GOOD = SCORED | {
    "rejected_sample_idx": 1,
    "score_rejected": 1.5,
    "margin": 0.5,
    "rejected_model": "m1",
}
TO_BAD = SCORED | {
    "rejected_sample_idx": 2,
    "score_rejected": -1.0,
    "margin": 3.0,
    "rejected_model": "m0",
}


def group(*rows: dict[str, Any]) -> ExportedGroup:
    [found], _ = groups_of(rows, "bottom-k")
    return found


def indices(rows: list[dict[str, Any]]) -> list[tuple[int, int, float]]:
    return [
        (pair.chosen["sample_idx"], pair.rejected["sample_idx"], pair.margin)
        for pair in pairs_of(rows)
    ]


def test_without_beats_every_positive_is_paired_with_every_negative() -> None:
    second = kept("p", 5, "positive", 1.75)
    assert indices([POSITIVE, second, GOOD, BAD]) == [
        (4, 1, 0.5),
        (4, 2, 3.0),
        (5, 1, 0.25),
        (5, 2, 2.75),
    ]


def test_beats_says_the_pairs_whoever_is_chosen_and_with_its_margins() -> None:
    rows = [
        POSITIVE | {"beats": [{"sample_idx": 1, "margin": 0.5}]},
        GOOD | {"beats": [{"sample_idx": 2, "margin": 2.5}]},
        BAD | {"beats": []},
    ]
    assert indices(rows) == [(4, 1, 0.5), (1, 2, 2.5)]
    assert indices([POSITIVE | {"beats": [{"sample_idx": 2, "margin": 3.0}]}, GOOD, BAD]) == [
        (4, 2, 3.0)
    ]
    assert indices([POSITIVE | {"beats": []}, GOOD, BAD]) == []


def test_rejected_prompts_are_told_apart() -> None:
    groups, left_out = groups_of(
        [POSITIVE, GOOD, rejected("q"), kept("r", 0, "positive", 1.0)], None
    )
    assert [item.prompt_id for item in groups] == ["p", "r"]
    assert left_out == [rejected("q")]
    assert groups[1].pairs == []


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_schema_of_a_format_holds_its_rows(kind: str) -> None:
    rows = list(ROWS[kind](group(POSITIVE, GOOD, BAD)))
    assert rows
    assert all(list(row) == SCHEMAS[kind].names for row in rows)


def test_trl_rows_hold_prompt_chosen_and_rejected_as_turns() -> None:
    assert list(ROWS["trl"](group(POSITIVE, GOOD, BAD))) == [
        {
            "prompt": user("question p"),
            "chosen": assistant("answer p.4"),
            "rejected": assistant("answer p.1"),
        }
        | TO_GOOD,
        {
            "prompt": user("question p"),
            "chosen": assistant("answer p.4"),
            "rejected": assistant("answer p.2"),
        }
        | TO_BAD,
    ]


def test_trl_unpaired_labels_every_response() -> None:
    assert list(ROWS["trl-unpaired"](group(POSITIVE, GOOD))) == [
        {
            "prompt": user("question p"),
            "completion": assistant(f"answer p.{idx}"),
            "label": label,
            "prompt_id": "p",
            "sample_idx": idx,
            "score": score,
            "model": model,
        }
        for idx, label, score, model in ((4, True, 2.0, "m0"), (1, False, 1.5, "m1"))
    ]


def completion(rank: int, idx: int, score: float) -> dict[str, Any]:
    return {
        "rank": rank,
        "completion": assistant(f"answer p.{idx}"),
        "score": score,
        "sample_idx": idx,
        "model": f"m{idx % 2}",
    }


def test_nemo_rl_ranks_the_two_responses_of_each_pair() -> None:
    [_, last] = ROWS["nemo-rl"](group(POSITIVE, GOOD, BAD))
    assert last == {
        "context": user("question p"),
        "completions": [completion(0, 4, 2.0), completion(1, 2, -1.0)],
        "prompt_id": "p",
        "scores": [2.0, -1.0],
        "margin": 3.0,
    }
    assert (
        "task_name" not in last
    )  # NeMo-RL adds it, and datasets refuses a second column of a name


def test_nemo_rl_whole_groups_rank_by_reward_and_ties_share_a_rank() -> None:
    [row] = nemo_group_rows(group(POSITIVE, BAD, GOOD, kept("p", 6, "negative", 1.5)))
    assert [(item["rank"], item["sample_idx"]) for item in row["completions"]] == [
        (0, 4),
        (1, 1),
        (1, 6),
        (3, 2),
    ]
    assert (row["scores"], row["margin"]) == ([2.0, 1.5, 1.5, -1.0], 3.0)


@pytest.mark.parametrize("kind", ["llama-factory", "axolotl"])
def test_message_rows_have_one_turn_a_side(kind: str) -> None:
    """LLaMA-Factory takes a pair only where both sides are an object."""
    [row] = ROWS[kind](group(POSITIVE, GOOD))
    assert (
        row
        == {
            "messages": user("question p"),
            "chosen": assistant("answer p.4")[0],
            "rejected": assistant("answer p.1")[0],
        }
        | TO_GOOD
    )


def test_jsonl_holds_the_whole_group_in_one_row() -> None:
    first = POSITIVE | {
        "finish_reason": "stop",
        "n_response_tokens": 5,
        "cluster": None,
        "represents": None,
        "marginal_gain": None,
    }
    second = GOOD | {"cluster": 1, "represents": [1, 2], "marginal_gain": 0.25}
    [row] = ROWS["jsonl"](group(first, second))
    assert row == {
        "prompt_id": "p",
        "messages": user("question p"),
        "strategy": "bottom-k",
        "pairs": [{"chosen": 4, "rejected": 1, "margin": 0.5}],
        "responses": [
            {
                "sample_idx": 4,
                "role": "positive",
                "rank": 4,
                "reward": 2.0,
                "response": "answer p.4",
                "model": "m0",
                "n_response_tokens": 5,
                "finish_reason": "stop",
                "cluster": None,
                "represents": None,
                "marginal_gain": None,
            },
            {
                "sample_idx": 1,
                "role": "negative",
                "rank": 1,
                "reward": 1.5,
                "response": "answer p.1",
                "model": "m1",
                "n_response_tokens": None,
                "finish_reason": None,
                "cluster": 1,
                "represents": [1, 2],
                "marginal_gain": 0.25,
            },
        ],
    }


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ("u", True),
        ("su", True),
        ("uau", True),
        ("uu", False),
        ("sau", False),
        ("ua", False),
        ("suau", True),
        ("", False),
    ],
)
def test_alternates_knows_conversations_that_take_turns(roles: str, expected: bool) -> None:
    names = {"s": "system", "u": "user", "a": "assistant"}
    assert alternates([{"role": names[role], "content": "x"} for role in roles]) is expected
