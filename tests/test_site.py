"""The site of docs/: built without a broken link, readable on a phone, nothing fetched from elsewhere."""

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.browsing import CHROMIUM, needs_chromium

REPOSITORY = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow

WIDTHS = [1280, 375]
STICKING_OUT = """() => [...document.querySelectorAll('.md-content__inner *')]
    .filter(one => one.getBoundingClientRect().right > innerWidth + 1)
    .filter(one => !one.closest('.md-typeset__scrollwrap, pre, .highlight'))
    .map(one => one.tagName + ': ' + one.textContent.slice(0, 60)).slice(0, 3)"""
GLUED = r"""() => [...document.querySelectorAll('.md-content__inner p')].map(one => one.textContent)
    .filter(text => /\n\s*(- |\d+\. |\||```)/.test(text)).map(text => text.slice(0, 80))"""
"""A list, a table or a block of code that became part of the paragraph before it: a blank line is missing."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site: a warning, a broken link or anchor for instance, fails the build."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_every_page_is_in_the_site_and_its_navigation(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    for page in (REPOSITORY / "docs").rglob("*.md"):
        name = page.relative_to(REPOSITORY / "docs").with_suffix("")
        folder = name.parent if name.name in ("README", "index") else name
        assert (site / folder / "index.html").is_file(), f"{page} is not in the site"
        assert f'href="{folder.as_posix()}/"' in home or str(folder) == ".", (
            f"the navigation lacks {page}"
        )


def test_the_site_holds_what_it_links_to_outside_of_docs(site: Path) -> None:
    assert (site / "source/sample_data/quickstart.sh.txt").read_text() == (
        REPOSITORY / "sample_data" / "quickstart.sh"
    ).read_text()


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_and_fetch_nothing(site: Path, address: str, browser, width: int) -> None:
    """At the width of a screen and of a phone nothing but tables and code scrolls sideways."""
    page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    elsewhere: list[str] = []
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((address, "data:", "blob:"))
            else elsewhere.append(request.url)
        ),
    )
    for built in sorted(site.rglob("index.html")):
        name = built.parent.relative_to(site).as_posix()
        page.goto(address + ("" if name == "." else f"{name}/"))
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0, name
        assert page.evaluate(STICKING_OUT) == [], name
        assert page.evaluate(GLUED) == [], name
    assert elsewhere == []


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_search_finds_a_strategy(address: str, browser, width: int) -> None:
    page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    page.goto(address)
    if width < 1000:
        page.click("label[for=__search] >> nth=0")
    page.fill("input[name=query]", "opt-select")
    page.wait_for_selector(
        ".md-search-result__item a[href*='explanation/methods']", state="attached"
    )
