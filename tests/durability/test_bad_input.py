"""Bad input through the real command line: the message, the exit code, and that nothing finished is lost."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipelines import (
    assert_only_parts,
    assert_same_artifact,
    identities_of,
    open_artifact,
    rows_of,
    write_json_lines,
    write_prompts,
)
from stage_server import StageServer

from prefpipe.artifacts import parts

FAKE = ("--backend", "fake", "--model", "fake")


def generate(prompts: Path, output: Path, *more: object) -> list[str]:
    return [str(word) for word in ("generate", prompts, *FAKE, "--n", 3, "--part-size", 2, "-o", output, *more)]


PROMPT_FILES = {
    "empty file": ("p.jsonl", "", "holds no prompts"),
    "blank lines only": ("p.jsonl", "\n\n  \n", "holds no prompts"),
    "empty list": ("p.json", "[]", "holds no prompts"),
    "empty table": ("p.csv", "", "holds no prompts"),
    "header only": ("p.csv", "prompt,topic\n", "holds no prompts"),
    "broken line": ("p.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"\n', "p.jsonl, line 3: broken JSON"),
    "cut in the middle": ("p.jsonl", '{"prompt": "a"}\n{"promp', "p.jsonl, line 2: broken JSON"),
    "nested too deep": ("p.jsonl", '{"prompt": "a"}\n' + "[" * 100_000 + "\n", "p.jsonl, line 2: broken JSON"),
    "no object": ("p.jsonl", '"a"\n', "p.jsonl, line 1: a JSON object is needed, not str"),
    "broken list": ("p.json", '[{"prompt": "a"},', "p.json: broken JSON"),
    "no list": ("p.json", '{"prompt": "a"}', "p.json: a JSON list of objects is needed"),
    "not UTF-8": ("p.jsonl", b'{"prompt": "\xff"}\n', "is not UTF-8 text (byte 12)"),
    "half a character": ("p.jsonl", '{"prompt": "a \\ud83d b"}\n', r"holds half of a surrogate pair (\ud83d)"),
    "duplicate ids": (
        "p.jsonl",
        '{"prompt_id": "x", "prompt": "a"}\n{"prompt_id": "y", "prompt": "b"}\n{"prompt_id": "x", "prompt": "c"}\n',
        "has 1 duplicate prompt ids: x stands at line 1 and line 3",
    ),
    "the same prompt twice": ("p.jsonl", '{"prompt": "a"}\n{"prompt": "a"}\n', "1 duplicate prompt ids"),
    "an empty id": ("p.jsonl", '{"prompt_id": "", "prompt": "a"}\n', "line 1: `prompt_id` is empty"),
    "neither column": ("p.jsonl", '{"question": "a"}\n', "has neither `prompt` nor `messages`; its columns are: question"),
    "both columns": ("p.jsonl", '{"prompt": "a", "messages": []}\n', "has both `prompt` and `messages`"),
    "no user turn": ("p.jsonl", '{"messages": [{"role": "system", "content": "s"}]}\n', "line 1: it has no user turn"),
    "no turns": ("p.jsonl", '{"messages": []}\n', "line 1: it has no user turn"),
    "assistant last": (
        "p.jsonl",
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n',
        "line 1: its last turn is from the assistant, and a prompt ends with the user",
    ),
    "unknown role": ("p.jsonl", '{"messages": [{"role": "robot", "content": "q"}]}\n', "line 1: turn 0 has role 'robot'"),
    "content no text": (
        "p.jsonl",
        '{"messages": [{"role": "user", "content": 5}]}\n',
        "line 1: turn 0 has content that is no text",
    ),
    "turn without role": ("p.jsonl", '{"messages": [{"content": "q"}]}\n', "line 1: turn 0 needs `role` and `content`"),
    "empty prompt": ("p.jsonl", '{"prompt": "a"}\n{"prompt": " "}\n', "line 2: the prompt is empty"),
    "missing prompt": ("p.jsonl", '{"prompt": "a"}\n{"topic": "t"}\n', "line 2: it needs a text in `prompt`"),
    "a number as prompt": ("p.jsonl", '{"prompt": "a"}\n{"prompt": 5}\n', "line 2: it needs a text in `prompt`"),
    "a reserved column": (
        "p.jsonl",
        '{"prompt": "a", "seed": 1}\n',
        "has a column `seed`, a name that prefpipe's candidates use",
    ),
    "ragged table": ("p.csv", "prompt,topic\na,b\nc,d,e\n", "p.csv: broken CSV"),
    "no Parquet": ("p.parquet", "PAR1 nothing", "p.parquet cannot be read as Parquet"),
    "unknown kind": ("p.xlsx", "x", "files that end in `.xlsx` are not read"),
}


@pytest.mark.parametrize(("name", "content", "message"), PROMPT_FILES.values(), ids=PROMPT_FILES)
def test_a_prompts_file_that_cannot_be_used(
    stages: StageServer, folder: Path, name: str, content: str | bytes, message: str
) -> None:
    """The message says what and where, there is a hint, and no output folder is begun."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    outcome = stages.run(*generate(folder / name, folder / "out"))
    assert outcome.code in (1, 2)
    assert "error: " in outcome.stderr
    assert message in outcome.stderr
    assert "hint: " in outcome.stderr or "cannot be read as Parquet" in outcome.stderr
    assert not (folder / "out").exists()


