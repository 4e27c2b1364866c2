"""The report of one run, open in a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browsing import CHROMIUM, MODEL, Visit

from prefpipe.cli.main import run


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support.reported_run import reported_run

    target = tmp_path_factory.mktemp("report") / "report.html"
    assert run(["report", str(reported_run()), "-o", str(target), "--model", MODEL]) == 0
    return target


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the browser tests need playwright: pip install '.[dev]'"
    )
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, page_file: Path) -> Iterator[Visit]:
    opened = Visit(
        browser, page_file.as_uri(), color_scheme="light", viewport={"width": 1200, "height": 900}
    )
    yield opened
    assert opened.said == []
    assert opened.asked == [page_file.as_uri()]
    opened.context.close()
