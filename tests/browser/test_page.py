"""The page at the root, as a browser shows it: by all, on a phone and at a desk, and when the API is out of reach."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from browser.watching import Watch, look, looks, scrolls_sideways

# Where the page shows what the service has computed; what is given may stand there before it is asked.
RESULTS = "[data-at], [data-bar]"


def open_page(page: Page) -> None:
    page.goto("/")
    expect(page.locator("[data-at='loss']")).to_have_text(re.compile(r"\d"))


@looks
def test_everybody_can_use_it(page: Page, axe: Callable[[Page], None], size: str, scheme: str) -> None:
    look(page, size, scheme)
    open_page(page)
    axe(page)
    assert not scrolls_sideways(page)


def test_the_worked_example_is_what_the_service_answers(page: Page) -> None:
    open_page(page)
    asked = {
        "logits": [[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]],
        "labels": [[0, 1, 0], [0, 0, 1]],
        "outputs": ["losses", "loss"],
    }
    answer = page.request.post("/loss", data=asked).json()
    shown = [float(text) for text in page.locator("[data-at^='loss']").all_inner_texts()]
    # Four significant digits are shown.
    assert set(shown) == {float(f"{loss:.4g}") for loss in [*answer["losses"], answer["loss"]]}


def test_without_the_service_no_number_stands_where_results_do(page: Page, watch: Watch) -> None:
    watch.expect("net::ERR_FAILED")

    def refuse_posts(route: Route) -> None:
        if route.request.method == "POST":
            route.abort()
        else:
            route.continue_()

    page.route("**/*", refuse_posts)
    with page.expect_event("requestfailed"):
        page.goto("/")
    expect(page.locator("#notice")).to_be_visible()
    results = page.locator(RESULTS).all_inner_texts()
    assert len(results) > 10
    assert [text for text in results if re.search(r"\d", text)] == []


def test_it_comes_in_few_bytes(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    open_page(page)
    # What went over the wire for the page and all that it loads; the answers of the API are not the page's.
    sizes_bytes: dict[str, int] = page.evaluate("""Object.fromEntries(
        [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
          .filter(({name}) => name.endsWith("/") || new URL(name).pathname.startsWith("/page/"))
          .map(({name, encodedBodySize}) => [name, encodedBodySize]))""")
    assert len(sizes_bytes) > 5
    assert all(sizes_bytes.values())
    assert sum(sizes_bytes.values()) < 150_000
    paints_ms = page.evaluate(
        "performance.getEntriesByType('paint').map(({name, startTime}) => [name, startTime])"
    )
    with capsys.disabled():
        print(f"{sum(sizes_bytes.values())} bytes in {len(sizes_bytes)} files; painted: {paints_ms}")  # noqa: T201 - for a person to judge


def test_the_theme_is_switched_and_kept(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    open_page(page)
    html = page.locator("html")
    expect(html).to_have_attribute("data-theme", "light")
    page.locator("#theme").click()
    expect(html).to_have_attribute("data-theme", "dark")
    page.reload()
    expect(html).to_have_attribute("data-theme", "dark")
