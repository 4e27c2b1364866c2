"""Limits how fast requests are sent.

It limits requests a minute, and observes pauses that a server requests.
"""

import threading
import time


class RequestPace:
    """A gate that threads pass one by one.

    Args:
        requests_per_minute: the most requests a minute, evenly spaced; None for no limit.
    """

    def __init__(self, requests_per_minute: float | None) -> None:
        self._gap_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._lock = threading.Lock()
        self._opens_at = 0.0

    def wait(self, stop: threading.Event) -> bool:
        """Wait for this thread's turn; return False at once when ``stop`` is set."""
        while not stop.is_set():
            with self._lock:
                now = time.monotonic()
                if now >= self._opens_at:
                    self._opens_at = now + self._gap_s
                    return True
                left_s = self._opens_at - now
            # Outside the lock, so that `hold` need not wait for it.
            stop.wait(left_s)
        return False

    def hold(self, seconds: float) -> None:
        """Send no further request for ``seconds``."""
        with self._lock:
            self._opens_at = max(self._opens_at, time.monotonic() + seconds)
