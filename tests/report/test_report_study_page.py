"""The page of a study in a real browser: charts are drawn, names of any number and length overlap nothing, and nothing is asked of a network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browsing import Visit, needs_chromium
from support.study_tables import write_study

from prefpipe.cli.main import run as prefpipe

pytestmark = [pytest.mark.slow, needs_chromium]

READY = "[data-chart][data-drawn]"
MANY = 25
SIZES = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 800}}
BOXES = """
selector => [...document.querySelectorAll(selector)].map(plot => ({
  plot: plot.getBoundingClientRect().toJSON(),
  boxes: [...plot.querySelectorAll(".annotation-text-g")].map(label => label.getBoundingClientRect().toJSON()),
}))
"""


def page_of(folder: Path, changes: dict[str, Any], **states: Any) -> Path:
    write_study(folder, changes, **states)
    target = folder / "report.html"
    assert prefpipe(["report", str(folder), "-o", str(target)]) == 0
    return target


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("study")
    names = [f"arm-{number}".ljust(62, "x") + str(number % 3) for number in range(MANY)]
    return {
        "few": page_of(folder / "few", {"equivalence": 0.05}, failed=[("best", 1)]),
        "many": page_of(
            folder / "many",
            {
                "arms": {name: {} for name in names},
                "budgets": {"prompts": 60, "response_tokens": 9000},
                "contrasts": [[name, names[0]] for name in names[1:]],
                "seeds": [0, 1],
            },
        ),
    }


@pytest.fixture(scope="module", params=["few", "many"])
def page_file(request: pytest.FixtureRequest, pages: dict[str, Path]) -> Path:
    return pages[request.param]


@pytest.fixture(scope="module", params=["desk", "phone"])
def opened(request: pytest.FixtureRequest, browser: Any, page_file: Path) -> Iterator[Visit]:
    """A page with all its charts, which tests look at and leave as it is."""
    visit = Visit(browser, page_file.as_uri(), READY, viewport=SIZES[request.param])
    visit.draw_all()
    yield visit
    assert visit.said == []
    assert visit.asked == [page_file.as_uri()]
    visit.context.close()


def meet(one: dict[str, float], other: dict[str, float]) -> bool:
    return (
        one["left"] < other["right"]
        and other["left"] < one["right"]
        and one["top"] < other["bottom"]
        and other["top"] < one["bottom"]
    )


def test_no_name_covers_another_or_leaves_its_chart(opened: Visit) -> None:
    charts = opened.page.evaluate(BOXES, "[data-chart]")
    assert len(charts) == 2 + 3 * 2 + 3
    assert sum(len(each["boxes"]) for each in charts) > 20
    for each in charts:
        plot, boxes = each["plot"], each["boxes"]
        for place, box in enumerate(boxes):
            assert plot["left"] <= box["left"]
            assert box["right"] <= plot["right"] + 0.5
            assert not any(meet(box, other) for other in boxes[:place])


def test_nothing_scrolls_to_the_side_but_tables(opened: Visit) -> None:
    width = opened.page.viewport_size["width"]
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    for chart in opened.page.locator(".plot:visible").all():
        box = chart.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_the_forest_has_a_row_a_contrast_filled_where_it_is_separable(
    browser: Any, pages: dict[str, Path]
) -> None:
    visit = Visit(browser, pages["few"].as_uri(), READY, viewport=SIZES["desk"])
    visit.draw_all()
    story = visit.page.evaluate("JSON.parse(document.getElementById('story').textContent)")
    charts = visit.page.locator("[data-chart=contrasts]").all()
    assert len(charts) == 2
    for chart, entry in zip(charts, story["contrasts"], strict=True):
        rows = entry["chart"]["rows"]
        trace = chart.evaluate("each => each.data[0]")
        assert trace["x"] == [row["mean"] for row in rows]
        ends = [row["high"] - row["mean"] for row in rows]
        assert trace["error_x"]["array"] == pytest.approx(ends)
        is_filled = [symbol == "circle" for symbol in trace["marker"]["symbol"]]
        assert is_filled == [row["is_clear"] for row in rows]
        bands = chart.evaluate("each => each.layout.shapes.filter(shape => shape.type === 'rect')")
        assert [band["x1"] for band in bands] == [row["detectable"] for row in rows]
        labels = chart.evaluate("each => each.layout.annotations.map(label => label.text)")
        assert [label.endswith("*") for label in labels] == [row["is_clear"] for row in rows]
    visit.context.close()


def test_a_chart_is_laid_out_again_in_a_narrower_window(
    browser: Any, pages: dict[str, Path]
) -> None:
    visit = Visit(browser, pages["few"].as_uri(), READY, viewport=SIZES["desk"])
    visit.draw_all()
    visit.page.set_viewport_size(SIZES["phone"])
    visit.page.wait_for_function(
        "[...document.querySelectorAll('[data-sized]')].every(each => each.layout.width === each.clientWidth)"
    )
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert visit.said == []
    visit.context.close()


def test_colours_follow_the_choice(browser: Any, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["few"].as_uri(), READY, color_scheme="dark")
    visit.draw_all()
    ink = "each => each.layout.annotations[0].font.color"
    chart = visit.page.locator("[data-chart=contrasts]").first
    assert chart.evaluate(ink) == "#e6e9ec"
    visit.page.get_by_role("button", name="Light").click()
    assert chart.evaluate(ink) == "#1d2329"
    visit.context.close()


def test_without_scripts_the_tables_have_every_number(browser: Any, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["few"].as_uri())
    assert page.locator("#contrasts tbody tr:visible").count() == 2 * 2
    assert page.locator("#arms tbody tr:visible").count() == 2 * 4
    assert page.locator("#runs tbody tr:visible").count() == 3
    context.close()
