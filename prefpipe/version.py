"""The version that is installed: that of its tag, see pyproject.toml.

Apart from the package itself, because reading it takes longer than until the first signal can come.
"""

from importlib import metadata


def _installed() -> str:
    """Return the version, ``0.0`` of a tree on the path that was never installed."""
    try:
        return metadata.version("prefpipe")
    except metadata.PackageNotFoundError:
        return "0.0"


__version__ = _installed()
