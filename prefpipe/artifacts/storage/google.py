"""gcsfs without what it does beside its work: gRPC, retries of its own, tracebacks in a log."""

import logging
import os
from collections.abc import Mapping
from importlib import import_module
from types import MethodType
from typing import Any

KINDS_OF_BUCKETS = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"
"""gcsfs's variable. What it turns on asks by gRPC for the kind of each bucket, for up to a minute.

Only zonal buckets need it, and gRPC does not survive the fork of an engine.
"""


def open_google(options: Mapping[str, Any]) -> Any:
    """Return gcsfs's file system, with the user's configuration of fsspec.

    Raises:
        ImportError: gcsfs is not installed.
    """
    # before the import, which is what reads it; what the user has set stays
    wants_kinds = os.environ.setdefault(KINDS_OF_BUCKETS, "false").lower() in {"true", "1"}
    module = import_module("gcsfs" if wants_kinds else "gcsfs.core")
    # an error is logged with its traceback before it is raised, and it is reported here
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    files = module.GCSFileSystem(**options)

    # sent once: the waits of six tries inside each of ours would multiply
    once = getattr(type(files)._request, "__wrapped__", None)  # noqa: SLF001 - where its retries are
    if once is not None:
        files._request = MethodType(once, files)  # noqa: SLF001
    return files
