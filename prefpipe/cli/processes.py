"""One voice for a run of several processes: what each would print, one prints.

``accelerate launch`` and ``torchrun`` start one process a device and say in the environment which it is.
"""

import os
from collections.abc import Sequence
from datetime import timedelta

TOLD = "prefpipe/told"
PATIENCE = timedelta(seconds=5)


def is_first(stage: str) -> bool:
    """Return whether this process speaks for the run; stages that no launcher starts always do."""
    return stage != "train" or os.environ.get("RANK", "0") == "0"


def tells_the_error(arguments: Sequence[str]) -> bool:
    """Return whether this process prints the error that ends the run: the first that asks.

    When one process fails, the others lose their connection to it and fail too; their messages would hide its own. The
    launcher keeps a small store for its processes, and who writes there first has the word. Without one each prints its own.
    """
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if (
        n_processes == 1
        or arguments[:1] != ["train"]
        or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    ):
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not say that it exports it

    own = os.environ.get("RANK", "0")
    try:
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=PATIENCE,
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        found: bytes = store.compare_set(f"{TOLD}/{attempt}", "", own)
    except (KeyError, ValueError, RuntimeError):
        return True
    return found.decode() == own
