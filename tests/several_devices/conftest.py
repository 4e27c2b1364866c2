"""One process that forks all runs."""

from collections.abc import Iterator

import pytest
from support.launched import Launcher, open_launcher


@pytest.fixture(scope="package")
def launcher() -> Iterator[Launcher]:
    with open_launcher() as opened:
        yield opened
