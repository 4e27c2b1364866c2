"""Files of buckets that are read before they are asked for."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from prefpipe.artifacts.storage import ahead
from prefpipe.artifacts.storage.location import Url

MOST_FILES = 32
"""Kept at a time; of more the oldest are dropped, for nobody has come for them."""


class ReadAhead:
    """Files that are being read, or were read, and will be asked for once.

    Args:
        read: reads a file.
    """

    def __init__(self, read: Callable[[Url], bytes]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._coming: dict[Url, Future[bytes]] = {}

    def begin(self, place: Url) -> None:
        """Begin to read a file, unless that has begun already."""
        with self._lock:
            if place in self._coming:
                return
            while len(self._coming) >= MOST_FILES:
                self._coming.pop(next(iter(self._coming))).cancel()
            self._coming[place] = ahead.begin(partial(self._read, place))

    def take(self, place: Url) -> "Future[bytes] | None":
        """Return a file that is coming, and forget it; None if nobody began to read it."""
        with self._lock:
            return self._coming.pop(place, None)

    def clear(self) -> None:
        """Forget all files: what is read later is what is there then."""
        with self._lock:
            for coming in self._coming.values():
                coming.cancel()
            self._coming.clear()
