"""The report on paper, with long names, and of several selections, in a real browser."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.browsing import MODEL, Visit, needs_chromium
from support.reported_run import N_PROMPTS, N, reported_run

from prefpipe.cli.main import run

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.mark.slow
def test_on_paper_it_is_dark_on_light_and_as_wide_as_a_sheet(browser: Any, page_file: Path) -> None:
    opened = Visit(
        browser, page_file.as_uri(), color_scheme="dark", viewport={"width": 1400, "height": 900}
    )
    dark = opened.style("body", "backgroundColor")
    opened.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "light"
    for chart in opened.page.locator("[data-chart]:visible").all():
        assert chart.locator("svg.main-svg").first.bounding_box()["width"] <= 700
        assert chart.evaluate("each => each.layout.font.color") == "#1d2329"
    opened.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert opened.style("body", "backgroundColor") == dark
    chart = opened.page.locator("[data-chart=funnel]:visible").first
    assert chart.evaluate("each => each.layout.font.color") == "#e6e9ec"
    opened.page.wait_for_function(
        "document.querySelector('[data-chart=funnel] svg.main-svg').getBoundingClientRect().width > 900"
    )
    assert opened.said == []
    opened.context.close()


def test_a_link_to_a_place_that_is_not_there_is_no_error(browser: Any, page_file: Path) -> None:
    opened = Visit(browser, f"{page_file.as_uri()}#artifact-'x")
    assert opened.said == []
    opened.context.close()


def test_comparisons_of_long_names_have_rows_of_their_own(visit: Visit) -> None:
    """Names are cut for the axis: two that end alike must not share a row."""
    chart = visit.page.locator("[data-chart=winRates]")
    chart.scroll_into_view_if_needed()
    chart.locator("svg.main-svg").first.wait_for()
    raw, controlled = chart.evaluate("each => each.data.map(trace => [...trace.y])")
    assert len({*raw}) == 2
    assert not {*raw} & {*controlled}  # neither covers the other
    assert chart.evaluate("each => each.data[0].customdata.slice()") == ["verdicts", "eval"]


def test_the_numbers_of_another_selection_fill_the_calculator(visit: Visit) -> None:
    told = json.loads(visit.page.locator("#story").text_content())["savings"]
    box = visit.page.locator("#savings-form [name=source]")
    assert box.input_value() == str(told["start"]) == "1"
    visit.page.locator("#savings-form [name=n]").fill("9")
    box.select_option("0")
    assert visit.page.locator("#savings-source").inner_text() == "coreset"
    assert visit.page.locator("#savings-form [name=n]").input_value() == str(
        told["sources"][0]["plan"]["n"]
    )
    assert visit.page.evaluate("window.prefpipeReport.answer().pool.responses") == N_PROMPTS * N
    assert visit.page.locator("#savings-estimated").is_visible()


@pytest.mark.slow
def test_long_names_need_no_scrolling_to_the_side(browser: Any, tmp_path: Path) -> None:
    """Names of artifacts without a space, and with all that plotly.js or a template would read as its own."""
    folder = tmp_path / "run"
    shutil.copytree(reported_run(), folder)
    long = "x" * 120 + " %{x} {{ 7 * 7 }} <a href=x> $y$"
    shutil.copytree(folder / "opt-select", folder / f"a-{long}")
    shutil.copytree(folder / "eval", folder / f"b-{long}")
    shutil.copytree(folder / "eval", folder / f"c-{long}")
    target = tmp_path / "report.html"
    assert run(["report", str(folder), "-o", str(target), "--model", MODEL]) == 0
    opened = Visit(browser, target.as_uri(), viewport={"width": 375, "height": 700}, is_mobile=True)
    opened.draw_all()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 375
    assert opened.page.locator("main a[href=x]").count() == 0
    rows = opened.page.locator("[data-chart=winRates]").evaluate("each => [...each.data[0].y]")
    assert len({*rows}) == 4
    assert opened.said == []
    opened.context.close()
