"""The report in a real browser: it renders, its controls work, texts of the run do nothing, and nothing is asked of a network."""

import http.server
import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.browsing import Visit, needs_chromium
from support.reported_run import MARKUP, N_PROMPTS, PROMPT, N

from prefpipe.maths.compute.training_compute import ModelShape, Plan, Recipe
from prefpipe.stages.savings import Machine, TrainedModel, basis_of_plan, savings

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the browser tests need playwright: pip install '.[dev]'"
)
pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.mark.slow
def test_every_chart_is_drawn_and_nothing_is_asked_of_a_network(visit: Visit) -> None:
    visit.draw_all()
    drawn = set(
        visit.page.evaluate(
            "[...document.querySelectorAll('[data-drawn]')].map(each => each.dataset.chart || each.id)"
        )
    )
    assert drawn == {
        "funnel",
        "rewards",
        "lengths",
        "coverage",
        "curves",
        "winRates",
        "reliability",
        "map-plot",
        "savings-plot",
    }
    for chart in ("funnel", "coverage", "winRates", "reliability"):
        traces = visit.page.locator(f"[data-chart={chart}]:visible").first.evaluate(
            "each => each.data.map(trace => trace.name)"
        )
        assert traces, chart
    assert visit.page.locator(".trouble:visible").count() == 0
    assert visit.page.locator("h1").inner_text() == "run <i>& co"


def test_a_server_of_the_file_is_asked_for_nothing_else(browser: Any, page_file: Path) -> None:
    """Over HTTP a browser also asks for an icon, unless it is told that there is none."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(page_file.parent))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        opened = Visit(browser, f"http://127.0.0.1:{server.server_port}/report.html")
        opened.draw_all()
        opened.context.close()
    finally:
        server.shutdown()
    assert asked == ["/report.html"]
    assert opened.said == []


def test_markup_of_a_response_is_text(visit: Visit) -> None:
    visit.draw_all()
    visit.page.locator("#map-prompt").select_option("0")
    assert visit.page.locator("#map-text").inner_text() == PROMPT
    for button in visit.page.locator("#map-list button").all():
        button.focus()
        reading = visit.page.locator("#map-reading p").inner_text()
        if reading.startswith("<script>"):
            break
    else:
        pytest.fail("the hostile response is not in the list")
    assert reading == MARKUP
    assert visit.page.evaluate("window.stolen") is None
    assert visit.page.locator("main img, main script, #map-reading b").count() == 0


def test_a_script_that_got_through_would_not_run(browser: Any, page_file: Path) -> None:
    """The content security policy is the second lock: it names the page's own scripts by hash."""
    broken = page_file.with_name("broken.html")
    text = page_file.read_text(encoding="utf-8")
    broken.write_text(
        text.replace(
            "<noscript>",
            "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 2'><noscript>",
            1,
        )
    )
    opened = Visit(browser, broken.as_uri())
    assert opened.page.evaluate("window.stolen") is None
    assert any("Content Security Policy" in line for line in opened.said)
    assert opened.loaded == [broken.as_uri()]
    opened.context.close()


