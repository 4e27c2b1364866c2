"""gcsfs without what it does beside its work: gRPC, retries of its own, tracebacks in a log."""

import json
import logging
import os
import secrets
from collections.abc import Mapping
from importlib import import_module
from types import MethodType
from typing import Any
from urllib.parse import quote

KINDS_OF_BUCKETS = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"
"""gcsfs's variable. What it turns on asks by gRPC for the kind of each bucket, for up to a minute.

Only zonal buckets need it, and gRPC does not survive the fork of an engine.
"""
NO_GENERATION = "1"
"""No object's: they count microseconds."""


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


def put_over(files: Any, key: str, data: bytes, generation: str) -> Any:
    """Write an object over the one of a generation, which gcsfs itself has no name for.

    Raises:
        FileExistsError: it has another generation, or is gone.
    """
    bucket, _, name = key.partition("/")
    # as gcsfs writes it: the name in one part, the bytes in the other
    boundary = f"=={secrets.token_hex(16)}=="
    head = f"--{boundary}\nContent-Type: application/json; charset=UTF-8\n\n"
    head += json.dumps({"name": name})
    head += f"\n--{boundary}\nContent-Type: application/octet-stream\n\n"
    return files.call(
        "POST",
        f"{files._location}/upload/storage/v1/b/{quote(bucket, safe='')}/o",  # noqa: SLF001
        uploadType="multipart",
        ifGenerationMatch=generation,
        headers={"Content-Type": f'multipart/related; boundary="{boundary}"'},
        data=head.encode() + data + f"\n--{boundary}--".encode(),
        json_out=True,
    )
