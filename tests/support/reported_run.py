"""A small run with everything that a report tells: made once by the real commands, on tiny models, with hostile texts in it."""

from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp

from support.finished_run import command
from support.interchange_files import lines
from support.pipelines import write_json_lines
from support.tiny_models import make_tiny_causal_lm

N_PROMPTS, N, K = 12, 8, 3
MARKUP = "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 2'></script><b>bold?</b> &amp; {{ 7 * 7 }}"
CONTROLS = "\x1b[31mred\x00 \u202ereversed\u202c \u2028 line"
PROMPT = f"question 0 {MARKUP}"


def responses_of(prompt: int) -> list[str]:
    """Responses of very different lengths; of the first prompt some are hostile."""
    rng = Random(prompt)
    texts = [
        " ".join(rng.choices(["red", "green", "blue", "rain", "wind"], k=rng.randint(2, 30)))
        + f" {j}"
        for j in range(N)
    ]
    return [MARKUP, CONTROLS, *texts[2:]] if prompt == 0 else texts


@cache
def reported_run() -> Path:
    """Return the run's folder; nobody changes it. The folder's own name is hostile too."""
    folder = Path(mkdtemp(prefix="prefpipe-reported-run-")) / "run <i>& co"
    folder.mkdir()
    rng = Random(1)
    model = make_tiny_causal_lm(folder.parent / "tiny")
    rows = [
        {
            "prompt": PROMPT if i == 0 else f"question {i}",
            "responses": responses_of(i),
            "rewards": [rng.gauss(0, 1) for _ in range(N)],
        }
        for i in range(N_PROMPTS)
    ]
    source = lines(folder.parent / "responses.json", *rows)
    run = str(folder)
    command(["import", source, "-o", run, "--format", "online-rlhf", "--part-size", "5"])
    command(["embed", f"{run}/candidates", "-o", f"{run}/embeddings", "--model", "fake"])
    for strategy in ("opt-select", "coreset"):
        command(
            [
                "select",
                f"{run}/candidates",
                "--scores",
                f"{run}/scores",
                "--embeddings",
                f"{run}/embeddings",
                "-o",
                f"{run}/{strategy}",
                "--strategy",
                strategy,
                "--k",
                str(K),
            ]
        )
    train = [
        "train",
        f"{run}/opt-select",
        "--model",
        str(model),
        "--global-batch-size",
        "4",
        "--report-to",
        "none",
    ]
    command(
        [
            *train,
            "-o",
            f"{run}/policy",
            "--objective",
            "ampo",
            "--max-steps",
            "3",
            "--lora-r",
            "2",
            "--learning-rate",
            "0.01",
        ]
    )
    command(
        [
            *train,
            "-o",
            f"{run}/reward-model",
            "--target",
            "reward",
            "--objective",
            "bt",
            "--num-train-epochs",
            "1",
            "--eval-fraction",
            "0.4",
        ]
    )
    prompts = write_json_lines(
        folder.parent / "heldout.jsonl", [{"prompt": f"held out {i}"} for i in range(6)]
    )
    command(
        [
            "eval",
            "--policy",
            f"{run}/policy",
            "--baseline",
            str(model),
            "--prompts",
            str(prompts),
            "-o",
            f"{run}/eval",
            "--scorer",
            "fake",
            "--n",
            "2",
            "--max-tokens",
            "12",
            "--backend",
            "transformers",
        ]
    )
    command(
        [
            "judge",
            f"{run}/eval/policy/candidates",
            f"{run}/eval/baseline/candidates",
            "-o",
            f"{run}/verdicts",
            "--judge",
            "fake",
        ]
    )
    pairs = [
        {
            "prompt": f"pair {i}",
            "chosen": "a",
            "rejected": "b",
            "score_chosen": rng.gauss(1, 1),
            "score_rejected": rng.gauss(0, 1),
        }
        for i in range(30)
    ]
    source = write_json_lines(folder.parent / "pairs.jsonl", pairs)
    command(["eval", "calibration", "--pairs", str(source), "-o", f"{run}/calibration"])
    return folder
