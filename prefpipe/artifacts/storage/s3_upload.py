"""A large file to S3 in pieces: a multipart upload, each piece with retries of its own.

s3fs gives the whole upload up where one piece fails, and sends no digests.
"""

import base64
import secrets
from contextlib import suppress
from typing import Any

from prefpipe.artifacts.storage.pieces import SourceFile, in_order, md5, piece_bytes_of
from prefpipe.artifacts.storage.protocol import CountBytes
from prefpipe.artifacts.storage.retries import call_again, code_of

MARK = "prefpipe-upload"
"""Metadata by which an upload knows the object that it made."""


def content_md5(data: bytes) -> str:
    """Return the header with which S3 refuses bytes that were damaged on the way."""
    return base64.b64encode(md5(data).digest()).decode()


def upload_in_pieces(files: Any, key: str, source: SourceFile, count: CountBytes) -> str:
    """Write a file into a bucket: it appears whole, or what was there stays.

    Returns:
        The MD5 that S3 will tell of it, see `StoredFile`.

    Args:
        files: s3fs's file system.
        key: bucket and key.
        source: an open file.
        count: see `CountBytes`.

    Raises:
        Exception: the last try's; the pieces that had arrived are removed.
    """
    bucket, _, name = key.partition("/")
    target = {"Bucket": bucket, "Key": name}
    # those of a copy that was killed: nobody sees them, and they cost money
    _abort_open_uploads(files, target)

    mark = secrets.token_hex(16)
    started = call_again(
        lambda: files.call_s3("create_multipart_upload", **target, Metadata={MARK: mark})
    )
    upload = {**target, "UploadId": started["UploadId"]}
    try:
        parts, digests = _send(files, upload, source, count)
        # nothing is completed before it is known that nobody wrote to the file
        source.copied()
        _complete(files, upload, parts, mark)
    except BaseException:
        with suppress(Exception):
            call_again(lambda: files.call_s3("abort_multipart_upload", **upload))
        raise
    return f"{md5(digests).hexdigest()}-{len(parts)}"


def _send(
    files: Any, upload: dict[str, Any], source: SourceFile, count: CountBytes
) -> tuple[list[dict[str, Any]], bytes]:
    """Send all pieces, a few at once; return their numbers and tags, and their digests."""

    def send(numbered: tuple[int, bytes]) -> tuple[str, bytes, int]:
        number, piece = numbered

        def send_once() -> Any:
            return files.call_s3(
                "upload_part",
                **upload,
                PartNumber=number,
                Body=piece,
                ContentMD5=content_md5(piece),
            )

        return call_again(send_once)["ETag"], md5(piece).digest(), len(piece)

    parts: list[dict[str, Any]] = []
    digests = b""
    pieces = source.pieces(piece_bytes_of(source.n_bytes))
    for tag, digest, n_bytes in in_order(send, enumerate(pieces, start=1)):
        parts.append({"PartNumber": len(parts) + 1, "ETag": tag})
        digests += digest
        count(n_bytes)
    return parts, digests


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


def _is_no_upload(error: BaseException) -> bool:
    """Return whether S3 says that there is no such upload: it is complete, or was removed."""
    return isinstance(error, FileNotFoundError) or code_of(error) == "NoSuchUpload"