def test_colours_follow_the_system_and_the_choice(browser: Any, page_file: Path) -> None:
    opened = Visit(browser, page_file.as_uri(), color_scheme="dark")
    opened.draw_all()
    dark = opened.style("body", "backgroundColor")
    ink = "each => each.layout.font.color"
    assert opened.page.locator("[data-chart=funnel]:visible").first.evaluate(ink) == "#e6e9ec"
    opened.page.get_by_role("button", name="Light").click()
    assert opened.style("body", "backgroundColor") != dark
    assert opened.page.locator("[data-chart=funnel]:visible").first.evaluate(ink) == "#1d2329"
    assert opened.page.get_by_role("button", name="Light").get_attribute("aria-pressed") == "true"
    opened.page.get_by_role("button", name="Auto").click()
    opened.page.emulate_media(color_scheme="light")
    assert opened.style("body", "backgroundColor") != dark
    assert opened.said == []
    opened.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast_enough(scheme: str, browser: Any, page_file: Path) -> None:
    """WCAG 2.1 AA: 4.5 to 1 for text."""
    opened = Visit(browser, page_file.as_uri(), color_scheme=scheme)
    colours = opened.page.evaluate(
        "Object.fromEntries(['paper', 'card', 'ink', 'muted', 'accent', 'positive', 'negative', 'warn'].map("
        "name => [name, getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()]))"
    )
    for name in ("ink", "muted", "accent", "positive", "negative", "warn"):
        for ground in ("paper", "card"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    opened.context.close()


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_phone_needs_no_scrolling_to_the_side(browser: Any, page_file: Path) -> None:
    phone = {
        "viewport": {"width": 375, "height": 700},
        "is_mobile": True,
        "has_touch": True,
        "device_scale_factor": 2,
    }
    opened = Visit(browser, page_file.as_uri(), **phone)
    opened.draw_all()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 375
    for chart in opened.page.locator(".plot:visible").all():
        box = chart.bounding_box()
        assert box["width"] <= 375
        assert box["x"] >= 0
    opened.page.locator("#map-list button").nth(2).tap()
    assert opened.page.locator("#map-list button").nth(2).get_attribute("aria-current") == "true"
    assert opened.said == []
    opened.context.close()


def test_the_keyboard_reaches_every_control(visit: Visit) -> None:
    """Tab from the top: every link, button, field and summary that is shown gets the focus, in the order of the page."""
    wanted = visit.page.evaluate(
        "[...document.querySelectorAll('a[href], button, select, input, summary')].filter(each => each.checkVisibility()).length"
    )
    visit.page.evaluate(
        "window.reached = new Set(); document.addEventListener('focusin', e => window.reached.add(e.target))"
    )
    for _ in range(wanted + 30):
        visit.page.keyboard.press("Tab")
    reached = visit.page.evaluate(
        "[...window.reached].filter(each => each.matches('a[href], button, select, input, summary')).length"
    )
    assert reached >= wanted


def test_the_map_is_read_with_the_keyboard(visit: Visit) -> None:
    buttons = visit.page.locator("#map-list button")
    assert buttons.count() == N
    buttons.nth(0).focus()
    first = visit.page.locator("#map-reading strong").inner_text()
    visit.page.keyboard.press("ArrowDown")
    second = visit.page.locator("#map-reading strong").inner_text()
    assert first != second
    assert buttons.nth(1).get_attribute("aria-current") == "true"
    ring = visit.page.evaluate(
        "(() => { const all = document.getElementById('map-plot').data; return [...all[all.length - 1].x]; })()"
    )
    data = json.loads(visit.page.locator("#story").text_content())
    assert ring == [data["maps"][0]["candidates"][1]["x"]]


def test_pointing_at_a_candidate_shows_its_text(visit: Visit) -> None:
    visit.page.locator("#map-plot").scroll_into_view_if_needed()
    data = json.loads(visit.page.locator("#story").text_content())
    wanted = data["maps"][0]["candidates"][-1]
    place = visit.page.evaluate(
        "([x, y]) => { const plot = document.getElementById('map-plot'), full = plot._fullLayout, box = plot.getBoundingClientRect();"
        "return [box.left + full.xaxis._offset + full.xaxis.d2p(x), box.top + full.yaxis._offset + full.yaxis.d2p(y)]; }",
        [wanted["x"], wanted["y"]],
    )
    visit.page.mouse.move(place[0] - 60, place[1] - 60)
    visit.page.mouse.move(*place, steps=8)
    playwright.expect(visit.page.locator("#map-reading strong")).to_contain_text(
        f"Sample {wanted['sample_idx']}:"
    )
    assert visit.page.locator("#map-reading p").inner_text().split() == wanted["response"].split()


def test_prompts_and_selections_can_be_chosen(visit: Visit) -> None:
    data = json.loads(visit.page.locator("#story").text_content())
    assert visit.page.locator("#map-prompt option").count() == N_PROMPTS
    visit.page.locator("#map-prompt").select_option("3")
    assert visit.page.locator("#map-text").inner_text() == data["maps"][3]["prompt"]
    for number, chosen in enumerate(data["maps"][3]["selections"]):
        visit.page.locator("#map-selection").select_option(str(number))
        shown = visit.page.locator("#map-list .role").all_inner_texts()
        kept = {item["sample_idx"]: item["role"] for item in chosen["kept"]}
        dash = "\N{EN DASH}"
        assert shown == [
            kept.get(candidate["sample_idx"], dash) for candidate in data["maps"][3]["candidates"]
        ]


def test_another_selection_shows_its_own_charts(visit: Visit) -> None:
    data = json.loads(visit.page.locator("#story").text_content())
    for number, pool in enumerate(data["pools"]):
        visit.page.locator("#pool").select_option(str(number))
        chart = visit.page.locator("[data-chart=funnel]:visible")
        chart.scroll_into_view_if_needed()
        chart.locator("svg.main-svg").first.wait_for()
        kept = next(
            step["n_out"] for step in pool["funnel"]["responses"] if step["step"] == "select"
        )
        assert kept in chart.evaluate("each => [...each.data[0].x]")


PLANS = [
    ({}, Plan(N_PROMPTS, 8, 3, 1, 0.0, 0.0), Recipe(), "h100", None),
    ({"prompts": "60000", "n": "32", "k": "7", "mean_prompt_tokens": "200", "mean_response_tokens": "400", "price": "2.5"},
     Plan(60_000, 32, 7, 1, 200.0, 400.0), Recipe(), "h100", 2.5),
    ({"prompts": "1000", "n": "16", "k": "4", "positives": "2", "mean_prompt_tokens": "33.5", "mean_response_tokens": "512",
      "gpu": "a100", "epochs": "3", "lora": True, "reference": True},
     Plan(1000, 16, 4, 2, 33.5, 512.0), Recipe(3.0, lora=True, reference=True), "a100", None),
    ({"prompts": "5", "n": "8", "k": "7", "mean_prompt_tokens": "1000", "mean_response_tokens": "10", "gradient_checkpointing": True,
      "shared_prompt": False},
     Plan(5, 8, 7, 1, 1000.0, 10.0), Recipe(gradient_checkpointing=True), "h100", None),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(PLANS)))
