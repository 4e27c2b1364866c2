"""The same content reads the same, whatever kind of file holds it and whichever command reads it."""

import json
from pathlib import Path

import pytest
from support.entrances import ENTRANCES, WRITERS, Write, as_dataset

from prefpipe.artifacts.interchange.annotations import read_annotations
from prefpipe.artifacts.interchange.formats import read_pool
from prefpipe.artifacts.interchange.pair_rows import read_pairs
from prefpipe.artifacts.interchange.read_options import ColumnNames, ReadOptions
from prefpipe.artifacts.prompts import load_prompts
from prefpipe.backends.protocol import ScoreRequest
from prefpipe.backends.scorers.ratings import RatingsScorer
from prefpipe.errors import InputError, PrefpipeError

each_kind = pytest.mark.parametrize("write", WRITERS)

TEXTS = ['say "hi",\nplease', "007", "true", " 2.5 ", "naïve 😀 \u2028 x", "[1]", "null"]


@each_kind
def test_prompts_read_the_same_from_every_kind_of_file(tmp_path: Path, write: Write) -> None:
    rows = [
        {"prompt_id": f"p{i}", "prompt": text, "topic": text[::-1]} for i, text in enumerate(TEXTS)
    ]
    prompts = load_prompts(write(tmp_path, rows))
    assert [(row.prompt_id, row.messages[0]["content"]) for row in prompts.rows] == [
        (row["prompt_id"], row["prompt"]) for row in rows
    ]
    assert prompts.columns.to_pylist() == [{"topic": row["topic"]} for row in rows]


@each_kind
def test_imported_rows_read_the_same_from_every_kind_of_file(tmp_path: Path, write: Write) -> None:
    rows = [
        {
            "prompt_id": f"p{i // 2}",
            "prompt": f"q{i // 2}",
            "response": text,
            "sample_idx": i % 2,
            "judge": None if i == 3 else i / 2,
            "whole": i,
        }
        for i, text in enumerate(TEXTS)
    ]
    names = ColumnNames(rewards={"judge": "judge", "whole": "whole"})
    pool = read_pool(write(tmp_path, rows), "rows", ReadOptions(columns=(), names=names))
    found = [response for members in pool.responses for response in members]
    assert [(each.prompt_id, each.sample_idx, each.text, dict(each.scores)) for each in found] == [
        (
            row["prompt_id"],
            row["sample_idx"],
            row["response"],
            {"judge": row["judge"], "whole": float(row["whole"])},
        )
        for row in rows
    ]


@each_kind
def test_imported_pairs_read_the_same_from_every_kind_of_file(tmp_path: Path, write: Write) -> None:
    rows = [
        {
            "prompt": f"q{i}",
            "chosen": text,
            "rejected": f"no {text}",
            "score_chosen": i + 0.5,
            "score_rejected": 0.0,
        }
        for i, text in enumerate(TEXTS)
    ]
    pool = read_pool(write(tmp_path, rows), "trl", ReadOptions(columns=()))
    found = [response for members in pool.responses for response in members]
    assert [each.text for each in found] == [
        row[name] for row in rows for name in ("chosen", "rejected")
    ]
    assert [each.scores["score"] for each in found] == [
        row[name] for row in rows for name in ("score_chosen", "score_rejected")
    ]


@each_kind
def test_scored_pairs_read_the_same_from_every_kind_of_file(tmp_path: Path, write: Write) -> None:
    rows = [
        {
            "prompt": f"q{i}",
            "chosen": text,
            "rejected": f"no {text}",
            "preference": i / 8,
            "subset": text,
        }
        for i, text in enumerate(TEXTS)
    ]
    found = read_pairs(write(tmp_path, rows), needs_texts=True).rows
    assert [(row.chosen, row.rejected, row.preference) for row in found] == [
        (row["chosen"], row["rejected"], row["preference"]) for row in rows
    ]
    assert [row.subset for row in found] == TEXTS