def test_a_prompts_file_that_is_not_there(stages: StageServer, folder: Path) -> None:
    outcome = stages.run(*generate(folder / "p.jsonl", folder / "out"))
    assert outcome.code == 1
    assert f"error: {folder / 'p.jsonl'} does not exist" in outcome.stderr


def test_the_first_eight_bad_prompts_are_listed_and_the_rest_counted(stages: StageServer, folder: Path) -> None:
    write_json_lines(folder / "p.jsonl", [{"prompt": "" if i % 2 else "q"} for i in range(20)])
    outcome = stages.run(*generate(folder / "p.jsonl", folder / "out"))
    assert "has 10 prompts that cannot be used" in outcome.stderr
    assert [f"line {i}: the prompt is empty" in outcome.stderr for i in range(2, 21, 2)] == [True] * 8 + [False] * 2
    assert "and 2 more" in outcome.stderr


def test_duplicate_prompts_can_be_dropped(stages: StageServer, folder: Path) -> None:
    write_json_lines(folder / "p.jsonl", [{"prompt": text, "line": i} for i, text in enumerate("abca")])
    assert stages.run(*generate(folder / "p.jsonl", folder / "out", "--drop-duplicate-prompts")).code == 0
    assert [row["line"] for row in rows_of(folder / "out")] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


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


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_ratings_that_are_not_finite_are_refused_with_their_line(
    stages: StageServer, candidates: Path, folder: Path, value: str
) -> None:
    lines = [json.dumps(row) for row in ratings_of(candidates)]
    lines[4] = json.dumps({**json.loads(lines[4]), "rating": float(value)})
    assert value in lines[4]
    (folder / "ratings.jsonl").write_text("\n".join(lines))
    outcome = stages.run("score", candidates, "--scorer", f"ratings:{folder / 'ratings.jsonl'}", "-o", folder / "scores")
    assert outcome.code == 1
    assert f"{folder / 'ratings.jsonl'}, line 5: the rating must be finite" in outcome.stderr


def test_ratings_of_other_candidates_are_refused(stages: StageServer, candidates: Path, folder: Path) -> None:
    rows = [*ratings_of(candidates), {"prompt_id": "stranger", "sample_idx": 0, "rating": 3}]
    write_json_lines(folder / "ratings.jsonl", rows)
    outcome = stages.run("score", candidates, "--scorer", f"ratings:{folder / 'ratings.jsonl'}", "-o", folder / "scores")
    assert outcome.code == 1
    assert f"ratings: 1 ratings are for other candidates than {candidates} holds" in outcome.stderr
    assert "'stranger'" in outcome.stderr


