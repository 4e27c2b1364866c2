"""Rows at the edges: one response, equal rewards, no text, too much text, any character."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.pipelines import (
    open_artifact,
    rows_of,
    write_json_lines,
    write_prompts,
)
from support.stage_server import StageServer

from prefpipe.artifacts import parts

pytestmark = pytest.mark.slow

FAKE = ("--backend", "fake", "--model", "fake")


def generate(prompts: Path, output: Path, *more: object) -> list[str]:
    return [
        str(word)
        for word in ("generate", prompts, *FAKE, "--n", 3, "--part-size", 2, "-o", output, *more)
    ]


@pytest.fixture
def candidates(stages: StageServer, folder: Path) -> Path:
    """Six prompts of three responses in three parts."""
    write_prompts(folder / "prompts.jsonl", 6)
    assert stages.run(*generate(folder / "prompts.jsonl", folder / "candidates")).code == 0
    return folder / "candidates"


def ratings_of(candidates: Path) -> list[dict[str, Any]]:
    return [
        {"prompt_id": row["prompt_id"], "sample_idx": row["sample_idx"], "rating": 1 + (i * 7) % 10}
        for i, row in enumerate(rows_of(candidates))
    ]


def chain(stages: StageServer, folder: Path, *, k: int = 2) -> list[dict[str, Any]]:
    """Score, embed and select ``folder/candidates``; return the groups."""
    candidates = folder / "candidates"
    for words in (
        ["score", candidates, "--scorer", "fake", "-o", folder / "scores"],
        ["embed", candidates, "--model", "fake", "-o", folder / "embeddings"],
        [
            "select",
            candidates,
            "--scores",
            folder / "scores",
            "--embeddings",
            folder / "embeddings",
            "--k",
            k,
            "-o",
            folder / "groups",
        ],
    ):
        outcome = stages.run(*words)
        assert outcome.code == 0, outcome.stderr
    return rows_of(folder / "groups")


def test_one_response_a_prompt_makes_no_group_and_says_why(
    stages: StageServer, folder: Path
) -> None:
    write_prompts(folder / "prompts.jsonl", 3)
    assert (
        stages.run(*generate(folder / "prompts.jsonl", folder / "candidates", "--n", 1)).code == 0
    )
    groups = chain(stages, folder)
    assert [(row["status"], row["role"], row["sample_idx"]) for row in groups] == [
        ("too_few_candidates", None, None)
    ] * 3
    assert groups[0]["reason"].startswith("1 candidates, 1 usable")


@pytest.mark.parametrize("k", [2, 3, 50])
def test_k_as_large_as_the_pool_takes_every_other_candidate(
    stages: StageServer, candidates: Path, folder: Path, k: int
) -> None:
    """Three responses: one positive, at most two negatives."""
    groups = chain(stages, folder, k=k)
    assert [row["role"] for row in groups] == ["positive", "negative", "negative"] * 6


def test_equal_rewards_never_become_a_pair(
    stages: StageServer, candidates: Path, folder: Path
) -> None:
    """Ties are a reason, not a chosen and a rejected response that are the same; one distinct prompt still makes its group."""
    rows = [{**row, "rating": 5} for row in ratings_of(candidates)]
    rows[0]["rating"] = 9
    write_json_lines(folder / "ratings.jsonl", rows)
    assert (
        stages.run(
            "score",
            candidates,
            "--scorer",
            f"ratings:{folder / 'ratings.jsonl'}",
            "-o",
            folder / "scores",
        ).code
        == 0
    )
    words = [
        "select",
        candidates,
        "--scores",
        folder / "scores",
        "--strategy",
        "best-worst",
        "-o",
        folder / "groups",
    ]
    outcome = stages.run(*words)
    assert outcome.code == 0
    assert "5 prompts rejected: tie" in outcome.stderr
    groups = rows_of(folder / "groups")
    assert [(row["role"], row["sample_idx"]) for row in groups[:2]] == [
        ("positive", 0),
        ("negative", 1),
    ]
    assert [(row["status"], row["role"]) for row in groups[2:]] == [("tie", None)] * 5
    assert "rewards 5 to 5" in groups[2]["reason"]


def test_a_prompt_that_is_too_long_is_a_row_and_shifts_no_response(
    stages: StageServer, folder: Path
) -> None:
    """100,000 characters are more than the fake's 8,192 tokens. The other prompts get what they get without it."""
    prompts = [{"prompt_id": name, "prompt": f"question {name}"} for name in "abc"]
    write_json_lines(folder / "without.jsonl", prompts)
    write_json_lines(
        folder / "with.jsonl",
        [prompts[0], {"prompt_id": "long", "prompt": "x" * 100_000}, *prompts[1:]],
    )
    assert stages.run(*generate(folder / "without.jsonl", folder / "without")).code == 0
    outcome = stages.run(*generate(folder / "with.jsonl", folder / "candidates"))
    assert outcome.code == 3
    assert "3 of 12 rows failed (25.0%, the limit is 5.0%)" in outcome.stderr
    rows = rows_of(folder / "candidates")
    long = [row for row in rows if row["prompt_id"] == "long"]
    assert [(row["status"], row["response"], row["sample_idx"]) for row in long] == [
        ("prompt_too_long", None, i) for i in range(3)
    ]
    assert "prompt tokens, and 8192 - 1024 leave room for 7168" in long[0]["reason"]
    assert [row for row in rows if row["prompt_id"] != "long"] == rows_of(folder / "without")
    groups = chain(stages, folder)
    assert [row["status"] for row in groups if row["prompt_id"] == "long"] == ["no_rewards"]
    scores = [row for row in rows_of(folder / "scores") if row["prompt_id"] == "long"]
    assert [(row["status"], row["reward"]) for row in scores] == [("no_response", None)] * 3


