"""Every kind of artifact in every condition, made once a session by the real commands.

Kinds: candidates, scores, embeddings, groups, logprobs, verdicts, eval, pair scores, policy, reward model. Conditions: generated with
fakes, with a tiny model, by a server, imported, without rows, with nothing but errors, with parts missing, of one prompt, and with
nulls in every column that may have them.
"""

import shutil
import sys
import warnings
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import ALIKE_EVERYWHERE, embeddings_schema
from prefpipe.artifacts.store import Shard, open_output
from prefpipe.cli.main import run
from prefpipe.errors import PrefpipeWarning
from support.chat_server import running_chat_server
from support.pipelines import open_artifact, write_json_lines
from support.two_rounds import TRAINING, original

SMALL = ("--backend", "fake", "--max-tokens", "16")
OF_TINY_MODELS = {
    "tiny/candidates": "candidates",
    "tiny/scores": "scores",
    "tiny/embeddings": "embeddings",
    "tiny/groups": "groups",
    "tiny/logprobs": "logprobs",
    "tiny/policy": "policy",
    "tiny/rm": "policy",
    "tiny/eval": "evaluation",
}


def _do(words: list[str], *, codes: tuple[int, ...] = (0,)) -> None:
    """Run a command, recorded as if it had been typed."""
    argv, sys.argv = sys.argv, ["prefpipe", *words]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrefpipeWarning)
            code = run(words)
    finally:
        sys.argv = argv
    assert code in codes, (words, code)


def _below(folder: Path, *, codes: tuple[int, ...] = (0,)) -> None:
    """Make everything that can be made of ``folder/candidates``, rated by a fake."""
    at = {
        name: str(folder / name)
        for name in ("candidates", "scores", "embeddings", "groups", "verdicts", "eval")
    }
    candidates = at["candidates"]
    if not (folder / "scores").exists():
        _do(
            ["score", candidates, "-o", at["scores"], "--scorer", "fake", "--max-error-rate", "1"],
            codes=codes,
        )
    _do(
        ["embed", candidates, "-o", at["embeddings"], "--model", "fake", "--max-error-rate", "1"],
        codes=codes,
    )
    of_pool = ["--scores", at["scores"], "--embeddings", at["embeddings"]]
    _do(["select", candidates, *of_pool, "-o", at["groups"], "--k", "1"], codes=codes)
    _do(
        [
            "judge",
            candidates,
            candidates,
            "-o",
            at["verdicts"],
            "--judge",
            "fake",
            "--max-error-rate",
            "1",
        ],
        codes=(*codes, 1),
    )
    _do(
        [
            "eval",
            "--policy",
            candidates,
            "--baseline",
            candidates,
            "--policy-scores",
            at["scores"],
            "--baseline-scores",
            at["scores"],
            "-o",
            at["eval"],
        ],
        codes=(*codes, 1),
    )


def _make_tiny(folder: Path) -> None:
    """Link what the two rounds made, and train a policy and a reward model of one prompt."""
    shutil.copytree(original(), folder / "tiny")
    for record in (folder / "tiny").rglob("run.json"):
        text = record.read_text(encoding="utf-8").replace(str(original()), str(folder / "tiny"))
        record.write_text(text, encoding="utf-8")
    model = str(folder / "tiny" / "models" / "start")
    for target in ("policy", "reward"):
        output = str(folder / "single" / target)
        _do(
            [
                "train",
                str(folder / "single" / "groups"),
                "-o",
                output,
                "--model",
                model,
                "--target",
                target,
                *TRAINING,
            ]
        )
    for name in ("fake", "import", "single"):
        words = [
            "logprobs",
            str(folder / name / "groups"),
            "-o",
            str(folder / name / "logprobs"),
            "--model",
            model,
        ]
        _do([*words, "--dtype", "float32", "--device", "cpu"])