def test_missing_ratings_are_rows_with_a_reason_and_too_many_of_them_exit_with_3(
    stages: StageServer, candidates: Path, folder: Path
) -> None:
    """17 of 18 rated is 5.6 % missing, above 5 %; the good rows are on disk, nothing is averaged in for the missing one."""
    write_json_lines(folder / "ratings.jsonl", ratings_of(candidates)[:-1])
    words = ["score", candidates, "--scorer", f"ratings:{folder / 'ratings.jsonl'}", "-o", folder / "scores"]
    outcome = stages.run(*words)
    assert outcome.code == 3
    assert "1 of 18 rows failed (5.6%, the limit is 5.0%); everything good is in" in outcome.stderr
    assert stages.run(*words, "--max-error-rate", 0.06).code == 0
    rows = rows_of(folder / "scores")
    assert [row["reward"] for row in rows[:-1]] == [rating["rating"] for rating in ratings_of(candidates)[:-1]]
    assert (rows[-1]["reward"], rows[-1]["status"]) == (None, "unrated")
    assert "has no rating for this prompt_id and sample_idx" in rows[-1]["reason"]


def test_scores_and_embeddings_of_other_candidates_are_refused(stages: StageServer, candidates: Path, folder: Path) -> None:
    other = folder / "other"
    assert stages.run(*generate(folder / "prompts.jsonl", other, "--seed", 9)).code == 0
    assert stages.run("score", other, "--scorer", "fake", "-o", folder / "scores").code == 0
    outcome = stages.run("select", candidates, "--scores", folder / "scores", "--strategy", "all", "-o", folder / "groups")
    assert outcome.code == 1
    assert f"--scores {folder / 'scores'} was made for other candidates than {candidates}" in outcome.stderr
    assert f"hint: pass the scores of these candidates, or make them: prefpipe score {candidates}" in outcome.stderr


def test_an_artifact_of_another_stage_is_named(stages: StageServer, candidates: Path, folder: Path) -> None:
    outcome = stages.run("select", candidates, "--scores", candidates, "--strategy", "all", "-o", folder / "groups")
    assert outcome.code == 1
    assert f"--scores: {candidates} holds candidates (made by `prefpipe generate`), not scores" in outcome.stderr
    outcome = stages.run("score", folder / "prompts.jsonl", "--scorer", "fake", "-o", folder / "scores")
    assert outcome.code == 1
    outcome = stages.run("score", folder / "nowhere", "--scorer", "fake", "-o", folder / "scores")
    assert f"{folder / 'nowhere'} does not exist" in outcome.stderr
    (folder / "plain").mkdir()
    outcome = stages.run("score", folder / "plain", "--scorer", "fake", "-o", folder / "scores")
    assert f"{folder / 'plain'} is not a prefpipe artifact: it has no run.json" in outcome.stderr


NESTINGS = {
    "the output is the input": ("candidates", "candidates"),
    "the output lies in the input": ("candidates", "candidates/scores"),
    "the input lies in the output": ("deep/candidates", "deep"),
    "by another spelling": ("candidates", "candidates/../candidates/x"),
}


@pytest.mark.parametrize(("source", "output"), NESTINGS.values(), ids=NESTINGS)
def test_an_output_inside_its_input_and_the_reverse_are_refused(
    stages: StageServer, candidates: Path, folder: Path, source: str, output: str
) -> None:
    if source != "candidates":
        (folder / "deep").mkdir()
        candidates.rename(folder / source)
    for words in (["score", folder / source, "--scorer", "fake"], ["embed", folder / source, "--model", "fake"]):
        outcome = stages.run(*words, "-o", folder / output)
        assert outcome.code == 2
        assert f"output {folder / output} and input CANDIDATES {folder / source} lie inside one another" in outcome.stderr
        assert "choose a folder for -o that is beside the input" in outcome.stderr
    assert_only_parts(folder / source)


