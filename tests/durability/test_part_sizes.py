"""An artifact's rows are the same whatever the part size, with several models too, and after a stop in the middle."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pipelines import assert_only_parts, identities_of, rows_of, write_prompts
from support.stage_server import StageServer
from support.tiny_models import make_tiny_causal_lm

pytestmark = pytest.mark.slow

N_PROMPTS = 24


@pytest.fixture(scope="module")
def torch_stages(fast_root: Path) -> Iterator[StageServer]:
    """Runs commands in forked processes that need not import transformers."""
    scratch = fast_root / "torch-streams"
    scratch.mkdir()
    server = StageServer(scratch, ["prefpipe.backends.generators.hf_generator"])
    yield server
    server.stop()


@pytest.fixture(scope="module")
def models(fast_root: Path) -> list[Path]:
    return [make_tiny_causal_lm(fast_root / f"tiny-{seed}", seed=seed) for seed in (0, 1, 2)]


def generate(folder: Path, models: list[str], output: str, *more: object) -> list[object]:
    prompts = write_prompts(folder / "prompts.jsonl", N_PROMPTS)
    flags = [word for model in models for word in ("--model", model)]
    return ["generate", prompts, *flags, "-o", folder / output, "--max-tokens", 24, *more]


def rows_without_logp(folder: Path) -> list[dict[str, object]]:
    """The rows; batches that differ move the last digits of a log-probability."""
    return [{**row, "logp": None} for row in rows_of(folder)]


def assert_same_rows(folder: Path, expected: Path) -> None:
    assert rows_without_logp(folder) == rows_without_logp(expected)
    for row, other in zip(rows_of(folder), rows_of(expected), strict=True):
        assert row["logp"] == pytest.approx(other["logp"], abs=1e-3)


@pytest.mark.parametrize("kind", ["fake", "transformers"])
def test_rows_do_not_depend_on_the_part_size(
    torch_stages: StageServer, folder: Path, models: list[Path], kind: str
) -> None:
    model = "fake" if kind == "fake" else str(models[0])
    for size in (1, 4, 128):
        words = generate(folder, [model], f"parts-of-{size}", "--part-size", size, "--n", 3)
        outcome = torch_stages.run(*words, "--backend", kind, "--batch-size", 8)
        assert outcome.code == 0, outcome.stderr
    assert len(rows_of(folder / "parts-of-128")) == 3 * N_PROMPTS
    for size in (1, 4):
        n_parts = len(list((folder / f"parts-of-{size}").glob("part-*.parquet")))
        assert n_parts == N_PROMPTS // size
        if kind == "fake":
            assert rows_of(folder / f"parts-of-{size}") == rows_of(folder / "parts-of-128")
        assert_same_rows(folder / f"parts-of-{size}", folder / "parts-of-128")


def test_with_one_row_at_a_time_not_even_the_rounding_depends_on_the_part_size(
    torch_stages: StageServer, folder: Path, models: list[Path]
) -> None:
    for size in (1, 4, 128):
        words = generate(folder, [str(models[0])], f"parts-of-{size}", "--part-size", size)
        settings = ("--n", 3, "--backend", "transformers", "--batch-size", 1)
        outcome = torch_stages.run(*words, *settings)
        assert outcome.code == 0, outcome.stderr
    for size in (1, 4):
        assert rows_of(folder / f"parts-of-{size}") == rows_of(folder / "parts-of-128")


def loaded(stderr: str, models: list[Path]) -> list[str]:
    """The names of the models in the order in which they were loaded."""
    names = {f"loading {model}" for model in models}
    return [line.split()[-1] for line in stderr.splitlines() if line.strip() in names]


def test_several_models_take_turns_and_give_the_same_rows(
    torch_stages: StageServer, folder: Path, models: list[Path]
) -> None:
    names = [str(model) for model in models]
    settings = ("--backend", "transformers", "--n", 5)
    for size in (2, 128):
        words = generate(folder, names, f"parts-of-{size}", *settings, "--part-size", size)
        outcome = torch_stages.run(*words)
        assert outcome.code == 0, outcome.stderr
        opened = loaded(outcome.stderr, models)
        assert opened[:3] == names
        assert len(opened) <= 9, "three models, twelve parts"
    assert_same_rows(folder / "parts-of-2", folder / "parts-of-128")
    rows = rows_of(folder / "parts-of-2")
    assert [row["model"] for row in rows[:5]] == [names[i % 3] for i in range(5)]
    assert len({row["response"] for row in rows}) > len(rows) / 2


def test_a_stop_between_two_models_leaves_whole_parts_and_a_rerun_completes(
    torch_stages: StageServer, folder: Path, models: list[Path]
) -> None:
    settings = ("--backend", "transformers", "--n", 4, "--part-size", 2, "--max-tokens", 60)
    names = [str(model) for model in models[:2]]
    straight = torch_stages.run(*generate(folder, names, "straight", *settings))
    assert straight.code == 0, straight.stderr
    whole = {path.name for path in (folder / "straight").iterdir()}

    codes = []
    for share in (0.3, 0.5, 0.7):
        output = folder / f"stopped-at-{share}"
        words = generate(folder, names, output.name, *settings)
        stopped = torch_stages.run(
            *words, signal_after_s=share * straight.elapsed_s, signal=signal.SIGTERM
        )
        assert stopped.code in (0, 75), stopped.stderr
        codes.append(stopped.code)
        assert {path.name for path in output.glob("*")} <= whole, "and nothing else"
        kept = identities_of(output)
        again = torch_stages.run(*words)
        assert again.code == 0, again.stderr
        assert kept.items() <= identities_of(output).items()
        assert_only_parts(output)
        assert_same_rows(output, folder / "straight")
    assert 75 in codes
