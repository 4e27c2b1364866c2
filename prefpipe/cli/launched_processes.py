"""One voice for a run of several processes: what each would print, one prints.

``accelerate launch`` and ``torchrun`` start one process a device, and say in the environment which
one it is.
"""

import os
from collections.abc import Sequence
from datetime import timedelta

ERROR_KEY = "prefpipe/told"
"""Where the launcher's store has the rank of the process that prints the error."""
STORE_TIMEOUT = timedelta(seconds=5)


def speaks_for_the_run(stage: str) -> bool:
    """Return whether this process prints; stages that no launcher starts always do."""
    return stage != "train" or os.environ.get("RANK", "0") == "0"


def prints_the_error(arguments: Sequence[str]) -> bool:
    """Return whether this process prints the error that ends the run: the first that asks.

    When one process fails, the others lose their connection to it and fail too; their messages
    would hide its own. The launcher keeps a small store for its processes, and who writes there
    first has the word. Without one each prints its own.
    """
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    has_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if n_processes == 1 or arguments[:1] != ["train"] or not has_store:
        return True

    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

    rank = os.environ.get("RANK", "0")
    try:
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=STORE_TIMEOUT,
        )
        # the store outlives a restart of all processes, and each attempt has an error of its own
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        # sets it where nobody has, and returns who has
        first_rank: bytes = store.compare_set(f"{ERROR_KEY}/{attempt}", "", rank)
    except (KeyError, ValueError, RuntimeError):
        return True  # two errors are better than none
    return first_rank.decode() == rank