def test_a_folder_that_holds_other_files_is_not_written_to(stages: StageServer, folder: Path) -> None:
    write_prompts(folder / "prompts.jsonl", 2)
    outcome = stages.run(*generate(folder / "prompts.jsonl", folder))
    assert outcome.code == 2
    assert f"output {folder} already holds files that are not of a prefpipe run (no run.json): prompts.jsonl" in outcome.stderr
    assert "hint: choose an empty or new folder with -o" in outcome.stderr
    (folder / "file").write_text("mine")
    outcome = stages.run(*generate(folder / "prompts.jsonl", folder / "file"))
    assert outcome.code == 2
    assert f"output {folder / 'file'} is a file, and an artifact is a folder" in outcome.stderr
    outcome = stages.run(*generate(folder / "prompts.jsonl", folder / "file" / "below"))
    assert outcome.code == 1
    assert f"cannot write {folder / 'file' / 'below'}: a file is where a folder should be" in outcome.stderr
    outcome = stages.run(*generate(folder / "prompts.jsonl", folder / "prompts.jsonl"))
    assert outcome.code == 2
    assert "lie inside one another" in outcome.stderr
    assert (folder / "file").read_text() == "mine"


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 96 KiB, where this user may mount one."""
    path = folder / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "none", path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk; the limit of the file size is tested instead")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_full_disk_keeps_the_finished_parts_and_a_rerun_completes(stages: StageServer, folder: Path, small_disk: Path) -> None:
    write_prompts(folder / "prompts.jsonl", 40)
    words = generate(folder / "prompts.jsonl", small_disk / "parts")
    full = stages.run(*words)
    assert full.code == 1
    assert "no space left on the disk" in full.stderr
    assert "free some space and run the same command again; finished parts are kept" in full.stderr
    kept = identities_of(small_disk / "parts")
    assert 0 < len(kept) < 20
    assert not list((small_disk / "parts").glob(".*"))
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert stages.run(*words).code == 0
    assert kept.items() <= identities_of(small_disk / "parts").items()
    assert stages.run(*generate(folder / "prompts.jsonl", folder / "straight")).code == 0
    assert_same_artifact(small_disk / "parts", folder / "straight")


def test_a_file_that_may_not_grow_fails_the_same_way(stages: StageServer, folder: Path) -> None:
    """A limit on file sizes stands for a full disk or quota where nothing can be mounted: the second part is too large."""
    long = random.Random(0).randbytes(15_000).hex()  # compresses to half
    write_json_lines(folder / "prompts.jsonl", [{"prompt": f"{i} {long if i > 1 else ''}"} for i in range(4)])
    words = generate(folder / "prompts.jsonl", folder / "parts")
    words[words.index("--model") + 1] = "fake:max_model_len=99999"
    outcome = stages.run(*words, max_file_bytes=12_000)
    assert outcome.code == 1, outcome.stderr
    assert "File too large" in outcome.stderr
    kept = identities_of(folder / "parts")
    assert list(kept) == ["part-00000-of-00002.parquet"]
    assert not list((folder / "parts").glob(".*"))
    assert stages.run(*words).code == 0
    assert kept.items() <= identities_of(folder / "parts").items()
    assert_only_parts(folder / "parts")


def test_a_read_only_folder_is_named(stages: StageServer, folder: Path) -> None:
    write_prompts(folder / "prompts.jsonl", 4)
    output = folder / "readonly"
    output.mkdir(mode=0o555)
    for target in (output, output / "below"):
        outcome = stages.run(*generate(folder / "prompts.jsonl", target), powerless=True)
        assert outcome.code == 1, outcome.stderr
        assert f"error: cannot write {target}" in outcome.stderr
        assert "the folder cannot be written to" in outcome.stderr
        assert "choose another folder with -o, or change its permissions" in outcome.stderr


def test_a_file_that_may_not_be_read_is_named(stages: StageServer, candidates: Path, folder: Path) -> None:
    words = ["score", candidates, "--scorer", "fake", "-o", folder / "scores"]
    (candidates / "part-00001-of-00003.parquet").chmod(0)
    outcome = stages.run(*words, powerless=True)
    assert outcome.code == 1
    assert "part-00001-of-00003.parquet cannot be read: Permission denied" in outcome.stderr
    (candidates / "run.json").chmod(0)
    outcome = stages.run(*words, powerless=True)
    assert outcome.code == 1
    assert f"{candidates / 'run.json'} cannot be read" in outcome.stderr
    candidates.chmod(0)
    outcome = stages.run(*words, powerless=True)
    assert outcome.code == 2
    assert f"'{candidates}' is not readable" in outcome.stderr
    (folder / "prompts.jsonl").chmod(0)
    outcome = stages.run(*generate(folder / "prompts.jsonl", folder / "new"), powerless=True)
    assert outcome.code == 1
    assert "prompts.jsonl cannot be read: Permission denied" in outcome.stderr


def test_a_finished_artifact_on_a_read_only_disk_is_finished(stages: StageServer, folder: Path) -> None:
    write_prompts(folder / "prompts.jsonl", 4)
    words = generate(folder / "prompts.jsonl", folder / "disk" / "parts")
    assert stages.run(*words).code == 0
    mounted = subprocess.run(["mount", "--bind", "-o", "ro", folder / "disk", folder / "disk"], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this user may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder / "disk"], check=True, capture_output=True)
        outcome = stages.run(*words)
        assert outcome.code == 0, outcome.stderr
        assert "2 of 2 parts are finished and kept" in outcome.stderr
        new = stages.run(*words[:-1], folder / "disk" / "new")
        assert new.code == 1
        assert f"cannot write {folder / 'disk' / 'new'}: the folder cannot be written to" in new.stderr
    finally:
        subprocess.run(["umount", folder / "disk"], check=True)


def chain(stages: StageServer, folder: Path, *, k: int = 2) -> list[dict[str, Any]]:
    """Score, embed and select ``folder/candidates``; return the groups."""
    candidates = folder / "candidates"
    for words in (
        ["score", candidates, "--scorer", "fake", "-o", folder / "scores"],
        ["embed", candidates, "--model", "fake", "-o", folder / "embeddings"],
        ["select", candidates, "--scores", folder / "scores", "--embeddings", folder / "embeddings", "--k", k,
         "-o", folder / "groups"],
    ):  # fmt: skip
        outcome = stages.run(*words)
        assert outcome.code == 0, outcome.stderr
    return rows_of(folder / "groups")


def test_one_response_a_prompt_makes_no_group_and_says_why(stages: StageServer, folder: Path) -> None:
    write_prompts(folder / "prompts.jsonl", 3)
    assert stages.run(*generate(folder / "prompts.jsonl", folder / "candidates", "--n", 1)).code == 0
    groups = chain(stages, folder)
    assert [(row["status"], row["role"], row["sample_idx"]) for row in groups] == [("too_few_candidates", None, None)] * 3
    assert groups[0]["reason"].startswith("1 candidates, 1 usable")


@pytest.mark.parametrize("k", [2, 3, 50])
def test_k_as_large_as_the_pool_takes_every_other_candidate(stages: StageServer, candidates: Path, folder: Path, k: int) -> None:
    """Three responses: one positive, at most two negatives."""
    groups = chain(stages, folder, k=k)
    assert [row["role"] for row in groups] == ["positive", "negative", "negative"] * 6


def test_equal_rewards_never_become_a_pair(stages: StageServer, candidates: Path, folder: Path) -> None:
    """Ties are a reason, not a chosen and a rejected response that are the same; one distinct prompt still makes its group."""
    rows = [{**row, "rating": 5} for row in ratings_of(candidates)]
    rows[0]["rating"] = 9
    write_json_lines(folder / "ratings.jsonl", rows)
    assert stages.run("score", candidates, "--scorer", f"ratings:{folder / 'ratings.jsonl'}", "-o", folder / "scores").code == 0
    words = ["select", candidates, "--scores", folder / "scores", "--strategy", "best-worst", "-o", folder / "groups"]
    outcome = stages.run(*words)
    assert outcome.code == 0
    assert "5 prompts rejected: tie" in outcome.stderr
    groups = rows_of(folder / "groups")
    assert [(row["role"], row["sample_idx"]) for row in groups[:2]] == [("positive", 0), ("negative", 1)]
    assert [(row["status"], row["role"]) for row in groups[2:]] == [("tie", None)] * 5
    assert "rewards 5 to 5" in groups[2]["reason"]


def test_a_prompt_that_is_too_long_is_a_row_and_shifts_no_response(stages: StageServer, folder: Path) -> None:
    """100,000 characters are more than the fake's 8,192 tokens. The other prompts get what they get without it."""
    prompts = [{"prompt_id": name, "prompt": f"question {name}"} for name in "abc"]
    write_json_lines(folder / "without.jsonl", prompts)
    write_json_lines(folder / "with.jsonl", [prompts[0], {"prompt_id": "long", "prompt": "x" * 100_000}, *prompts[1:]])
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