def _make_partial(folder: Path) -> None:
    """Copy the fakes' artifacts without their middle part and without a summary."""
    shutil.copytree(folder / "fake", folder / "partial")
    for artifact in (folder / "partial").iterdir():
        parts = sorted(artifact.glob("part-*"))
        if len(parts) > 1:
            parts[len(parts) // 2].unlink()
        (artifact / "summary.json").unlink(missing_ok=True)


def _make_empty(folder: Path) -> None:
    """Write artifacts of one part without rows, and of no part: what a filter that leaves nothing out of nothing would give."""
    for n_parts, name in ((1, "no-rows"), (0, "no-parts")):
        for schema in (*ALIKE_EVERYWHERE, embeddings_schema(8, half=False)):
            like = (
                folder
                / "fake"
                / {"evaluation": "eval", "pair_scores": "pairs"}.get(schema.name, schema.name)
            )
            record = open_artifact(like).record
            made = RunRecord(
                record.stage,
                schema.tag,
                n_parts,
                {**record.identity, "note": name},
                dict(record.parents),
                record.context,
            )
            output = open_output(folder / name / like.name, made, shard=Shard(), overwrite=False)
            if n_parts:
                output.write(0, schema.arrow().empty_table(), counts={}, parents={})


def _make_pairs(folder: Path) -> None:
    """Score pairs: given by a file, one without a score, all without."""
    rows = [
        {
            "prompt": f"q{i}",
            "chosen": f"good {i}",
            "rejected": "bad",
            "score_chosen": 1.0,
            "score_rejected": 0.0,
        }
        for i in range(3)
    ]
    files = {"fake": rows, "nulls": [*rows, {**rows[0], "score_chosen": None}], "single": rows[:1]}
    files["errors"] = [{**row, "score_chosen": None} for row in rows]
    for name, of_file in files.items():
        path = write_json_lines(folder / f"{name}-pairs.jsonl", of_file)
        words = [
            "eval",
            "rewardbench",
            "--pairs",
            str(path),
            "-o",
            str(folder / name / "pairs"),
            "--part-size",
            "1",
        ]
        _do([*words, "--bootstrap-draws", "10", "--max-error-rate", "1"], codes=(0, 1, 3))


def make(folder: Path) -> Path:
    """Make all of it; return the folder."""
    prompts = write_json_lines(
        folder / "prompts.jsonl", [{"prompt": f"question {i}", "topic": f"t{i}"} for i in range(6)]
    )
    one = write_json_lines(folder / "one.jsonl", [{"prompt": "the only question"}])
    fake = ["generate", str(prompts), *SMALL, "--n", "4", "--part-size", "2"]
    _do([*fake, "-o", str(folder / "fake" / "candidates"), "--model", "fake"])
    _do(
        [
            *fake,
            "-o",
            str(folder / "nulls" / "candidates"),
            "--model",
            "fake:error_rate=0.4",
            "--max-error-rate",
            "1",
        ]
    )
    _do(
        [
            *fake,
            "-o",
            str(folder / "errors" / "candidates"),
            "--model",
            "fake:error_rate=1",
            "--max-error-rate",
            "1",
        ]
    )
    _do(
        [
            "generate",
            str(one),
            *SMALL,
            "--n",
            "4",
            "-o",
            str(folder / "single" / "candidates"),
            "--model",
            "fake",
        ]
    )
    with running_chat_server(
        known_fields=()
    ) as server:  # which gives neither token ids nor log-probabilities
        words = [
            "generate",
            str(prompts),
            "-o",
            str(folder / "served" / "candidates"),
            "--backend",
            "openai",
            "--model",
            "served",
        ]
        _do(
            [
                *words,
                "--base-url",
                server.url,
                "--n",
                "3",
                "--max-tokens",
                "16",
                "--part-size",
                "2",
                "--max-error-rate",
                "1",
            ]
        )

    rows = [
        {
            "prompt": f"q{i % 3}",
            "response": "" if i == 7 else f"answer {i}",
            "score": None if i == 4 else i,
        }
        for i in range(9)
    ]
    source = write_json_lines(folder / "rows.jsonl", rows)
    words = [
        "import",
        str(source),
        "-o",
        str(folder / "import"),
        "--format",
        "rows",
        "--part-size",
        "2",
    ]
    _do([*words, "--reward-column", "score"])

    _make_pairs(folder)
    for name in ("fake", "nulls", "errors", "single", "served", "import"):
        _below(folder / name, codes=(0, 3))
    _make_tiny(folder)
    _make_partial(folder)
    _make_empty(folder)
    return folder


@cache
def all_kinds() -> Path:
    """Return the folder of this test session; nobody changes it."""
    return make(Path(mkdtemp(prefix="prefpipe-artifact-kinds-")))