def test_a_token_limit_of_one_makes_truncated_responses_of_one_token(
    stages: StageServer, folder: Path
) -> None:
    write_prompts(folder / "prompts.jsonl", 3)
    assert (
        stages.run(
            *generate(folder / "prompts.jsonl", folder / "candidates", "--max-tokens", 1)
        ).code
        == 0
    )
    rows = rows_of(folder / "candidates")
    assert {
        (row["status"], row["n_response_tokens"], len(row["response_token_ids"])) for row in rows
    } == {("truncated", 1, 1)}
    groups = chain(stages, folder)
    assert {row["prompt_id"] for row in groups} == {"p000", "p001", "p002"}


NUL_AND_FRIENDS = [
    "a\0b",
    "\U0001f469\u200d\U0001f52c \U0001f1e9\U0001f1ea",
    "שלום עולם",
    "مرحبا \u202egnp.exe",
    "\ufeffbom\u2028line\u0085",
    "e\u0301 \u00e9",
    "\uffff\ufffd",
    "  spaces \t\r\n",
]


def test_any_character_goes_through_all_stages_untouched(stages: StageServer, folder: Path) -> None:
    """Emoji, right-to-left text, NUL bytes: in ids, prompts, system prompt, and the user's columns, of text and nested."""
    prompts = [
        {
            "prompt_id": f"id {text}",
            "prompt": f"{text}?",
            "note": text,
            "nested": {"list": [text, {text: None}]},
        }
        for text in NUL_AND_FRIENDS
    ]
    write_json_lines(folder / "prompts.jsonl", prompts)
    words = generate(
        folder / "prompts.jsonl", folder / "candidates", "--system-prompt", "Sprich \U0001f600"
    )
    assert stages.run(*words).code == 0
    groups = chain(stages, folder)
    for row in rows_of(folder / "candidates") + groups:
        [prompt] = [prompt for prompt in prompts if prompt["prompt_id"] == row["prompt_id"]]
        assert row["messages"] == [
            {"role": "system", "content": "Sprich \U0001f600"},
            {"role": "user", "content": prompt["prompt"]},
        ]
        assert (row["note"], json.loads(row["nested"])) == (prompt["note"], prompt["nested"])
    assert [row["prompt_id"] for row in groups if row["role"] == "positive"] == [
        prompt["prompt_id"] for prompt in prompts
    ]


ODD_RESPONSES = ["", "  \n ", "a", "x" * 100_000, "word " * 20_000, *NUL_AND_FRIENDS]


def test_odd_responses_go_through_score_embed_and_select(stages: StageServer, folder: Path) -> None:
    """Empty, one character, 100,000 characters, NUL and the rest, as candidates that an engine could have written."""
    write_json_lines(folder / "prompts.jsonl", [{"prompt_id": "only", "prompt": "q"}])
    n = len(ODD_RESPONSES)
    assert (
        stages.run(*generate(folder / "prompts.jsonl", folder / "candidates", "--n", n)).code == 0
    )
    artifact = open_artifact(folder / "candidates")
    table, footer = artifact.read(0)
    rows = [
        {**row, "response": text, "status": "ok" if text.strip() else "empty", "reason": None}
        for row, text in zip(table.to_pylist(), ODD_RESPONSES, strict=True)
    ]
    changed = type(table).from_pylist(rows, schema=table.schema)
    parts.write_part(
        artifact.part_path(0),
        changed,
        fingerprint=footer.fingerprint,
        schema=footer.schema,
        counts={"ok": n - 2, "empty": 2},
        parents={},
    )
    groups = chain(stages, folder, k=50)
    assert len(rows_of(folder / "scores")) == n
    embeddings = rows_of(folder / "embeddings")
    assert [row["status"] for row in embeddings] == ["empty"] * 2 + ["ok"] * (n - 2)
    assert [row["truncated"] for row in embeddings] == [
        text.count("word") > 512 for text in ODD_RESPONSES
    ]
    lengths = [float(np.linalg.norm(row["embedding"])) for row in embeddings]
    np.testing.assert_allclose(lengths, [0.0] * 2 + [1.0] * (n - 2), rtol=1e-6)
    assert sorted(row["response"] for row in groups) == sorted(ODD_RESPONSES[2:])
