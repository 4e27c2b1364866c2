"""Candidates folders with given responses for tests of judges, and the command that compares them."""

from pathlib import Path

from prefpipe.cli.main import run
from support.pipelines import rows_of, write_json_lines


def write_side(
    folder: Path, name: str, responses: dict[str, str | list[str]], *, part_size: int = 2
) -> Path:
    """Import responses, ``{prompt_id: text or texts}``, as a candidates folder and return it."""
    rows = [
        {
            "prompt_id": prompt_id,
            "sample_idx": index,
            "prompt": f"question {prompt_id}",
            "response": text,
        }
        for prompt_id, texts in responses.items()
        for index, text in enumerate([texts] if isinstance(texts, str) else texts)
    ]
    source = write_json_lines(folder / f"{name}.jsonl", rows)
    made = [
        "import",
        str(source),
        "--format",
        "rows",
        "-o",
        str(folder / f"{name}-run"),
        "--part-size",
        str(part_size),
    ]
    assert run(made) == 0
    return folder / f"{name}-run" / "candidates"


def two_sides(folder: Path, n: int = 4) -> tuple[Path, Path]:
    """A and B on ``n`` prompts: A's response is longer for all but the last."""
    a = {f"p{i}": f"answer a{i} " + "x" * (10 if i < n - 1 else 0) for i in range(n)}
    b = {f"p{i}": f"answer b{i} " + "y" * 5 for i in range(n)}
    return write_side(folder, "a", a), write_side(folder, "b", b)


def judge_command(a: Path, b: Path, output: Path, url: str, *more: object) -> list[str]:
    """``prefpipe judge A B`` by a served judge that is asked quickly again."""
    return [
        "judge",
        str(a),
        str(b),
        "-o",
        str(output),
        "--judge",
        "openai:the-judge",
        "--base-url",
        url,
        "--concurrency",
        "4",
        *map(str, more),
    ]


def verdicts_of(output: Path) -> dict[str, dict]:
    """Return the rows by prompt."""
    return {row["prompt_id"]: row for row in rows_of(output)}
