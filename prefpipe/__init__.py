"""prefpipe: prompts, a language model and a rater in; a better language model out.

For arrays of one's own: ``prefpipe.select_responses`` and ``prefpipe.build_pairs``. Importing the package imports nothing
else, so that ``prefpipe --help`` stays instant; a public name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefpipe.maths.pairs import Pair, build_pairs
    from prefpipe.maths.selection import Selection, select_responses

__all__ = ["Pair", "Selection", "__version__", "build_pairs", "select_responses"]
__version__ = "0.1.0"

_PUBLIC = {
    "Pair": "prefpipe.maths.pairs", "Selection": "prefpipe.maths.selection", "build_pairs": "prefpipe.maths.pairs",
    "select_responses": "prefpipe.maths.selection",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'prefpipe' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
