"""Pairs to be scored, from files as people have them: every row stays, and what is wrong with it is said."""

import polars as pl
import pytest
from support.pair_files import pairs_file, some_pairs

from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.interchange.pair_rows import read_pairs
from prefpipe.errors import InputError

USER = [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.parquet", "pairs.csv", "pairs.json"])
def test_pairs_of_texts_are_the_same_from_every_kind_of_file(tmp_path, name):
    rows = some_pairs(4)
    if name.endswith(".jsonl"):
        source = pairs_file(tmp_path, rows)
    else:
        source = str(tmp_path / name)
        frame = pl.DataFrame(rows)
        {"parquet": frame.write_parquet, "csv": frame.write_csv, "json": frame.write_json}[
            name.partition(".")[2]
        ](source)
    found = read_pairs(source, needs_texts=True)
    assert [
        (row.pair_idx, row.chosen, row.rejected, row.subset, row.pair_id) for row in found.rows
    ] == [
        (number, row["chosen"], row["rejected"], row["subset"], str(number))
        for number, row in enumerate(rows)
    ]
    assert [row.messages for row in found.rows] == [
        [{"role": "user", "content": row["prompt"]}] for row in rows
    ]
    assert [row.prompt_id for row in found.rows] == [
        prompt_id_of(row.messages) for row in found.rows
    ]
    assert len({row.prompt_id for row in found.rows}) == 2
    assert found.score_columns is None


def test_a_csv_text_that_looks_like_json_stays_a_text(tmp_path):
    (tmp_path / "pairs.csv").write_text('prompt,chosen,rejected\nHow many?,12,"[1, 2]"\n')
    (row,) = read_pairs(str(tmp_path / "pairs.csv"), needs_texts=True).rows
    assert (row.chosen, row.rejected, row.problem) == ("12", "[1, 2]", None)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": USER, "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]},
        {"chosen": [*USER, {"role": "assistant", "content": "a"}], "rejected": [*USER, {"role": "assistant", "content": "b"}]},
        {"prompt": "Why?", "chosen": [*USER, {"role": "assistant", "content": "a"}],
         "rejected": [*USER, {"role": "assistant", "content": "b"}]},
    ],
    ids=["turns", "whole conversations", "whole conversations beside a prompt"],
)  # fmt: skip
def test_pairs_of_turns_become_prompt_and_two_texts(tmp_path, row):
    (found,) = read_pairs(pairs_file(tmp_path, [row]), needs_texts=True).rows
    assert (found.messages, found.chosen, found.rejected) == (USER, "a", "b")


def test_rows_that_cannot_be_used_stay_with_a_reason(tmp_path):
    rows = some_pairs(5)
    rows[1]["chosen"] = None
    rows[2]["prompt"] = None
    rows[3]["rejected"] = [{"role": "user", "content": "no"}]
    found = read_pairs(pairs_file(tmp_path, rows), needs_texts=True).rows
    assert [row.problem is None for row in found] == [True, False, False, False, True]
    assert (found[1].problem, found[1].is_null) == ("`chosen` is null", True)
    assert "no `prompt`" in found[2].problem
    assert "a response must be an assistant turn" in found[3].problem
    assert not found[3].is_null


def test_pairs_that_repeat_or_contradict_another_are_marked(tmp_path):
    first = {"prompt": "Why?", "chosen": "a", "rejected": "b", "subset": "s"}
    turned = first | {"chosen": "b", "rejected": "a"}
    same = first | {"chosen": "c", "rejected": "c"}
    rows = [first, first, first | {"subset": "t"}, turned, first | {"prompt": "How?"}, same, same]
    found = read_pairs(pairs_file(tmp_path, rows), needs_texts=True).rows
    assert [row.duplicate_of for row in found] == [None, 0, None, None, None, None, 5]
    assert [row.is_contrary for row in found] == [False, False, False, True, False, False, False]
    assert [row.has_equal_texts for row in found] == [False] * 5 + [True, True]


def test_pairs_take_the_scores_of_the_file(tmp_path):
    rows = some_pairs(3, score_chosen=1.5, score_rejected=None)
    found = read_pairs(pairs_file(tmp_path, rows), needs_texts=True)
    assert found.score_columns == ("score_chosen", "score_rejected")
    assert [row.scores for row in found.rows] == [(1.5, None)] * 3
    bare = [{"chosen_reward": i, "rejected_reward": 0.5, "prompt_id": f"p{i}"} for i in range(2)]
    found = read_pairs(pairs_file(tmp_path, bare), needs_texts=False)
    assert [(row.prompt_id, row.scores) for row in found.rows] == [
        ("p0", (0.0, 0.5)),
        ("p1", (1.0, 0.5)),
    ]
    alone = [{"chosen_reward": i, "rejected_reward": 0.5} for i in range(2)]
    assert [
        row.prompt_id for row in read_pairs(pairs_file(tmp_path, alone), needs_texts=False).rows
    ] == ["row-0", "row-1"]


@pytest.mark.parametrize(
    ("rows", "needs_texts", "words"),
    [
        ([{"prompt": "a", "chosen": "b"}], True, "no column `rejected`"),
        (some_pairs(2), False, "does not have two columns of scores"),
        (
            some_pairs(2, score_chosen=1, score_rejected=0, rating_chosen=1, rating_rejected=2),
            False,
            "several pairs of scores",
        ),
        (
            some_pairs(2, score_chosen="good", score_rejected="bad"),
            False,
            "`score_chosen` is 'good', which is not a number",
        ),
        (
            some_pairs(2, preference=1.7),
            True,
            r"`preference` is 1\.7; a preference for the chosen response lies in \[0, 1\]",
        ),
        (some_pairs(2, preference="A"), True, "`preference` is 'A', which is not a number"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(tmp_path, rows, needs_texts, words):
    with pytest.raises(InputError, match=words):
        read_pairs(pairs_file(tmp_path, rows), needs_texts=needs_texts)


def test_pairs_of_real_files_are_read_whole(data_dir):
    """RewardBench's names; one pair of equal texts, and six copies."""
    llmbar, xstest = (
        read_pairs(str(data_dir / f"{name}_pairs.parquet"), needs_texts=True).rows
        for name in ("llmbar", "xstest")
    )
    assert (len(llmbar), len(xstest)) == (885, 976)
    assert not [row for row in (*llmbar, *xstest) if row.problem is not None]
    assert sum(row.has_equal_texts for row in llmbar) == 1
    assert [sum(row.duplicate_of is not None for row in rows) for rows in (llmbar, xstest)] == [
        5,
        1,
    ]
