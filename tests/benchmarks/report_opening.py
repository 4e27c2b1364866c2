"""Seconds until a report is drawn in headless Chromium: from asking for the file to its charts in sight.

python tests/benchmarks/report_opening.py runs/quickstart/report.html [--times 5]
"""

import argparse
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

SIZE = {"width": 1280, "height": 900}
IN_SIGHT = """
() => {
  const charts = [...document.querySelectorAll("[data-chart]")].filter((each) => {
    const { top, bottom, height } = each.getBoundingClientRect();
    return height && bottom > 0 && top < innerHeight;
  });
  return document.readyState === "complete" && charts.every((each) => "drawn" in each.dataset);
}
"""
PAINTED = (
    "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
)
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
DRAW_ALL = "window.dispatchEvent(new Event('beforeprint'))"


def opened(browser: Any, report: Path) -> dict[str, float]:
    """Return the seconds of one visit: text painted, charts in sight drawn, every chart drawn."""
    context = browser.new_context(viewport=SIZE)
    page = context.new_page()
    started = time.perf_counter()
    page.goto(report.resolve().as_uri(), wait_until="commit")
    page.wait_for_function(IN_SIGHT, polling="raf")
    page.evaluate(PAINTED)
    in_sight_s = time.perf_counter() - started
    text_s = page.evaluate(FIRST_PAINT) / 1000
    page.evaluate(DRAW_ALL)
    page.evaluate(PAINTED)
    every_s = time.perf_counter() - started
    context.close()
    return {"text": text_s, "in sight": in_sight_s, "every chart": every_s}


def main() -> None:
    """Print the median and the range of several visits, each in a context of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, nargs="+")
    parser.add_argument("--times", type=int, default=5)
    arguments = parser.parse_args()
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for report in arguments.report:
            visits = [opened(browser, report) for _ in range(arguments.times)]
            print(f"{report}: {report.stat().st_size / 1e6:.2f} MB")
            for name in visits[0]:
                seconds = [visit[name] for visit in visits]
                print(
                    f"  {name}: {statistics.median(seconds):.2f} s "
                    f"({min(seconds):.2f} to {max(seconds):.2f} over {len(seconds)} visits)"
                )
        browser.close()


if __name__ == "__main__":
    main()
