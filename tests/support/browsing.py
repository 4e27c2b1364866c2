"""A page in a real headless Chromium, with what it said and what it asked for."""

import os
import shutil
from typing import Any

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ,
    reason="no Chromium on this machine: apt-get install chromium",
)
MODEL = "8B"


class Visit:
    """A page with what it said and what it asked for."""

    def __init__(self, browser: Any, url: str, ready: str | None = None, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.loaded: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfinished", lambda request: self.loaded.append(request.url))
        self.page.goto(url)
        if ready is None:
            self.draw_map_and_savings()
        else:
            self.page.wait_for_selector(ready, state="attached")

    def draw_map_and_savings(self) -> None:
        """Scroll to both charts, as they are drawn when they are seen, and back to the top."""
        for name in ("map-plot", "savings-plot"):
            if not self.page.locator(f"#{name}").count():
                continue
            # not Playwright's own scrolling, which waits for an element that holds still
            self.page.evaluate(f"document.getElementById('{name}').scrollIntoView()")
            self.page.wait_for_selector(f"#{name}[data-drawn]", state="attached")
        self.page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")

    def draw_all(self) -> None:
        """Scroll through the page, so that every chart is drawn."""
        for chart in self.page.locator("[data-chart]:visible").all():
            chart.scroll_into_view_if_needed()
            chart.locator("svg.main-svg").first.wait_for()

    def style(self, selector: str, name: str) -> str:
        return str(
            self.page.locator(selector).first.evaluate(
                f"element => getComputedStyle(element).{name}"
            )
        )
