"""A large file to S3 in pieces, each sent again by itself.

The object appears when all are there.
"""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from prefpipe.artifacts.storage.pieces import SourceFile, md5, piece_bytes_of
from prefpipe.artifacts.storage.protocol import CountBytes
from prefpipe.artifacts.storage.retries import call_again, chain_of, code_of
from prefpipe.errors import PrefpipeError

PIECES_AT_ONCE = 4
"""Of one file: with those of `PIECE_BYTES`, 64 MiB are in memory."""


def content_md5(data: bytes) -> str:
    """Return the header with which S3 refuses bytes that were damaged on the way."""
    return base64.b64encode(md5(data).digest()).decode()


def upload_in_pieces(files: Any, key: str, source: SourceFile, count: CountBytes) -> None:
    """Send a file by a multipart upload that is aborted when it fails.

    Args:
        files: the `s3fs.S3FileSystem`.
        key: bucket and key.
        source: an open file of more than one piece.
        count: see `CountBytes`.

    Raises:
        Exception: the last try's, of whatever request failed.
    """
    bucket, name, _ = files.split_path(key)
    target = {"Bucket": bucket, "Key": name}
    # those of a copy that was killed: nobody else aborts them, and they are paid for
    _abort_open_uploads(files, target)
    upload = {
        **target,
        "UploadId": call_again(lambda: files.call_s3("create_multipart_upload", **target))[
            "UploadId"
        ],
    }
    try:
        tags = _send_pieces(files, upload, source, count)
        # somebody may have written to it: nothing is completed before this is known
        source.copied()
        _complete(files, upload, tags)
    except BaseException:
        with suppress(Exception):
            call_again(lambda: files.call_s3("abort_multipart_upload", **upload))
        _abort_open_uploads(files, target)
        raise


def _send_pieces(
    files: Any, upload: dict[str, Any], source: SourceFile, count: CountBytes
) -> list[str]:
    """Send all pieces, several at once; return their ETags in order."""

    def send(numbered: tuple[int, bytes]) -> str:
        number, piece = numbered

        def send_once() -> str:
            answer = files.call_s3(
                "upload_part",
                **upload,
                PartNumber=number,
                Body=piece,
                ContentMD5=content_md5(piece),
            )
            return str(answer["ETag"])

        tag = call_again(send_once)
        count(len(piece))
        return tag

    tags: list[str] = []
    with ThreadPoolExecutor(PIECES_AT_ONCE) as threads:
        for pieces in _several(source.pieces(piece_bytes_of(source.n_bytes))):
            numbered = list(enumerate(pieces, start=len(tags) + 1))
            tags += threads.map(send, numbered)
    return tags


def _several(pieces: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Yield `PIECES_AT_ONCE` pieces at a time."""
    several = []
    for piece in pieces:
        several.append(piece)
        if len(several) == PIECES_AT_ONCE:
            yield several
            several = []
    if several:
        yield several


def _complete(files: Any, upload: dict[str, Any], tags: list[str]) -> None:
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, start=1)]

    def complete_once() -> None:
        try:
            files.call_s3("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
        except Exception as error:
            if not _is_upload_gone(error):
                raise
            # a try before this one has completed it, and its answer was lost
            entry = files.info(f"{upload['Bucket']}/{upload['Key']}", refresh=True)
            if str(entry.get("ETag", "")).strip('"').endswith(f"-{len(tags)}"):
                return
            raise PrefpipeError(
                "the multipart upload was aborted by another process",
                hint="let one command at a time write there, then run the same command again",
            ) from error

    call_again(complete_once)


def _abort_open_uploads(files: Any, target: dict[str, str]) -> None:
    """Abort the uploads of an object that were not completed, as far as that is allowed."""
    # without the permission to list them they stay, as with every other tool
    with suppress(Exception):
        answer = files.call_s3(
            "list_multipart_uploads", Bucket=target["Bucket"], Prefix=target["Key"]
        )
        for upload in answer.get("Uploads", []):
            if upload["Key"] == target["Key"]:
                files.call_s3("abort_multipart_upload", **target, UploadId=upload["UploadId"])


def _is_upload_gone(error: BaseException) -> bool:
    return any(
        code_of(cause) == "NoSuchUpload" or "upload does not exist" in str(cause)
        for cause in chain_of(error)
    )
