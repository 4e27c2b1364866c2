"""Requests to a bucket made at the same time, by threads that nobody waits for at the end."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")

N_THREADS = 32
"""A request takes its time on the way, and hardly any of this process."""

_calls: "queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]]" = queue.SimpleQueue()
_threads: list[threading.Thread] = []
_starting = threading.Lock()


def begin(call: Callable[[], Result]) -> "Future[Result]":
    """Begin a call in another thread; the future returns its result, or raises its error.

    The threads are daemons: a command that ends early does not wait for requests that nobody needs.
    """
    coming: Future[Result] = Future()
    with _starting:
        if len(_threads) < N_THREADS:
            thread = threading.Thread(target=_work, name="requests ahead", daemon=True)
            _threads.append(thread)
            thread.start()
    _calls.put((call, coming))
    return coming


def _work() -> None:
    while True:
        call, coming = _calls.get()
        if not coming.set_running_or_notify_cancel():
            continue
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever asks
            coming.set_exception(error)
        else:
            coming.set_result(result)
        # or the thread keeps a part in memory until its next call
        del call, coming