def test_a_token_limit_of_one_makes_truncated_responses_of_one_token(stages: StageServer, folder: Path) -> None:
    write_prompts(folder / "prompts.jsonl", 3)
    assert stages.run(*generate(folder / "prompts.jsonl", folder / "candidates", "--max-tokens", 1)).code == 0
    rows = rows_of(folder / "candidates")
    assert {(row["status"], row["n_response_tokens"], len(row["response_token_ids"])) for row in rows} == {("truncated", 1, 1)}
    groups = chain(stages, folder)
    assert {row["prompt_id"] for row in groups} == {"p000", "p001", "p002"}


NUL_AND_FRIENDS = ["a\0b", "\U0001f469\u200d\U0001f52c \U0001f1e9\U0001f1ea", "שלום עולם", "مرحبا \u202egnp.exe", "\ufeffbom\u2028line\u0085",
                   "e\u0301 \u00e9", "\uffff\ufffd", "  spaces \t\r\n"]  # fmt: skip


def test_any_character_goes_through_all_stages_untouched(stages: StageServer, folder: Path) -> None:
    """Emoji, right-to-left text, NUL bytes: in ids, prompts, system prompt, and the user's columns, of text and nested."""
    prompts = [
        {"prompt_id": f"id {text}", "prompt": f"{text}?", "note": text, "nested": {"list": [text, {text: None}]}}
        for text in NUL_AND_FRIENDS
    ]
    write_json_lines(folder / "prompts.jsonl", prompts)
    words = generate(folder / "prompts.jsonl", folder / "candidates", "--system-prompt", "Sprich \U0001f600")
    assert stages.run(*words).code == 0
    groups = chain(stages, folder)
    for row in rows_of(folder / "candidates") + groups:
        [prompt] = [prompt for prompt in prompts if prompt["prompt_id"] == row["prompt_id"]]
        assert row["messages"] == [
            {"role": "system", "content": "Sprich \U0001f600"},
            {"role": "user", "content": prompt["prompt"]},
        ]
        assert (row["note"], json.loads(row["nested"])) == (prompt["note"], prompt["nested"])
    assert [row["prompt_id"] for row in groups if row["role"] == "positive"] == [prompt["prompt_id"] for prompt in prompts]


