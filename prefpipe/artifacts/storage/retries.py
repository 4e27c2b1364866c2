"""Which failures of a bucket pass, and how long they are waited for."""

import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Result = TypeVar("Result")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 20.0
MAX_TRIES = 8
"""With waits that double, each shortened at random by up to a half: 13 to 25 s in all."""
DOWN_S = 60.0
"""So long after a call was given up the store counts as down, unless another call succeeds."""
BUSY_STATUSES = {408, 425, 429, 500, 502, 503, 504, 509}
BUSY_CODES = {
    "SlowDown",
    "RequestTimeout",
    "InternalError",
    "Throttling",
    "ThrottlingException",
    # two conditional writes at the same moment
    "ConditionalRequestConflict",
    "OperationAborted",
}
PASSING_ERRORS = {
    # botocore: a connection that cannot be made, is cut, or falls silent
    "HTTPClientError",
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ResponseStreamingError",
    # botocore: bytes that arrived are not those that were stored, or too few
    "IncompleteReadError",
    "FlexibleChecksumError",
    "ResponseParserError",
    # aiohttp, under s3fs and gcsfs
    "ClientPayloadError",
    "ClientConnectionError",
    # fsspec
    "FSTimeoutError",
    # gcsfs: status 502, an answer that ends early, bytes that are not those that were stored, a
    # token that was not renewed
    "ProxyError",
    "JSONDecodeError",
    "ChecksumError",
    "RefreshError",
}
"""Classes by name: their libraries are loaded for a URL of theirs alone."""
QUIET_TRIES = 3
"""So many in vain take a second or so; from then on the user hears why the command stands still."""

log = logging.getLogger("prefpipe")


class ShortReadError(OSError):
    """Fewer bytes arrived than the file has, or it was replaced meanwhile."""


def call_again(
    call: Callable[[], Result],
    passes: Callable[[BaseException], bool] | None = None,
    *,
    tries: int | None = None,
) -> Result:
    """Return what a call returns, which is made again while its failure is one that passes.

    Args:
        call: what is done.
        passes: whether a failure may pass, `may_pass` by default.
        tries: how often it is done at most, `MAX_TRIES` by default.

    Raises:
        Exception: the last try's.
    """
    passes = may_pass if passes is None else passes
    wait_s = FIRST_WAIT_S
    for tries_left in reversed(range(MAX_TRIES if tries is None else tries)):
        try:
            return call()
        except Exception as error:
            if tries_left == 0 or not passes(error):
                raise
            if tries_left == MAX_TRIES - QUIET_TRIES:
                log.warning(
                    "the bucket's server did not answer as it should, %d times in a row (%s); a "
                    "request is tried %d times",
                    QUIET_TRIES,
                    _kind_of(error),
                    MAX_TRIES,
                )
        # many workers that were refused together do not come back together
        time.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
    raise AssertionError


class Patience:
    """How often calls to one store are made: less often when it is known to be down.

    A command may look at a hundred files. Each with its tries would have it wait an hour for the
    error that the first one had after a minute.
    """

    def __init__(self) -> None:
        self._gave_up_at_s = -math.inf

    def call_again(
        self, call: Callable[[], Result], passes: Callable[[BaseException], bool] | None = None
    ) -> Result:
        """Return what a call returns, see `call_again`; made once if another was just given up.

        Raises:
            Exception: the last try's.
        """
        is_down = time.monotonic() - self._gave_up_at_s < DOWN_S
        try:
            result = call_again(call, passes, tries=1 if is_down else None)
        except Exception as error:
            has_answered = not (may_pass if passes is None else passes)(error)
            self._gave_up_at_s = -math.inf if has_answered else time.monotonic()
            raise
        self._gave_up_at_s = -math.inf
        return result


def may_pass(error: BaseException) -> bool:
    """Return whether the same request may succeed later: a busy store, a network that failed."""
    for cause in chain_of(error):
        if isinstance(cause, ShortReadError | TimeoutError | ConnectionError):
            return True
        if any(kind.__name__ in PASSING_ERRORS for kind in type(cause).__mro__):
            return True
        if status_of(cause) in BUSY_STATUSES or code_of(cause) in BUSY_CODES:
            return True
    return False


def _kind_of(error: BaseException) -> str:
    """Return the kind of a failure; its text may hold a credential."""
    for cause in chain_of(error):
        if code_of(cause):
            return code_of(cause)
        if status_of(cause):
            return f"status {status_of(cause)}"
    return type(error).__name__


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it: libraries translate those of others."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def code_of(error: BaseException) -> str:
    """Return S3's name of an error, ``NoSuchBucket``; "" where it has none."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return ""
    return str(response.get("Error", {}).get("Code", ""))


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an answer that was an error."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        # aiohttp calls it status, gcsfs code
        status = getattr(error, "status", None) or getattr(error, "code", None)
    return status if isinstance(status, int) else None
