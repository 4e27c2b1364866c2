"""The peak speed of the GPUs that people train on, from their makers' data sheets.

TFLOP/s of matrix products on bfloat16 numbers with float32 sums, dense. Makers print the figure
with 2:4 sparsity, twice as high, beside it or in its place; training does not reach it.
"""

from typing import NamedTuple


class Accelerator(NamedTuple):
    """A product, its peak in 10^12 FLOP a second, and the document that says so."""

    name: str
    tflops: float
    source: str
    dtype: str = "bf16"


ACCELERATORS = {
    "h100": Accelerator(
        "NVIDIA H100 SXM", 989.5, "NVIDIA H100 data sheet: 1,979 with sparsity, half of it without"
    ),
    "h200": Accelerator(
        "NVIDIA H200 SXM", 989.5, "NVIDIA H200 data sheet: 1,979 with sparsity, half of it without"
    ),
    "a100": Accelerator("NVIDIA A100", 312.0, "NVIDIA A100 data sheet: 312, SXM and PCIe"),
    "l40s": Accelerator("NVIDIA L40S", 362.0, "NVIDIA L40S data sheet: 362.05"),
    "l4": Accelerator(
        "NVIDIA L4", 121.0, "NVIDIA L4 data sheet: 242 with sparsity, half of it without"
    ),
    "a10g": Accelerator(
        "NVIDIA A10G", 70.0, "NVIDIA A10G data sheet (AWS): 70; the A10 is another card with 125"
    ),
    "b200": Accelerator(
        "NVIDIA B200 (HGX)",
        2250.0,
        "NVIDIA HGX B200 data sheet: 36 PFLOP/s with sparsity for 8, half without",
    ),
    "mi300x": Accelerator("AMD Instinct MI300X", 1307.4, "AMD Instinct MI300X data sheet: 1,307.4"),
    "rtx4090": Accelerator(
        "NVIDIA GeForce RTX 4090",
        165.2,
        "NVIDIA Ada architecture white paper: 165.2 with float32 sums",
    ),
    "v100": Accelerator(
        "NVIDIA V100 SXM2",
        125.0,
        "NVIDIA V100 data sheet: 125, float16; it has no bfloat16",
        dtype="fp16",
    ),
}
