"""Every command, sent a signal at a random moment of its life: what it exits with, and what it leaves behind.

``PYTHONPATH=tests python -m support.signalled 300`` tries so often and prints the counts; `tests/durability/test_signals.py` tries a few.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prefpipe.artifacts.parts import verify_part
from support.pipelines import digests_of, write_prompts
from support.tiny_models import make_tiny_adapter, make_tiny_causal_lm, make_tiny_tokenizer

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
ENTRY = "import sys; from prefpipe.__main__ import main; sys.argv[0] = 'prefpipe'; sys.exit(main())"
ONCE = ("export", "merge")
"""Commands that do not replace what they wrote."""

BOUND_S = 30.0
"""Slurm sends SIGKILL so long after SIGTERM."""


@dataclass
class Strike:
    """What became of a command: ``was_ready`` when its handlers stood before the signal was sent."""

    code: int
    stderr: str
    stopped_after_s: float
    was_ready: bool
    moment_s: float


def start(words: list[str], folder: Path, **variables: str) -> subprocess.Popen[str]:
    """Start a command as the console script does, with no signal ignored."""

    def forget_what_pytest_was_started_with() -> None:
        for number in SIGNALS:
            signal.signal(
                number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler
            )

    return subprocess.Popen(
        [sys.executable, "-c", ENTRY, *words],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=forget_what_pytest_was_started_with,  # noqa: PLW1509 - no thread of the test's holds a lock
    )


def is_ready(pid: int) -> bool:
    """Return whether a process has a handler for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), "0")
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def strike(
    words: list[str], folder: Path, number: signal.Signals, moment_s: float, **variables: str
) -> Strike:
    """Run a command and send it a signal so long after its start; a hang ends in `subprocess.TimeoutExpired`."""
    process = start(words, folder, **variables)
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment_s)
    was_ready = process.poll() is None and is_ready(process.pid)
    struck = time.monotonic()
    process.send_signal(number)
    try:
        stderr = process.communicate(timeout=BOUND_S)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Strike(process.returncode, stderr, time.monotonic() - struck, was_ready, moment_s)


@dataclass
class Case:
    """A command, how long it takes undisturbed, and how two results of it are compared."""

    name: str
    words: Callable[[str], list[str]]
    identity: Callable[[Path], object] = digests_of
    elapsed_s: float = 0.0
    expected: object = None
    stdout: str = ""

    def exists(self, path: Path) -> bool:
        """Return whether anything has the name of the result."""
        return any(path.parent.glob(f"{path.name}*"))


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def weights_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.glob("*.safetensors"))}


def nothing(_path: Path) -> None:
    return None


def cases() -> list[Case]:
    """Return the commands; those that import torch stand last."""
    fake = ["--backend", "fake", "--model", "fake"]

    def to(*words: str) -> Callable[[str], list[str]]:
        return lambda output: [*words, "-o", output]

    def alone(*words: str) -> Callable[[str], list[str]]:
        return lambda _output: list(words)

    return [
        Case("generate", to("generate", "prompts.jsonl", *fake, "--n", "6", "--part-size", "2")),
        Case("score", to("score", "run/candidates", "--scorer", "fake")),
        Case("embed", to("embed", "run/candidates", "--model", "fake")),
        Case(
            "select",
            to(
                "select",
                "run/candidates",
                "--scores",
                "run/scores",
                "--embeddings",
                "run/embeddings",
                "--k",
                "3",
            ),
        ),
        Case(
            "import",
            to(
                "import",
                "responses.jsonl",
                "--format",
                "rows",
                "--reward-column",
                "score",
                "--part-size",
                "2",
            ),
            lambda path: digests_of(path / "candidates"),
        ),
        Case(
            "export",
            lambda output: ["export", "run/groups", "-o", f"{output}.parquet", "--format", "trl"],
            lambda path: bytes_of(path.with_suffix(".parquet")),
        ),
        Case(
            "eval",
            to(
                "eval",
                "--policy",
                "run/candidates",
                "--baseline",
                "run/candidates",
                "--scorer",
                "fake",
                "--bootstrap-draws",
                "300",
            ),
        ),
        Case("inspect", alone("inspect", "run/groups", "--json"), nothing),
        Case("status", alone("status", "run"), nothing),
        Case("savings", alone("savings", "run/groups", "--model", "8B", "--gpu", "h100"), nothing),
        Case("check", alone("check", "run/groups", "--model", "model"), nothing),
        Case(
            "report",
            lambda output: ["report", "run", "-o", f"{output}.html"],
            lambda path: bytes_of(path.with_suffix(".html")),
        ),
        Case("logprobs", to("logprobs", "run/groups", "--model", "model")),
        Case("merge", to("merge", "adapter"), weights_of),
        Case(
            "train",
            to(
                "train",
                "run/groups",
                "--model",
                "model",
                "--max-steps",
                "4",
                "--global-batch-size",
                "4",
                "--report-to",
                "none",
            ),
            weights_of,
        ),
    ]


