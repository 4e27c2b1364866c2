"""Loops compiled to machine code, once an installation.

Numba keeps what it compiled in ``__pycache__`` beside the source, else in the user's cache folder
(``NUMBA_CACHE_DIR`` chooses another). The cache is keyed by the sources of all of
``prefpipe.maths``: Numba itself checks only the function's own file, so after an update a function
could still call outdated machine code from another file.

Compiled functions release Python's global lock, so that threads run them side by side, and each
call does the same arithmetic in the same order whatever the number of threads.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])
_SETTINGS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def compiled(function: Function) -> Function:
    """Compile a function of arrays and numbers when it is first called.

    Sums keep the order of the source.
    """
    return _compile(function, {})


def compiled_sum(function: Function) -> Function:
    """Compile a function whose sums may be split over the lanes of a wide register.

    Three times as fast. The last bit of a sum then depends on the kind of processor, and on nothing
    else.
    """
    return _compile(function, {"fastmath": {"reassoc", "contract"}})


def is_cached(function: Callable[..., Any]) -> bool:
    """Return whether a compiled function is on disk already, for this processor or another."""
    folder = getattr(getattr(function, "stats", None), "cache_path", None)
    return folder is not None and any(Path(folder).glob(f"*.{function.__name__}-*.nbi"))


class ForgivingCache:
    """Numba's cache of one function; a failure of the cache only costs a compilation.

    A cache file may have been cut off by a full disk or a crash, and numba's error does not say
    what to delete. The cache's disk or quota may be full while the output's is not.
    """

    def __init__(self, of_numba: Any) -> None:
        self._cache = of_numba

    def __getattr__(self, name: str) -> Any:
        """Return attributes of numba's cache: its path and its counters."""
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return the compiled function; None if it cannot be read and must be compiled again."""
        try:
            return self._cache.load_overload(signature, target)
        except Exception:  # noqa: BLE001 - a damaged pickle may raise anything
            # An empty index in place of one that may be the damaged file.
            with suppress(Exception):
                self._cache.flush()
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Save the compiled function, if possible."""
        with suppress(Exception):
            self._cache.save_overload(signature, result)


def _compile(function: Function, more: dict[str, Any]) -> Function:
    try:
        dispatcher = numba.njit(cache=True, **_SETTINGS, **more)(function)
    except RuntimeError:
        # No folder can be written to, in a locked-down container: compile in every process.
        return cast("Function", numba.njit(**_SETTINGS, **more)(function))

    if numba.config.DISABLE_JIT:
        return cast("Function", dispatcher)

    # Private to Numba, which has no public way to declare further dependencies; a test checks it.
    dispatcher._cache._cache_file._source_stamp = _stamp_of_sources()  # noqa: SLF001
    dispatcher._cache = ForgivingCache(dispatcher._cache)  # noqa: SLF001
    return cast("Function", dispatcher)


@cache
def _stamp_of_sources() -> str:
    """Return one digest of all sources that compiled functions may use."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
