"""Two rounds with tiny models, made once a session by the real commands: every edge that a run can have.

Round 1 samples from ``model``, trains a policy, a reward model, and a policy with a reference that was measured ahead; round 2
samples from that policy and is rated by that reward model; an evaluation compares policy and model.
"""

import shutil
import warnings
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from prefpipe.errors import PrefpipeWarning
from support.finished_run import command
from support.pipelines import write_json_lines
from support.tiny_models import make_tiny_causal_lm, make_tiny_encoder

SAMPLING = ("--temperature", "1", "--max-tokens", "8", "--device", "cpu", "--dtype", "float32")
TRAINING = (
    "--max-steps",
    "1",
    "--global-batch-size",
    "2",
    "--report-to",
    "none",
    "--learning-rate",
    "1e-3",
)


def make(folder: Path) -> Path:
    """Run both rounds; return the folder."""
    rows = [
        {
            "prompt_id": f"p{i}",
            "prompt": f"question {i}",
            "checks": [{"type": "words", "max": i + 1}],
        }
        for i in range(4)
    ]
    write_json_lines(folder / "prompts.jsonl", rows)
    make_tiny_causal_lm(folder / "models" / "start")
    make_tiny_encoder(folder / "models" / "encoder")

    def at(name: str) -> str:
        return str(folder / name)

    model, prompts = at("models/start"), at("prompts.jsonl")
    for words in (
        [
            "generate",
            prompts,
            "-o",
            at("candidates"),
            "--model",
            model,
            "--n",
            "4",
            "--part-size",
            "2",
            *SAMPLING,
        ],
        ["score", at("candidates"), "-o", at("scores"), "--scorer", "fake"],
        [
            "embed",
            at("candidates"),
            "-o",
            at("embeddings"),
            "--model",
            at("models/encoder"),
            "--device",
            "cpu",
        ],
        [
            "select",
            at("candidates"),
            "--scores",
            at("scores"),
            "--embeddings",
            at("embeddings"),
            "-o",
            at("groups"),
            "--k",
            "2",
        ],
        ["train", at("groups"), "-o", at("policy"), "--model", model, *TRAINING],
        ["train", at("groups"), "-o", at("rm"), "--model", model, "--target", "reward", *TRAINING],
        [
            "logprobs",
            at("groups"),
            "-o",
            at("logprobs"),
            "--model",
            model,
            "--dtype",
            "float32",
            "--device",
            "cpu",
        ],
        [
            "train",
            at("groups"),
            "-o",
            at("dpo"),
            "--model",
            model,
            "--objective",
            "dpo",
            "--reference",
            at("logprobs"),
            *TRAINING,
        ],
        [
            "generate",
            prompts,
            "-o",
            at("round2/candidates"),
            "--model",
            at("policy"),
            "--n",
            "2",
            *SAMPLING,
        ],
        [
            "score",
            at("round2/candidates"),
            "-o",
            at("round2/scores"),
            "--scorer",
            f"reward-model:{at('rm')}",
            "--device",
            "cpu",
        ],
        [
            "eval",
            "--policy",
            at("policy"),
            "--baseline",
            model,
            "--prompts",
            prompts,
            "-o",
            at("eval"),
            "--scorer",
            "fake",
            *SAMPLING,
        ],
    ):
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", PrefpipeWarning
            )  # the encoder is no sentence-transformers model
            command(words)
    return folder


@cache
def original() -> Path:
    """Return the two rounds of this test session; nobody changes them."""
    return make(Path(mkdtemp(prefix="prefpipe-two-rounds-")))


def copy_to(folder: Path) -> Path:
    """Copy the rounds so that they look as if they had been made in ``folder``; return it."""
    source = original()
    shutil.copytree(source, folder, dirs_exist_ok=True)
    for record in folder.rglob("run.json"):
        record.write_text(
            record.read_text(encoding="utf-8").replace(str(source), str(folder)), encoding="utf-8"
        )
    return folder