@each_kind
def test_ratings_read_the_same_from_every_kind_of_file(tmp_path: Path, write: Write) -> None:
    rows = [{"prompt_id": "7", "sample_idx": i, "rating": i - 2.5} for i in range(5)]
    scorer = RatingsScorer(write(tmp_path, rows))
    assert [
        each.reward for each in scorer.score([ScoreRequest("7", i, [], "x", {}) for i in range(5)])
    ] == [
        -2.5,
        -1.5,
        -0.5,
        0.5,
        1.5,
    ]
    folder = tmp_path / "by-response"
    folder.mkdir()
    rows = [{"prompt_id": "007", "response": text, "rating": i} for i, text in enumerate(TEXTS)]
    scorer = RatingsScorer(write(folder, rows))
    assert [
        each.reward
        for each in scorer.score([ScoreRequest("007", 0, [], text, {}) for text in TEXTS])
    ] == list(range(len(TEXTS)))


@pytest.mark.parametrize(
    "write", [writer for writer in WRITERS if writer is not as_dataset]
)  # of which annotations take none
def test_annotations_read_the_same_from_every_kind_of_file(tmp_path: Path, write: Write) -> None:
    rows = [
        {"prompt_id": f"p{i}", "preference": i / 8, "response": text, "baseline_response": text * 2}
        for i, text in enumerate(TEXTS)
    ]
    found = read_annotations(write(tmp_path, rows))
    assert found.ids == [row["prompt_id"] for row in rows]
    assert found.preferences == [row["preference"] for row in rows]
    assert found.lengths == [float(len(text)) for text in TEXTS]


each_entrance = pytest.mark.parametrize("entrance", ENTRANCES)


@each_entrance
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("short.csv", "{header}\n{row}\nx\n"),
        ("long.csv", "{header}\n{row}\n{row},more\n"),
        ("open.csv", '{header}\n{row}\n"{row}\n'),
        ("twice.csv", "{header},{name}\n{row},1\n"),
        ("latin.csv", "{header}\n{row}\n\udce9{row}\n"),
        ("nul.csv", "{header}\n{row}\n\0{row}\n"),
        ("key.jsonl", '{json}\n{{"{name}": 1, "{name}": 2}}\n'),
        ("deep.jsonl", '{json}\n{{"other": [{{"k": 1, "k": 2}}]}}\n'),
        ("broken.jsonl", "{json}\n{{\n"),
        ("list.jsonl", "{json}\n[1]\n"),
        ("key.json", '[{json},\n{{"{name}": 1, "{name}": 2}}]'),
        ("broken.json", "[{json},\n{{]"),
        ("cut.parquet", "PAR1 and no footer"),
        ("empty.parquet", ""),
        ("empty.csv", ""),
        ("empty.jsonl", "\n\n"),
        ("t.jsonl.gz", "x"),
        ("t.xlsx", "x"),
    ],
)
def test_a_damaged_file_is_refused_at_every_entrance(
    tmp_path: Path, entrance: str, name: str, content: str
) -> None:
    """With the line where there is one, and the next command to try."""
    read, row, column = ENTRANCES[entrance]
    text = content.format(
        header=",".join(row),
        row=",".join(map(str, row.values())),
        json=json.dumps(row),
        name=column,
    )
    path = tmp_path / name
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(PrefpipeError) as caught:
        read(str(path))
    assert str(path) in caught.value.message
    assert caught.value.hint
    places = {".csv": "line ", ".jsonl": "line 2", ".json": "2"}
    if not name.startswith(("empty", "t.", "cut")):
        assert places[path.suffix] in caught.value.message


SCORED = [name for name, (_, row, column) in ENTRANCES.items() if isinstance(row[column], float)]


@pytest.mark.parametrize("entrance", SCORED)
@each_kind
def test_one_value_that_is_no_number_is_named_and_the_others_stay_numbers(
    tmp_path: Path, entrance: str, write: Write
) -> None:
    read, row, column = ENTRANCES[entrance]
    if entrance == "annotations" and write is as_dataset:
        pytest.skip("annotations take no folder of datasets")
    keys = {"ratings": "sample_idx", "annotations": "prompt_id"}
    rows = [
        row | ({keys[entrance]: i} if entrance in keys else {"prompt": f"q{i}"}) for i in range(9)
    ]
    rows = [each | {column: str(each[column])} for each in rows]
    read(write(tmp_path, rows))  # numbers that are texts are numbers
    folder = tmp_path / "bad"
    folder.mkdir()
    rows[4][column] = "N/A"
    with pytest.raises(
        InputError, match="`" + column + r"` is 'N/A', which is not a number"
    ) as caught:
        read(write(folder, rows))
    assert caught.value.message.count("which is not a number") == 1
    places = ("line 5:", "line 6:", "row 5:")
    assert any(place in caught.value.message for place in places)
