"""Every reading command over every artifact kind: exit codes of the documented set, never a traceback.

The commands run in this process. What escapes ``run`` is what would be a traceback.
"""

import shutil
import sys
import warnings
from pathlib import Path

import pytest
from support.artifact_kinds import all_kinds
from support.tiny_models import make_tiny_causal_lm

import prefpipe
from prefpipe.artifacts.run_record import read_run_record
from prefpipe.cli.main import run
from prefpipe.errors import PrefpipeError
from prefpipe.status.folders import find_artifacts

pytestmark = pytest.mark.slow

CONDITIONS = (
    "fake",
    "tiny",
    "served",
    "import",
    "no-rows",
    "no-parts",
    "errors",
    "partial",
    "single",
    "nulls",
)
NAMES = (
    "candidates",
    "scores",
    "embeddings",
    "groups",
    "logprobs",
    "verdicts",
    "eval",
    "pairs",
    "policy",
    "rm",
    "reward",
)
KINDS = {
    "candidates": "candidates",
    "scores": "scores",
    "embeddings": "embeddings",
    "groups": "groups",
    "logprobs": "logprobs",
    "verdicts": "verdicts",
    "eval": "evaluation",
    "pairs": "pair_scores",
    "policy": "policy",
    "rm": "policy",
    "reward": "policy",
}
EXIT_CODES = {0, 1, 2, 3, 4}
MODEL_SIZE = "135M"


@pytest.fixture(scope="module")
def kinds() -> Path:
    return all_kinds()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_causal_lm(tmp_path_factory.mktemp("reader") / "model"))


def present(kinds: Path, condition: str) -> list[str]:
    return [name for name in NAMES if (kinds / condition / name / "run.json").exists()]


def readers(folder: Path, name: str, out: Path, model: str) -> list[list[str]]:
    """Return every command that can be pointed at an artifact, whether it takes the kind or says that it does not."""
    path = str(folder / name)
    at = {each: str(folder / each) for each in NAMES}
    first_id = prompt_id_of(folder / name)
    return [
        ["status", path], ["status", path, "--json"], ["status", path, "--quick", "--num-shards", "2"],
        ["inspect", path], ["inspect", path, "--json"],
        ["inspect", path, "--prompt-id", first_id], ["inspect", path, "--prompt-id", first_id, "--full"],
        ["inspect", path, "--prompt-id", first_id, "--json"], ["inspect", path, "--prompt-id", ""],
        ["inspect", path, "--prompt-id", first_id, "--map", "--embeddings", at["embeddings"]],
        ["inspect", path, "--prompt-id", first_id, "--map", "--json"],
        ["check", path, "--model", model], ["check", path, "--model", model, "--objective", "mmpo", "--json"],
        ["savings", path, "--model", MODEL_SIZE, "--gpu", "h100"], ["savings", path, "--model", MODEL_SIZE, "--tflops", "100", "--json"],
        ["report", path, "-o", str(out / "one.html"), "--prompts", "2"],
        ["export", path, "-o", str(out / "trl.jsonl"), "--format", "trl", "--overwrite"],
        ["export", path, "-o", str(out / "llama"), "--format", "llama-factory", "--overwrite"],
        ["export", path, "-o", str(out / "all.jsonl"), "--format", "jsonl", "--overwrite", "--allow-partial"],
        ["export", path, "-o", str(out / "alpaca.json"), "--format", "alpaca-eval", "--overwrite"],
        ["eval", "win-rate", path, "--bootstrap-draws", "10", "--bootstrap-fits", "10"],
        ["eval", "win-rate", path, "--allow-missing", "--json", "--bootstrap-draws", "10", "--bootstrap-fits", "10"],
        ["eval", "calibration", "--pairs", path, "-o", str(out / "calibration"), "--overwrite", "--bootstrap-draws", "10"],
        ["eval", "--policy", path, "--baseline", path, "--policy-scores", at["scores"], "--baseline-scores", at["scores"],
         "-o", str(out / "eval"), "--overwrite"],
        ["score", path, "-o", str(out / "scores"), "--scorer", "fake", "--overwrite", "--allow-partial"],
        ["embed", path, "-o", str(out / "embeddings"), "--model", "fake", "--overwrite"],
        ["select", path, "--scores", at["scores"], "-o", str(out / "groups"), "--strategy", "best-worst", "--overwrite"],
        ["select", at["candidates"], "--scores", path, "--embeddings", path, "-o", str(out / "groups"), "--overwrite", "--k", "1"],
        ["judge", path, path, "-o", str(out / "verdicts"), "--judge", "fake", "--overwrite"],
        ["train", path, "-o", str(out / "policy"), "--model", path, "--max-steps", "1", "--report-to", "none"],
        ["models", "show", path],
    ]  # fmt: skip


