"""A frozen base in 4 bits under trained adapters.

This is QLoRA (Dettmers et al. 2023, arXiv 2305.14314).

NormalFloat4 with double quantisation: about half a byte a weight instead of two or four. Matrix
products are computed in bfloat16 under ``--bf16``, in float32 otherwise; norms, embeddings and the
output projection keep that precision. Quantising is deterministic, so policy and reference have the
same base.
"""

import importlib.util
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from prefpipe.errors import MissingExtraError

NF4 = {"nf4-float32": torch.float32, "nf4-bfloat16": torch.bfloat16}
"""A reference's ``--dtype`` for a 4-bit base, and the precision that it computes in."""


def require_bitsandbytes() -> None:
    """Check that the package which quantises is installed.

    Raises:
        MissingExtraError: it is not; the hint names the extra.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("a base in 4 bits", "bitsandbytes", "qlora")


def nf4_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return transformers' configuration of a 4-bit base that computes in ``dtype``."""
    require_bitsandbytes()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def keep_one_kernel(model: Any) -> None:
    """Make every 4-bit layer take the same path in evaluation and in training.

    On CPUs with AVX512-BF16, bitsandbytes repacks the weights in evaluation, for a fused kernel
    from the hub, and leaves them packed when training begins. Packing fails for rows narrower than
    a block of 64 weights, and a reference computed by another kernel than the policy would round
    differently.
    """
    modules: list[nn.Module] = list(model.modules())
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