def make_inputs(folder: Path, run: Callable[..., None]) -> None:
    """Write the inputs of all cases; ``run`` runs a command in the folder."""
    write_prompts(folder / "prompts.jsonl", 40)
    rows = [
        f'{{"prompt": "question {i}", "response": "answer {j}", "score": {i * j % 7}}}\n'
        for i in range(40)
        for j in range(4)
    ]
    (folder / "responses.jsonl").write_text("".join(rows), encoding="utf-8")
    make_tiny_causal_lm(folder / "model")
    make_tiny_tokenizer().save_pretrained(make_tiny_adapter(folder / "adapter", folder / "model"))
    run(
        "generate",
        "prompts.jsonl",
        "--backend",
        "fake",
        "--model",
        "fake",
        "--n",
        6,
        "--part-size",
        4,
        "-o",
        "run/candidates",
    )
    run("score", "run/candidates", "--scorer", "fake", "-o", "run/scores")
    run("embed", "run/candidates", "--model", "fake", "-o", "run/embeddings")
    run(
        "select",
        "run/candidates",
        "--scores",
        "run/scores",
        "--embeddings",
        "run/embeddings",
        "--k",
        3,
        "-o",
        "run/groups",
    )


def run_undisturbed(case: Case, folder: Path, output: str) -> None:
    """Run a case to its end and note what it made, what it printed and how long it took."""
    started = time.monotonic()
    process = start(case.words(output), folder)
    case.stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    case.elapsed_s = time.monotonic() - started
    case.expected = case.identity(folder / output)


def assert_well_ended(case: Case, number: signal.Signals, struck: Strike) -> None:
    """Assert the exit code of a struck command, and that it prints no traceback and takes no longer than it may."""
    what = f"{case.name}, {number.name} at {struck.moment_s:.3f} s: code {struck.code}\n{struck.stderr}"
    if not struck.was_ready:  # the interpreter itself was starting, or everything was over
        assert struck.code in (0, 1, 75, 130, -number), what
        return
    assert struck.code in (0, 130 if number == signal.SIGINT else 75), what
    assert "Traceback" not in struck.stderr, what
    assert "Exception ignored" not in struck.stderr, what
    assert struck.stopped_after_s < BOUND_S, what


def assert_whole(folder: Path) -> None:
    """Assert that every part that has its name is whole."""
    for part in folder.rglob("part-*.parquet"):
        verify_part(part)


def strike_and_go_on(case: Case, folder: Path, number: signal.Signals, moment_s: float) -> Strike:
    """Strike a command, look at what it left, run it again, and compare with an undisturbed run."""
    output = "struck"
    for path in folder.glob("struck*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    struck = strike(case.words(output), folder, number, moment_s)
    assert_well_ended(case, number, struck)
    assert_whole(folder / output)
    if case.identity is nothing:
        return struck
    if case.name in ONCE and struck.code in (0, 130) and case.exists(folder / output):
        assert case.identity(folder / output) == case.expected, (
            f"{case.name} after {number.name} at {moment_s:.3f} s"
        )
        return struck  # Ctrl-C came when it had its name; to make it again is refused
    again = start(case.words(output), folder)
    _, stderr = again.communicate(timeout=240)
    assert again.returncode == 0, f"{case.name} after {number.name} at {moment_s:.3f} s: {stderr}"
    assert case.identity(folder / output) == case.expected, (
        f"{case.name} after {number.name} at {moment_s:.3f} s"
    )
    left = [path.name for path in folder.glob(".*.tmp")] + [
        path.name for path in (folder / output).glob(".*.tmp")
    ]
    assert not left, f"{case.name} after {number.name} at {moment_s:.3f} s left {left}"
    return struck


def main() -> None:
    """Try each case in turn, as often in all as asked for; print what came out."""
    n_tries, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    wanted = sys.argv[3].split(",") if len(sys.argv) > 3 else []
    folder, moments = Path(tempfile.mkdtemp(prefix="signalled-")), random.Random(seed)

    def run(*words: object) -> None:
        assert start([str(word) for word in words], folder).wait() == 0

    make_inputs(folder, run)
    tried = [case for case in cases() if not wanted or case.name in wanted]
    for case in tried:
        run_undisturbed(case, folder, f"straight-{case.name}")
    codes: dict[str, Counter[str]] = defaultdict(Counter)
    longest: dict[str, float] = defaultdict(float)
    for i in range(n_tries):
        case, number = tried[i % len(tried)], moments.choice(SIGNALS)
        moment_s = (
            moments.uniform(0, 1.1 * case.elapsed_s)
            if moments.random() < 0.7
            else moments.uniform(0, 0.3)
        )
        try:
            struck = strike_and_go_on(case, folder, number, moment_s)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            print(f"FAILED: {error}", flush=True)
            codes[case.name]["FAILED"] += 1
            continue
        codes[case.name][
            f"{struck.code}" if struck.was_ready or struck.code >= 0 else f"{struck.code} starting"
        ] += 1
        longest[case.name] = max(longest[case.name], struck.stopped_after_s)
    for name, counted in codes.items():
        print(f"{name:<9} longest {longest[name]:5.1f} s  {dict(counted)}", flush=True)
    print("all", dict(sum(codes.values(), Counter())))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
