"""``prefpipe``, and ``python -m prefpipe``.

Signals are handled before anything else is imported.
"""

import sys

from prefpipe.cli.signals import stop_request


def main() -> None:
    """Run the command line; never returns."""
    stop_request.run(_run)


def _run() -> int:
    from prefpipe.cli.main import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    main()