def prompt_id_of(path: Path) -> str:
    """Return the id of the first prompt of the first part on disk, any word where there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frame = prefpipe.read(path)
    except PrefpipeError:
        return "p"
    return str(frame["prompt_id"][0]) if "prompt_id" in frame.columns and frame.height else "p"


def code_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run a command; return its exit code and what it printed. What it raises is the test's failure."""
    argv, sys.argv = sys.argv, ["prefpipe", *words]
    capsys.readouterr()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = run(words)
    finally:
        sys.argv = argv
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_reader_of_every_kind_ends_with_a_documented_code(
    condition: str, kinds: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = present(kinds, condition)
    assert names, f"nothing was made of {condition}"
    broken = []
    for name in names:
        for number, words in enumerate(readers(kinds / condition, name, tmp_path / name, model)):
            try:
                code, _, err = code_of(words, capsys)
            except Exception as error:
                broken.append(f"{' '.join(words)}: {type(error).__name__}: {error}")
                continue
            is_explained = (
                code in (0, 3, 4) or words[0] == "check" or "error: " in err or words[0] == "status"
            )
            if code not in EXIT_CODES or "Traceback" in err or not is_explained:
                broken.append(f"{' '.join(words)}: exit code {code}: {err[-300:]}")
            assert number < 100
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_read_returns_all_rows_of_every_kind(condition: str, kinds: Path) -> None:
    """With all the rows that the parts' footers count."""
    for name in present(kinds, condition):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frame = prefpipe.read(kinds / condition / name)
        record = read_run_record(kinds / condition / name)
        assert record.schema.partition("/")[0] == KINDS[name]
        n_parts = len(
            list((kinds / condition / name).glob("part-*"))
        )  # none of an evaluation of nothing but errors
        assert (frame.height > 0) == (n_parts > 0 and condition != "no-rows"), f"{condition}/{name}"
        if frame.height:
            assert frame["status"].null_count() == 0


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_report_of_every_run_is_written(
    condition: str, kinds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several artifacts at once: one that cannot be told hides none of the others."""
    code, out, err = code_of(
        ["report", str(kinds / condition), "-o", str(tmp_path / "report.html"), "--prompts", "2"],
        capsys,
    )
    assert code == 0, err
    assert out.strip() == str(tmp_path / "report.html")


@pytest.mark.parametrize(
    "condition", ["fake", "tiny", "served", "import", "single", "nulls", "errors"]
)
def test_what_was_made_whole_is_done(
    condition: str, kinds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An evaluation of nothing but errors has no figures, and is the only thing that is not done."""
    for path in find_artifacts(kinds / condition):
        code, out, _ = code_of(["status", str(path)], capsys)
        if condition != "errors":
            assert code == 0, out


def test_a_run_is_read_with_its_record_alone(
    kinds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of each kind: every part deleted, so that nothing but run.json is left."""
    shutil.copytree(kinds / "fake", tmp_path / "run")
    for part in (tmp_path / "run").rglob("part-*"):
        part.unlink()
    for name in present(tmp_path, "run"):
        for words in (
            ["status"],
            ["inspect"],
            ["check", "--model", "x"],
            ["savings", "--model", "8B", "--gpu", "h100"],
        ):
            code, _, err = code_of([words[0], str(tmp_path / "run" / name), *words[1:]], capsys)
            assert code in EXIT_CODES, err
