"""Swagger UI at /docs, used as people use it: for real, by all, on a phone and at a desk, in light and in dark."""

import json
from collections.abc import Callable

from conftest import Running
from playwright.sync_api import Locator, Page, expect

from browser.watching import Watch, look, looks, scrolls_sideways


def open_docs(page: Page) -> None:
    page.goto("/docs")
    page.locator(".opblock").first.wait_for()


def open_operation(page: Page, name: str) -> Locator:
    operation = page.locator(f"#operations-{name}")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Execute").wait_for()
    return operation


def execute(operation: Locator) -> None:
    operation.get_by_role("button", name="Execute").click()
    operation.locator(".live-responses-table").wait_for()


def test_it_lists_every_operation_of_the_openapi_document(page: Page) -> None:
    open_docs(page)
    paths = page.request.get("/openapi.json").json()["paths"]
    listed = page.locator(".opblock")
    assert listed.count() == sum(len(methods) for methods in paths.values())
    for path in ("/softmax", "/loss", "/models/{model}/predict"):
        expect(page.locator(f".opblock-summary-path[data-path='{path}']")).to_have_text(
            path.replace("/", "\u200b/")
        )


def test_softmax_is_tried_for_real(page: Page, running: Running) -> None:
    open_docs(page)
    operation = open_operation(page, "scoring-softmax")
    operation.get_by_label("Request body").fill('{"logits": [[0, 0]]}')
    execute(operation)
    answer = operation.locator(".live-responses-table .response-col_description pre").first
    assert json.loads(answer.inner_text())["probabilities"] == [[0.5, 0.5]]
    expect(operation.locator(".curl")).to_contain_text(f"{running.url}/softmax")


def test_a_refusal_is_shown(page: Page, watch: Watch) -> None:
    watch.expect("status of 422")
    open_docs(page)
    operation = open_operation(page, "scoring-softmax")
    operation.get_by_label("Request body").fill("{}")
    execute(operation)
    expect(operation.locator(".live-responses-table")).to_contain_text("missing_field")


def test_the_address_follows_what_is_open_and_opens_it(page: Page) -> None:
    open_docs(page)
    open_operation(page, "scoring-loss")
    assert page.url.endswith("#/scoring/loss")
    page.reload()
    expect(page.locator("#operations-scoring-loss").get_by_role("button", name="Execute")).to_be_visible()


def test_the_theme_that_the_page_was_set_to_holds_here(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    open_docs(page)
    html = page.locator("html")
    expect(html).not_to_have_class("dark-mode")
    page.emulate_media(color_scheme="dark")
    expect(html).to_have_class("dark-mode")
    page.evaluate("localStorage.setItem('theme', 'light')")
    page.reload()
    expect(html).not_to_have_class("dark-mode")


@looks
def test_everybody_can_use_it(
    page: Page, watch: Watch, axe: Callable[[Page], None], size: str, scheme: str
) -> None:
    look(page, size, scheme)
    open_docs(page)
    check(page, axe)
    operation = open_operation(page, "scoring-softmax")
    execute(operation)
    check(page, axe)
    others = [
        open_operation(page, name) for name in ("scoring-predict_by_version", "models-one_models__model__get")
    ]
    others[0].get_by_role("button", name="Execute").click()  # refused, since its parameters are not given
    operation.get_by_role("tab", name="Schema").first.click()
    operation.locator(".json-schema-2020-12-expand-deep-button").first.click()
    check(page, axe)
    page.get_by_role("button", name="Authorize").click()
    page.get_by_role("dialog").wait_for()
    check(page, axe)


def check(page: Page, axe: Callable[[Page], None]) -> None:
    # What is drawn gets its names in the next frame.
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    axe(page)
    assert not scrolls_sideways(page)


def test_what_scrolls_is_within_the_keyboard_s_reach(page: Page) -> None:
    open_docs(page)
    execute(open_operation(page, "operations-metrics_metrics_get"))
    answer = page.locator(".live-responses-table pre").first
    expect(answer).to_have_attribute("tabindex", "0")
    answer.focus()
    page.keyboard.press("End")
    page.wait_for_function("element => element.scrollTop > 0", arg=answer.element_handle())
