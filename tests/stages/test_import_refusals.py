"""``prefpipe import`` refuses what it cannot read, naming the file, the place, the value and what to do."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.interchange_files import SKY, lines

from prefpipe.cli.main import run

GOOD = {"prompt": "q", "response": "a"}
BAD_FILES: dict[str, tuple[str, list[Any], list[str], list[str]]] = {
    "no rows": ("a.jsonl", [], [], ["a.jsonl holds no rows", "each row needs `prompt`"]),
    "no prompt": (
        "a.jsonl",
        [{"response": "a"}],
        [],
        ["a.jsonl has neither `prompt` nor `messages`; its columns are: response"],
    ),
    "two prompts": (
        "a.jsonl",
        [GOOD | {"messages": SKY}],
        [],
        ["has both `prompt` and `messages`", "name one with --prompt-column"],
    ),
    "no response": (
        "a.jsonl",
        [{"prompt": "q"}],
        [],
        ["a.jsonl has no column `response`; its columns are: prompt"],
    ),
    "no such column": (
        "a.jsonl",
        [GOOD],
        ["--reward-column", "x"],
        ["a.jsonl has no column `x`", "--reward-column names a column"],
    ),
    "null response": (
        "a.jsonl",
        [GOOD, {"prompt": "q", "response": None}],
        [],
        ["a.jsonl has 1 problem", "line 2: `response` is null"],
    ),
    "response of numbers": (
        "a.jsonl",
        [GOOD | {"response": 5}],
        [],
        ["line 1: `response` is 5, which is not text"],
    ),
    "empty prompt": (
        "a.jsonl",
        [GOOD | {"prompt": " "}],
        [],
        ["line 1: `prompt`: the prompt is empty"],
    ),
    "turns without a user": (
        "a.jsonl",
        [{"messages": [{"role": "system", "content": "s"}], "response": "a"}],
        [],
        ["it has no user turn"],
    ),
    "another role": (
        "a.jsonl",
        [{"messages": [{"role": "critic", "content": "s"}], "response": "a"}],
        [],
        ["turn 0 has role 'critic'"],
    ),
    "messages of text": (
        "a.jsonl",
        [{"messages": "hello", "response": "a"}],
        [],
        ["line 1: `messages`: it needs text"],
    ),
    "templated prompt": (
        "a.jsonl",
        [GOOD | {"prompt": "[INST] q [/INST]"}],
        [],
        ["it went through a chat template ([INST])"],
    ),
    "id of fractions": (
        "a.jsonl",
        [GOOD | {"prompt_id": 1.5}],
        [],
        ["line 1: `prompt_id` is 1.5; an id is a text or a whole number"],
    ),
    "no id": (
        "a.jsonl",
        [GOOD | {"prompt_id": None}, GOOD | {"prompt_id": "a"}],
        [],
        ["line 1: `prompt_id` is empty"],
    ),
    "one id, two prompts": (
        "a.jsonl",
        [GOOD | {"prompt_id": "p"}, {"prompt_id": "p", "prompt": "z", "response": "a"}],
        [],
        ["line 2: prompt p has a different text here than at line 1"],
    ),
    "one key twice": (
        "a.jsonl",
        [GOOD | {"prompt_id": "p", "sample_idx": 0}] * 2,
        [],
        ["line 2: prompt p, sample 0 already occurs at line 1"],
    ),
    "keys for some": (
        "a.jsonl",
        [GOOD | {"sample_idx": 0}, GOOD],
        [],
        ["line 2: it has no sample_idx, but others of prompt"],
    ),
    "negative index": (
        "a.jsonl",
        [GOOD | {"sample_idx": -1}],
        [],
        ["line 1: `sample_idx` is -1, which is not a whole number of at least 0"],
    ),
    "index too large": (
        "a.jsonl",
        [GOOD | {"sample_idx": 2**31}],
        [],
        ["`sample_idx` is 2147483648"],
    ),
    "score of text": (
        "a.jsonl",
        [GOOD | {"x": "high"}],
        ["--reward-column", "x"],
        ["line 1: `x` is 'high', which is not a number"],
    ),
    "score of truth": (
        "a.jsonl",
        [GOOD | {"x": True}],
        ["--reward-column", "x"],
        ["line 1: `x` is True, which is not a number"],
    ),
    "score too large": (
        "a.jsonl",
        [json.dumps(GOOD)[:-1] + ', "x": 1' + "0" * 400 + "}"],
        ["--reward-column", "x"],
        ["too large a number"],
    ),
    "model of numbers": (
        "a.jsonl",
        [GOOD | {"model": 5}],
        [],
        ["line 1: `model` is 5, which is not text"],
    ),
    "half a character": (
        "a.jsonl",
        [GOOD, GOOD | {"response": "cut \ud83d"}],
        [],
        ["a.jsonl, line 2: `response` holds half of a surrogate pair (\\ud83d)"],
    ),
    "half a character in turns": (
        "a.jsonl",
        [{"messages": [{"role": "user", "content": "\ud83d"}], "response": "a"}],
        [],
        ["line 1: `messages` holds half of a surrogate pair (\\ud83d)"],
    ),
    "broken line": ("a.jsonl", [GOOD, '{"prompt": '], [], ["a.jsonl, line 2: broken JSON"]),
    "unknown suffix": (
        "a.txt",
        [GOOD],
        [],
        ["a.txt: files that end in `.txt` are not read", "use one of .jsonl"],
    ),
    "broken Parquet": ("a.parquet", [GOOD], [], ["a.parquet cannot be read as Parquet"]),
    "uneven lists": (
        "a.jsonl",
        [{"prompt": "q", "all_generated_responses": ["a", "b"], "all_rm_scores": [1]}],
        ["--format", "simpo"],
        [
            "line 1: `all_generated_responses` holds 2 and `all_rm_scores` 1: both lists must have the same length"
        ],
    ),
    "empty list": (
        "a.jsonl",
        [{"prompt": "q", "all_generated_responses": [], "all_rm_scores": []}],
        ["--format", "simpo"],
        ["line 1: `all_generated_responses` is an empty list"],
    ),
    "list of text": (
        "a.jsonl",
        [{"prompt": "q", "responses": "a", "rewards": [1]}],
        ["--format", "online-rlhf"],
        ["line 1: `responses` is 'a', which is not a list"],
    ),
    "null in a list": (
        "a.jsonl",
        [{"prompt": "q", "responses": ["a", None], "rewards": [1, 2]}],
        ["--format", "online-rlhf"],
        ["line 1: `responses[1]` is null"],
    ),
    "text among scores": (
        "a.jsonl",
        [{"prompt": "q", "responses": ["a"], "rewards": ["good"]}],
        ["--format", "online-rlhf"],
        ["line 1: `rewards[0]` is 'good', which is not a number"],
    ),
    "null scores": (
        "a.jsonl",
        [
            {"prompt": "q", "responses": ["a"], "rewards": None},
            {"prompt": "q", "responses": ["a"], "rewards": [1]},
        ],
        ["--format", "online-rlhf"],
        ["line 1: `rewards` is null"],
    ),
    "no responses column": (
        "a.jsonl",
        [GOOD],
        ["--format", "simpo"],
        ["has no column `all_generated_responses`", "`all_rm_scores`, a list of the same length"],
    ),
    "completions of text": (
        "a.jsonl",
        [{"instruction": "q", "completions": ["a"]}],
        ["--format", "ultrafeedback"],
        ["line 1: `completions` holds 'a', but an object with `response` is needed"],
    ),
    "completion of null": (
        "a.jsonl",
        [{"instruction": "q", "completions": [None]}],
        ["--format", "ultrafeedback"],
        ["line 1: `completions` holds None, but an object with `response` is needed"],
    ),
    "completion without response": (
        "a.jsonl",
        [{"instruction": "q", "completions": [{"model": "m"}]}],
        ["--format", "ultrafeedback"],
        ["line 1: `completions[0].response` is null"],
    ),
    "no completions": (
        "a.jsonl",
        [GOOD],
        ["--format", "ultrafeedback"],
        ["has no column `instruction`", "`generations` and `ratings`"],
    ),
    "not an export": (
        "a.jsonl",
        [GOOD],
        ["--format", "jsonl"],
        ["has no column `prompt_id`", "each line needs `prompt_id`, `messages` and `responses`"],
    ),
    "no file": ("missing/a.jsonl", [], [], ["missing/a.jsonl does not exist"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_with_the_place_the_value_and_what_to_do(
    tmp_path: Path, capsys, case: str
) -> None:
    name, rows, options, messages = BAD_FILES[case]
    path = tmp_path / name
    if path.parent.exists():
        lines(path, *rows)
    format_given = [] if "--format" in options else ["--format", "rows"]
    code = run(["import", str(path), "-o", f"{tmp_path}/run", *format_given, *options])
    printed = capsys.readouterr().err
    assert code in (1, 2)
    assert not [message for message in messages if message not in printed], printed
    assert "hint: " in printed
    assert not (tmp_path / "run").exists()


def test_all_problems_are_gathered_and_the_first_eight_told(tmp_path: Path, capsys) -> None:
    rows = [GOOD] + [{"prompt": " ", "response": None}] * 5
    assert (
        run(
            [
                "import",
                lines(tmp_path / "a.jsonl", *rows),
                "-o",
                f"{tmp_path}/run",
                "--format",
                "rows",
            ]
        )
        == 1
    )
    printed = capsys.readouterr().err
    assert "a.jsonl has 10 problems:" in printed
    assert "line 2: `prompt`: the prompt is empty" in printed
    assert "line 5: `response` is null" in printed
    assert "and 2 more" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--format", "rows", "--reward-column", "fine-grained"],
            "`fine-grained` is no name for a scorer",
        ),
        (["--format", "rows", "--reward-column", "class"], "`class` is no name for a scorer"),
        (["--format", "rows", "--reward-column", "max"], "`max` is no name for a scorer"),
        (["--format", "rows", "--reward-column", "\ufb01t"], "is no name for a scorer"),
        (
            ["--format", "rows", "--reward-column", "a=x", "--reward-column", "a=y"],
            "two scorers are called `a`",
        ),
        (
            ["--format", "simpo", "--reward-column", "x"],
            "--reward-column goes with --format rows, not simpo",
        ),
        (
            ["--format", "trl", "--prompt-column", "x"],
            "--prompt-column goes with --format rows or wide, not trl",
        ),
        (["--format", "openai-batch"], "--format openai-batch needs --requests"),
        (
            ["--format", "openai-batch", "--requests", "x", "--columns", "y"],
            "--columns: a batch holds no columns",
        ),
        (
            ["--format", "rows", "--requests", "x"],
            "--requests goes with --format openai-batch and arena-hard, not rows",
        ),
        (["--format", "nope"], "--format must be one of rows, wide, simpo"),
        (["--format", "rows", "--part-size", "0"], "--part-size must be 1 or more"),
        (["--format", "rows", "--model-name", ""], "--model-name must not be empty"),
        ([], "`prefpipe import` needs --format"),
        (["--format", "rows", "--max-error-rate", "1"], "No such option: --max-error-rate"),
    ],
)
def test_flags_that_cannot_be_used_are_refused(
    tmp_path: Path, capsys, options: list[str], message: str
) -> None:
    assert (
        run(["import", lines(tmp_path / "a.jsonl", GOOD), "-o", f"{tmp_path}/run", *options]) == 2
    )
    assert message in capsys.readouterr().err