def test_the_calculator_is_prefpipe_savings(case: int, visit: Visit) -> None:
    inputs, plan, recipe, gpu, price = PLANS[case]
    for name, value in inputs.items():
        field = visit.page.locator(f"#savings-form [name={name}]")
        if isinstance(value, bool):
            field.set_checked(value)
        elif name == "gpu":
            field.select_option(value)
        else:
            field.fill(value)
    if not inputs:  # as it comes: the numbers of the run
        told = json.loads(visit.page.locator("#story").text_content())["savings"]["plan"]
        plan = Plan(
            told["prompts"],
            told["n"],
            told["k"],
            told["positives"],
            told["mean_prompt_tokens"],
            told["mean_response_tokens"],
        )
    from prefpipe.maths.compute.accelerators import ACCELERATORS

    machine = Machine("", ACCELERATORS[gpu].tflops, None, 0.4, price)
    shared = inputs.get("shared_prompt", True)
    expected = savings(
        basis_of_plan(plan, shared_prompt=shared),
        TrainedModel("", ModelShape(8e9), 0, 0),
        recipe,
        machine,
    )
    answer = visit.page.evaluate("window.prefpipeReport.answer()")
    for side in ("pool", "kept"):
        assert answer[side]["responses"] == expected[side]["n_responses"]
        assert answer[side]["tokens"] == pytest.approx(expected[side]["n_tokens"], rel=1e-12)
        assert answer[side]["flop"] == pytest.approx(expected[side]["flop"], rel=1e-12)
        assert answer[side]["hours"] == pytest.approx(expected[side]["gpu_hours"], rel=1e-12)
        assert answer[side]["cost"] == (
            None if price is None else pytest.approx(expected[side]["cost"], rel=1e-12)
        )
    assert answer["share"] == pytest.approx(expected["saved_share"], rel=1e-12)
    assert (
        f"{100 * expected['saved_share']:.1f}% of the training compute saved"
        in visit.page.locator("#savings-answer").inner_text()
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n", "1", "2 or more"),
        ("k", "", "whole number"),
        ("k", "40", "keep 41 of 8"),
        ("mfu", "1.5", "at most 1"),
        ("price", "-1", "0 or more"),
        ("prompts", "2.5", "whole number"),
        ("tflops", "0", "above 0"),
    ],
)
def test_the_calculator_says_what_is_wrong_and_keeps_its_answer(
    name: str, value: str, message: str, visit: Visit
) -> None:
    before = visit.page.locator("#savings-answer").inner_text()
    visit.page.locator(f"#savings-form [name={name}]").fill(value)
    problem = visit.page.locator("#savings-problem")
    assert message in problem.inner_text()
    assert visit.page.locator("#savings-answer").inner_text() == before
    visit.page.locator(f"#savings-form [name={name}]").fill(
        "7" if name in ("n", "prompts") else "1"
    )
    assert not problem.is_visible() or name == "n"


def test_a_link_of_the_lineage_opens_what_it_names(visit: Visit) -> None:
    entry = visit.page.locator(".lineage > li", has_text="policy").first
    entry.locator("summary").click()
    link = entry.locator("dd a").first
    target = link.get_attribute("href")
    link.click()
    playwright.expect(visit.page.locator(f"{target} details")).to_have_attribute("open", "")
    assert visit.page.locator(f"{target} b").first.inner_text() == link.inner_text()


def test_without_scripts_the_tables_still_tell_the_numbers(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert "Charts need JavaScript" in page.locator("main").inner_text()
    page.locator("#rewards summary").first.click()
    assert page.locator("#rewards table:visible").count() >= 1
    context.close()


@pytest.mark.slow
def test_every_chart_has_a_name_and_every_field_a_label(visit: Visit) -> None:
    assert visit.page.locator(".plot:not([aria-label])").count() == 0
    unlabelled = visit.page.evaluate(
        "[...document.querySelectorAll('input, select')].filter(each => !each.labels || !each.labels.length).length"
    )
    assert unlabelled == 0
    assert visit.page.evaluate("document.documentElement.lang") == "en"
    ids = visit.page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids))
