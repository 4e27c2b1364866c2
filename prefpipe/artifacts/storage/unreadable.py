"""The error of a file that is there and cannot be read."""

from pathlib import Path

from prefpipe.artifacts.storage.location import Location, Url, recorded_location, url_in
from prefpipe.errors import InputError


def unreadable(place: Location, error: OSError) -> InputError:
    """Return the user's error for a file of an artifact that cannot be read."""
    if isinstance(place, Path):
        return InputError(
            f"{place} cannot be read: {error.strerror or error}",
            hint="check the disk and the file's permissions",
        )
    return InputError(
        f"{place} cannot be read: {error.strerror or error}",
        hint=f"{check_of_bucket(place)}, then run the same command again",
    )


def failure_of_bucket(error: BaseException) -> InputError | None:
    """Return the user's error for a bucket that failed where no message was written for it.

    None for any other exception, a disk's among them.
    """
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return None
    if url_in(error.filename) is None:
        return None
    return unreadable(recorded_location(error.filename), error)


def is_of_bucket(error: BaseException) -> bool:
    """Return whether an error says that a bucket does not answer, and nothing of what is in it."""
    cause = error.__cause__
    return cause is not None and failure_of_bucket(cause) is not None


def check_of_bucket(place: Url) -> str:
    """Return what a user can look at where a bucket does not do what it should."""
    check = "check the bucket's name, your credentials and their permissions"
    return f"{check}, and the endpoint (AWS_ENDPOINT_URL)" if place.scheme == "s3" else check
