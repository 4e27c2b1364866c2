"""Which GPUs are visible and who gets which, without CUDA and without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prefpipe.backends.visible_gpus import deal_gpus, visible_gpus
from prefpipe.errors import UsageError

UUIDS = "GPU-1faa8b1c-0f2e-4a30-9d1b-5b0c6d7e8f90,GPU-2fbb"
MIG = "MIG-GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f/7/0"


def environment(devices: str | None) -> dict[str, str]:
    return {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}


@pytest.mark.parametrize(
    ("devices", "n_installed", "names"),
    [
        (None, 4, ["0", "1", "2", "3"]),
        (None, 0, []),
        ("", 4, []),
        ("-1", 4, []),
        ("NoDevFiles", 4, []),  # Slurm's word for none
        ("2,0", 4, ["2", "0"]),
        (" 2 , 0 ", 4, ["2", "0"]),
        ("0,-1,1", 4, ["0"]),
        ("0,1,7,2", 4, ["0", "1"]),
        ("0,", 4, ["0"]),
        ("5,6", 0, ["5", "6"]),  # whoever dealt them sees more than we do
        (UUIDS, 2, UUIDS.split(",")),
        (MIG, 1, [MIG]),
        ("٣", 4, []),  # a digit, and none of CUDA's
    ],
)
def test_the_gpus_that_cuda_would_find(
    devices: str | None, n_installed: int, names: list[str]
) -> None:
    assert visible_gpus(environment(devices), n_installed).names == names


@pytest.mark.parametrize(
    ("devices", "n_workers", "each", "dealt"),
    [
        ("0,1,2,3", None, None, ["0", "1", "2", "3"]),
        ("0,1,2,3", None, 2, ["0,1", "2,3"]),
        ("0,1,2", None, 2, ["0,1"]),
        ("3,1,2,0", 2, 2, ["3,1", "2,0"]),
        ("3,1", 1, None, ["3"]),
        (UUIDS, 2, None, UUIDS.split(",")),
        (None, 2, None, ["0", "1"]),
        ("", 3, None, [None, None, None]),
    ],
)
def test_gpus_are_dealt_in_stretches(
    devices: str | None, n_workers: int | None, each: int | None, dealt: list[str | None]
) -> None:
    assert deal_gpus(environment(devices), n_workers, each, n_installed=4) == dealt


@pytest.mark.parametrize(
    ("devices", "n_workers", "each", "message"),
    [
        (
            "0,1",
            4,
            1,
            "--workers 4 needs 4 GPUs, but 2 are visible (CUDA_VISIBLE_DEVICES=0,1)",
        ),
        ("0,1", 4, None, "--workers 4 needs 4 GPUs, but 2 are visible"),
        ("0,1", 2, 2, "--workers 2 with 2 GPUs each needs 4 GPUs, but 2 are visible"),
        ("", 1, 1, "--workers 1 needs 1 GPU, but none is visible (CUDA_VISIBLE_DEVICES=)"),
        (None, 5, None, "CUDA_VISIBLE_DEVICES is not set, and the driver lists 4"),
        ("0,9,1", 2, None, "CUDA_VISIBLE_DEVICES=0,9,1, where '9' names no GPU and ends the list"),
        ("", None, None, "--workers auto starts one worker for each GPU, but none is visible"),
        ("0,1", None, 4, "--workers auto starts one worker for each 4 GPUs, but 2 are visible"),
        ("0,1,0", 2, None, "CUDA_VISIBLE_DEVICES=0,1,0 names 0 twice"),
        ("0", 0, None, "--workers must be 1 or more, or auto, not 0"),
        ("0", 1, 0, "--gpus-per-worker must be 1 or more, not 0"),
    ],
)
def test_a_list_that_is_too_short_is_refused_with_both_numbers(
    devices: str | None, n_workers: int | None, each: int | None, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        deal_gpus(environment(devices), n_workers, each, n_installed=4)
    assert message in caught.value.message


NUMBERS = [None, *range(1, 10)]


@pytest.mark.parametrize("names", [list("93706158"[:n]) for n in range(9)], ids="".join)
def test_no_gpu_has_two_workers_and_every_worker_has_as_many(names: list[str]) -> None:
    for n_workers in NUMBERS:
        for each in NUMBERS:
            check_dealing(names, n_workers, each)


def check_dealing(names: list[str], n_workers: int | None, each: int | None) -> None:
    devices = ",".join(names)
    try:
        dealt = deal_gpus(environment(devices), n_workers, each, n_installed=16)
    except UsageError:
        # refused only where there are too few
        assert len(names) < (n_workers or 1) * (each or 1)
        return

    if n_workers is not None:
        assert len(dealt) == n_workers
    if not names:
        assert dealt == [None] * len(dealt)
        return
    stretches = [text.split(",") for text in dealt if text is not None]
    assert [len(stretch) for stretch in stretches] == [each or 1] * len(dealt)
    flat = [name for stretch in stretches for name in stretch]
    assert flat == names[: len(flat)]


def test_workers_that_ask_a_server_take_no_gpu() -> None:
    assert deal_gpus(environment("0"), 3, None, uses_gpus=False) == [None, None, None]
    with pytest.raises(UsageError, match="run nothing on a GPU"):
        deal_gpus(environment("0"), None, None, uses_gpus=False)
    with pytest.raises(UsageError, match="run nothing on a GPU"):
        deal_gpus(environment("0"), 3, 1, uses_gpus=False)


@pytest.mark.parametrize(("init", "count", "printed"), [(0, 3, "3"), (0, 0, "0"), (9, 3, "0")])
def test_the_driver_is_asked_without_cuda_or_torch(
    tmp_path: Path, init: int, count: int, printed: str
) -> None:
    """The library of a driver that is not here is one of three functions with its signatures."""
    source = tmp_path / "driver.c"
    source.write_text(
        f"int nvmlInit_v2(void) {{ return {init}; }}\n"
        f"int nvmlDeviceGetCount_v2(unsigned int *n) {{ *n = {count}; return 0; }}\n"
        "int nvmlShutdown(void) { return 0; }\n"
    )
    library = tmp_path / "libnvidia-ml.so.1"
    built = subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=False)
    if built.returncode:
        pytest.skip("no C compiler")

    code = (
        "import sys\n"
        "from prefpipe.backends.visible_gpus import n_installed_gpus\n"
        "print(n_installed_gpus())\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == printed
