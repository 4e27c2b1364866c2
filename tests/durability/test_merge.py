"""A merge that is killed anywhere leaves no folder that looks whole.

The next one sweeps up and is whole.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.small_disk import grow, small_disk
from support.stage_server import StageServer
from support.tiny_models import make_tiny_adapter, make_tiny_causal_lm, make_tiny_tokenizer

from prefpipe.models.files import inspect_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]
ALL_FILES = {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merged_from.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def server(fast_root: Path) -> Iterator[StageServer]:
    """Has loaded what merging needs, so that a command takes a second and not ten."""
    scratch = fast_root / "merge-streams"
    scratch.mkdir()
    started = StageServer(scratch, ["prefpipe.stages.merge", "prefpipe.models.location"])
    yield started
    started.stop()


@pytest.fixture(scope="module")
def adapter(fast_root: Path) -> Path:
    path = make_tiny_adapter(
        fast_root / "merge-adapter", make_tiny_causal_lm(fast_root / "merge-base")
    )
    make_tiny_tokenizer().save_pretrained(path)
    return path


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_merge_killed_at_any_event_leaves_no_half_folder(
    server: StageServer, adapter: Path, folder: Path, overwrite: bool
) -> None:
    output = folder / "place" / "merged"
    words = ["merge", adapter, "-o", output, *(["--overwrite"] if overwrite else [])]
    if overwrite:
        assert server.run("merge", adapter, "-o", output, "--dtype", "bfloat16").code == 0
    n_kills, event, code = 0, 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        code = server.run(*words, die_at_event=event, watched=str(folder)).code
        n_kills += code == -signal.SIGKILL
        if output.exists() and any(
            output.iterdir()
        ):  # the new one, or the one before: never a part of one
            assert {path.name for path in output.iterdir()} == ALL_FILES
            assert inspect_model(output, "merged").kind == "causal-lm"
            if not overwrite and code != 0:  # the kill came after the name was taken
                assert "already exists" in server.run(*words).stderr
                break
        event += 3
    assert n_kills >= 8
    assert server.run("merge", adapter, "-o", output, "--overwrite").code == 0
    assert {path.name for path in output.iterdir()} == ALL_FILES
    assert [path.name for path in output.parent.iterdir()] == ["merged"]


@pytest.mark.slow
@pytest.mark.parametrize("free_kib", [4, 48, 100, 144, 156, 164])
def test_a_full_disk_is_one_error_wherever_the_merge_meets_it(
    server: StageServer, adapter: Path, folder: Path, free_kib: int
) -> None:
    """safetensors, tokenizers and Python each have their own word for a full disk.

    The merged folder takes about 180 KiB.
    """
    with small_disk(folder / "disk", free_kib) as disk:
        outcome = server.run("merge", adapter, "-o", disk / "merged")
        assert outcome.code == 1
        assert f"error: cannot write {disk / 'merged'}" in outcome.stderr
        assert "no space left on the disk" in outcome.stderr
        assert "hint: free some space" in outcome.stderr
        assert not list(disk.iterdir())

        grow(disk, mib=4)
        assert server.run("merge", adapter, "-o", disk / "merged").code == 0
        assert {path.name for path in (disk / "merged").iterdir()} == ALL_FILES
