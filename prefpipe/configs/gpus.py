"""The GPU that a computation is costed on, named or by its peak."""

from prefpipe.maths.compute.accelerators import ACCELERATORS

GPU_HELP = f"name of the GPU: {', '.join(ACCELERATORS)}"
TFLOPS_HELP = "peak dense TFLOP/s of a GPU that --gpu does not name"
MFU_HELP = "share of the GPU's peak that training reaches"


def gpu_problems(gpu: str | None, tflops: float | None) -> list[str]:
    """Return what is wrong with ``--gpu`` and ``--tflops``."""
    problems = []
    if gpu is not None and tflops is not None:
        problems.append("--gpu and --tflops exclude each other")
    if gpu is not None and gpu.lower() not in ACCELERATORS:
        problems.append(
            f"--gpu must be one of {', '.join(ACCELERATORS)}, not {gpu!r} (another GPU: --tflops)"
        )
    return problems