ODD_RESPONSES = ["", "  \n ", "a", "x" * 100_000, "word " * 20_000, *NUL_AND_FRIENDS]


def test_odd_responses_go_through_score_embed_and_select(stages: StageServer, folder: Path) -> None:
    """Empty, one character, 100,000 characters, NUL and the rest, as candidates that an engine could have written."""
    write_json_lines(folder / "prompts.jsonl", [{"prompt_id": "only", "prompt": "q"}])
    n = len(ODD_RESPONSES)
    assert stages.run(*generate(folder / "prompts.jsonl", folder / "candidates", "--n", n)).code == 0
    artifact = open_artifact(folder / "candidates")
    table, footer = artifact.read(0)
    rows = [
        {**row, "response": text, "status": "ok" if text.strip() else "empty", "reason": None}
        for row, text in zip(table.to_pylist(), ODD_RESPONSES, strict=True)
    ]
    changed = type(table).from_pylist(rows, schema=table.schema)
    parts.write_part(
        artifact.part_path(0), changed, fingerprint=footer.fingerprint, schema=footer.schema, counts={"ok": n - 2, "empty": 2},
        parents={},
    )  # fmt: skip
    groups = chain(stages, folder, k=50)
    assert len(rows_of(folder / "scores")) == n
    embeddings = rows_of(folder / "embeddings")
    assert [row["status"] for row in embeddings] == ["empty"] * 2 + ["ok"] * (n - 2)
    assert [row["truncated"] for row in embeddings] == [text.count("word") > 512 for text in ODD_RESPONSES]
    lengths = [float(np.linalg.norm(row["embedding"])) for row in embeddings]
    np.testing.assert_allclose(lengths, [0.0] * 2 + [1.0] * (n - 2), rtol=1e-6)
    assert sorted(row["response"] for row in groups) == sorted(ODD_RESPONSES[2:])


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize("stage", ["generate", "score", "embed", "select"])
def test_a_stop_signal_finishes_the_part_exits_with_75_and_a_rerun_completes(
    stages: StageServer, folder: Path, stage: str, stop_signal: signal.Signals
) -> None:
    """Sent at several moments of the run, until one run was stopped with parts made and parts left."""
    write_prompts(folder / "prompts.jsonl", 40)
    candidates = folder / "candidates"
    commands = {
        "generate": [*generate(folder / "prompts.jsonl", folder / "straight")],
        "score": ["score", candidates, "--scorer", "fake", "-o", folder / "straight"],
        "embed": ["embed", candidates, "--model", "fake", "-o", folder / "straight"],
        "select": ["select", candidates, "--scores", folder / "scores", "--strategy", "all", "-o", folder / "straight"],
    }
    if stage != "generate":
        assert stages.run(*generate(folder / "prompts.jsonl", candidates)).code == 0
        assert stages.run("score", candidates, "--scorer", "fake", "-o", folder / "scores").code == 0
    straight = stages.run(*commands[stage])
    assert straight.code == 0, straight.stderr
    for attempt in range(40):
        output = folder / f"stopped{attempt}"
        words = [*commands[stage][:-1], output]
        stopped = stages.run(*words, signal_after_s=straight.elapsed_s * (0.3 + 0.05 * (attempt % 14)), signal=stop_signal)
        n_made = len(identities_of(output))
        if stopped.code == 75 and n_made:
            break
    assert stopped.code == 75
    assert f"stopped: {stage} stopped as asked: {n_made} parts made now, {20 - n_made} left" in stopped.stderr
    assert "hint: run the same command again to go on" in stopped.stderr
    kept = identities_of(output)
    again = stages.run(*words)
    assert again.code == 0
    assert f"{n_made} of 20 parts are finished and kept" in again.stderr
    assert kept.items() <= identities_of(output).items()
    assert_same_artifact(output, folder / "straight")


def test_two_stop_signals_stop_at_once_and_leave_no_temporary_file(folder: Path, stages: StageServer) -> None:
    """The real command, in the middle of a part of six seconds."""
    write_prompts(folder / "prompts.jsonl", 4)
    words = generate(folder / "prompts.jsonl", folder / "parts")
    words[words.index("--model") + 1] = "fake:delay_s=1"
    process = subprocess.Popen([sys.executable, "-m", "prefpipe", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any("loading" in line for line in process.stderr)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    assert "stopped at once by a second signal; finished parts are kept" in process.stderr.read()
    assert time.monotonic() - started < 5
    assert {path.name for path in (folder / "parts").iterdir()} == {"run.json"}
