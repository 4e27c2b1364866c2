"""A large file into S3 piece by piece: a multipart upload, each piece with retries of its own.

s3fs gives the whole upload up where one piece fails, and keeps no condition of ours.
"""

import secrets
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefpipe.artifacts.storage.location import Url
from prefpipe.artifacts.storage.retries import call_again, code_of

PIECE_BYTES = 32 * 2**20
MOST_PIECES = 10_000
"""S3's limit."""
N_STREAMS = 4
"""Pieces on their way at once; so many are in memory."""
MARK = "prefpipe-upload"
"""Metadata by which an upload knows the object that it made."""


def upload_in_pieces(files: Any, place: Url, source: Path) -> None:
    """Write a file of the disk into a bucket: it appears whole, or what was there stays.

    Args:
        files: s3fs's file system.
        place: where it is to be.
        source: the file on the disk.

    Raises:
        Exception: the last try's; the pieces that had arrived are removed.
    """
    bucket, _, key = place.key.partition("/")
    target = {"Bucket": bucket, "Key": key}
    mark = secrets.token_hex(16)
    started = call_again(
        lambda: files.call_s3("create_multipart_upload", **target, Metadata={MARK: mark})
    )
    upload = {**target, "UploadId": started["UploadId"]}
    # not waited for where the command is stopped: threads that only send end with the process
    pool = ThreadPoolExecutor(N_STREAMS)
    try:
        parts = _send(files, upload, source, pool)
        _complete(files, upload, parts, mark)
    except BaseException:
        # open pieces cost money, and nobody sees them
        with suppress(Exception):
            files.call_s3("abort_multipart_upload", **upload)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _send(
    files: Any, upload: dict[str, Any], source: Path, pool: ThreadPoolExecutor
) -> list[dict[str, Any]]:
    """Send all pieces, a few at once, and return their numbers and tags."""

    def send(number: int, data: bytes) -> dict[str, Any]:
        answer = call_again(
            lambda: files.call_s3("upload_part", **upload, PartNumber=number, Body=data)
        )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    on_their_way: list[Future[dict[str, Any]]] = []
    parts = []
    for number, data in enumerate(_pieces_of(source), 1):
        if len(on_their_way) == N_STREAMS:
            parts.append(on_their_way.pop(0).result())
        on_their_way.append(pool.submit(send, number, data))
    return parts + [future.result() for future in on_their_way]


def _pieces_of(source: Path) -> Iterator[bytes]:
    n_bytes = source.stat().st_size
    piece = max(PIECE_BYTES, -(-n_bytes // MOST_PIECES))
    with source.open("rb") as file:
        while data := file.read(piece):
            yield data


def _complete(files: Any, upload: dict[str, Any], parts: list[dict[str, Any]], mark: str) -> None:
    def complete_once() -> None:
        try:
            files.call_s3("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
        except Exception as error:
            # a try before this one may have succeeded, and its answer was lost
            if not _is_no_upload(error) or not is_there():
                raise

    def is_there() -> bool:
        target = {name: upload[name] for name in ("Bucket", "Key")}
        metadata = files.call_s3("head_object", **target).get("Metadata") or {}
        return bool(metadata.get(MARK) == mark)

    call_again(complete_once)


def _is_no_upload(error: BaseException) -> bool:
    """Return whether S3 says that there is no such upload: it is complete, or was removed."""
    return isinstance(error, FileNotFoundError) or code_of(error) == "NoSuchUpload"
