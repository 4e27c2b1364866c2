"""A report as a picture, the whole page in headless Chromium, every chart drawn.

python tests/benchmarks/report_picture.py runs/quickstart/report.html report.png
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, COLOURS = 1180, 128


def main(report: Path, picture: Path) -> None:
    """Write the picture, with few enough colours to be small."""
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        for chart in page.locator("[data-chart]:visible").all():
            chart.scroll_into_view_if_needed()
            chart.locator("svg.main-svg").first.wait_for()
        page.evaluate("window.scrollTo(0, 0)")
        page.locator("nav").evaluate(
            "each => { each.style.position = 'static'; }"
        )  # it would be drawn where it sticks
        whole = Image.open(io.BytesIO(page.screenshot(full_page=True)))
        browser.close()
    whole.convert("RGB").quantize(COLOURS).save(picture, optimize=True)
    print(f"{picture}: {whole.width} x {whole.height}, {picture.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
