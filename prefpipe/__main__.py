"""``python -m prefpipe``."""

from prefpipe.cli.main import main

main()
