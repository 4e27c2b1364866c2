"""The error of a file that is there and cannot be read."""

from pathlib import Path

from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.errors import InputError


class BucketReadError(OSError):
    """A file or a folder of a bucket that cannot be read; it knows which, wherever it is caught."""

    def __init__(self, place: Url, reason: str) -> None:
        super().__init__(reason)
        self.place = place


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


def is_of_bucket(error: BaseException) -> bool:
    """Return whether an error says that a bucket does not answer, and nothing of what is in it."""
    return isinstance(error.__cause__, BucketReadError)


def check_of_bucket(place: Url) -> str:
    """Return what a user can look at where a bucket does not do what it should."""
    check = "check the bucket's name, your credentials and their permissions"
    return f"{check}, and the endpoint (AWS_ENDPOINT_URL)" if place.scheme == "s3" else check
